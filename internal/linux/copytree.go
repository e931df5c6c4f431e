package linux

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// maxDepth bounds the directories below each other that CopyTree follows: each
// level holds two descriptors.
const maxDepth = 1000

// CopyTree copies what is in directory src into directory dst, and src's own
// owner, mode, extended attributes and times onto dst. Files keep owner, mode,
// times, extended attributes, holes and hard links among each other. Nothing is
// overwritten: what exists already at the destination is left alone.
//
// Both trees may be changed by others meanwhile: no symbolic link is followed in
// either, and every step is made relative to a directory that is held open.
func CopyTree(src, dst *os.File) error {
	c := copier{root: dst, links: map[inode]link{}}
	return c.dir(src, dst, "", 0)
}

type inode struct{ dev, ino uint64 }

// link is the first copy of a file with several names.
type link struct {
	path string // below the destination's root
	at   inode
}

type copier struct {
	root  *os.File
	links map[inode]link // by inode of the source
}

func (c *copier) dir(src, dst *os.File, path string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("copy %s: more than %d directories below each other", path, maxDepth)
	}
	for {
		names, err := src.Readdirnames(256)
		for _, name := range names {
			if err := c.entry(src, dst, name, path+"/"+name, depth); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("copy: %w", err)
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(FD(src), &st); err != nil {
		return fmt.Errorf("copy %s: %w", path, err)
	}
	return copyAttributes(src, dst, &st, path)
}

func (c *copier) entry(src, dst *os.File, name, path string, depth int) error {
	fail := func(err error) error { return fmt.Errorf("copy %s: %w", path, err) }
	var st unix.Stat_t
	if err := unix.Fstatat(FD(src), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fail(err)
	}
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return c.subdir(src, dst, name, path, depth)
	case unix.S_IFREG:
		if done, err := c.linked(dst, name, &st); done || err != nil {
			return err
		}
		return c.file(src, dst, name, path)
	case unix.S_IFLNK:
		err = copySymlink(src, dst, name)
	default:
		err = unix.Mknodat(FD(dst), name, st.Mode&unix.S_IFMT, int(st.Rdev)) // #nosec: the kernel's own encoding
	}
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil {
		return fail(err)
	}
	// These have no descriptor to work on. Whoever swaps the name now gets only
	// its own entry changed: nothing is followed.
	if err := unix.Fchownat(FD(dst), name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fail(err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := chmodSpecial(dst, name, st.Mode); err != nil {
			return fail(err)
		}
	}
	if err := unix.UtimesNanoAt(FD(dst), name, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fail(err)
	}
	return nil
}

func (c *copier) subdir(src, dst *os.File, name, path string, depth int) error {
	err := unix.Mkdirat(FD(dst), name, 0o700)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("copy %s: %w", path, err)
	}
	from, err := OpenNoSymlinks(src, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("copy %s: %w", path, err)
	}
	defer from.Close()
	to, err := OpenNoSymlinks(dst, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("copy %s: %w", path, err)
	}
	defer to.Close()
	return c.dir(from, to, path, depth+1)
}

// linked makes another name for a file that was copied before.
func (c *copier) linked(dst *os.File, name string, st *unix.Stat_t) (bool, error) {
	if st.Nlink < 2 {
		return false, nil
	}
	first, ok := c.links[inode{st.Dev, st.Ino}]
	if !ok {
		return false, nil
	}
	f, err := OpenNoSymlinks(c.root, first.path, unix.O_PATH, 0)
	if err != nil {
		return false, nil // moved by somebody: make a copy
	}
	defer f.Close()
	var now unix.Stat_t
	if err := unix.Fstat(FD(f), &now); err != nil || (inode{now.Dev, now.Ino}) != first.at {
		return false, nil //nolint:nilerr // as above
	}
	err = unix.Linkat(FD(f), "", FD(dst), name, unix.AT_EMPTY_PATH)
	if err == nil || errors.Is(err, unix.EEXIST) {
		return true, nil
	}
	return false, nil // EMLINK and the like: make a copy
}

