package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/driver"
	"hull/internal/hull"
)

// ExecCreate notes a process to be run in a running container.
func (e *execs) ExecCreate(ctx context.Context, ref string, s hull.ExecSpec) (string, error) {
	c, err := e.store.Container(ref)
	if err != nil {
		return "", err
	}
	if err := execable(c, ref); err != nil {
		return "", err
	}
	if len(s.Args) == 0 {
		return "", fmt.Errorf("no exec command specified: %w", errdefs.ErrInvalidArgument)
	}
	if strings.ContainsFunc(s.User, func(r rune) bool { return r != ':' && (r < '0' || r > '9') }) && !e.machineOf(c) {
		// A name is looked up before the client's connection becomes the exec's.
		if _, err := e.ownerIn(ctx, c, s.User); err != nil && !errdefs.IsNotImplemented(err) {
			return "", err
		}
	}
	x := &execRun{info: hull.Exec{ID: newID(), ContainerID: c.ID, Spec: s}, done: make(chan struct{})}
	e.runs.addExec(x)
	e.publish("exec_create: "+strings.Join(s.Args, " "), c, map[string]string{"execID": x.info.ID})
	return x.info.ID, nil
}

// execable says whether c, which was asked for as ref, can run a process more now.
func execable(c hull.Container, ref string) error {
	switch {
	case c.Status.Phase == hull.Paused:
		return fmt.Errorf("Container %s is paused, unpause the container before exec: %w", ref, errdefs.ErrConflict) //nolint:staticcheck // Docker's words
	case c.Status.Restarting:
		return fmt.Errorf("container %s is restarting, wait until the container is running: %w", c.Name, errdefs.ErrConflict)
	case c.Status.Phase != hull.Running:
		return fmt.Errorf("container %s is not running: %w", c.ID, errdefs.ErrConflict)
	}
	return nil
}

// ExecStart runs it. It returns when the process runs. a nil = detached.
func (e *execs) ExecStart(ctx context.Context, id string, a *hull.Attach, rows, cols uint16) error {
	x, err := e.runs.exec(id)
	if err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.info.Started {
		return fmt.Errorf("exec %s has already run: %w", id, errdefs.ErrConflict)
	}
	c, err := e.store.Container(x.info.ContainerID)
	if err != nil {
		return err
	}
	if err := execable(c, c.ID); err != nil {
		return err
	}
	pod := e.runs.pod(c.PodID)
	if pod == nil {
		return fmt.Errorf("container %s is not running: %w", c.ID, errdefs.ErrConflict)
	}
	spec, err := e.execSpec(c, x.info)
	if err != nil {
		return err
	}
	s := x.info.Spec
	io := hull.IO{TTY: s.TTY, Stdin: s.Stdin, StdinOnce: true, Rows: rows, Cols: cols, Attach: a}
	if rows == 0 && cols == 0 {
		io.Rows, io.Cols = uint16(s.ConsoleSize[0]), uint16(s.ConsoleSize[1]) //nolint:gosec // a terminal this large does not exist
	}
	x.info.Started = true
	ctx, cancel := beyondClient(ctx)
	defer cancel()
	proc, err := pod.box.Exec(ctx, c.ID, spec, io)
	if err != nil {
		x.end(execCode(err))
		return fmt.Errorf("exec in %s: %w", c.Name, err)
	}
	e.publish("exec_start: "+strings.Join(s.Args, " "), c, map[string]string{"execID": id})
	if err := proc.Start(ctx); err != nil {
		x.end(execCode(err))
		return fmt.Errorf("exec in %s: %w", c.Name, err)
	}
	x.proc, x.info.Running, x.info.Pid = proc, true, proc.Pid()
	e.watchExec(context.WithoutCancel(ctx), c, x, proc)
	return nil
}

