package engine

import (
	"context"
	"fmt"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/signal"

	"hull/internal/driver"
	"hull/internal/hull"
)

// killGrace is how long a process may take to disappear after SIGKILL before
// its boundary is destroyed around it.
const killGrace = 10 * time.Second

// Stop asks the main process to end and kills it after the timeout. It returns
// when the run is over and released. hull.ErrNotModified when it does not run.
func (e *runner) Stop(ctx context.Context, ref string, r hull.StopRequest) error {
	c, x, err := e.requestStop(ctx, ref)
	if err != nil {
		return err
	}
	if x == nil { // it was waiting for its restart
		return nil
	}
	name := firstOf(r.Signal, c.Resolved.StopSignal)
	sig, err := signal.ParseSignal(name)
	if err != nil {
		return fmt.Errorf("stop %s: %w", c.Name, errdefs.ErrInvalidArgument.WithMessage(err.Error()))
	}
	if err := e.endRun(ctx, c, x, sig, stopTimeout(c, r, e.cfg.StopTimeout)); err != nil {
		return err
	}
	e.publish("stop", c, nil)
	return nil
}

// requestStop records that the user wants c stopped, and gives its run.
func (e *runner) requestStop(ctx context.Context, ref string) (hull.Container, *run, error) {
	c, unlock, err := e.locked(ctx, ref)
	if err != nil {
		return c, nil, err
	}
	defer unlock()
	x := e.runs.run(c.ID)
	if x == nil && !c.Status.Restarting {
		return c, nil, fmt.Errorf("container %s is not running: %w", c.Name, hull.ErrNotModified)
	}
	e.runs.cancelBackoff(c.ID)
	err = e.store.UpdateStatus(c.ID, func(s *hull.Status) error {
		s.StopRequested, s.Restarting = true, false
		return nil
	})
	return c, x, err
}

// stopTimeout: the request's, the container's, the engine's; negative = for ever.
func stopTimeout(c hull.Container, r hull.StopRequest, def time.Duration) time.Duration {
	switch {
	case r.Timeout != nil:
		return time.Duration(*r.Timeout) * time.Second
	case c.Spec.Process.StopTimeout != nil:
		return time.Duration(*c.Spec.Process.StopTimeout) * time.Second
	}
	return def
}

// endRun sends sig, waits, kills, waits, and at last destroys the boundary. No
// lock is held while it waits. A client that goes away stops nothing: the process
// has its time to end all the same.
func (e *runner) endRun(ctx context.Context, c hull.Container, x *run, sig syscall.Signal, timeout time.Duration) error {
	bg := context.WithoutCancel(ctx)
	if c.Status.Phase == hull.Paused { // a frozen process cannot act on a signal
		if err := e.thaw(bg, c); err != nil {
			return err
		}
	}
	if err := x.proc.Signal(bg, sig); err != nil && !ending(err) {
		return fmt.Errorf("send %v to %s: %w", sig, c.Name, err)
	}
	e.publish("kill", c, map[string]string{"signal": strconv.Itoa(int(sig))})
	if sig != syscall.SIGKILL && waitFor(bg, x.done, timeout) {
		return nil
	}
	if sig != syscall.SIGKILL {
		if err := x.proc.Signal(bg, syscall.SIGKILL); err != nil && !ending(err) {
			return fmt.Errorf("kill %s: %w", c.Name, err)
		}
		e.publish("kill", c, map[string]string{"signal": "9"})
	}
	if waitFor(bg, x.done, killGrace) {
		return nil
	}
	if p := e.runs.pod(c.PodID); p != nil {
		e.log.Warn("process does not die; destroying its boundary", "container", c.ID)
		if err := p.box.Destroy(bg); err != nil {
			return fmt.Errorf("container %s could not be killed: %w", c.Name, err)
		}
	}
	if !waitFor(bg, x.done, killGrace) {
		return fmt.Errorf("container %s did not end after SIGKILL (a process in uninterruptible sleep?): %w", c.Name, errdefs.ErrUnavailable)
	}
	return nil
}

// ending says that a signal had nobody to go to: the process has ended, or its
// monitor has, and the run is about to be over.
func ending(err error) bool { return errdefs.IsNotFound(err) || errdefs.IsUnavailable(err) }