func (c *copier) file(src, dst *os.File, name, path string) (err error) {
	fail := func(err error) error { return fmt.Errorf("copy %s: %w", path, err) }
	in, err := OpenNoSymlinks(src, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fail(err)
	}
	defer in.Close()
	var st unix.Stat_t
	if err := unix.Fstat(FD(in), &st); err != nil {
		return fail(err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fail(errors.New("changed while it was copied"))
	}
	fd, err := unix.Openat(FD(dst), name, unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil {
		return fail(err)
	}
	out := os.NewFile(uintptr(fd), path)
	defer func() {
		if cerr := out.Close(); err == nil && cerr != nil {
			err = fail(cerr)
		}
	}()
	if err := CopyData(in, out, st.Size); err != nil {
		return fail(err)
	}
	if st.Nlink > 1 {
		var made unix.Stat_t
		if err := unix.Fstat(fd, &made); err != nil {
			return fail(err)
		}
		c.links[inode{st.Dev, st.Ino}] = link{strings.TrimPrefix(path, "/"), inode{made.Dev, made.Ino}}
	}
	return copyAttributes(in, out, &st, path)
}

// CopyData copies the data of a file of size bytes to one that is empty, and leaves its
// holes out. It shares the blocks when the file system can.
func CopyData(in, out *os.File, size int64) error {
	if size == 0 {
		return nil
	}
	if unix.IoctlFileClone(FD(out), FD(in)) == nil {
		return nil
	}
	if err := out.Truncate(size); err != nil {
		return err
	}
	for at := int64(0); at < size; {
		from, err := unix.Seek(FD(in), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // only a hole is left
		}
		if err != nil { // cannot tell holes from data
			from = at
		}
		to, err := unix.Seek(FD(in), from, unix.SEEK_HOLE)
		if err != nil {
			to = size
		}
		to = min(to, size)
		for _, f := range []*os.File{in, out} {
			if _, err := f.Seek(from, io.SeekStart); err != nil {
				return err
			}
		}
		n, err := io.CopyN(out, in, to-from)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if n == 0 {
			return nil // it shrank
		}
		at = from + n
	}
	return nil
}

func copySymlink(src, dst *os.File, name string) error {
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(FD(src), name, b)
	if err != nil {
		return err
	}
	return unix.Symlinkat(string(b[:n]), FD(dst), name)
}

// chmodSpecial sets the mode of a device, pipe or socket, past the umask.
func chmodSpecial(dir *os.File, name string, mode uint32) error {
	f, err := OpenNoSymlinks(dir, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Chmod(ProcPath(f), mode&0o7777)
}

// copyAttributes sets owner, mode, extended attributes and times, in the order in
// which none of them undoes another.
func copyAttributes(src, dst *os.File, st *unix.Stat_t, path string) error {
	fail := func(err error) error { return fmt.Errorf("copy attributes of %s: %w", path, err) }
	if err := unix.Fchown(FD(dst), int(st.Uid), int(st.Gid)); err != nil {
		return fail(err)
	}
	if err := unix.Fchmod(FD(dst), st.Mode&0o7777); err != nil {
		return fail(err)
	}
	if err := copyXattrs(src, dst); err != nil {
		return fail(err)
	}
	ts := []unix.Timespec{st.Atim, st.Mtim}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, ProcPath(dst), ts, 0); err != nil {
		return fail(err)
	}
	return nil
}

func copyXattrs(src, dst *os.File) error {
	b := make([]byte, 1024)
	n, err := unix.Flistxattr(FD(src), b)
	for errors.Is(err, unix.ERANGE) {
		b = make([]byte, len(b)*4)
		n, err = unix.Flistxattr(FD(src), b)
	}
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return err
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(b[:n]), "\x00"), "\x00") {
		if !wantXattr(name) {
			continue
		}
		v := make([]byte, 64<<10) // the kernel's limit
		n, err := unix.Fgetxattr(FD(src), name, v)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := unix.Fsetxattr(FD(dst), name, v[:n], 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// wantXattr leaves out what belongs to the file system a file lies on (trusted.*,
// labels) rather than to the file.
func wantXattr(name string) bool {
	return strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "system.posix_acl_") || name == "security.capability"
}
