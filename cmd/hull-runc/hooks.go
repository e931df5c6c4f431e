package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	goruntime "runtime"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/linux"
	"hull/internal/runtime"
)

// hooksOf are the hooks of a kind. prestart is deprecated, and used.
func hooksOf(s *specs.Spec, kind string) []specs.Hook {
	h := s.Hooks
	if h == nil {
		return nil
	}
	switch kind {
	case "prestart":
		return h.Prestart //nolint:staticcheck // see above
	case "createRuntime":
		return h.CreateRuntime
	case "createContainer":
		return h.CreateContainer
	case "startContainer":
		return h.StartContainer
	case "poststart":
		return h.Poststart
	case "poststop":
		return h.Poststop
	}
	return nil
}

// hookError is runc's message about a hook that failed.
func hookError(kind string, i int, err error, stdout, stderr []byte) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("error running %s hook #%d: hook ran past specified timeout: %w", kind, i, err)
	}
	return fmt.Errorf("error running %s hook #%d: %w, stdout: %s, stderr: %s", kind, i, err, bytes.TrimSpace(stdout), bytes.TrimSpace(stderr))
}

func hookContext(ctx context.Context, h *specs.Hook) (context.Context, context.CancelFunc) {
	if h.Timeout == nil {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, time.Duration(*h.Timeout)*time.Second)
}

// runHooks runs programs of the host, in dir, with the container's state on their
// standard input.
func runHooks(ctx context.Context, s *specs.Spec, kind, dir string, st *specs.State) error {
	hooks := hooksOf(s, kind)
	if len(hooks) == 0 {
		return nil
	}
	b, err := json.Marshal(st)
	if err != nil {
		return err
	}
	// What is started here does not inherit what entry has set for this program alone.
	goruntime.LockOSThread()
	defer goruntime.UnlockOSThread()
	linux.ResetSlack()
	for i := range hooks {
		h := &hooks[i]
		hctx, cancel := hookContext(ctx, h)
		cmd := exec.CommandContext(hctx, h.Path) //nolint:gosec // what the specification is for
		cmd.Args, cmd.Env, cmd.Stdin, cmd.Dir = h.Args, h.Env, bytes.NewReader(b), dir
		cmd.WaitDelay = time.Second // a grandchild may hold the pipes for ever
		if len(cmd.Args) == 0 {
			cmd.Args = []string{h.Path}
		}
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		if hctx.Err() != nil {
			err = hctx.Err()
		}
		cancel()
		if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
			return hookError(kind, i, err, stdout.Bytes(), stderr.Bytes())
		}
	}
	return nil
}

// startContainerHooks runs programs of the container, in it, with the rights of
// its main process, which is still waiting.
func (a *app) startContainerHooks(ctx context.Context, c *container) (err error) {
	hooks := hooksOf(c.Spec, "startContainer")
	if len(hooks) == 0 {
		return nil
	}
	if err := linux.ReexecReadOnly(); err != nil {
		return err
	}
	b, err := json.Marshal(c.ociState(specs.StateCreated))
	if err != nil {
		return err
	}
	h, err := runtime.Attach(ctx, c.Pid, c.Namespaces)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Destroy()) }()
	for i := range hooks {
		if err := a.hookInside(ctx, c, h, i, b); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) hookInside(ctx context.Context, c *container, h *runtime.Container, i int, state []byte) error {
	hook := &c.Spec.Hooks.StartContainer[i]
	p := *c.Spec.Process
	p.Terminal, p.Args = false, hook.Args
	if len(p.Args) == 0 {
		p.Args = []string{hook.Path}
	}
	if hook.Env != nil {
		p.Env = hook.Env
	}
	plan, err := runtime.PrepareExec(c.Spec, &p, false)
	if err != nil {
		return err
	}
	plan.Process.Path = hook.Path
	io, err := newCapture(state)
	if err != nil {
		return err
	}
	defer io.close()
	hctx, cancel := hookContext(ctx, hook)
	defer cancel()
	proc, err := h.Exec(hctx, plan, runtime.Stdio{In: io.in, Out: io.out.child, Err: io.err.child, Hooks: a.notifier(c)}, cgroupOf(c.cg))
	io.started()
	if err != nil {
		return hookError("startContainer", i, err, nil, nil)
	}
	defer proc.Close() //nolint:errcheck // it has ended
	if err := proc.Start(hctx); err != nil {
		return hookError("startContainer", i, err, nil, nil)
	}
	ws, err := proc.Wait(hctx)
	if err != nil {
		// It must be reaped: the container could not end before.
		if kerr := proc.Signal(syscall.SIGKILL); kerr == nil {
			_, kerr = proc.Wait(context.WithoutCancel(ctx))
			err = errors.Join(err, kerr)
		}
		return hookError("startContainer", i, err, nil, nil)
	}
	if err := describe(ws); err != nil {
		stdout, stderr := io.output()
		return hookError("startContainer", i, err, stdout, stderr)
	}
	return nil
}
