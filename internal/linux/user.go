package linux

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

// User is who a process runs as inside a root file system.
type User struct {
	UID, GID uint32
	Groups   []uint32 // additional groups
	Name     string   // "" when the uid has no entry
	Home     string   // "/" when the uid has no entry
}

// Sizes beyond which a passwd or group file is hostile (CVE-2026-47262), and the
// largest id that does not wrap to something else (CVE-2024-40635).
const (
	maxUserFile = 4 << 20
	maxID       = 1<<31 - 1
)

// LookupUser resolves "", "user", "uid", "user:group", "uid:gid" and so on, and
// additional groups by name or number, with the passwd and group files of the
// root file system at root. As in Docker, digits are an id even when a user has
// that name, ids need no entry, and unknown names are errdefs.ErrInvalidArgument
// with Docker's messages ("unable to find user x: no matching entries in passwd
// file").
func LookupUser(root *os.File, spec string, groups []string) (User, error) {
	if strings.ContainsAny(spec, "\n\x00") {
		return User{}, fmt.Errorf("user %q: control character: %w", spec, errdefs.ErrInvalidArgument)
	}
	passwd, err := readUserFile(root, "/etc/passwd")
	if err != nil {
		return User{}, err
	}
	group, err := readUserFile(root, "/etc/group")
	if err != nil {
		return User{}, err
	}
	eu, err := user.GetExecUser(spec, &user.ExecUser{Home: "/"}, bytes.NewReader(passwd), bytes.NewReader(group))
	if err != nil {
		return User{}, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	u := User{UID: uint32(eu.Uid), GID: uint32(eu.Gid), Home: eu.Home}
	if eu.Uid < 0 || eu.Uid > maxID || eu.Gid < 0 || eu.Gid > maxID {
		return User{}, fmt.Errorf("user %q: id out of range 0-%d: %w", spec, maxID, errdefs.ErrInvalidArgument)
	}
	for _, g := range eu.Sgids {
		u.Groups = append(u.Groups, uint32(g))
	}
	if len(groups) > 0 {
		more, err := user.GetAdditionalGroups(groups, bytes.NewReader(group))
		if err != nil {
			return User{}, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
		for _, g := range more {
			u.Groups = append(u.Groups, uint32(g))
		}
	}
	if es, err := user.ParsePasswdFilter(bytes.NewReader(passwd), func(e user.User) bool { return e.Uid == eu.Uid }); err == nil && len(es) > 0 {
		u.Name = es[0].Name
	}
	return u, nil
}

// readUserFile reads a regular file below root; a missing one is empty.
func readUserFile(root *os.File, path string) ([]byte, error) {
	// O_NONBLOCK: an image may ship a fifo there.
	f, err := OpenInRoot(root, path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file: %w", path, errdefs.ErrInvalidArgument)
	}
	b, err := ReadAll(io.Reader(f), maxUserFile)
	if err != nil {
		return nil, fmt.Errorf("read %s of the image: %w: %w", path, err, errdefs.ErrInvalidArgument)
	}
	return b, nil
}

// ActAs makes the calling thread, which must be locked, act on files as uid and gid,
// with all the capabilities it has: what it makes belongs to them, and an overlay on
// idmapped layers lets it (as an id that has no place in the mapping it would fail
// with EOVERFLOW). The effective ids change too: kernel parameters of IPC and mqueue
// namespaces go by them.
func ActAs(uid, gid uint32) error {
	const keep = ^uintptr(0)
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&hdr, &caps[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	// Raw calls: package syscall's would change all threads of the process.
	for _, x := range []struct{ nr, id uintptr }{{unix.SYS_SETRESGID, uintptr(gid)}, {unix.SYS_SETRESUID, uintptr(uid)}} {
		if _, _, errno := unix.RawSyscall(x.nr, keep, x.id, keep); errno != 0 {
			return fmt.Errorf("act as user %d, group %d: %w", uid, gid, errno)
		}
	}
	return os.NewSyscallError("capset", unix.Capset(&hdr, &caps[0]))
}
