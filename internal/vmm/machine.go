package vmm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/linux"
)

// Descriptors below this one are standard streams.
const firstFd = 3

// keepLog is how much of what the guest's kernel printed last is kept.
const keepLog = 16 << 10

// Machine is a running QEMU.
type Machine struct {
	Pid   int
	Agent *os.File // the guest's port; whoever speaks with the guest takes it over
	QMP   *QMP

	saveTo *os.File // Files.State
	conf   Config
	backs  []int // how many files each disk has had before
	proc   *os.Process
	log    *ring
	stderr *ring
	done   chan struct{}
	state  *os.ProcessState // valid after done
}

// Files are what a machine inherits. The caller keeps and closes its own.
type Files struct {
	Taps  []*os.File // one per Net with Tap
	State *os.File   // a template's device state: to read with Config.Incoming, else for Save
	FS    *os.File   // virtiofsd, with Config.VirtioFS; with Config.Incoming nil = PlugFS will be called
}

// Start runs a machine. When it returns without error, QEMU executes the guest,
// or has been given a template's state and executes that. When ctx ends first,
// or anything fails, QEMU is gone.
func Start(ctx context.Context, c Config, f Files) (_ *Machine, err error) {
	m := &Machine{log: newRing(keepLog), stderr: newRing(keepLog), done: make(chan struct{}), conf: c, backs: make([]int, len(c.Disks))}
	var ours, theirs []*os.File
	defer func() {
		for _, t := range theirs {
			t.Close()
		}
		if err != nil {
			for _, o := range ours {
				o.Close()
			}
		}
	}()
	for range 4 { // QMP, agent, log, standard error
		o, t, err := socketpair()
		if err != nil {
			return nil, fmt.Errorf("make sockets: %w", err)
		}
		ours, theirs = append(ours, o), append(theirs, t)
	}
	fd := Descriptors{QMP: firstFd, Agent: firstFd + 1, Log: firstFd + 2}
	files := theirs[:3:3]
	if c.VirtioFS != "" && !c.Incoming {
		fd.FS = firstFd + len(files)
		files = append(files, f.FS)
	}
	for _, t := range f.Taps {
		fd.Taps = append(fd.Taps, firstFd+len(files))
		files = append(files, t)
	}
	var own *ownMemory
	if c.copiesMemory() {
		if own, err = copyMemory(c); err != nil {
			return nil, fmt.Errorf("copy the template's memory: %w", err)
		}
		defer own.mount.Close()
	}
	if m.proc, err = m.exec(c, Args(c, fd), theirs[3], files, own); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.QEMU, err)
	}
	// Only QEMU has them from here: their end is QEMU's.
	linux.CloseAll(theirs)
	theirs = nil
	m.Pid, m.Agent = m.proc.Pid, ours[1]
	go m.log.fill(ours[2])
	go m.stderr.fill(ours[3])
	defer func() {
		if err != nil {
			m.Kill()
			<-m.done
			err = m.explain(err)
		}
	}()
	if m.QMP, err = NewQMP(ctx, ours[0], nil); err != nil {
		return nil, err
	}
	m.saveTo = f.State
	if own != nil {
		if err := <-own.copied; err != nil {
			return nil, fmt.Errorf("copy the template's memory: %w", err)
		}
	}
	if c.Incoming {
		if err := m.QMP.Restore(ctx, f.State); err != nil {
			return nil, fmt.Errorf("restore template: %w", err)
		}
		if f.FS != nil {
			if err := m.PlugFS(ctx, f.FS); err != nil {
				return nil, err
			}
		}
	}
	return m, nil
}

