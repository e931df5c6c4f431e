package engine

import (
	"context"
	"fmt"
	"os"
	"syscall"

	"github.com/containerd/errdefs"

	"hull/internal/driver"
	"hull/internal/hull"
)

// Attach connects a.Conn to the main process's streams. Before the start the
// connection is kept and handed over when it starts. a.Conn is the caller's.
func (e *runner) Attach(ctx context.Context, ref string, a hull.Attach) error {
	c, unlock, err := e.locked(ctx, ref)
	if err != nil {
		return err
	}
	defer unlock()
	a.Stdin = a.Stdin && c.Spec.Process.OpenStdin
	a.Mux = a.Mux && !c.Spec.Process.TTY
	switch c.Status.Phase {
	case hull.Paused:
		return fmt.Errorf("container %s is paused, unpause the container before attach: %w", c.Name, errdefs.ErrConflict)
	case hull.Running:
		if x := e.runs.run(c.ID); x != nil {
			if err := ready(a); err != nil {
				return err
			}
			e.publish("attach", c, nil)
			return driver.Attach(ctx, x.proc, a)
		}
	case hull.Created, hull.Stopped:
		own, err := dup(a.Conn)
		if err != nil {
			return fmt.Errorf("attach to %s: %w", c.Name, err)
		}
		if err := ready(a); err != nil {
			own.Close()
			return err
		}
		a.Conn = own
		e.runs.addPending(c.ID, a)
		e.publish("attach", c, nil)
		return nil
	case hull.Starting, hull.Removing, hull.Dead:
	}
	return fmt.Errorf("container %s is not running: %w", c.ID, errdefs.ErrConflict)
}

// ready answers the client; the pod's lock is held, so its start waits.
func ready(a hull.Attach) error {
	if a.Ready == nil {
		return nil
	}
	if err := a.Ready(); err != nil {
		return fmt.Errorf("answer attach: %w", err)
	}
	return nil
}

// dup does not use Fd, which would make the shared description blocking.
func dup(f *os.File) (*os.File, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd uintptr
	var errno syscall.Errno
	err = raw.Control(func(from uintptr) {
		fd, _, errno = syscall.Syscall(syscall.SYS_FCNTL, from, syscall.F_DUPFD_CLOEXEC, 0)
	})
	if err == nil && errno != 0 {
		err = errno
	}
	if err != nil {
		return nil, fmt.Errorf("duplicate connection: %w", err)
	}
	return os.NewFile(fd, f.Name()), nil
}

// streams says where the output of a run goes: the log, and whoever attached
// before the start (the first of them travels with the process).
func (e *runner) streams(c hull.Container, target hull.LogTarget) (hull.IO, []hull.Attach) {
	p := c.Spec.Process
	io := hull.IO{
		TTY: p.TTY, Stdin: p.OpenStdin, StdinOnce: p.StdinOnce, Log: target,
		Rows: uint16(p.ConsoleSize[0]), Cols: uint16(p.ConsoleSize[1]), //nolint:gosec // checked by the front; a terminal this large does not exist
	}
	waiting := e.runs.takePending(c.ID)
	if len(waiting) == 0 {
		return io, nil
	}
	io.Attach = &waiting[0]
	return io, waiting
}

// attachAll connects the other waiting clients and closes our ends of all.
func (e *runner) attachAll(ctx context.Context, p driver.Process, waiting []hull.Attach) (err error) {
	for i, a := range waiting {
		if i > 0 && err == nil {
			err = driver.Attach(ctx, p, a)
		}
		a.Conn.Close()
	}
	return err
}

// Resize sets the terminal size of the main process.
func (e *runner) Resize(ctx context.Context, ref string, rows, cols uint16) error {
	c, err := e.store.Container(ref)
	if err != nil {
		return err
	}
	x := e.runs.run(c.ID)
	if x == nil {
		return fmt.Errorf("container %s is not running: %w", c.ID, errdefs.ErrConflict)
	}
	if err := driver.Resize(ctx, x.proc, rows, cols); err != nil {
		return fmt.Errorf("resize %s: %w", c.Name, err)
	}
	e.publish("resize", c, map[string]string{"height": fmt.Sprint(rows), "width": fmt.Sprint(cols)})
	return nil
}
