package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"hull/internal/driver"
	"hull/internal/hull"
)

// Recover makes this engine the keeper of what an earlier one left: live pods
// are watched again, ended ones released and recorded, half-made ones undone,
// and host objects that no record claims removed. It runs once, before the
// front doors open.
func (e *recovery) Recover(ctx context.Context) error {
	var errs []error
	for _, p := range e.store.Pods() {
		if err := e.recoverPod(ctx, p); err != nil {
			errs = append(errs, fmt.Errorf("recover pod %s: %w", p.ID, err))
		}
	}
	errs = append(errs, e.sweep(ctx))
	var boot []hull.Container
	for _, c := range e.store.Containers() {
		starts, err := e.recoverContainer(ctx, c)
		if err != nil {
			errs = append(errs, fmt.Errorf("recover container %s: %w", c.ID, err))
		}
		if starts {
			boot = append(boot, c)
		}
	}
	e.boot(ctx, boot)
	return errors.Join(errs...)
}

// recoverPod finds a pod's boundary again and takes over its release; one that
// is gone is released, with the exits that its monitor wrote down.
func (e *recovery) recoverPod(ctx context.Context, p hull.Pod) error {
	if !p.Status.Running {
		return nil
	}
	drv, err := e.driverOf(p.Isolation, p.Runtime)
	if err != nil {
		return err
	}
	run := &podRun{}
	dir := e.podDir(p.ID)
	run.release.Add("remove run directory", func(context.Context) error { return os.RemoveAll(dir) })
	detach, err := e.networks.Reattach(ctx, p, dir)
	if err != nil {
		e.log.Error("network of a running pod", "pod", p.ID, "error", err)
	}
	if detach != nil {
		run.detach = detach
		run.release.Add("detach networks", detach)
	}
	box, err := drv.Recover(ctx, p.ID, p.Status.Handle)
	if err != nil {
		exits := map[string]hull.Exit{}
		if gone, ok := driver.AsGone(err); ok {
			exits = gone.Exits
		} else if !errdefs.IsNotFound(err) {
			e.log.Error("recover sandbox", "pod", p.ID, "error", err)
		}
		err := errors.Join(run.release.Run(ctx, undoLimit), e.forgetPod(p.ID))
		e.podEnded(ctx, p.ID, exits)
		return err
	}
	run.box = box
	run.release.Add("destroy sandbox", box.Destroy)
	if _, err := e.store.Container(p.ID); p.Implicit && errdefs.IsNotFound(err) && !slices.Contains(e.store.Unreadable(), p.ID) {
		// Its container had ended and was removed; the engine died before the rest.
		return errors.Join(run.release.Run(ctx, undoLimit), e.forgetPod(p.ID))
	}
	e.runs.setPod(p.ID, run)
	return nil
}

// podEnded records the end of a pod's containers that nobody saw.
func (e *recovery) podEnded(ctx context.Context, podID string, exits map[string]hull.Exit) {
	for _, c := range e.store.Containers() {
		if c.PodID != podID || !(c.Status.Phase.Live() || c.Status.Phase == hull.Starting) {
			continue
		}
		exit, ok := exits[c.ID]
		if !ok {
			exit = hull.Exit{Code: 137, At: time.Now(), Error: "the container's monitor died while the engine was away"}
		}
		e.endUnseen(ctx, c, exit)
	}
}

// endUnseen is exit for a run that has no run value: what it held is released
// with its pod.
func (e *recovery) endUnseen(ctx context.Context, c hull.Container, exit hull.Exit) {
	again := restartAfter(c, exit, false)
	err := e.store.UpdateStatus(c.ID, func(s *hull.Status) error {
		ended(s, exit, again)
		c.Status = *s
		return nil
	})
	if err != nil {
		e.log.Error("record exit", "container", c.ID, "error", err)
	}
	if err := e.unmountAll(ctx, c); err != nil {
		e.log.Error("release after exit", "container", c.ID, "error", err)
	}
	e.publish("die", c, map[string]string{"exitCode": fmt.Sprint(exit.Code)})
}

// unmountAll gives back what Start acquired besides the pod, by asking for the
// releases again: Mount of the services is idempotent, as is their release.
func (e *recovery) unmountAll(ctx context.Context, c hull.Container) error {
	return e.volumes.Reattach(c.ID, c.Mounts)(ctx)
}

// recoverContainer brings one record in line with the facts, and says whether the
// container starts with the engine.
func (e *recovery) recoverContainer(ctx context.Context, c hull.Container) (starts bool, err error) {
	if c, err = e.store.Container(c.ID); err != nil {
		return false, nil //nolint:nilerr // removed meanwhile
	}
	switch {
	case c.Status.Phase.Live():
		return e.rewatch(ctx, c)
	case c.Status.Phase == hull.Starting:
		if err := e.interrupted(ctx, c); err != nil {
			return false, err
		}
	case c.Status.Phase == hull.Removing, c.Status.Phase == hull.Dead:
		return false, e.remove(ctx, c, hull.RemoveRequest{})
	}
	if c, err = e.store.Container(c.ID); err != nil {
		return false, err
	}
	if c.Spec.AutoRemove {
		return false, e.remove(ctx, c, hull.RemoveRequest{Volumes: true})
	}
	return startsAtBoot(c), nil
}

