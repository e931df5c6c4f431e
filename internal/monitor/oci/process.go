package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hull/internal/linux"
	"hull/internal/monitor"
	"hull/internal/runtime"
)

// process is a main process or an exec.
type process struct {
	c       *container
	exec    *Exec // nil = main process
	shared  bool  // main process of a container that is one of several in a sandbox
	held    *held // main process of a sandbox's first container; nil = any other
	stdio   stdio // of what gets them with its start
	console *os.File
	tty     *os.File // the other side, likewise

	mu      sync.Mutex // held by Start: nobody hears of the end, and removes the container, before that is done
	child   *child     // set by Start where there is a channel started
	log     string     // of the command that stays
	inner   int        // pid of the process itself where child is a command: in the sandbox, or on the host
	over    bool       // abandoned
	started chan struct{}
}

var _ monitor.Process = (*process)(nil)

// Pid implements monitor.Process: the host's, of the sandbox for gVisor.
func (p *process) Pid() int {
	if p.shared {
		return p.c.b.pause.init.child.pid
	}
	if p.started != nil {
		select {
		case <-p.started:
		default:
			if p.held != nil {
				return p.held.pid
			}
			return 0
		}
	}
	if p.child == nil {
		return 0
	}
	return p.child.pid
}

// Pidfd implements monitor.Process: Wait knows.
func (p *process) Pidfd() int { return -1 }

// Console implements monitor.Process.
func (p *process) Console() *os.File { return p.console }

// Start implements monitor.Process.
func (p *process) Start(ctx context.Context) error {
	c := p.c
	switch {
	case p.exec != nil:
		return p.startExec(ctx)
	case p.shared:
		return p.startShared()
	case p.held != nil:
		return p.startHeld()
	case p.child.ended():
		return fmt.Errorf("container %s has ended before its start: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	log := filepath.Join(c.dir, "start.log")
	err := c.b.run(c.seat, &command{name: "start", args: []string{c.id}, dir: c.dir, log: log}, createLimit)
	if p.tookAlong(err) {
		return nil // the program was quicker than the command that started it
	}
	if err != nil {
		_ = p.Signal(syscall.SIGKILL)
		return asExecError(err, c.args0)
	}
	return nil
}

// startShared runs a container among others. Only the runtime knows when it ends, so
// one of its commands stays and waits.
func (p *process) startShared() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.c
	if p.over {
		return fmt.Errorf("container %s has ended: %w", c.id, errdefs.ErrNotFound)
	}
	defer close(p.started)
	p.log = filepath.Join(c.dir, "wait.log")
	defer p.stdio.close()
	defer p.closeTTY()
	err := c.b.run(c.seat, &command{
		name: "start", args: []string{c.id}, dir: c.dir, log: filepath.Join(c.dir, "start.log"),
		tty: p.tty, stdio: runtime.Stdio{In: p.stdio.in, Out: p.stdio.out, Err: p.stdio.err}, // handed over only here
	}, createLimit)
	if err == nil {
		var out *os.File
		if out, err = os.OpenFile(filepath.Join(c.dir, waitName), os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600); err != nil {
			p.over = true
			return err
		}
		defer out.Close()
		p.child, err = c.b.start(c.seat, &command{name: "wait", args: []string{c.id}, dir: c.dir, log: p.log, stdio: runtime.Stdio{Out: out}})
	}
	p.over = err != nil
	return asExecError(err, c.args0)
}

// waitName is the file that "runsc wait" writes a container's exit to.
const waitName = "exit.json"

// sharedStatus is how a container among others ended.
func (p *process) sharedStatus() syscall.WaitStatus {
	f, err := os.Open(filepath.Join(p.c.dir, waitName))
	if err != nil {
		return syscall.WaitStatus(syscall.SIGKILL)
	}
	defer f.Close()
	b, err := linux.ReadAll(f, 4096)
	var x struct{ ExitStatus *uint8 }
	if err != nil || json.Unmarshal(b, &x) != nil || x.ExitStatus == nil { // the sandbox died under it
		return syscall.WaitStatus(syscall.SIGKILL)
	}
	return syscall.WaitStatus(*x.ExitStatus) << 8
}

func (p *process) startExec(ctx context.Context) (err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.c
	if p.over {
		return fmt.Errorf("container %s has ended: %w", c.id, errdefs.ErrNotFound)
	}
	defer close(p.started)
	defer p.stdio.close()
	defer p.closeTTY()
	spec, pidFile, log := c.b.file(c, "process"), c.b.file(c, "pid"), c.b.file(c, "exec")
	p.log = log
	defer func() {
		for _, f := range []string{spec, pidFile} {
			_ = os.Remove(f) // the directory goes with the container in any case
		}
	}()
	if err := writeFile(spec, p.exec.Process); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, createLimit)
	defer cancel()
	cmd := &command{
		name: "exec", dir: c.dir, log: log, tty: p.tty,
		stdio: runtime.Stdio{In: p.stdio.in, Out: p.stdio.out, Err: p.stdio.err},
	}
	if c.b.cfg.Style == Runsc || p.exec.Terminal {
		err = p.execAttached(ctx, cmd, spec, pidFile)
	} else {
		err = p.execDetached(cmd, spec, pidFile)
	}
	return asExecError(err, p.exec.Args0)
}

