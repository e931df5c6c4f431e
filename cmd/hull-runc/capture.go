package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/linux"
)

// capture are the streams of a hook in a container: its input is a file in
// memory, its output is kept up to a limit.
type capture struct {
	in       *os.File
	out, err *sink
}

// sink collects what a process writes.
type sink struct {
	child *os.File
	ours  *os.File
	done  chan []byte
}

// maxHookOutput is what is kept of a hook's output; the rest is read and dropped.
const maxHookOutput = 64 << 10

func newCapture(input []byte) (_ *capture, err error) {
	c := &capture{}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	fd, err := unix.MemfdCreate("state", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	c.in = os.NewFile(uintptr(fd), "state")
	if _, err := c.in.Write(input); err != nil {
		return nil, err
	}
	if _, err := c.in.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	if c.out, err = newSink(); err != nil {
		return nil, err
	}
	c.err, err = newSink()
	return c, err
}

func newSink() (*sink, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s := &sink{child: w, ours: r, done: make(chan []byte, 1)}
	go func() {
		b, _ := io.ReadAll(io.LimitReader(r, maxHookOutput)) // what there is
		s.done <- b
		io.Copy(io.Discard, r) //nolint:errcheck // ends with the pipe
	}()
	return s, nil
}

// started gives up what only the process needs now.
func (c *capture) started() { linux.CloseAll([]*os.File{c.out.child, c.err.child}) }

// output is what the process, which has ended, has written. One that it has left
// behind may hold the streams for ever: it is not waited for.
func (c *capture) output() (stdout, stderr []byte) {
	limit := time.After(time.Second)
	for _, s := range []struct {
		from *sink
		to   *[]byte
	}{{c.out, &stdout}, {c.err, &stderr}} {
		select {
		case *s.to = <-s.from.done:
		case <-limit:
			return stdout, stderr
		}
	}
	return stdout, stderr
}

func (c *capture) close() {
	files := []*os.File{c.in}
	for _, s := range []*sink{c.out, c.err} {
		if s != nil {
			files = append(files, s.child, s.ours)
		}
	}
	linux.CloseAll(files)
}

// describe is what os/exec would say about a status; nil for success.
func describe(ws syscall.WaitStatus) error {
	switch {
	case ws.Signaled():
		s := "signal: " + ws.Signal().String()
		if ws.CoreDump() {
			s += " (core dumped)"
		}
		return errors.New(s)
	case ws.ExitStatus() != 0:
		return fmt.Errorf("exit status %d", ws.ExitStatus())
	}
	return nil
}
