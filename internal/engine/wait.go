package engine

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"hull/internal/hull"
)

// Wait registers interest in a container's end before it returns; the returned
// function blocks until the condition holds or ctx is done.
func (e *views) Wait(ctx context.Context, ref string, cond hull.WaitCondition) (func(context.Context) (hull.Exit, error), error) {
	switch cond {
	case "":
		cond = hull.WaitNotRunning
	case hull.WaitNotRunning, hull.WaitNextExit, hull.WaitRemoved:
	default:
		return nil, fmt.Errorf("invalid condition: %q: %w", cond, errdefs.ErrInvalidArgument)
	}
	c, err := e.store.Container(ref)
	if err != nil {
		return e.late(ref, cond, err)
	}
	w := waiter{cond: cond, ch: make(chan hull.Exit, 1)}
	e.runs.wait(c.ID, w)
	// Looked at after registering: an exit in between is not missed.
	if c, err = e.store.Container(c.ID); err != nil {
		e.runs.unwait(c.ID, w.ch)
		return e.late(ref, cond, err)
	}
	if cond == hull.WaitNotRunning && !c.Status.Phase.Live() && c.Status.Phase != hull.Starting {
		e.runs.unwait(c.ID, w.ch)
		return over(hull.Exit{Code: c.Status.ExitCode, OOMKilled: c.Status.OOMKilled, At: c.Status.FinishedAt, Error: c.Status.Error}), nil
	}
	return func(ctx context.Context) (hull.Exit, error) {
		select {
		case x := <-w.ch:
			return x, nil
		case <-ctx.Done():
			e.runs.unwait(c.ID, w.ch)
			return hull.Exit{}, context.Cause(ctx)
		}
	}, nil
}

// late answers who asks after a container has removed itself. By then there is no
// next exit.
func (e *views) late(id string, cond hull.WaitCondition, err error) (func(context.Context) (hull.Exit, error), error) {
	exit, ok := e.runs.departure(id)
	if !ok || cond == hull.WaitNextExit {
		return nil, err
	}
	return over(exit), nil
}

// over is the wait for something that has happened.
func over(exit hull.Exit) func(context.Context) (hull.Exit, error) {
	return func(context.Context) (hull.Exit, error) { return exit, nil }
}