// execAttached leaves the command there as long as the process in the container: it
// ends as that does. gVisor knows no other way, and with runc a terminal comes too
// late any other.
func (p *process) execAttached(ctx context.Context, cmd *command, spec, pidFile string) error {
	c := p.c
	if c.b.cfg.Style == Runsc {
		cmd.args = []string{"--process", spec, "--internal-pid-file", pidFile, c.id}
	} else {
		cmd.args = []string{"--tty", "--process", spec, "--pid-file", pidFile, c.id}
	}
	ch, err := c.b.start(c.seat, cmd)
	if err != nil {
		return err
	}
	p.child = ch
	p.inner, err = waitFile(ctx, pidFile, ch)
	if err == nil {
		return nil
	}
	_ = ch.signal(syscall.SIGKILL)
	<-ch.done
	if errors.Is(err, errNotYet) {
		return c.b.failed(cmd, ch.status)
	}
	return fmt.Errorf("%s exec: %w", c.b.cfg.Runtime, err)
}

// execDetached is what runc and its like do: the command leaves the process behind.
func (p *process) execDetached(cmd *command, spec, pidFile string) error {
	c := p.c
	cmd.args = []string{"--detach", "--process", spec, "--pid-file", pidFile, c.id}
	if err := c.b.run(c.seat, cmd, createLimit); err != nil {
		return err
	}
	pid, err := readPid(pidFile)
	if err == nil {
		p.child, err = c.b.reaper.adopt(pid)
	}
	if err != nil {
		return fmt.Errorf("%s exec: %w", c.b.cfg.Runtime, err)
	}
	return nil
}

// Signal implements monitor.Process.
func (p *process) Signal(sig syscall.Signal) error {
	if p.started != nil {
		return p.signalStarted(sig)
	}
	if p.child.ended() {
		return os.ErrProcessDone
	}
	if sig == 0 {
		return nil
	}
	return p.child.signal(sig)
}

// tookAlong says whether err is of a command that ended because its container did,
// whose cgroups and thread it shares: it has done what it was to do, or nobody is left
// to do it to.
func (p *process) tookAlong(err error) bool {
	return errors.Is(err, errCommandKilled) && p.child.ended()
}

// signalByRuntime is the container's, for a process that may end of the signal sooner
// than the command that sends it.
func (p *process) signalByRuntime(sig syscall.Signal, pid int) error {
	err := p.c.signalByRuntime(sig, pid)
	if err == nil || p.tookAlong(err) {
		return nil
	}
	// A sandbox that is going down refuses commands before its end is seen.
	select {
	case <-p.child.done:
		return os.ErrProcessDone
	case <-time.After(endingLimit):
		return err
	}
}

// signalStarted is Signal for what has no process before its start.
func (p *process) signalStarted(sig syscall.Signal) error {
	select {
	case <-p.started:
	default:
		if sig == syscall.SIGKILL { // it ends without having begun
			if p.held != nil {
				_ = p.held.run.signal(sig) // a start that is under way ends of that
			}
			p.abandon()
			return nil
		}
		return fmt.Errorf("the process has not been started: %w", errdefs.ErrFailedPrecondition)
	}
	switch {
	case p.child == nil || p.child.ended():
		return os.ErrProcessDone
	case sig == 0:
		return nil
	case p.shared, p.held != nil && sig != syscall.SIGKILL:
		return p.signalByRuntime(sig, 0)
	case p.inner == 0:
		return p.child.signal(sig)
	case p.c.b.cfg.Style == Runsc:
		return p.signalByRuntime(sig, p.inner)
	}
	// A process of the host, whose parent, the command, has not reaped it: else that
	// would have ended.
	return os.NewSyscallError("kill", syscall.Kill(p.inner, sig))
}

// abandon ends an exec whose container is no more, or that was never started.
func (p *process) abandon() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return
	}
	p.over = true
	if p.child != nil {
		_ = p.child.signal(syscall.SIGKILL)
		return
	}
	select {
	case <-p.started:
	default:
		if p.held != nil {
			p.held.end(p.c.b.reaper)
		}
		p.stdio.close()
		p.closeTTY()
		close(p.started)
	}
}

// Wait implements monitor.Process.
func (p *process) Wait(ctx context.Context) (syscall.WaitStatus, error) {
	const killed = syscall.WaitStatus(syscall.SIGKILL)
	if p.started != nil {
		select {
		case <-p.started:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
		if p.child == nil {
			return killed, nil
		}
	}
	select {
	case <-p.child.done:
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	return p.status(), nil
}

// status is how the process ended. The sandbox of a program that was killed exits
// with a shell's code.
func (p *process) status() syscall.WaitStatus {
	p.mu.Lock()
	over := p.over
	p.mu.Unlock()
	if p.shared && !over {
		return p.sharedStatus()
	}
	// Its sandbox died under it: then the command was killed, too, or it complains,
	// with an exit code of its own that says nothing of the process.
	if over || p.child.status.ExitStatus() == runscFailed && lastError(p.log) != "" {
		return syscall.WaitStatus(syscall.SIGKILL)
	}
	return p.child.status
}

// runscFailed is the exit code of a runsc command that failed by itself.
const runscFailed = 128

// Resize implements monitor.Process.
func (p *process) Resize(rows, cols uint16) error {
	if p.console == nil {
		return fmt.Errorf("the process has no terminal: %w", errdefs.ErrFailedPrecondition)
	}
	return setSize(p.console, rows, cols)
}

// Close implements monitor.Process.
func (p *process) Close() error {
	if p.started != nil {
		p.c.mu.Lock()
		delete(p.c.execs, p)
		p.c.mu.Unlock()
		p.abandon()
		_ = os.Remove(p.log) // the directory goes with the container in any case
	}
	if p.console != nil {
		return p.console.Close()
	}
	return nil
}

func (p *process) closeTTY() {
	if p.tty != nil {
		p.tty.Close()
		p.tty = nil
	}
}

func setSize(f *os.File, rows, cols uint16) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var e error
	if err := rc.Control(func(fd uintptr) {
		e = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	}); err != nil {
		return err
	}
	return os.NewSyscallError("TIOCSWINSZ", e)
}
