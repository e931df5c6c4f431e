package main

import (
	"errors"
	"io"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/term"

	"hull/cmd/internal/wire"
)

// session is the user's terminal or pipes on one side and an attached process on
// the other.
type session struct {
	conn   *wire.Conn // upgraded
	in     *os.File   // nil = the process's stdin is not ours
	out    io.Writer
	err    io.Writer
	tty    bool
	detach []byte // keys; empty = cannot detach

	restore func()
}

// defaultDetach is ctrl-p ctrl-q.
var defaultDetach = []byte{16, 17} //nolint:gochecknoglobals // a constant

// detachKeys decodes a sequence such as "ctrl-a,d"; empty = the default one.
func detachKeys(s string) (keys []byte, ok bool) {
	if s == "" {
		return defaultDetach, true
	}
	keys, err := term.ToBytes(s)
	return keys, err == nil
}

// raw puts the terminal into raw mode when the process has one and reads from
// ours. restore is safe to call many times.
func (s *session) raw() error {
	s.restore = func() {}
	if s.in == nil || !s.tty || !term.IsTerminal(s.in.Fd()) {
		return nil
	}
	old, err := term.SetRawTerminal(s.in.Fd())
	if err != nil {
		return err
	}
	s.restore = sync.OnceFunc(func() { _ = term.RestoreTerminal(s.in.Fd(), old) })
	return nil
}

// copy runs until the output ends, or until the user detaches: term.EscapeError.
func (s *session) copy() error {
	defer s.restore()
	detached := make(chan error, 1)
	if s.in != nil {
		go s.input(detached)
	}
	done := make(chan error, 1)
	go func() {
		var err error
		if s.tty {
			_, err = io.Copy(s.out, s.conn)
			s.restore()
		} else {
			_, err = stdcopy.StdCopy(s.out, s.err, s.conn)
		}
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case err := <-detached:
		return err
	}
}

// input copies stdin until it ends and then tells the process.
func (s *session) input(detached chan<- error) {
	var err error
	if s.tty {
		_, err = io.Copy(s.conn, term.NewEscapeProxy(s.in, s.detach))
	} else {
		_, err = io.Copy(s.conn.Conn, s.in)
	}
	var escape term.EscapeError
	if errors.As(err, &escape) {
		s.restore()
		detached <- err
		return
	}
	_ = s.conn.CloseWrite() // if it fails the output ends as well
}

// size is the terminal's; 0, 0 when f is none.
func size(f *os.File) (rows, cols uint) {
	if !term.IsTerminal(f.Fd()) {
		return 0, 0
	}
	ws, err := term.GetWinsize(f.Fd())
	if err != nil {
		return 0, 0
	}
	return uint(ws.Height), uint(ws.Width)
}

// followSize sets the process's terminal to the size of ours, now and whenever it
// changes. path is the resize route of a container or an exec.
func (c *command) followSize(path string) {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	go func() {
		for {
			if rows, cols := size(c.out); rows != 0 || cols != 0 {
				c.tell("POST", path+"?h="+strconv.Itoa(int(rows))+"&w="+strconv.Itoa(int(cols)))
			}
			<-changed
		}
	}()
}

// tell sends a request whose outcome changes nothing for the user: the process
// may have ended a moment before.
func (c *command) tell(method, path string) {
	conn, err := wire.Dial(c.to.Socket)
	if err != nil {
		return
	}
	defer conn.Close() //nolint:errcheck // one request
	_, _, _ = conn.Do(method, path, nil)
}
