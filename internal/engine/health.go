package engine

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"hull/internal/hull"
)

const (
	healthLogLen = 5
	healthOutput = 4096 // bytes kept of one probe's output
)

// startHealth runs the container's health check until the run ends.
func (e *runner) startHealth(ctx context.Context, x *run) {
	c, err := e.store.Container(x.id)
	if err != nil || c.Resolved.Health == nil {
		return
	}
	ctx, x.health = context.WithCancel(ctx)
	if c.Status.Health == nil {
		_ = e.setHealth(c.ID, hull.Health{Status: "starting"})
	}
	e.runs.wg.Go(func() { e.healthLoop(ctx, c, x) })
}

func (e *runner) setHealth(id string, h hull.Health) error {
	return e.store.UpdateStatus(id, func(s *hull.Status) error {
		if s.Phase.Live() {
			s.Health = &h
		}
		return nil
	})
}

// healthLoop probes, records and, under the policy "unhealthy", ends the run.
func (e *runner) healthLoop(ctx context.Context, c hull.Container, x *run) {
	h := healthDefaults(*c.Resolved.Health)
	state := hull.Health{Status: "starting"}
	if c.Status.Health != nil {
		state = *c.Status.Health
	}
	for {
		interval := h.Interval
		young := time.Since(x.started) < h.StartPeriod
		if young && state.Status == "starting" {
			interval = h.StartInterval
		}
		timer := time.NewTimer(interval)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		if now, err := e.store.Container(c.ID); err != nil || now.Status.Phase == hull.Paused {
			continue
		}
		res := e.probe(ctx, c, h)
		if ctx.Err() != nil {
			return
		}
		before := state.Status
		state = nextHealth(state, res, h.Retries, time.Since(x.started) < h.StartPeriod)
		if err := e.setHealth(c.ID, state); err != nil {
			e.log.Warn("record health", "container", c.ID, "error", err)
		}
		if state.Status != before {
			e.publish("health_status: "+state.Status, c, nil)
		}
		if state.Status == "unhealthy" && before != "unhealthy" && e.restartsUnhealthy(c.ID) {
			x.unhealthy.Store(true)
			e.endUnhealthy(context.WithoutCancel(ctx), c, x)
			return
		}
	}
}

func (e *runner) restartsUnhealthy(id string) bool {
	c, err := e.store.Container(id)
	return err == nil && c.Spec.Restart.Name == "unhealthy"
}

// endUnhealthy stops a run as Stop does, but without the user's wish in the
// record, so that the policy starts it again. In its own goroutine: the run's
// end waits for the health loop's.
func (e *runner) endUnhealthy(ctx context.Context, c hull.Container, x *run) {
	e.runs.wg.Go(func() {
		timeout := stopTimeout(c, hull.StopRequest{}, e.cfg.StopTimeout)
		if err := e.endRun(ctx, c, x, syscall.SIGTERM, timeout); err != nil {
			e.log.Error("stop unhealthy container", "container", c.ID, "error", err)
		}
	})
}

// nextHealth is the state after one more probe. A failure in the start period
// does not count (Docker image specification).
func nextHealth(h hull.Health, r hull.HealthResult, retries int, starting bool) hull.Health {
	h.Log = append(append([]hull.HealthResult{}, h.Log...), r)
	if n := len(h.Log); n > healthLogLen {
		h.Log = h.Log[n-healthLogLen:]
	}
	switch {
	case r.ExitCode == 0:
		h.Status, h.FailingStreak = "healthy", 0
	case h.Status == "starting" && starting:
	default:
		h.FailingStreak++
		if h.FailingStreak >= retries {
			h.Status = "unhealthy"
		}
	}
	return h
}

// probe runs the check once as an exec and collects its output.
func (e *runner) probe(ctx context.Context, c hull.Container, h hull.HealthSpec) hull.HealthResult {
	res := hull.HealthResult{Start: time.Now().UTC(), ExitCode: -1}
	defer func() { res.End = time.Now().UTC() }()
	out, code, err := e.capture(ctx, c, healthArgs(c, h), h.Timeout)
	res.End, res.ExitCode, res.Output = time.Now().UTC(), code, out
	if err != nil {
		res.ExitCode = -1
		res.Output = err.Error()
	}
	return res
}

func healthArgs(c hull.Container, h hull.HealthSpec) []string {
	if h.Test[0] != "CMD-SHELL" {
		return h.Test[1:]
	}
	shell := c.Resolved.Shell
	if len(shell) == 0 {
		shell = []string{"/bin/sh", "-c"}
	}
	return append(append([]string{}, shell...), strings.Join(h.Test[1:], " "))
}

// capture runs args in c and returns the first bytes of its output. At the
// timeout the process is killed.
func (e *runner) capture(ctx context.Context, c hull.Container, args []string, timeout time.Duration) (string, int, error) {
	id, err := e.ExecCreate(ctx, c.ID, hull.ExecSpec{Args: args, Stdout: true, Stderr: true})
	if err != nil {
		return "", -1, err
	}
	near, far, err := socketpair()
	if err != nil {
		return "", -1, err
	}
	defer near.Close()
	err = e.ExecStart(ctx, id, &hull.Attach{Conn: far, Stdout: true, Stderr: true, DetachKeys: []byte{}}, 0, 0)
	far.Close()
	if err != nil {
		return "", -1, err
	}
	x, err := e.runs.exec(id)
	if err != nil {
		return "", -1, err
	}
	var out bytes.Buffer
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.CopyN(&out, near, healthOutput)
		_, _ = io.Copy(io.Discard, near)
	}()
	wait, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	exit, err := x.proc.Wait(wait)
	if err != nil {
		_ = x.proc.Signal(context.WithoutCancel(ctx), syscall.SIGKILL)
	}
	_ = near.SetReadDeadline(time.Now().Add(time.Second))
	<-read
	switch {
	case err == nil:
		return out.String(), exit.Code, nil
	case out.Len() == 0:
		return fmt.Sprintf("Health check exceeded timeout (%v)", timeout), -1, nil
	}
	return fmt.Sprintf("Health check exceeded timeout (%v): %s", timeout, out.String()), -1, nil
}

// socketpair is a connected pair of non-blocking stream sockets.
func socketpair() (near, far *os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket"), nil
}
