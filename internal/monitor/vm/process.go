package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/guest"
	"hull/internal/linux"
	"hull/internal/monitor"
	"hull/internal/runtime"
)

// container is the machine's.
type container struct {
	b    *backend
	id   string
	main *process
}

var _ monitor.Container = (*container)(nil)

// Main implements monitor.Container.
func (c *container) Main() monitor.Process { return c.main }

// Exec implements monitor.Container.
func (c *container) Exec(ctx context.Context, plan []byte, s runtime.Stdio, _ runtime.Cgroup) (monitor.Process, error) {
	var x Exec
	if err := json.Unmarshal(plan, &x); err != nil {
		return nil, fmt.Errorf("decode exec: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	p, err := c.b.add(ctx, guest.Start{
		ID: x.ID, Box: c.id, Plan: x.Plan, Container: x.Container, TTY: x.TTY, Stdin: x.Stdin, Rows: s.Rows, Cols: s.Cols,
	}, s)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// Destroy implements monitor.Container. The machine stays for Close: its disk is
// still to be written back.
func (c *container) Destroy() error {
	if c.b.gone() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	err := c.b.c.Discard(ctx, c.id)
	if c.b.gone() {
		return nil
	}
	return err
}

func (b *backend) gone() bool {
	select {
	case <-b.m.Done():
		return true
	case <-b.c.Gone():
		return true
	default:
		return false
	}
}

// process is one in the guest.
type process struct {
	b       *backend
	id      string
	console *os.File // our end of what stands for a terminal's master
	copying sync.WaitGroup
	done    chan struct{}
	once    sync.Once
	exit    guest.Exited // valid after done
	err     error
}

var _ monitor.Process = (*process)(nil)

// add makes a process ready and connects its streams.
func (b *backend) add(ctx context.Context, s guest.Start, std runtime.Stdio) (*process, error) {
	p := &process{b: b, id: s.ID, done: make(chan struct{})}
	s.Stdin = s.Stdin && std.In != nil
	_, st, err := b.c.Add(ctx, s)
	if err != nil {
		return nil, err
	}
	if s.TTY {
		err = p.terminal(st.Out)
	} else {
		err = p.pipes(st, std)
	}
	b.mu.Lock()
	x, ended := b.unasked[s.ID]
	delete(b.unasked, s.ID)
	if !ended {
		b.procs[s.ID] = p
	}
	b.mu.Unlock()
	if ended {
		p.end(x, nil)
	}
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	if b.gone() { // lost may have looked before
		p.end(guest.Exited{}, &monitor.LostError{Text: "the machine has ended"})
	}
	return p, nil
}

// pipes copies between the monitor's pipes and the guest's streams. The monitor
// closes its files, so these are duplicates.
func (p *process) pipes(st guest.Streams, std runtime.Stdio) error {
	for _, o := range []struct {
		from *guest.Stream
		to   *os.File
	}{{st.Out, std.Out}, {st.Err, std.Err}} {
		to, err := dup(o.to)
		if err != nil {
			return err
		}
		p.copying.Add(1)
		go func() {
			defer p.copying.Done()
			defer func() { _ = o.from.Close() }() // only says that the other side closed first
			defer to.Close()
			_, _ = io.Copy(to, o.from)
		}()
	}
	if st.In == nil {
		return nil
	}
	in, err := dup(std.In)
	if err != nil {
		return err
	}
	go func() {
		defer func() { _ = st.In.Close() }() // only says that the other side closed first
		defer in.Close()
		_, _ = io.Copy(st.In, in)
	}()
	go func() {
		<-p.done
		_ = in.SetReadDeadline(time.Unix(1, 0))
	}()
	return nil
}

// terminal makes a socket pair: one end is what the monitor takes for a terminal.
func (p *process) terminal(st *guest.Stream) error {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	ours := os.NewFile(uintptr(fds[0]), "terminal")
	p.console = os.NewFile(uintptr(fds[1]), "terminal")
	p.copying.Add(1)
	go func() {
		defer p.copying.Done()
		defer func() { _ = st.Close() }() // only says that the other side closed first
		_, _ = io.Copy(ours, st)
		_ = unix.Shutdown(linux.FD(ours), unix.SHUT_WR)
	}()
	go func() {
		_, _ = io.Copy(st, ours)
	}()
	go func() {
		<-p.done
		p.copying.Wait()
		ours.Close()
	}()
	return nil
}

// dup is another descriptor of the same file, in the poller.
func dup(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(uintptr(linux.FD(f)), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	// The pipe's other end is the monitor's, and this one nobody's but ours: no
	// workload minds that it does not block.
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(os.NewSyscallError("fcntl", err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// end records how it ended, once. Its output is read to the end first.
func (p *process) end(x guest.Exited, err error) {
	p.once.Do(func() {
		p.copying.Wait()
		p.exit, p.err = x, err
		close(p.done)
	})
}

// Pid implements monitor.Process: QEMU's, as the only one that this host has.
func (p *process) Pid() int { return p.b.m.Pid }

// Pidfd implements monitor.Process.
func (p *process) Pidfd() int { return -1 }

// Console implements monitor.Process.
func (p *process) Console() *os.File { return p.console }

// Start implements monitor.Process.
func (p *process) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	return p.b.c.Run(ctx, p.id)
}

// Signal implements monitor.Process.
func (p *process) Signal(sig syscall.Signal) error {
	select {
	case <-p.done:
		return os.ErrProcessDone
	default:
	}
	if sig == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	err := p.b.c.Signal(ctx, p.id, sig)
	if err != nil && sig == syscall.SIGKILL && ctx.Err() != nil {
		p.b.m.Kill() // a guest that does not answer cannot keep its workload alive
		return nil
	}
	return err
}

// Wait implements monitor.Process.
func (p *process) Wait(ctx context.Context) (syscall.WaitStatus, error) {
	select {
	case <-p.done:
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	if p.err == nil && p.exit.Error != "" {
		return 0, errors.New(p.exit.Error)
	}
	return syscall.WaitStatus(p.exit.Status), p.err
}

// OOMKilled tells the monitor what the guest's kernel did.
func (p *process) OOMKilled() bool { return p.exit.OOM }

// Resize implements monitor.Process.
func (p *process) Resize(rows, cols uint16) error {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	return p.b.c.Resize(ctx, p.id, rows, cols)
}

// Close implements monitor.Process.
func (p *process) Close() error {
	if p.console != nil {
		return p.console.Close()
	}
	return nil
}
