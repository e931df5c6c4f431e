package linux

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// InThread runs fn on a thread of its own that ends afterwards: what fn does to
// the thread (unshare, setns, credentials) touches nobody else. The thread has
// its own current directory and root.
func InThread(fn func() error) error {
	done := make(chan error, 1)
	GoOnThread(func() {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			done <- os.NewSyscallError("unshare", err)
			return
		}
		done <- fn()
	})
	return <-done
}

// GoOnThread runs fn in a goroutine on a thread of its own, which ends with fn. It
// is never the main thread: that one cannot end, and is what /proc/self shows. What
// fn forks has the kernel's default timer slack, see CalmSysmon.
func GoOnThread(fn func()) {
	run := func() { ResetSlack(); fn() }
	go func() {
		// Never unlocked below: the runtime ends the thread with the goroutine.
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			run()
			return
		}
		// The main thread stays taken until another goroutine has found another.
		taken := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(taken)
			run()
		}()
		<-taken
		runtime.UnlockOSThread()
	}()
}

// InNetNS runs fn on a thread inside the network namespace at path.
func InNetNS(path string, fn func() error) error {
	return InThread(func() error {
		if err := JoinPath(path, unix.CLONE_NEWNET); err != nil {
			return err
		}
		return fn()
	})
}

// JoinPath moves the calling thread (which must be locked) into the namespace at
// path; kind is its CLONE_NEW* flag, and a namespace of another kind is refused.
func JoinPath(path string, kind int) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Setns(FD(f), kind); err != nil {
		return fmt.Errorf("join namespace %s: %w", path, err)
	}
	return nil
}

// NewNetNS makes a network namespace and pins it by a bind mount on path, which
// is made. Its loopback is down. Unpin removes it.
func NewNetNS(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	f.Close()
	err = InThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		return unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
	})
	if err != nil {
		return errors.Join(fmt.Errorf("make network namespace %s: %w", path, err), os.Remove(path))
	}
	return nil
}

// Unpin removes a pinned namespace's bind mount and file. A missing one is no
// error.
func Unpin(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "unmount", Path: path, Err: err}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
