package oci

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/linux"
)

// consoleName is the socket's name in the bundle, which is the command's working
// directory: the whole path may be longer than a socket's address.
const consoleName = "console.sock"

// socket is where one of a runtime's programs connects to, once.
type socket struct {
	l    *net.UnixListener
	path string
}

func listen(dir, name string) (*socket, error) {
	d, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	path := linux.ProcPath(d) + "/" + name
	_ = os.Remove(path) // of an earlier one
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // the name is another directory's by then
	return &socket{l: l, path: filepath.Join(dir, name)}, nil
}

func (s *socket) close() {
	_ = s.l.Close()
	_ = os.Remove(s.path)
}

// accept waits for the connection until limit, also that of reads from it, and no
// longer than by runs; nil = the command has ended: it has connected, or never will.
func (s *socket) accept(limit time.Time, by *child) (*net.UnixConn, error) {
	if err := s.l.SetDeadline(limit); err != nil {
		return nil, err
	}
	if by != nil {
		done := make(chan struct{})
		defer close(done)
		go func() {
			select {
			case <-by.done:
				_ = s.l.Close()
			case <-done:
			}
		}()
	}
	c, err := s.l.AcceptUnix()
	if err != nil {
		return nil, err
	}
	return c, c.SetReadDeadline(limit)
}

// receiveTTY takes the terminal that a command sends. See accept.
func (s *socket) receiveTTY(limit time.Time, by *child, rows, cols uint16) (*os.File, error) {
	c, err := s.accept(limit, by)
	if err != nil {
		return nil, fmt.Errorf("wait for the terminal from the runtime: %w", err)
	}
	defer func() { _ = c.Close() }()
	buf := make([]byte, 4096) // runc sends the terminal's name along
	_, files, err := linux.RecvFds(c, buf, 1)
	if err == nil && len(files) != 1 {
		err = errors.New("no descriptor came")
	}
	if err != nil {
		linux.CloseAll(files)
		return nil, fmt.Errorf("receive the terminal from the runtime: %w", err)
	}
	if _, err := unix.IoctlGetTermios(linux.FD(files[0]), unix.TCGETS); err != nil {
		files[0].Close()
		return nil, fmt.Errorf("the runtime sent what is no terminal: %w", err)
	}
	if rows != 0 || cols != 0 {
		if err := setSize(files[0], rows, cols); err != nil {
			files[0].Close()
			return nil, err
		}
	}
	return files[0], nil
}

// openConsole makes a terminal of the host for an exec, whose command is between it
// and the process.
func (p *process) openConsole(rows, cols uint16) (err error) {
	master, err := os.OpenFile("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open terminal: %w", err)
	}
	defer func() {
		if err != nil {
			master.Close()
		}
	}()
	fd := linux.FD(master)
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return fmt.Errorf("unlock terminal: %w", err)
	}
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return fmt.Errorf("open terminal: %w", errno)
	}
	p.tty = os.NewFile(n, "tty "+strconv.Itoa(fd))
	if rows != 0 || cols != 0 {
		if err := setSize(master, rows, cols); err != nil {
			p.closeTTY()
			return err
		}
	}
	p.console = master
	return nil
}
