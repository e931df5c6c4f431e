package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/runtime"
)

func (a *app) run(ctx context.Context, cmd *command, args []string) error {
	fs := cmd.flags()
	var f createFlags
	f.register(fs)
	fs.BoolVar(&f.detach, "detach", false, "leave the container running")
	fs.BoolVar(&f.detach, "d", false, "short for --detach")
	fs.BoolVar(&f.keep, "keep", false, "do not delete the container when it has ended")
	fs.Bool("no-subreaper", false, "accepted for runc's sake: this runtime never adopts the container's orphans")
	id, err := oneID(fs, args)
	if errors.Is(err, flag.ErrHelp) {
		return err
	}
	if err == nil {
		err = a.runContainer(ctx, id, &f)
	}
	var code exitError
	if err == nil || errors.As(err, &code) {
		return err
	}
	return fmt.Errorf("runc run failed: %w", err)
}

func (a *app) runContainer(ctx context.Context, id string, f *createFlags) error {
	var c *container
	var ended error
	err := a.make(ctx, id, f, func(made *container, h *runtime.Container) error {
		c = made
		term, err := attachTerminal(h.Init(), c.Spec.Process.Terminal && !f.detach)
		if err != nil {
			return err
		}
		if err := a.startInit(ctx, c, h.Init()); err != nil {
			term.restore()
			return err
		}
		if !f.detach {
			ended = waitForwarding(h.Init(), term)
		}
		return nil
	})
	if err != nil {
		return plainExecError(err)
	}
	if f.detach || f.keep {
		return ended
	}
	if err := a.remove(ctx, c); err != nil {
		a.log.warnf("%v", err)
	}
	return ended
}

// startInit starts a process that waits for us.
func (a *app) startInit(ctx context.Context, c *container, p *runtime.Process) error {
	if err := a.startContainerHooks(ctx, c); err != nil {
		return startError(err)
	}
	if err := p.Start(ctx); err != nil {
		return err
	}
	return a.poststart(ctx, c)
}

func (a *app) poststart(ctx context.Context, c *container) error {
	return runHooks(ctx, c.Spec, "poststart", c.Bundle, c.ociState(specs.StateRunning))
}

// plainExecError is what runc does when execve itself fails: the bare message on
// standard error, and 255.
func plainExecError(err error) error {
	var e *runtime.ExecError
	if !errors.As(err, &e) || !e.Late {
		return err
	}
	fmt.Fprintln(os.Stderr, e.Msg)
	return exitError(255)
}

// usualSignals are caught at once, all others a moment later: for each one the Go
// runtime switches threads twice, which for all of them is a tenth of a short run.
//
//nolint:gochecknoglobals // constant
var usualSignals = []os.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGCONT, unix.SIGWINCH,
}

const otherSignalsAfter = 100 * time.Millisecond

// waitForwarding hands signals on until the process has ended, and gives its
// exit code as an error.
func waitForwarding(p *runtime.Process, term *terminal) error {
	sigs := make(chan os.Signal, 64)
	signal.Notify(sigs, usualSignals...)
	defer signal.Stop(sigs)
	others := time.NewTimer(otherSignalsAfter)
	defer others.Stop()
	for {
		select {
		case <-others.C:
			signal.Notify(sigs)
		case s := <-sigs:
			switch n, ok := s.(syscall.Signal); {
			case !ok, n == unix.SIGCHLD, n == unix.SIGURG, n == unix.SIGPIPE:
			case n == unix.SIGWINCH && term != nil:
				term.resize()
			default:
				_ = p.Signal(n) // it may just have ended
			}
		case <-p.Done():
			ws, err := p.Wait(context.Background())
			term.drain()
			switch {
			case err != nil:
				return err
			case ws.Signaled():
				return exitError(128 + int(ws.Signal()))
			case ws.ExitStatus() != 0:
				return exitError(ws.ExitStatus())
			}
			return nil
		}
	}
}

// start lets a created container's process run.
func (a *app) start(ctx context.Context, cmd *command, args []string) error {
	id, err := oneID(cmd.flags(), args)
	if err != nil {
		return err
	}
	c, err := a.load(id)
	if err != nil {
		return err
	}
	unlock, err := c.lock()
	if err != nil {
		return err
	}
	defer unlock()
	switch s := c.status(); s {
	case specs.StateCreated:
		return a.open(ctx, c)
	case specs.StateStopped:
		return errors.New("cannot start a container that has stopped")
	case specs.StateRunning:
		return errors.New("cannot start an already running container")
	default:
		return fmt.Errorf("cannot start a container in the %s state", s)
	}
}

// open opens a created container's gate. The container is locked: nobody else
// opens it meanwhile, so the descriptor of the waiting process is still ours.
func (a *app) open(ctx context.Context, c *container) error {
	if err := a.startContainerHooks(ctx, c); err != nil {
		return errors.Join(err, c.killAll(ctx))
	}
	fifo := filepath.Join(c.dir, startFifo)
	start, err := os.OpenFile(fifo, os.O_WRONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ENXIO) {
		return errors.New("cannot start a container that has stopped")
	}
	if err != nil {
		return err
	}
	defer start.Close()
	// Its end of file is the process's, whether it has executed or died.
	path := "/proc/" + strconv.Itoa(c.Pid) + "/fd/" + strconv.Itoa(c.Result)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	result := os.NewFile(uintptr(fd), path)
	defer result.Close()
	if !c.alive() {
		return errors.New("cannot start a container that has stopped")
	}
	// Its absence is what makes the state "running".
	if err := os.Remove(fifo); err != nil {
		return err
	}
	g := &runtime.Gate{Start: start, Result: result}
	if err := g.Open(c.Args0); err != nil {
		return err
	}
	if err := a.poststart(ctx, c); err != nil {
		return errors.Join(err, c.killAll(ctx))
	}
	return nil
}

// notifier sends what a seccomp filter hands over to the profile's agent.
func (a *app) notifier(c *container) *runtime.Hooks {
	if c.Spec.Linux == nil || c.Spec.Linux.Seccomp == nil {
		return &runtime.Hooks{}
	}
	s := c.Spec.Linux.Seccomp
	return &runtime.Hooks{Seccomp: func(pid int, fd *os.File) error {
		st := c.ociState(specs.StateCreating)
		if st.Pid == 0 {
			st.Pid = pid
		} else {
			st.Status = c.status()
		}
		return sendListener(s.ListenerPath, specs.ContainerProcessState{
			Version: ociVersion, Fds: []string{specs.SeccompFdName}, Pid: pid, Metadata: s.ListenerMetadata, State: *st,
		}, fd)
	}}
}
