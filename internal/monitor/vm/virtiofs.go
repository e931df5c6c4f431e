package vm

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"hull/internal/linux"
)

// share starts the program that shows a container's binds to its machine, and gives
// QEMU's end of the connection. It ends with that, or with this process.
func (b *backend) share(s Spec) (conn *os.File, err error) {
	dir := filepath.Join(b.pod.Dir, shareName)
	if err := makeShare(dir, s.Binds); err != nil {
		return nil, err
	}
	l, conn, err := fsSocket(b.pod.Dir)
	if err != nil {
		return nil, fmt.Errorf("make virtiofsd's socket: %w", err)
	}
	defer l.Close()
	started := make(chan error, 1)
	linux.GoOnThread(func() { // which virtiofsd inherits its mounts from, and dies with
		err := mountShare(dir, s.Binds)
		var p *os.Process
		if err == nil {
			p, err = b.startFSD(s.VirtioFSD, dir, l)
		}
		if err == nil {
			if err = b.limit(p.Pid); err != nil {
				err = errors.Join(err, p.Kill())
			}
		}
		started <- err
		if p != nil {
			_, _ = p.Wait()
		}
	})
	if err := <-started; err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

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

// makeShare makes what is mounted over: a directory or a file for each bind.
func makeShare(dir string, binds []Bind) error {
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make share: %w", err)
	}
	for _, x := range binds {
		isDir, err := x.dir()
		if err != nil {
			return fmt.Errorf("bind: %w", err)
		}
		path := filepath.Join(dir, x.Name)
		if isDir {
			err = os.Mkdir(path, 0o755)
		} else {
			var f *os.File
			if f, err = os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o644); err == nil {
				err = f.Close()
			}
		}
		if err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("make share: %w", err)
		}
	}
	return nil
}

// mountShare binds the host's directories below dir, in a mount namespace that
// only virtiofsd will have: that of this thread.
func mountShare(dir string, binds []Bind) error {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return fmt.Errorf("make mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, x := range binds {
		what := cmp.Or(x.Source, x.Name) // an overlay has no source
		f, err := x.mount()
		if err != nil {
			return fmt.Errorf("bind %s: %w", what, err)
		}
		attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
		if x.ReadOnly {
			attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
		}
		err = unix.MountSetattr(linux.FD(f), "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, attr)
		if err == nil {
			err = linux.Attach(f, filepath.Join(dir, x.Name))
		}
		f.Close()
		if err != nil {
			return fmt.Errorf("bind %s: %w", what, err)
		}
	}
	return nil
}

// startFSD starts virtiofsd on this thread, and so in its mount namespace.
func (b *backend) startFSD(program, dir string, listener *os.File) (*os.Process, error) {
	log, err := os.OpenFile(filepath.Join(b.pod.Dir, "virtiofsd.log"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
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
		return nil, fmt.Errorf("start virtiofsd: %w", err)
	}
	return p, nil
}
