package main

import (
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"hull/internal/runtime"
)

// terminal connects our own terminal with a process's. nil does nothing.
type terminal struct {
	proc   *runtime.Process
	old    *term.State
	copied sync.WaitGroup
}

// attachTerminal starts copying between standard streams and the process's
// terminal.
func attachTerminal(p *runtime.Process, want bool) (*terminal, error) {
	if !want {
		return nil, nil //nolint:nilnil // a nil terminal is valid
	}
	t := &terminal{proc: p}
	if term.IsTerminal(0) {
		old, err := term.MakeRaw(0)
		if err != nil {
			return nil, err
		}
		t.old = old
		t.resize()
	}
	go io.Copy(p.Console(), os.Stdin) //nolint:errcheck // ends with us
	t.copied.Go(func() {
		io.Copy(os.Stdout, p.Console()) //nolint:errcheck // EIO is how a terminal ends
	})
	return t, nil
}

func (t *terminal) resize() {
	if t == nil || t.old == nil {
		return
	}
	if ws, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ); err == nil {
		_ = t.proc.Resize(ws.Row, ws.Col) // it may just have ended
	}
}

// drain waits for the last output and restores our terminal.
func (t *terminal) drain() {
	if t == nil {
		return
	}
	t.copied.Wait()
	t.restore()
}

func (t *terminal) restore() {
	if t != nil && t.old != nil {
		_ = term.Restore(0, t.old) // nothing to be done about it
		t.old = nil
	}
}
