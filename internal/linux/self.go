package linux

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// OpenReadOnlyExe opens a program on a private read-only mount of that one file. A
// process that is executed from it (as /proc/self/fd/N, or by execveat) cannot be
// used to write the program through /proc/PID/exe (CVE-2019-5736), whatever rights
// the writer has, and no page is copied. The mount lasts as long as processes use
// it. O_PATH, close-on-exec.
func OpenReadOnlyExe(path string) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: path, Err: err}
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "mount_setattr", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// ReexecReadOnly executes this program again from a read-only mount of itself,
// with the same arguments and environment, unless that has been done: then it
// returns nil. It is to be called first in main.
func ReexecReadOnly() error {
	var st unix.Statfs_t
	if err := unix.Statfs("/proc/self/exe", &st); err != nil {
		return os.NewSyscallError("statfs", err)
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		return nil
	}
	f, err := OpenReadOnlyExe("/proc/self/exe")
	if err != nil {
		return err
	}
	defer f.Close()
	argv, err := cStrings(os.Args)
	if err != nil {
		return err
	}
	env, err := cStrings(os.Environ())
	if err != nil {
		return err
	}
	empty := []byte{0}
	_, _, errno := unix.RawSyscall6(unix.SYS_EXECVEAT, uintptr(FD(f)), uintptr(unsafe.Pointer(&empty[0])),
		uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&env[0])), unix.AT_EMPTY_PATH, 0)
	return fmt.Errorf("execute again from a read-only mount: %w", errno)
}

func cStrings(s []string) ([]*byte, error) {
	out := make([]*byte, 0, len(s)+1)
	for _, x := range s {
		p, err := unix.BytePtrFromString(x)
		if err != nil {
			return nil, errors.Join(err, fmt.Errorf("argument %q", x))
		}
		out = append(out, p)
	}
	return append(out, nil), nil
}