// waitFor says whether done was closed within d (negative: no limit).
func waitFor(ctx context.Context, done <-chan struct{}, d time.Duration) bool {
	var late <-chan time.Time
	if d >= 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		late = t.C
	}
	select {
	case <-done:
		return true
	case <-late:
	case <-ctx.Done():
	}
	return false
}

// Restart is Stop, where it runs, and Start.
func (e *runner) Restart(ctx context.Context, ref string, r hull.StopRequest) error {
	ctx = context.WithoutCancel(ctx) // who goes away in the middle wants it to run all the same
	c, err := e.store.Container(ref)
	if err != nil {
		return err
	}
	if x := e.runs.run(c.ID); x != nil { // one with --rm outlives this
		x.restart.Store(true)
		defer x.restart.Store(false)
	}
	if err := e.Stop(ctx, c.ID, r); err != nil && !isNotModified(err) {
		return err
	}
	if err := e.Start(ctx, c.ID); err != nil && !isNotModified(err) {
		return err
	}
	e.publish("restart", c, nil)
	return nil
}

// Kill sends a signal, "" = SIGKILL, to a running container's main process.
func (e *runner) Kill(ctx context.Context, ref, name string) error {
	c, err := e.store.Container(ref)
	if err != nil {
		return err
	}
	sig := syscall.SIGKILL
	if name != "" {
		if sig, err = signal.ParseSignal(name); err != nil {
			return fmt.Errorf("kill %s: %w", c.Name, errdefs.ErrInvalidArgument.WithMessage(err.Error()))
		}
	}
	x := e.runs.run(c.ID)
	if x == nil {
		if c.Status.Restarting && sig == syscall.SIGKILL {
			return e.killRun(ctx, c.ID)
		}
		return fmt.Errorf("cannot kill container: %s: container %s is not running: %w", ref, c.ID, errdefs.ErrConflict)
	}
	if sig == syscall.SIGKILL || name == c.Resolved.StopSignal { // the user means it to end: no restart
		if _, _, err := e.requestStop(ctx, c.ID); err != nil && !isNotModified(err) {
			return err
		}
	}
	if sig == syscall.SIGKILL {
		return e.endRun(ctx, c, x, sig, 0)
	}
	if err := x.proc.Signal(ctx, sig); err != nil {
		return fmt.Errorf("cannot kill container: %s: %w", ref, err)
	}
	e.publish("kill", c, map[string]string{"signal": strconv.Itoa(int(sig))})
	return nil
}

// Pause freezes every process of a container.
func (e *runner) Pause(ctx context.Context, ref string) error {
	return e.freeze(ctx, ref, "pause", hull.Running, hull.Paused, driver.Pause)
}

// Unpause is the reverse of Pause.
func (e *runner) Unpause(ctx context.Context, ref string) error {
	return e.freeze(ctx, ref, "unpause", hull.Paused, hull.Running, driver.Resume)
}

func (e *runner) thaw(ctx context.Context, c hull.Container) error {
	return e.freeze(ctx, c.ID, "unpause", hull.Paused, hull.Running, driver.Resume)
}

func (e *runner) freeze(ctx context.Context, ref, verb string, from, to hull.Phase, act func(context.Context, driver.Sandbox, string) error) error {
	c, unlock, err := e.locked(ctx, ref)
	if err != nil {
		return err
	}
	defer unlock()
	p := e.runs.pod(c.PodID)
	if c.Status.Phase != from || p == nil {
		return cannotFreeze(c, verb)
	}
	if err := act(ctx, p.box, c.ID); err != nil {
		return fmt.Errorf("%s container %s: %w", verb, c.Name, err)
	}
	if err := e.store.UpdateStatus(c.ID, func(s *hull.Status) error { s.Phase = to; return nil }); err != nil {
		return err
	}
	e.publish(verb, c, nil)
	return nil
}

func cannotFreeze(c hull.Container, verb string) error {
	switch {
	case !c.Status.Phase.Live():
		return fmt.Errorf("container %s is not running: %w", c.ID, errdefs.ErrConflict)
	case verb == "pause":
		return fmt.Errorf("container %s is already paused: %w", c.ID, errdefs.ErrConflict)
	}
	return fmt.Errorf("container %s is not paused: %w", c.ID, errdefs.ErrConflict)
}