// exec starts QEMU on a thread of its own: QEMU inherits its system call filter,
// its root directory and its namespaces, and dies with it, which is with this process. The thread
// waits until QEMU has ended.
func (m *Machine) exec(c Config, args []string, stderr *os.File, files []*os.File, own *ownMemory) (*os.Process, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	type result struct {
		p   *os.Process
		err error
	}
	ch := make(chan result, 1)
	linux.GoOnThread(func() {
		var r result
		var sys *syscall.SysProcAttr
		sys, r.err = confine(c)
		if r.err == nil {
			if r.err = enterJail(c, own.dir()); r.err != nil {
				r.err = fmt.Errorf("make its jail: %w", r.err)
			}
		}
		if r.err == nil {
			r.err = filter(c)
		}
		if r.err == nil {
			r.p, r.err = os.StartProcess(args[0], args, &os.ProcAttr{
				Dir: "/", Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/nonexistent"},
				Files: append([]*os.File{null, null, stderr}, files...),
				Sys:   sys,
			})
		}
		ch <- r
		if r.err == nil {
			m.state, _ = r.p.Wait()
			close(m.done)
		}
	})
	r := <-ch
	return r.p, r.err
}

// Save stops the machine and writes its device state to Files.State. Its memory is
// in Config.MemoryFile, which is shared.
func (m *Machine) Save(ctx context.Context) error {
	if err := m.QMP.Save(ctx, m.saveTo); err != nil {
		return m.explain(err)
	}
	return nil
}

// Done is closed when QEMU has ended.
func (m *Machine) Done() <-chan struct{} { return m.done }

// Kill ends QEMU at once.
func (m *Machine) Kill() { _ = m.proc.Kill() }

// Why says, after Done, how QEMU ended and what was said last.
func (m *Machine) Why() error { return m.explain(errors.New("the machine has ended")) }

// explain adds what QEMU and the guest's kernel said.
func (m *Machine) explain(err error) error {
	select {
	case <-m.done:
		if m.state != nil {
			err = fmt.Errorf("%w (qemu: %s)", err, m.state)
		}
	default:
	}
	// The streams end a moment after the process.
	for _, r := range []*ring{m.stderr, m.log} {
		select {
		case <-r.done:
		case <-time.After(100 * time.Millisecond):
		}
	}
	if t := m.stderr.tail(400); t != "" {
		err = fmt.Errorf("%w: %s", err, t)
	}
	if t := m.log.tail(1500); t != "" {
		err = fmt.Errorf("%w; the guest's kernel said: %s", err, t)
	}
	return err
}

// Log is what the guest's kernel printed last.
func (m *Machine) Log() string { return m.log.tail(keepLog) }

// Explain adds what QEMU and the guest's kernel said last to an error.
func (m *Machine) Explain(err error) error { return m.explain(err) }

// socketpair gives our end, in the poller, and QEMU's.
func socketpair() (ours, theirs *os.File, err error) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	if err := unix.SetNonblock(p[0], true); err != nil {
		_ = unix.Close(p[0])
		_ = unix.Close(p[1])
		return nil, nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(p[0]), "qemu"), os.NewFile(uintptr(p[1]), "qemu"), nil
}

// ring keeps the end of a stream.
type ring struct {
	mu   sync.Mutex
	b    []byte
	max  int
	done chan struct{}
}

func newRing(limit int) *ring { return &ring{max: limit, done: make(chan struct{})} }

func (r *ring) fill(c *os.File) {
	defer close(r.done)
	defer c.Close()
	buf := make([]byte, 2048)
	for {
		n, err := c.Read(buf)
		r.mu.Lock()
		r.b = append(r.b, buf[:n]...)
		if over := len(r.b) - r.max; over > 0 {
			r.b = append([]byte(nil), r.b[over:]...)
		}
		r.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// tail is the last n bytes as one printable line.
func (r *ring) tail(n int) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.b
	if len(b) > n {
		b = b[len(b)-n:]
	}
	s := strings.Map(func(c rune) rune {
		if c == '\n' {
			return '|'
		}
		if c < ' ' || c == 0x7f || c >= 0x80 && c < 0xa0 {
			return -1
		}
		return c
	}, strings.ToValidUTF8(string(b), "?"))
	return strings.Trim(s, "| ")
}
