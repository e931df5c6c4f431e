// Package files reads and writes below a container's root directory for cp.
//
// The directory is the image's to fill and, while the container runs, the
// workload's to change at any moment. Every path is resolved by the kernel
// below one descriptor (openat2 with RESOLVE_IN_ROOT), and what was resolved is
// worked on through descriptors: nothing is looked up twice, no program or
// library of the container is run (CVE-2018-15664, CVE-2019-14271, CVE-2026-41567).
package files

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hull/internal/hull"
	"hull/internal/linux"
)

// Files is stateless.
type Files struct{}

// maxLinks is Linux's own limit on links in one resolution (path_resolution(7)).
const maxLinks = 40

// Stat describes the file at p below root, which is mounted at the path at of the
// container ("/" = it is its root). A symbolic link as last component is described
// itself, with LinkTarget set to where it leads, absolute in the container.
// errdefs.ErrNotFound.
func (Files) Stat(root *os.File, at, p string) (hull.PathStat, error) {
	dir, name, err := parent(root, p)
	if err != nil {
		return hull.PathStat{}, err
	}
	defer dir.Close()
	var st unix.Stat_t
	if err := fstatat(dir, name, &st); err != nil {
		return hull.PathStat{}, notFound(p, err)
	}
	out := hull.PathStat{Name: path.Base(path.Join(at, p)), Size: st.Size, Mode: fileMode(&st), Mtime: time.Unix(st.Mtim.Unix())}
	if out.Mode&os.ModeSymlink != 0 {
		if out.LinkTarget, err = follow(root, at, p); err != nil {
			return out, err
		}
	}
	return out, nil
}

// parent opens p's directory (O_PATH) and gives the last component. "/" and a
// trailing slash or "/." mean the directory itself: name "".
func parent(root *os.File, p string) (dir *os.File, name string, err error) {
	clean := path.Join("/", p)
	if clean == "/" || strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") {
		dir, err = linux.OpenInRoot(root, clean, unix.O_PATH|unix.O_DIRECTORY, 0)
		if errors.Is(err, unix.ENOTDIR) && isThere(root, clean) {
			return nil, "", fmt.Errorf("%s: %w: %w", p, err, errdefs.ErrInvalidArgument)
		}
		return dir, "", notFound(p, err)
	}
	dir, err = linux.OpenInRoot(root, path.Dir(clean), unix.O_PATH|unix.O_DIRECTORY, 0)
	return dir, path.Base(clean), notFound(p, err)
}

// isThere says whether p leads to anything.
func isThere(root *os.File, p string) bool {
	f, err := linux.OpenInRoot(root, p, unix.O_PATH, 0)
	if err == nil {
		_ = f.Close() // was only looked for
	}
	return err == nil
}

// User looks "user[:group]" up in the passwd and group files below root, as a
// process of that user would be started. errdefs.ErrInvalidArgument.
func (Files) User(root *os.File, spec string) (hull.FileOwner, error) {
	u, err := linux.LookupUser(root, spec, nil)
	return hull.FileOwner{UID: int(u.UID), GID: int(u.GID)}, err
}

func fstatat(dir *os.File, name string, st *unix.Stat_t) error {
	return unix.Fstatat(linux.FD(dir), name, st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH)
}

// follow is where a symbolic link leads, as an absolute path in the container, as far
// as that is below root. The result is for the client's next request; nothing is
// opened by it here.
func follow(root *os.File, at, p string) (string, error) {
	cur := path.Join(at, p)
	for range maxLinks {
		inside, ok := strings.CutPrefix(cur+"/", strings.TrimSuffix(at, "/")+"/")
		if !ok {
			return cur, nil
		}
		dir, name, err := parent(root, path.Join("/", inside))
		if errdefs.IsNotFound(err) {
			return cur, nil // dangling
		}
		if err != nil {
			return "", err
		}
		to, err := readlink(dir, name)
		dir.Close()
		if err != nil {
			return cur, nil //nolint:nilerr // not a link: the end
		}
		if path.IsAbs(to) {
			cur = path.Clean(to)
		} else {
			cur = path.Join(path.Dir(cur), to)
		}
	}
	return "", fmt.Errorf("%s: too many symbolic links: %w", p, errdefs.ErrInvalidArgument)
}

func readlink(dir *os.File, name string) (string, error) {
	if name == "" {
		return "", unix.EINVAL
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(linux.FD(dir), name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

func notFound(p string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("%s: %w: %w", p, err, errdefs.ErrNotFound)
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("%s: %w: %w", p, err, errdefs.ErrPermissionDenied)
	}
	return err
}

// fileMode is st_mode as Go has it.
func fileMode(st *unix.Stat_t) os.FileMode {
	m := os.FileMode(st.Mode & 0o777)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		m |= os.ModeDir
	case unix.S_IFLNK:
		m |= os.ModeSymlink
	case unix.S_IFIFO:
		m |= os.ModeNamedPipe
	case unix.S_IFSOCK:
		m |= os.ModeSocket
	case unix.S_IFBLK:
		m |= os.ModeDevice
	case unix.S_IFCHR:
		m |= os.ModeDevice | os.ModeCharDevice
	}
	for bit, mode := range map[uint32]os.FileMode{unix.S_ISUID: os.ModeSetuid, unix.S_ISGID: os.ModeSetgid, unix.S_ISVTX: os.ModeSticky} {
		if st.Mode&bit != 0 {
			m |= mode
		}
	}
	return m
}