// startsAtBoot says whether a stopped container comes back with the engine.
func startsAtBoot(c hull.Container) bool {
	if c.Status.Restarting {
		return true
	}
	ran := c.Status.Phase == hull.Stopped
	switch c.Spec.Restart.Name {
	case "always":
		return ran
	case "unless-stopped":
		return ran && !c.Status.StopRequested
	}
	return false
}

// interrupted undoes a start that the engine's death cut off: its pod was
// released above or is destroyed now.
func (e *recovery) interrupted(ctx context.Context, c hull.Container) error {
	err := e.closePodOf(ctx, c)
	uerr := e.store.UpdateStatus(c.ID, func(s *hull.Status) error {
		s.Phase, s.Pid, s.ExitCode = hull.Created, 0, 128
		s.Error = "the engine ended while this container was starting"
		if !s.FinishedAt.IsZero() || !s.StartedAt.IsZero() {
			s.Phase = hull.Stopped
		}
		return nil
	})
	return errors.Join(err, e.unmountAll(ctx, c), uerr)
}

func (e *recovery) closePodOf(ctx context.Context, c hull.Container) error {
	pod, err := e.store.Pod(c.PodID)
	if err != nil || !pod.Implicit {
		return nil //nolint:nilerr // no pod, nothing to close
	}
	return e.closePod(ctx, pod.ID)
}

// rewatch takes a live run over.
func (e *recovery) rewatch(ctx context.Context, c hull.Container) (starts bool, err error) {
	pod := e.runs.pod(c.PodID)
	if pod == nil {
		e.endUnseen(ctx, c, hull.Exit{Code: 137, At: time.Now(), Error: "nothing was left of this run"})
		return e.recoverContainer(ctx, c)
	}
	proc, err := pod.box.Process(c.ID)
	if err != nil {
		e.endUnseen(ctx, c, hull.Exit{Code: 137, At: time.Now(), Error: err.Error()})
		return false, e.closePodOf(ctx, c)
	}
	x := &run{id: c.ID, pod: c.PodID, proc: proc, started: c.Status.StartedAt, exited: make(chan struct{}), done: make(chan struct{})}
	x.release.Add("unmount volumes", e.volumes.Reattach(c.ID, c.Mounts))
	if p, err := e.store.Pod(c.PodID); err == nil && p.Implicit {
		x.release.Add("leave pod", func(ctx context.Context) error { return e.closePod(ctx, c.PodID) })
	}
	// The engine may have died between the record and the start: what the record
	// promises is made true.
	if err := proc.Start(ctx); err != nil && !errdefs.IsConflict(err) {
		e.log.Error("finish an interrupted start", "container", c.ID, "error", err)
	}
	e.watch(ctx, x)
	return false, nil
}

// sweep removes host objects that no record claims.
func (e *recovery) sweep(ctx context.Context) error {
	known, unreadable := map[string]bool{}, map[string]bool{}
	for _, c := range e.store.Containers() {
		known[c.ID] = true
	}
	for _, id := range e.store.Unreadable() {
		known[id], unreadable[id] = true, true
	}
	claimed := func(podID string) bool { return e.runs.pod(podID) != nil || unreadable[podID] }
	errs := []error{
		e.sweepPods(ctx, claimed),
		e.networks.Sweep(ctx, claimed),
		e.images.Sweep(ctx, func(id string) bool { return known[id] }),
		e.logs.Sweep(func(id string) bool { return known[id] }),
	}
	return errors.Join(errs...)
}

// sweepPods destroys, by name, the boundaries whose run directory is left but
// whose record is not.
func (e *recovery) sweepPods(ctx context.Context, keep func(string) bool) error {
	dirs, err := os.ReadDir(filepath.Join(e.cfg.RunDir, "pods"))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	var errs []error
	for _, d := range dirs {
		if keep(d.Name()) {
			continue
		}
		for _, drv := range e.drivers {
			if box, err := drv.Recover(ctx, d.Name(), nil); err == nil {
				errs = append(errs, box.Destroy(ctx))
			} else if !errdefs.IsNotFound(err) {
				errs = append(errs, err)
			}
		}
		errs = append(errs, os.RemoveAll(e.podDir(d.Name())))
	}
	return errors.Join(errs...)
}

// Close stops watching. Containers go on; nothing is stopped.
func (e *recovery) Close() {
	e.runs.mu.Lock()
	e.runs.stopped = true
	e.runs.mu.Unlock()
}
