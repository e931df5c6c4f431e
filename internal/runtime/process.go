package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hull/internal/linux"
)

// Process is a main process or an exec.
type Process struct {
	pid     int
	pidfd   int
	pidFile *os.File // of pidfd, in the poller
	console *os.File
	args0   string
	conn    *control
	prog    *program // until started
	// detached: started through a Gate, by anybody.
	detached bool
	leave    bool // see Stdio.Leave
	resultFd int  // the child's number of the Gate's Result

	mu      sync.Mutex
	started bool
	closed  bool
	exited  chan struct{}
	status  syscall.WaitStatus // valid when exited is closed
	waitErr error
}

func newProcess(pid, pidfd int, conn *control, prog *program) *Process {
	p := &Process{pid: pid, pidfd: pidfd, conn: conn, prog: prog, leave: prog.leave, exited: make(chan struct{})}
	conn.pidfd = pidfd
	// Non-blocking, so that waiting costs a parked goroutine and no thread.
	_ = unix.SetNonblock(pidfd, true) // if refused, the wait below holds a thread
	p.pidFile = os.NewFile(uintptr(pidfd), "pidfd")
	go p.reap()
	return p
}

// foreignProcess is a process that is not our child.
func foreignProcess(pid int, pidfd *os.File) *Process {
	p := &Process{pid: pid, pidFile: pidfd, pidfd: linux.FD(pidfd), started: true, exited: make(chan struct{})}
	go func() {
		defer close(p.exited)
		p.waitErr = linux.PidfdWait(context.Background(), p.pidfd)
	}()
	return p
}

// reap waits for the end, once.
func (p *Process) reap() {
	defer close(p.exited)
	raw, err := p.pidFile.SyscallConn()
	if err != nil {
		p.waitErr = err
		return
	}
	if err := raw.Read(func(uintptr) bool { return p.tryReap() || p.waitErr != nil }); err != nil && p.waitErr == nil {
		p.waitErr = err
	}
}

// tryReap says whether the process has been reaped.
func (p *Process) tryReap() bool {
	if p.leave {
		return linux.PidfdDone(p.pidfd)
	}
	for {
		pid, err := syscall.Wait4(p.pid, &p.status, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil:
			p.waitErr = os.NewSyscallError("wait4", err)
			return false
		}
		return pid == p.pid
	}
}

func (p *Process) ended() bool {
	select {
	case <-p.exited:
		return true
	default:
		return linux.PidfdDone(p.pidfd)
	}
}

// Pid is the process id as this process sees it.
func (p *Process) Pid() int { return p.pid }

// Pidfd is owned by p; it becomes readable when the process has ended. Valid
// until Close.
func (p *Process) Pidfd() int { return p.pidfd }

// ResultFd is the number under which the process holds its Gate's Result, 0
// without a Gate.
func (p *Process) ResultFd() int { return p.resultFd }

// Console is the terminal's master side, nil without one. Owned by p; closed by
// Close.
func (p *Process) Console() *os.File { return p.console }

// Start runs the executable. *ExecError when it cannot be run, *StepError when a
// last step before failed; in both cases the process has ended.
func (p *Process) Start(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.started || p.closed {
		return fmt.Errorf("process %d has been started already: %w", p.pid, errdefs.ErrFailedPrecondition)
	}
	if p.detached {
		return fmt.Errorf("process %d is started through its gate: %w", p.pid, errdefs.ErrFailedPrecondition)
	}
	p.started = true
	defer p.conn.close()
	prog := p.prog
	p.prog = nil
	if err := p.conn.send([]byte{1}); err != nil {
		<-p.exited
		return fmt.Errorf("start process %d, which has ended (%s): %w", p.pid, describe(p.status), errdefs.ErrFailedPrecondition)
	}
	r, err := p.conn.read()
	if err != nil {
		return err
	}
	if r == nil { // end of file: exec has closed the socket
		return nil
	}
	<-p.exited
	return prog.failure(r, p.args0)
}

// failure is the error that a report is about.
func (p *program) failure(r *report, args0 string) error {
	if r.step == stepExec {
		return execError(args0, r.errno)
	}
	return &StepError{Step: p.steps[r.step], Errno: r.errno}
}

// Open lets the process behind the gate go on, and reports how it went: nil when
// it has executed its program. args0 is only for the message. Both files are those
// of Gate, opened anew.
func (g *Gate) Open(args0 string) error {
	if _, err := g.Start.Write([]byte{1}); err != nil {
		return err
	}
	var b [2]uint64
	n, err := unix.Read(linux.FD(g.Result), unsafe.Slice((*byte)(unsafe.Pointer(&b)), reportSize))
	if err != nil {
		return os.NewSyscallError("read", err)
	}
	if n != reportSize {
		return nil
	}
	if errno := syscall.Errno(b[0] >> 32); uint32(b[0]) != stepExec {
		return &StepError{Step: "prepare to run " + args0, Errno: errno}
	}
	return execError(args0, syscall.Errno(b[0]>>32))
}

