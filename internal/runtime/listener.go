package runtime

import (
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// listens says whether the filter asks somebody outside (SCMP_ACT_NOTIFY).
func (f *Filter) listens() bool {
	return f != nil && f.Flags&unix.SECCOMP_FILTER_FLAG_NEW_LISTENER != 0
}

// mayListen refuses a filter whose questions nobody would answer.
func mayListen(f *Filter, h *Hooks) error {
	if f.listens() && (h == nil || h.Seccomp == nil) {
		return fmt.Errorf("seccomp profile: SCMP_ACT_NOTIFY: %w", errdefs.ErrNotImplemented)
	}
	return nil
}

// ready waits until the child has done all but the last steps. On the way it hands
// the listener of its seccomp filter over.
func (c *control) ready(prog *program, f *Filter, p *Process, h *Hooks) error {
	if f.listens() {
		n, err := c.expect(prog, stepListener)
		if err != nil {
			return err
		}
		fd, err := unix.PidfdGetfd(p.pidfd, int(n), 0)
		if err != nil {
			return fmt.Errorf("take over the seccomp listener: %w", os.NewSyscallError("pidfd_getfd", err))
		}
		file := os.NewFile(uintptr(fd), "seccomp listener")
		err = elsewhere(func() error { return h.Seccomp(p.pid, file) })
		file.Close()
		if err != nil {
			return err
		}
		if err := c.send([]byte{1}); err != nil {
			return err
		}
	}
	_, err := c.expect(prog, stepReady)
	return err
}

// elsewhere runs f outside of the container: not on its thread.
func elsewhere(f func() error) error {
	res := make(chan error, 1)
	go func() { res <- f() }()
	return <-res
}

// setGate notes how the process is started.
func (p *Process) setGate(s Stdio) {
	if s.Gate == nil {
		return
	}
	p.detached = true
	// The standard streams, the extra ones, the control socket, Start, Result: see
	// program.stdio.
	p.resultFd = 3 + len(s.Extra) + 2
}