func (e *execs) watchExec(ctx context.Context, c hull.Container, x *execRun, proc driver.Process) {
	e.runs.wg.Go(func() {
		exit, err := proc.Wait(ctx)
		if err != nil {
			exit.Code = 137 // its container, or its monitor, is gone
		}
		x.mu.Lock()
		x.end(exit.Code)
		x.mu.Unlock()
		e.publish("exec_die", c, map[string]string{"execID": x.info.ID, "exitCode": fmt.Sprint(exit.Code)})
	})
}

// end records the exit code; x.mu is held. The first code stands.
func (x *execRun) end(code int) {
	if x.info.CanRemove {
		return
	}
	close(x.done)
	x.info.Running, x.info.ExitCode, x.info.CanRemove = false, &code, true
}

// execSpec is the OCI process: the container's environment and rights, the
// user's changes on top.
func (e *execs) execSpec(c hull.Container, x hull.Exec) (driver.ExecSpec, error) {
	s := x.Spec
	sec := c.Spec.Security
	sec.Privileged = sec.Privileged || s.Privileged
	caps, err := capabilities(sec)
	if err != nil {
		return driver.ExecSpec{}, err
	}
	opt, err := parseSecurity(sec)
	if err != nil {
		return driver.ExecSpec{}, err
	}
	filter, err := seccompFor(sec, opt, caps, e.profiles.load)
	if err != nil {
		return driver.ExecSpec{}, err
	}
	env := processEnv(mergeEnv(c.Resolved.Env, s.Env), hostnameOf(c), s.TTY)
	return driver.ExecSpec{
		ID: x.ID,
		Process: &specs.Process{
			Terminal: s.TTY, Args: slices.Clone(s.Args), Env: env, Cwd: firstOf(s.WorkDir, c.Resolved.WorkDir),
			Capabilities: capSet(caps), NoNewPrivileges: opt.noNewPrivileges, Rlimits: rlimits(c.Spec.Resources.Ulimits),
		},
		User: firstOf(s.User, c.Resolved.User), Groups: c.Spec.Process.Groups, Seccomp: filter, Now: true,
	}, nil
}

// ExecResize sets the terminal size of an exec.
func (e *execs) ExecResize(ctx context.Context, id string, rows, cols uint16) error {
	x, err := e.runs.exec(id)
	if err != nil {
		return err
	}
	x.mu.Lock()
	proc := x.proc
	x.mu.Unlock()
	c, err := e.store.Container(x.info.ContainerID)
	if err == nil {
		err = execable(c, c.ID)
	}
	if err != nil {
		return err
	}
	if proc == nil {
		return fmt.Errorf("exec process is not started: %w", errdefs.ErrConflict)
	}
	return driver.Resize(ctx, proc, rows, cols)
}

// Exec is an exec's present state. A client asks for the exit code when its stream
// has ended, which may be a moment before the news of the exit arrives here; so an
// exec that the records call running is asked.
func (e *execs) Exec(ctx context.Context, id string) (hull.Exec, error) {
	x, err := e.runs.exec(id)
	if err != nil {
		return hull.Exec{}, err
	}
	x.mu.Lock()
	info, proc := x.info, x.proc
	x.mu.Unlock()
	if !info.Running || !errdefs.IsNotFound(proc.Signal(ctx, 0)) {
		return info, nil
	}
	exit, err := proc.Wait(ctx)
	x.mu.Lock()
	defer x.mu.Unlock()
	if err == nil && x.info.Running {
		x.end(exit.Code)
	}
	return x.info, nil
}

// ExecWait is Exec when the exec has ended, however long it is not even started.
func (e *execs) ExecWait(ctx context.Context, id string) (hull.Exec, error) {
	x, err := e.runs.exec(id)
	if err != nil {
		return hull.Exec{}, err
	}
	select {
	case <-x.done:
		return e.Exec(ctx, id)
	case <-ctx.Done():
		return hull.Exec{}, context.Cause(ctx)
	}
}

// execCode is the exit code of a process that could not be started.
func execCode(err error) int {
	var x *hull.ExecError
	if errors.As(err, &x) {
		return x.Code
	}
	return 126
}
