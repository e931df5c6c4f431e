package docker

import (
	"fmt"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"

	"hull/internal/hull"
)

// stateOf is Docker's word for where a container is.
func stateOf(s hull.Status) container.ContainerState {
	switch s.Phase {
	case hull.Running:
		return container.StateRunning
	case hull.Paused:
		return container.StatePaused
	case hull.Removing:
		return container.StateRemoving
	case hull.Dead:
		return container.StateDead
	case hull.Stopped:
		if s.Restarting {
			return container.StateRestarting
		}
		if s.StartedAt.IsZero() {
			return container.StateCreated
		}
		return container.StateExited
	case hull.Created, hull.Starting:
	}
	switch {
	case s.Restarting:
		return container.StateRestarting
	case !s.StartedAt.IsZero():
		return container.StateExited
	}
	return container.StateCreated
}

// statusText is the STATUS column of docker ps.
func statusText(s hull.Status, now time.Time) string {
	ago := func(t time.Time) string { return units.HumanDuration(now.Sub(t)) }
	switch stateOf(s) {
	case container.StateRestarting:
		return fmt.Sprintf("Restarting (%d) %s ago", s.ExitCode, ago(s.FinishedAt))
	case container.StatePaused:
		return fmt.Sprintf("Up %s (Paused)", ago(s.StartedAt))
	case container.StateRunning:
		if h := healthText(s.Health); h != "" {
			return fmt.Sprintf("Up %s (%s)", ago(s.StartedAt), h)
		}
		return "Up " + ago(s.StartedAt)
	case container.StateRemoving:
		return "Removal In Progress"
	case container.StateDead:
		return "Dead"
	case container.StateExited:
		return fmt.Sprintf("Exited (%d) %s ago", s.ExitCode, ago(s.FinishedAt))
	case container.StateCreated:
	}
	return "Created"
}

func healthText(h *hull.Health) string {
	if h == nil {
		return ""
	}
	if h.Status == string(container.Starting) {
		return "health: starting"
	}
	return h.Status
}

// zeroTime is how Docker writes "never".
const zeroTime = "0001-01-01T00:00:00Z"

func timeText(t time.Time) string {
	if t.IsZero() {
		return zeroTime
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func toState(s hull.Status) *container.State {
	state := stateOf(s)
	out := &container.State{
		Status:     state,
		Running:    s.Phase.Live() || state == container.StateRestarting,
		Paused:     state == container.StatePaused,
		Restarting: state == container.StateRestarting,
		Dead:       state == container.StateDead,
		OOMKilled:  s.OOMKilled,
		Pid:        s.Pid,
		ExitCode:   s.ExitCode,
		Error:      s.Error,
		StartedAt:  timeText(s.StartedAt),
		FinishedAt: timeText(s.FinishedAt),
		Health:     fromHealth(s.Health),
	}
	return out
}

func fromHealth(h *hull.Health) *container.Health {
	if h == nil {
		return nil
	}
	out := &container.Health{
		Status: container.HealthStatus(h.Status), FailingStreak: h.FailingStreak,
		Log: make([]*container.HealthcheckResult, 0, len(h.Log)),
	}
	for _, r := range h.Log {
		out.Log = append(out.Log, &container.HealthcheckResult{Start: r.Start, End: r.End, ExitCode: r.ExitCode, Output: r.Output})
	}
	return out
}
