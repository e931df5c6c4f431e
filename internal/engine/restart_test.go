package engine

import (
	"testing"
	"testing/synctest"

	"hull/internal/hull"
)

// waitsForRestart is a container that its restart policy is to start.
func waitsForRestart(t *testing.T, e *Engine, p hull.RestartPolicy) hull.Container {
	t.Helper()
	c := create(t, e, hull.Spec{Restart: p})
	if err := e.store.UpdateStatus(c.ID, func(s *hull.Status) error { s.Restarting = true; return nil }); err != nil {
		t.Fatal(err)
	}
	c.Status.Restarting = true
	return c
}

// TestRestartThatCannotBegin: also a start that fails before its first step is one of those
// that the restart policy allows.
func TestRestartThatCannotBegin(t *testing.T) {
	e := newWorld().engine(t)
	c := waitsForRestart(t, e, hull.RestartPolicy{Name: "on-failure", MaxRetries: 1})
	if err := e.store.UpdateSpec(c.ID, func(s *hull.Spec) error { s.Isolation = "none such"; return nil }); err != nil {
		t.Fatal(err)
	}
	if err := e.startAgain(t.Context(), c.ID); err == nil {
		t.Fatal("started")
	}
	if now, err := e.Container(t.Context(), c.ID); err != nil || now.Status.RestartCount != 1 || now.Status.Restarting {
		t.Errorf("after the last retry: %+v (%v)", now.Status, err)
	}
}

// TestKillDuringRestart: a container that is killed while its restart policy starts it does
// not run afterwards.
func TestKillDuringRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newWorld().engine(t)
		c := waitsForRestart(t, e, hull.RestartPolicy{Name: "always"})
		unlock, err := e.locks.Lock(t.Context(), c.PodID)
		if err != nil {
			t.Fatal(err)
		}
		killed := make(chan error, 1)
		go func() { killed <- e.Kill(t.Context(), c.ID, "") }()
		synctest.Wait() // until it waits for the lock
		if err := e.start(t.Context(), c, 1); err != nil {
			t.Fatal(err)
		}
		unlock()
		if err := <-killed; err != nil {
			t.Error(err)
		}
		if now, err := e.Container(t.Context(), c.ID); err != nil || now.Status.Phase != hull.Stopped || now.Status.Restarting {
			t.Errorf("after the kill: %+v (%v)", now.Status, err)
		}
	})
}
