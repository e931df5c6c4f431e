package engine

import (
	"errors"
	"os"
	"testing"

	"hull/internal/hull"
)

// Whoever is told that it is attached to a container that has not started, and
// starts it then, gets its output: the attachment is recorded before a start can
// begin.
func TestAttachAnswersWhileTheStartWaits(t *testing.T) {
	w := newWorld()
	e := w.engine(t)
	c := create(t, e, hull.Spec{})
	r, conn, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer conn.Close()

	refused := errors.New("client is gone")
	err = e.Attach(t.Context(), c.ID, hull.Attach{Conn: conn, Stdout: true, Ready: func() error { return refused }})
	if !errors.Is(err, refused) || len(e.runs.takePending(c.ID)) != 0 {
		t.Errorf("a client that cannot be answered is attached: %v", err)
	}

	started := make(chan error, 1)
	seen := -1
	err = e.Attach(t.Context(), c.ID, hull.Attach{Conn: conn, Stdout: true, Ready: func() error {
		go func() {
			unlock, err := e.locks.Lock(t.Context(), c.PodID) // what Start begins with
			if err == nil {
				seen = len(e.runs.takePending(c.ID))
				unlock()
			}
			started <- err
		}()
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-started; err != nil || seen != 1 {
		t.Errorf("the start found %d clients attached, %v", seen, err)
	}
}
