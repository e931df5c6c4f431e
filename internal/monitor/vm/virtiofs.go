package vm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"hull/internal/linux"
)

// fsSocket makes a listening socket for virtiofsd and a connection to it for QEMU,
// so that neither has to wait for the other.
func fsSocket(dir string) (listener, conn *os.File, err error) {
	d, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, nil, err
	}
	defer d.Close()
	path := fmt.Sprintf("/proc/self/fd/%d/virtiofs.sock", linux.FD(d)) // a socket's path is short
	open := func(name string) (*os.File, error) {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, os.NewSyscallError("socket", err)
		}
		return os.NewFile(uintptr(fd), name), nil
	}
	if listener, err = open("virtiofsd"); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			listener.Close()
		}
	}()
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, err
	}
	if err := unix.Bind(linux.FD(listener), &unix.SockaddrUnix{Name: path}); err != nil {
		return nil, nil, os.NewSyscallError("bind", err)
	}
	defer os.Remove(path)
	if err := unix.Listen(linux.FD(listener), 1); err != nil {
		return nil, nil, os.NewSyscallError("listen", err)
	}
	if conn, err = open("virtiofs"); err != nil {
		return nil, nil, err
	}
	if err := unix.Connect(linux.FD(conn), &unix.SockaddrUnix{Name: path}); err != nil {
		conn.Close()
		return nil, nil, os.NewSyscallError("connect", err)
	}
	return listener, conn, nil
}

// startFSD starts virtiofsd on this thread, and so in its mount namespace. It
// ends when QEMU's end of the socket does, or with this process.
func (b *backend) startFSD(program, dir string, listener *os.File) error {
	log, err := os.OpenFile(filepath.Join(b.pod.Dir, "virtiofsd.log"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	args := []string{program, "--fd=3", "--shared-dir", dir, "--announce-submounts", "--xattr", "--cache", "auto", "--rlimit-nofile", "0"}
	if strings.Contains(program, "/qemu/") { // QEMU's own, in C, until 7.2
		args = []string{program, "--fd=3", "--rlimit-nofile=0", "-o", "source=" + dir + ",announce_submounts,xattr,cache=auto,log_level=warn"}
	}
	p, err := os.StartProcess(program, args, &os.ProcAttr{
		Dir: "/", Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, Files: []*os.File{null, log, log, listener},
		Sys: &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return fmt.Errorf("start virtiofsd: %w", err)
	}
	go func() { _, _ = p.Wait() }()
	return b.limit(p.Pid)
}
