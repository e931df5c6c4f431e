package agent

import (
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/guest"
)

// How long output may take after its process has ended; as the monitor's own.
const (
	drainIdle  = 200 * time.Millisecond
	drainLimit = 2 * time.Second
)

// pipeSize is how much of a process's output may be in its pipe, in bytes.
const pipeSize = 64 << 10

// pipeFor makes a pipe for a stream; nil for none. ours is for reading when the
// process writes.
func pipeFor(st *guest.Stream, theirs *[]*os.File, processWrites bool) (process, ours *os.File, err error) {
	if st == nil {
		return nil, nil, nil
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe", err)
	}
	mine, other := 1, 0
	if processWrites {
		mine, other = 0, 1
	}
	if err := unix.SetNonblock(fds[mine], true); err != nil {
		return nil, nil, err
	}
	process, ours = os.NewFile(uintptr(fds[other]), "pipe"), os.NewFile(uintptr(fds[mine]), "pipe")
	*theirs = append(*theirs, process)
	return process, ours, nil
}

// dup is another descriptor of a terminal, in the poller.
func dup(f *os.File) *os.File {
	fd := -1
	if rc, err := f.SyscallConn(); err == nil {
		_ = rc.Control(func(c uintptr) { fd, _ = unix.FcntlInt(c, unix.F_DUPFD_CLOEXEC, 0) })
	}
	_ = unix.SetNonblock(fd, true)
	return os.NewFile(uintptr(fd), "console")
}

func copyIn(w *os.File, st *guest.Stream) {
	_, _ = io.Copy(w, st)
	w.Close()
	_ = st.Close()
}

func copyConsole(w *os.File, st *guest.Stream) {
	_, _ = io.Copy(w, st)
	w.Close()
}

// copyOut sends what a process writes, until nobody is left that could write or, when
// it has ended, its time is over.
func (p *proc) copyOut(r *os.File, st *guest.Stream) {
	defer p.outputs.Done()
	defer func() { _ = st.Close() }() // only says that the other side closed first
	buf := make([]byte, guest.MaxData)
	for {
		n, err := r.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			copyRest(r, st, buf)
			abandon(r)
			return
		}
		if err == nil {
			_, err = st.Write(buf[:n])
		}
		if err != nil {
			r.Close()
			return
		}
		p.hurry(r)
	}
}

// copyRest sends what is in the pipe although time is up: that may have passed while the
// other side did not take more, and then says nothing about the pipe.
func copyRest(r *os.File, st *guest.Stream, buf []byte) {
	rc, err := r.SyscallConn()
	for got, n := 0, 1; err == nil && n > 0 && got < pipeSize; got += n {
		if err = rc.Control(func(fd uintptr) { n, _ = unix.Read(int(fd), buf) }); err == nil && n > 0 {
			_, err = st.Write(buf[:n])
		}
	}
}

// abandon lets a background child that kept the pipe write on, to nobody: a pipe without
// a reader would kill it.
func abandon(r *os.File) {
	_ = r.SetReadDeadline(time.Time{})
	go func() {
		defer r.Close()
		_, _ = io.Copy(io.Discard, r)
	}()
}

// drain waits for a process's output, now that it has ended.
func (p *proc) drain() {
	p.end = time.Now()
	close(p.ended)
	for _, f := range p.files {
		p.hurry(f)
	}
	p.outputs.Wait()
}

// hurry bounds the wait for more output of a process that has ended.
func (p *proc) hurry(f *os.File) {
	select {
	case <-p.ended:
	default:
		return
	}
	at := time.Now().Add(drainIdle)
	if limit := p.end.Add(drainLimit); limit.Before(at) {
		at = limit
	}
	_ = f.SetReadDeadline(at)
}
