package main

import (
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"hull/internal/linux"
	"hull/internal/runtime"
)

// terminal connects our own terminal with a process's. nil does nothing.
type terminal struct {
	proc   *runtime.Process
	old    *unix.Termios // of ours, while it is raw
	copied sync.WaitGroup
}

// attachTerminal starts copying between standard streams and the process's
// terminal.
func attachTerminal(p *runtime.Process, want bool) (*terminal, error) {
	if !want {
		return nil, nil //nolint:nilnil // a nil terminal is valid
	}
	// Our own terminal turns newlines into carriage return and newline; and what is
	// no terminal wants them plain.
	master := linux.FD(p.Console())
	t, err := unix.IoctlGetTermios(master, unix.TCGETS)
	if err != nil {
		return nil, os.NewSyscallError("ioctl(TCGETS)", err)
	}
	t.Oflag &^= unix.ONLCR
	if err := unix.IoctlSetTermios(master, unix.TCSETS, t); err != nil {
		return nil, os.NewSyscallError("ioctl(TCSETS)", err)
	}
	x := &terminal{proc: p}
	if err := x.raw(); err != nil {
		return nil, err
	}
	go io.Copy(p.Console(), os.Stdin) //nolint:errcheck // ends with us
	x.copied.Go(func() {
		io.Copy(os.Stdout, p.Console()) //nolint:errcheck // EIO is how a terminal ends
	})
	return x, nil
}

// raw makes our terminal pass every key on, if standard input is one. Output
// processing stays.
func (t *terminal) raw() error {
	old, err := unix.IoctlGetTermios(0, unix.TCGETS)
	if err != nil {
		return nil //nolint:nilerr // no terminal
	}
	r := *old
	r.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	r.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	r.Cflag = r.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	r.Cc[unix.VMIN], r.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(0, unix.TCSETS, &r); err != nil {
		return os.NewSyscallError("ioctl(TCSETS)", err)
	}
	t.old = old
	t.resize()
	return nil
}

func (t *terminal) resize() {
	if t == nil || t.old == nil {
		return
	}
	if ws, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ); err == nil && (ws.Row != 0 || ws.Col != 0) {
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
		_ = unix.IoctlSetTermios(0, unix.TCSETS, t.old) // nothing to be done about it
		t.old = nil
	}
}
