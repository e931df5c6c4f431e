package jail

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"hull/internal/image/archive"
	"hull/internal/image/packed"
	"hull/internal/linux"
)

// Main is the child.
func Main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "hull-unpack:", err)
		os.Exit(1)
	}
}

func run() error {
	f := os.NewFile(control, "control")
	conn, err := net.FileConn(f)
	if err != nil {
		return fmt.Errorf("hulld starts this program, nobody else: %w", err)
	}
	f.Close()
	c, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.New("hulld starts this program, nobody else")
	}
	var o order
	var dirs []*os.File
	if err := receive(c, &o, &dirs, 1); err != nil {
		return fmt.Errorf("read the order: %w", err)
	}
	if len(dirs) != 1 {
		return errors.New("no directory came with the order")
	}
	if err := confine(); err != nil {
		return err
	}
	root, err := reopen(dirs[0])
	if err != nil {
		return err
	}
	opts := archive.Options{Limits: o.Limits, User: o.User, SkipOwner: o.SkipOwner, Plain: o.Plain, Packed: o.Packed}
	if o.HasLower {
		opts.Lower = func(context.Context) ([]*os.File, error) { return askLower(c) }
	}
	a := answer{}
	var uerr error
	a.Result, a.Digest, uerr = packed.Layer(context.Background(), os.Stdin, root, opts)
	a.Failure = toFailure(uerr)
	return send(c, a)
}

func askLower(c *net.UnixConn) ([]*os.File, error) {
	if err := send(c, answer{WantLower: true}); err != nil {
		return nil, err
	}
	var l lower
	var mounts, dirs []*os.File
	if err := receive(c, &l, &mounts, maxLower); err != nil {
		return nil, err
	}
	defer linux.CloseAll(mounts)
	if err := l.Failure.error(); err != nil {
		return nil, err
	}
	for _, m := range mounts {
		d, err := reopen(m)
		if err != nil {
			linux.CloseAll(dirs)
			return nil, err
		}
		dirs = append(dirs, d)
	}
	return dirs, nil
}

// reopen makes an ordinary directory descriptor of a mount's.
func reopen(mount *os.File) (*os.File, error) {
	fd, err := unix.Openat(linux.FD(mount), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: mount.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), mount.Name()), nil
}

// keep are the capabilities that files with owners, modes, devices and attributes
// need; SYS_ADMIN is for trusted.overlay.opaque, and mounts are filtered away.
const keep = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FOWNER | 1<<unix.CAP_FSETID |
	1<<unix.CAP_MKNOD | 1<<unix.CAP_SETFCAP | 1<<unix.CAP_SYS_ADMIN

// confine gives up all that unpacking does not need. The order matters: mounts need
// what capabilities give, and those what the filter allows.
func confine() error {
	if err := emptyRoot(); err != nil {
		return fmt.Errorf("leave the host's files: %w", err)
	}
	syscall.Umask(0)
	for c := 0; c <= unix.CAP_LAST_CAP; c++ {
		if keep&(1<<c) != 0 {
			continue
		}
		if _, _, e := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(c), 0); e != 0 && e != unix.EINVAL {
			return fmt.Errorf("drop capabilities: %w", e)
		}
	}
	hdr := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := &[2]unix.CapUserData{}
	for i := range data {
		part := uint32(uint64(keep) >> (32 * i))
		data[i] = unix.CapUserData{Effective: part, Permitted: part}
	}
	if _, _, e := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(hdr)), uintptr(unsafe.Pointer(data)), 0); e != 0 {
		return fmt.Errorf("set capabilities: %w", e)
	}
	runtime.KeepAlive(hdr)
	runtime.KeepAlive(data)
	if _, _, e := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); e != 0 {
		return fmt.Errorf("set no_new_privs: %w", e)
	}
	return filter()
}

// emptyRoot moves into a file system with nothing in it but this namespace's /proc,
// which descriptors are named through. It is read-only.
func emptyRoot() error {
	const on = "/proc" // it is everywhere
	steps := []struct {
		what string
		do   func() error
	}{
		{"make mounts private", func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") }},
		{"mount tmpfs", func() error {
			return unix.Mount("tmpfs", on, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=64k,mode=755")
		}},
		{"make proc", func() error { return unix.Mkdir(on+"/proc", 0o555) }},
		{"mount proc", func() error {
			return unix.Mount("proc", on+"/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
		}},
		{"remount read-only", func() error {
			return unix.Mount("", on, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
		}},
		{"chdir", func() error { return unix.Chdir(on) }},
		{"pivot_root", func() error { return unix.PivotRoot(".", ".") }},
		{"unmount the host's", func() error { return unix.Unmount(".", unix.MNT_DETACH) }},
		{"chdir", func() error { return unix.Chdir("/") }},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
	}
	return nil
}
