package engine

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/containerd/errdefs"

	"hull/internal/hull"
)

func isNotModified(err error) bool { return errors.Is(err, hull.ErrNotModified) }

// Remove ends a container's keeping: its record, writable layer, logs and (when
// asked) anonymous volumes.
func (e *runner) Remove(ctx context.Context, ref string, r hull.RemoveRequest) error {
	c, err := e.store.Container(ref)
	if err != nil {
		return err
	}
	for {
		if e.runs.run(c.ID) != nil || c.Status.Restarting {
			if !r.Force {
				return fmt.Errorf("cannot remove container %q: container is %s: stop the container before removing or force remove: %w",
					c.Name, stateText(c), errdefs.ErrConflict)
			}
			if err := e.killRun(ctx, c.ID); err != nil {
				return err
			}
		}
		done, err := e.removeStopped(ctx, c.ID, r)
		if done || err != nil {
			return err
		}
		// A restart policy or another client started it between the two looks.
		if !r.Force {
			return fmt.Errorf("cannot remove container %q: it was started meanwhile: stop the container before removing or force remove: %w",
				c.Name, errdefs.ErrConflict)
		}
	}
}

// killRun ends whatever run the container has by now, and its restarts. The
// run is the one the stop was recorded for: a restart may have replaced the one
// the caller saw.
func (e *runner) killRun(ctx context.Context, id string) error {
	c, x, err := e.requestStop(ctx, id)
	if err != nil {
		if isNotModified(err) || errdefs.IsNotFound(err) {
			return nil
		}
		return err
	}
	if x == nil {
		return nil
	}
	return e.endRun(ctx, c, x, syscall.SIGKILL, 0)
}

// removeStopped removes the container unless it runs; done says that it is gone.
func (e *runner) removeStopped(ctx context.Context, id string, r hull.RemoveRequest) (done bool, err error) {
	c, unlock, err := e.locked(ctx, id)
	if err != nil {
		return gone(err, r)
	}
	defer unlock()
	if c.Status.Phase.Live() || c.Status.Phase == hull.Starting {
		return false, nil
	}
	return true, e.remove(context.WithoutCancel(ctx), c, r)
}

// gone forgives a forced removal that finds nothing: --rm was quicker.
func gone(err error, r hull.RemoveRequest) (bool, error) {
	if errdefs.IsNotFound(err) && r.Force {
		return true, nil
	}
	return false, err
}

// remove is Remove of a container that does not run, with the pod's lock held.
// Each step may be repeated: a crash or an error leaves a record from which
// removal goes on.
func (e *runner) remove(ctx context.Context, c hull.Container, r hull.RemoveRequest) error {
	x := removal{e, c}
	if err := x.strip(ctx, r); err != nil {
		return err
	}
	if err := e.images.Discard(ctx, c.ID); err != nil {
		return x.failed("remove writable layer", err)
	}
	return x.strike()
}

// removal is a container on its way out.
type removal struct {
	e *runner
	c hull.Container
}

// swift is remove for a run that was let go: whoever waits for the container's end
// hears of it before the sandbox is taken down and the writable layer removed. A
// crash between leaves a pod's record, or a layer, that no container claims:
// recovery takes both down.
func (x removal) swift(ctx context.Context, ran *run) error {
	err := x.strip(ctx, hull.RemoveRequest{Volumes: true})
	if err == nil {
		err = x.strike()
	}
	ran.end(ctx, x.e)
	return errors.Join(err, x.e.images.Discard(ctx, x.c.ID))
}

// strip takes from a container what it has beside its writable layer and record.
func (x removal) strip(ctx context.Context, r hull.RemoveRequest) error {
	e, c := x.e, x.c
	e.runs.forget(c.ID)
	if !c.Spec.AutoRemove { // those with --rm are removed by recovery anyway
		if err := e.store.UpdateStatus(c.ID, func(s *hull.Status) error { s.Phase = hull.Removing; return nil }); err != nil {
			return err
		}
	}
	if err := e.volumes.Drop(ctx, c.ID, c.Mounts, r.Volumes); err != nil {
		return x.failed("remove volumes", err)
	}
	if err := e.logs.Remove(c); err != nil {
		return x.failed("remove log", err)
	}
	if err := e.letImagesGo(ctx, c); err != nil {
		return x.failed("let mounted images go", err)
	}
	return nil
}

// strike deletes the record and tells of it.
func (x removal) strike() error {
	if err := x.e.store.DeleteContainer(x.c.ID); err != nil {
		return x.failed("remove record", err)
	}
	x.e.publish("destroy", x.c, nil)
	s := x.c.Status
	x.e.runs.notify(x.c.ID, true, hull.Exit{Code: s.ExitCode, OOMKilled: s.OOMKilled, At: s.FinishedAt})
	return nil
}

// failed keeps a container whose removal failed for another try.
func (x removal) failed(what string, err error) error {
	_ = x.e.store.UpdateStatus(x.c.ID, func(s *hull.Status) error { s.Phase, s.Error = hull.Dead, err.Error(); return nil })
	return fmt.Errorf("%s of %s: %w", what, x.c.Name, err)
}

// stateText is the state as Docker's messages have it.
func stateText(c hull.Container) string {
	switch {
	case c.Status.Restarting:
		return "restarting"
	case c.Status.Phase == hull.Paused:
		return "paused"
	}
	return "running"
}

// Prune removes every container that does not run and that keep does not keep.
func (e *runner) Prune(ctx context.Context, keep func(hull.Container) bool) (hull.PruneReport, error) {
	var rep hull.PruneReport
	for _, c := range e.store.Containers() {
		if err := ctx.Err(); err != nil {
			return rep, err
		}
		if c.Status.Phase.Live() || c.Status.Phase == hull.Starting || c.Status.Restarting || keep(c) {
			continue
		}
		size, _, err := e.images.Size(ctx, c.ID)
		if err != nil {
			size = 0
		}
		if err := e.Remove(ctx, c.ID, hull.RemoveRequest{}); err != nil {
			e.log.Warn("prune", "container", c.ID, "error", err)
			continue
		}
		rep.Deleted = append(rep.Deleted, c.ID)
		rep.Reclaimed += size
	}
	return rep, nil
}