// execError says what execve has against a file, in runc's words.
func execError(args0 string, errno syscall.Errno) error {
	return &ExecError{Errno: errno, Path: args0, Late: true, Msg: fmt.Sprintf("exec %s: %v", args0, errno)}
}

func describe(ws syscall.WaitStatus) string {
	if ws.Signaled() {
		return "signal " + ws.Signal().String()
	}
	return fmt.Sprintf("exit code %d", ws.ExitStatus())
}

// Signal sends sig through the pidfd. os.ErrProcessDone when it has ended.
func (p *Process) Signal(sig syscall.Signal) error {
	select {
	case <-p.exited:
		return os.ErrProcessDone
	default:
	}
	return linux.PidfdSignal(p.pidfd, sig)
}

// Wait blocks until the process has ended and reaps it. It may be called by many.
func (p *Process) Wait(ctx context.Context) (syscall.WaitStatus, error) {
	select {
	case <-p.exited:
		return p.status, p.waitErr
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.exited }

// Resize sets the terminal's size. errdefs.ErrFailedPrecondition without one.
func (p *Process) Resize(rows, cols uint16) error {
	if p.console == nil {
		return fmt.Errorf("process %d has no terminal: %w", p.pid, errdefs.ErrFailedPrecondition)
	}
	return setSize(p.console, rows, cols)
}

// Close gives back descriptors of a process that has ended (and kills one that
// was never started). It may be called twice.
func (p *Process) Close() error {
	p.mu.Lock()
	done := p.closed
	p.closed = true
	started := p.started || p.detached
	p.mu.Unlock()
	if done {
		return nil
	}
	var err error
	if !started {
		err = p.end()
	}
	if p.conn != nil {
		p.conn.close()
	}
	linux.CloseAll([]*os.File{p.console, p.pidFile})
	return err
}

// end kills the process and waits until it is gone.
func (p *Process) end() error {
	if err := p.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.exited
	return nil
}

// control is the socket between the parent and a child.
type control struct {
	parent int
	child  int // close-on-exec, and out of the way of a workload's descriptors
	pidfd  int // of the child, once there is one
	early  *report
}

func newControl() (*control, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	child, err := highFd(fds[1])
	unix.Close(fds[1])
	if err != nil {
		unix.Close(fds[0])
		return nil, err
	}
	return &control{parent: fds[0], child: child, pidfd: -1}, nil
}

// highFd duplicates a descriptor to a number that no workload's is put on.
func highFd(fd int) (int, error) {
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 128)
	if err != nil {
		return -1, os.NewSyscallError("fcntl", err)
	}
	return n, nil
}

func (c *control) closeChild() {
	if c.child >= 0 {
		unix.Close(c.child)
		c.child = -1
	}
}

func (c *control) close() {
	c.closeChild()
	if c.parent >= 0 {
		unix.Close(c.parent)
		c.parent = -1
	}
}

func (c *control) send(b []byte) error {
	for {
		err := unix.Sendto(c.parent, b, unix.MSG_NOSIGNAL, nil)
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("send", err)
		}
	}
}

func (c *control) sendGo(m *goMsg) error {
	err := c.send(unsafe.Slice((*byte)(unsafe.Pointer(m)), unsafe.Sizeof(*m)))
	runtime.KeepAlive(m)
	return err
}

type report struct {
	step  uint32
	errno syscall.Errno
	value uint64
}

// read waits for a report; nil when the child has closed the socket or ended.
// While the descriptor table is shared the child's end stays open in our own, so
// its death shows only in the pidfd.
func (c *control) read() (*report, error) {
	if r := c.early; r != nil {
		c.early = nil
		return r, nil
	}
	fds := []unix.PollFd{{Fd: int32(c.parent), Events: unix.POLLIN}, {Fd: int32(c.pidfd), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return nil, os.NewSyscallError("poll", err)
		}
		if fds[0].Revents == 0 && fds[1].Revents == 0 {
			continue
		}
		// What it wrote before it ended comes first.
		var b [2]uint64
		n, _, err := unix.Recvfrom(c.parent, unsafe.Slice((*byte)(unsafe.Pointer(&b)), reportSize), unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN) && fds[1].Revents == 0:
			continue
		case err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.ECONNRESET):
			return nil, os.NewSyscallError("recv", err)
		case n != reportSize:
			return nil, nil //nolint:nilnil // the end of file is no error here
		}
		return &report{step: uint32(b[0]), errno: syscall.Errno(b[0] >> 32), value: b[1]}, nil
	}
}

// expect waits for the report of step and returns its value.
func (c *control) expect(prog *program, step uint32) (uint64, error) {
	r, err := c.read()
	switch {
	case err != nil:
		return 0, err
	case r == nil:
		return 0, errors.New("the new process was killed while it was set up")
	case r.step == step:
		return r.value, nil
	case r.step == stepExec:
		return 0, execError("", r.errno)
	case int(r.step) < len(prog.steps):
		return 0, &StepError{Step: prog.steps[r.step], Errno: r.errno}
	}
	return 0, fmt.Errorf("unexpected report %#x of the new process", r.step)
}
