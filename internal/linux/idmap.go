package linux

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// IDMap maps Size ids: Container and up inside a user namespace are Host and up
// outside.
type IDMap struct{ Container, Host, Size uint32 }

// CloneIDMapped clones the mount at path as a detached one that shows files'
// owners through the mapping of a user namespace: what is 0 on disk belongs to
// the namespace's root, and what that root writes is 0 on disk. EINVAL where the
// file system has no support for it.
func CloneIDMapped(path string, userns *os.File) (*os.File, error) {
	f, err := OpenTree(path, false)
	if err != nil {
		return nil, err
	}
	if err := SetIDMap(f, userns, false); err != nil {
		f.Close()
		return nil, fmt.Errorf("map owners of %s: %w", path, err)
	}
	return f, nil
}

// SetIDMap makes a detached mount (and all below it if recursive) idmapped. A
// recursive call changes all or nothing.
func SetIDMap(mount, userns *os.File, recursive bool) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns.Fd())}
	return os.NewSyscallError("mount_setattr", unix.MountSetattr(FD(mount), "", flags, &attr))
}

// ioctls of namespaces, ioctl_ns(2).
const (
	nsGetUserNS = 0xb701
	nsGetType   = 0xb703
)

// OpenUserNS opens the user namespace at path. A namespace of another kind
// stands for the user namespace that owns it.
func OpenUserNS(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	kind, err := unix.IoctlRetInt(FD(f), nsGetType)
	if err != nil {
		f.Close()
		return nil, &os.PathError{Op: "look for the user namespace of", Path: path, Err: err}
	}
	if kind == unix.CLONE_NEWUSER {
		return f, nil
	}
	defer f.Close()
	fd, err := unix.IoctlRetInt(FD(f), nsGetUserNS)
	if err != nil {
		return nil, &os.PathError{Op: "find the user namespace of", Path: path, Err: err}
	}
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "user:"+path), nil
}

// NewUserNS makes a user namespace that nobody is in; it lasts as long as
// something refers to it. Closing the file is the caller's.
func NewUserNS(uid, gid []IDMap) (f *os.File, err error) {
	err = withHolder(&holder{flags: unix.CLONE_NEWUSER}, func(pid int) error {
		if err := WriteIDMaps(pid, uid, gid); err != nil {
			return err
		}
		f, err = os.Open(fmt.Sprintf("/proc/%d/ns/user", pid))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make user namespace: %w", err)
	}
	return f, nil
}

// NewOwnedNetNS is NewNetNS of a network namespace that belongs to a user
// namespace of its own, with the given mappings: root there has the rights over
// the network that its capabilities say. OpenUserNS(path) finds that namespace.
//
// It is owned by its own root, not by the host's: an owner has all rights over a
// namespace (user_namespaces(7)), and the host's root may be a container's.
func NewOwnedNetNS(path string, uid, gid []IDMap) error {
	h := &holder{unshare: unix.CLONE_NEWUSER | unix.CLONE_NEWNET}
	if len(uid) > 0 {
		h.owner = uintptr(uid[0].Host)
	}
	return newNetNS(path, h, func(pid int) error {
		return WriteIDMaps(pid, uid, gid)
	})
}

// NewNetNSIn is NewNetNS of a network namespace that belongs to userns.
func NewNetNSIn(path string, userns *os.File) error {
	return newNetNS(path, &holder{join: userns.Fd(), unshare: unix.CLONE_NEWNET}, func(int) error { return nil })
}

func newNetNS(path string, h *holder, prepare func(pid int) error) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	f.Close()
	err = withHolder(h, func(pid int) error {
		if err := prepare(pid); err != nil {
			return err
		}
		return os.NewSyscallError("mount", unix.Mount(fmt.Sprintf("/proc/%d/ns/net", pid), path, "", unix.MS_BIND, ""))
	})
	if err != nil {
		return errors.Join(fmt.Errorf("make network namespace %s: %w", path, err), os.Remove(path))
	}
	return nil
}

// WriteIDMaps gives the fresh user namespace of process pid its mappings.
func WriteIDMaps(pid int, uid, gid []IDMap) error {
	for _, m := range []struct {
		file string
		maps []IDMap
	}{{"uid_map", uid}, {"gid_map", gid}} {
		var b strings.Builder
		for _, x := range m.maps {
			fmt.Fprintf(&b, "%d %d %d\n", x.Container, x.Host, x.Size)
		}
		path := fmt.Sprintf("/proc/%d/%s", pid, m.file)
		fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: path, Err: err}
		}
		_, err = unix.Write(fd, []byte(b.String()))
		unix.Close(fd)
		if err != nil {
			return &os.PathError{Op: "write", Path: path, Err: err}
		}
	}
	return nil
}

// ProbeIDMapped reports why containers in user namespaces cannot have their files
// below dir; nil when they can: an overlay is mounted over idmapped directories
// there and written to (Linux 5.19, and a file system with support).
func ProbeIDMapped(dir string) error {
	const id = 1 << 20
	ids := []IDMap{{Host: id, Size: 65536}}
	ns, err := NewUserNS(ids, ids)
	if err != nil {
		return err
	}
	defer ns.Close()
	tmp, err := os.MkdirTemp(dir, ".idmap-")
	if err != nil {
		return err
	}
	for _, d := range []string{"lower", "upper", "work"} {
		if e := os.Mkdir(tmp+"/"+d, 0o755); e != nil {
			return errors.Join(e, os.RemoveAll(tmp))
		}
	}
	err = InThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
			return os.NewSyscallError("mount", err)
		}
		return probeOverlay(tmp, ns, id)
	})
	return errors.Join(err, os.RemoveAll(tmp))
}

func probeOverlay(dir string, ns *os.File, id uint32) error {
	m, err := CloneIDMapped(dir, ns)
	if err != nil {
		return err
	}
	defer m.Close()
	if err := Attach(m, dir); err != nil {
		return err
	}
	if err := ActAs(id, id); err != nil {
		return err
	}
	root, err := MountOverlay(Overlay{Lower: []string{dir + "/lower"}, Upper: dir + "/upper", Work: dir + "/work"})
	if err != nil {
		return err
	}
	defer root.Close()
	fd, err := unix.Openat(FD(root), "f", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("write to an overlay of idmapped directories: %w", err)
	}
	return unix.Close(fd)
}

// IDMapBases lists the first host ids of the user namespaces in which processes of
// this machine are, other than this one's.
func IDMapBases() []uint32 {
	own, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return nil
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	seen := map[uint32]bool{}
	var out []uint32
	for _, e := range entries {
		if e.Name()[0] < '0' || e.Name()[0] > '9' {
			continue
		}
		b, err := os.ReadFile("/proc/" + e.Name() + "/uid_map")
		if err != nil || string(b) == string(own) {
			continue // ended meanwhile, or like us
		}
		for line := range strings.Lines(string(b)) {
			var x IDMap
			if _, err := fmt.Sscan(line, &x.Container, &x.Host, &x.Size); err == nil && !seen[x.Host] {
				seen[x.Host] = true
				out = append(out, x.Host)
			}
		}
	}
	return out
}
