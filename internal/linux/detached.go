package linux

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A detached mount is one that is mounted nowhere: a descriptor holds it, and it
// ends with the descriptor unless it was attached somewhere by then.

// CloneAt clones the mount of what f (O_PATH will do) has open as a detached one
// whose root is f's file or directory. f is on a mount of the caller's own
// namespace; on a detached one only where the kernel allows it (6.15), else
// EINVAL.
func CloneAt(f *os.File, recursive bool) (*os.File, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(FD(f), "", flags)
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: f.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// Attach mounts the detached mount m at path.
func Attach(m *os.File, path string) error {
	if err := unix.MoveMount(FD(m), "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "move_mount", Path: path, Err: err}
	}
	return nil
}

// CloneBelow is CloneAt of sub below the root of the detached mount m, on every
// kernel: before 6.15 m is attached for the purpose in a mount namespace that ends
// with the call. at is any directory. No component of sub may lead out of m (EXDEV).
func CloneBelow(m *os.File, at, sub string) (*os.File, error) {
	f, err := OpenBeneath(m, sub, unix.O_PATH, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// What is cloned here can be cloned again by this process; what is cloned in a
	// namespace that is gone cannot.
	clone, err := CloneAt(f, false)
	if errors.Is(err, unix.EINVAL) {
		return cloneAttached(m, at, sub)
	}
	return clone, err
}

func cloneAttached(m *os.File, at, sub string) (clone *os.File, err error) {
	err = MoveInto(m, at, func() error {
		root, err := os.OpenFile(at, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		defer root.Close()
		f, err := OpenBeneath(root, sub, unix.O_PATH, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		clone, err = CloneAt(f, false)
		return err
	})
	return clone, err
}

// CloneOf clones the mount on path of process pid's root directory, from that
// process's mount namespace. No symbolic link is followed.
func CloneOf(pid int, path string) (clone *os.File, err error) {
	err = InThread(func() error {
		proc := "/proc/" + strconv.Itoa(pid)
		root, err := os.OpenFile(proc+"/root", unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		defer root.Close()
		if err := JoinPath(proc+"/ns/mnt", unix.CLONE_NEWNS); err != nil {
			return err
		}
		f, err := OpenNoSymlinks(root, path, unix.O_PATH, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		clone, err = CloneAt(f, false)
		return err
	})
	return clone, err
}

// FSType is the magic number of f's file system (statfs(2)).
func FSType(f *os.File) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(FD(f), &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: f.Name(), Err: err}
	}
	return st.Type, nil
}

// TmpfsMagic is FSType of a tmpfs.
const TmpfsMagic = unix.TMPFS_MAGIC

// mountWords are mount(8)'s options that belong to the mount; the others are the
// file system's.
func mountWords(word string) (set, clr uint64, known bool) {
	switch word {
	case "ro":
		return unix.MOUNT_ATTR_RDONLY, 0, true
	case "rw":
		return 0, unix.MOUNT_ATTR_RDONLY, true
	case "nosuid":
		return unix.MOUNT_ATTR_NOSUID, 0, true
	case "suid":
		return 0, unix.MOUNT_ATTR_NOSUID, true
	case "nodev":
		return unix.MOUNT_ATTR_NODEV, 0, true
	case "dev":
		return 0, unix.MOUNT_ATTR_NODEV, true
	case "noexec":
		return unix.MOUNT_ATTR_NOEXEC, 0, true
	case "exec":
		return 0, unix.MOUNT_ATTR_NOEXEC, true
	case "nodiratime":
		return unix.MOUNT_ATTR_NODIRATIME, 0, true
	case "diratime":
		return 0, unix.MOUNT_ATTR_NODIRATIME, true
	case "noatime":
		return unix.MOUNT_ATTR_NOATIME, unix.MOUNT_ATTR__ATIME, true
	case "strictatime", "norelatime":
		return unix.MOUNT_ATTR_STRICTATIME, unix.MOUNT_ATTR__ATIME, true
	case "relatime", "atime":
		return 0, unix.MOUNT_ATTR__ATIME, true
	case "nosymfollow":
		return unix.MOUNT_ATTR_NOSYMFOLLOW, 0, true
	case "defaults", "bind", "rbind", "private", "rprivate", "":
		return 0, 0, true
	}
	return 0, 0, false
}

// MountFS mounts the file system of the given type from source, nowhere. options
// is mount(8)'s -o; words that mount(8) itself would take (_netdev, x-*, nofail)
// are left out.
func MountFS(typ, source, options string) (*os.File, error) {
	fs, err := Fsopen(typ)
	if err != nil {
		if errors.Is(err, unix.ENODEV) {
			return nil, fmt.Errorf("file system type %q is not known to this kernel: %w", typ, err)
		}
		return nil, err
	}
	defer fs.Close()
	if source != "" {
		if err := fs.Set("source", source); err != nil {
			return nil, err
		}
	}
	var attrs uint64
	for word := range strings.SplitSeq(options, ",") {
		set, clr, known := mountWords(word)
		if known {
			attrs = attrs&^clr&^set | set
			if word != "ro" { // that is the file system's as well
				continue
			}
		}
		if word == "_netdev" || word == "nofail" || strings.HasPrefix(word, "x-") {
			continue
		}
		key, value, _ := strings.Cut(word, "=")
		if err := fs.Set(key, value); err != nil {
			return nil, err
		}
	}
	return fs.Mount(int(attrs)) //nolint:gosec // a set of flags
}

// MountBind is a detached bind mount of path with the options of mount(8)'s -o.
func MountBind(path, options string) (*os.File, error) {
	recursive := false
	var attr unix.MountAttr
	for word := range strings.SplitSeq(options, ",") {
		set, clr, known := mountWords(word)
		if !known {
			return nil, fmt.Errorf("bind mount option %q: %w", word, unix.EINVAL)
		}
		recursive = recursive || word == "rbind"
		attr.Attr_set = attr.Attr_set&^clr&^set | set
		attr.Attr_clr = attr.Attr_clr&^set | clr
	}
	f, err := OpenTree(path, recursive)
	if err != nil {
		return nil, err
	}
	if attr.Attr_set == 0 && attr.Attr_clr == 0 {
		return f, nil
	}
	if err := unix.MountSetattr(FD(f), "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return nil, errors.Join(os.NewSyscallError("mount_setattr", err), f.Close())
	}
	return f, nil
}

// HandOver is a path under which another process of this one's pid namespace can
// open f while this one has it open.
func HandOver(f *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), FD(f)) }

// MoveInto attaches the detached mount m at path in a new mount namespace, and
// calls start there: what it starts has the namespace, the caller has not.
func MoveInto(m *os.File, path string, start func() error) error {
	return InThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("make mounts private: %w", err)
		}
		if err := Attach(m, path); err != nil {
			return err
		}
		return start()
	})
}
