package engine

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"time"

	"hull/internal/hull"
)

// watch owns a run from its start to its end.
func (e *runner) watch(ctx context.Context, x *run) {
	ctx = context.WithoutCancel(ctx)
	e.runs.add(x)
	e.startHealth(ctx, x)
	e.runs.wg.Go(func() {
		exit, err := x.proc.Wait(ctx)
		if err != nil { // the engine is going away, not the process
			e.log.Info("stopped watching", "container", x.id, "error", err)
			return
		}
		close(x.exited)
		e.exit(ctx, x, exit)
	})
}

// exit ends a run: what Start acquired is released, the end is recorded, and
// the restart policy decides what comes next.
func (e *runner) exit(ctx context.Context, x *run, exit hull.Exit) {
	unlock, err := e.locks.Lock(ctx, x.pod)
	if err != nil {
		return
	}
	defer close(x.done)
	defer unlock()
	if x.health != nil {
		x.health()
	}
	c, err := e.store.Container(x.id)
	if err != nil {
		x.end(ctx, e)
		return
	}
	ran := time.Since(x.started)
	again := restartAfter(c, exit, x.unhealthy.Load()) && !e.runs.stopping()
	gone := c.Spec.AutoRemove && !again && !x.restart.Load()
	if gone {
		e.runs.depart(x.id, exit)
	}
	swift := gone && e.runs.pod(x.pod).letGo(ctx, c, e.log)
	if !swift {
		x.end(ctx, e)
	}
	err = e.store.UpdateStatus(x.id, func(s *hull.Status) error {
		ended(s, exit, again)
		c.Status = *s
		return nil
	})
	if err != nil {
		e.log.Error("record exit", "container", x.id, "error", err)
	}
	if exit.OOMKilled {
		e.publish("oom", c, nil)
	}
	e.publish("die", c, map[string]string{
		"exitCode": strconv.Itoa(exit.Code), "execDuration": strconv.Itoa(int(ran.Seconds())),
	})
	switch rm := (removal{e, c}); {
	case swift:
		err = rm.swift(ctx, x)
	case gone:
		err = e.remove(ctx, c, hull.RemoveRequest{Volumes: true})
	default:
		err = nil
	}
	if err != nil {
		e.log.Error("remove after exit", "container", x.id, "error", err)
	}
	e.runs.notify(x.id, gone, exit)
	if again {
		e.restartLater(ctx, c, ran)
	}
}

// end gives back what the run has acquired.
func (x *run) end(ctx context.Context, e *runner) {
	if err := x.release.Run(ctx, undoLimit); err != nil {
		e.log.Error("release after exit", "container", x.id, "error", err)
	}
	e.runs.drop(x.id)
}

// letGo frees what somebody else may want as soon as container c, which is p, is
// gone: its ports and addresses. It reports whether the rest of the run, which
// takes the kernel milliseconds to take down, may follow after the removal was
// told: when no file system of the user's is mounted in it.
func (p *podRun) letGo(ctx context.Context, c hull.Container, log *slog.Logger) bool {
	if p == nil || p.detach == nil || c.PodID != c.ID {
		return false
	}
	for _, m := range c.Mounts {
		if m.Type != hull.MountTmpfs && m.Type != hull.MountSecret {
			return false
		}
	}
	if err := p.detach(ctx); err != nil { // tried again with the rest
		log.Error("detach networks after exit", "container", c.ID, "error", err)
		return false
	}
	return true
}

func ended(s *hull.Status, exit hull.Exit, restarting bool) {
	s.Phase, s.Pid, s.Restarting = hull.Stopped, 0, restarting
	s.ExitCode, s.OOMKilled, s.Error = exit.Code, exit.OOMKilled, exit.Error
	s.FinishedAt = exit.At.UTC()
	if s.Health != nil {
		h := *s.Health // records are shared: never write through a pointer in one
		h.Status = "unhealthy"
		s.Health = &h
	}
}

// restartAfter is the restart policy's answer to an exit.
func restartAfter(c hull.Container, exit hull.Exit, unhealthy bool) bool {
	if c.Status.StopRequested {
		return false
	}
	p := c.Spec.Restart
	switch p.Name {
	case "always", "unless-stopped":
		return true
	case "unhealthy":
		return (exit.Code != 0 || unhealthy) && (p.MaxRetries == 0 || c.Status.RestartCount < p.MaxRetries)
	case "on-failure":
		return exit.Code != 0 && (p.MaxRetries == 0 || c.Status.RestartCount < p.MaxRetries)
	}
	return false
}

// Restart delays double from 100 ms to a minute; a run of 10 s starts afresh
// (moby restartmanager).
const (
	firstRestartDelay = 100 * time.Millisecond
	lastRestartDelay  = time.Minute
	steadyRun         = 10 * time.Second
)

// restartLater starts the container again after its delay, unless someone stops
// or removes it before.
func (e *runner) restartLater(ctx context.Context, c hull.Container, ran time.Duration) {
	delay, wait := e.runs.nextDelay(ctx, c.ID, ran)
	e.runs.wg.Go(func() {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-wait.Done():
			return
		case <-timer.C:
		}
		if err := e.startAgain(ctx, c.ID); err != nil {
			e.log.Error("restart", "container", c.ID, "error", err)
		}
	})
}

// startAgain is the restart policy's start: only a container that still waits
// for it is started.
func (e *runner) startAgain(ctx context.Context, id string) error {
	c, unlock, err := e.locked(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	if !c.Status.Restarting {
		return nil
	}
	c.Status.RestartCount++
	err = e.start(ctx, c, c.Status.RestartCount)
	if err == nil {
		return nil
	}
	again := restartAfter(c, hull.Exit{Code: 128}, false)
	err = errors.Join(err, e.store.UpdateStatus(id, func(s *hull.Status) error {
		s.Restarting, s.RestartCount = again, c.Status.RestartCount
		return nil
	}))
	if again {
		e.restartLater(ctx, c, 0)
	}
	return err
}
