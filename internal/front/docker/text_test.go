package docker

import (
	"bytes"
	"testing"
	"time"

	"hull/internal/hull"
)

func TestStatusText(t *testing.T) {
	t.Parallel()
	now := epoch.Add(5 * time.Minute)
	up := hull.Status{Phase: hull.Running, StartedAt: epoch}
	with := func(f func(*hull.Status)) hull.Status { s := up; f(&s); return s }
	for want, s := range map[string]hull.Status{
		"Created":                               {Phase: hull.Created},
		"Up 5 minutes":                          up,
		"Up 5 minutes (Paused)":                 with(func(s *hull.Status) { s.Phase = hull.Paused }),
		"Up 5 minutes (health: starting)":       with(func(s *hull.Status) { s.Health = &hull.Health{Status: "starting"} }),
		"Up 5 minutes (unhealthy)":              with(func(s *hull.Status) { s.Health = &hull.Health{Status: "unhealthy"} }),
		"Exited (137) 3 seconds ago":            {Phase: hull.Stopped, StartedAt: epoch, FinishedAt: now.Add(-3 * time.Second), ExitCode: 137},
		"Restarting (1) Less than a second ago": {Phase: hull.Stopped, StartedAt: epoch, FinishedAt: now, ExitCode: 1, Restarting: true},
		"Removal In Progress":                   {Phase: hull.Removing},
		"Dead":                                  {Phase: hull.Dead},
	} {
		if got := statusText(s, now); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestDetachKeys(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]byte{
		"": nil, "ctrl-p,ctrl-q": {16, 17}, "a": {'a'}, "ctrl-@,ctrl-[,ctrl-_": {0, 27, 31}, "ctrl-\\": {28},
	} {
		if got, err := detachKeys(text); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{",", "ctrl-", "ctrl-A", "shift-a", "ab", "ctrl-p,"} {
		if got, err := detachKeys(text); err == nil {
			t.Errorf("%q: no error, %v", text, got)
		}
	}
}
