package linux

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// OpenInRoot opens path below root as if root were "/": absolute symbolic links
// and ".." stay inside, magic links (/proc/self/fd/N) are refused. flags and
// perm are open(2)'s; O_CLOEXEC is added. The result's name is path.
func OpenInRoot(root *os.File, path string, flags int, perm os.FileMode) (*os.File, error) {
	return openat2(root, path, flags, perm, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
}

// OpenBeneath opens path below root and refuses to follow anything that leads
// out of it, instead of re-rooting it (EXDEV).
func OpenBeneath(root *os.File, path string, flags int, perm os.FileMode) (*os.File, error) {
	return openat2(root, path, flags, perm, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_MAGICLINKS)
}

// OpenNoSymlinks opens path below root and refuses every symbolic link (ELOOP).
func OpenNoSymlinks(root *os.File, path string, flags int, perm os.FileMode) (*os.File, error) {
	return openat2(root, path, flags, perm, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_MAGICLINKS|unix.RESOLVE_NO_SYMLINKS)
}

func openat2(root *os.File, path string, flags int, perm os.FileMode, resolve uint64) (*os.File, error) {
	if path == "" {
		path = "."
	}
	how := unix.OpenHow{Flags: uint64(flags) | unix.O_CLOEXEC, Resolve: resolve}
	if flags&(unix.O_CREAT|unix.O_TMPFILE) != 0 {
		how.Mode = uint64(perm.Perm())
	}
	if resolve&unix.RESOLVE_BENEATH != 0 {
		path = strings.TrimLeft(path, "/")
		if path == "" {
			path = "."
		}
	}
	fd, err := Openat2(FD(root), path, &how)
	if err != nil {
		return nil, &os.PathError{Op: "openat2", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Openat2 is openat2(2), repeated while the kernel asks for it: EAGAIN means
// that a rename or mount raced with the resolution of "..".
func Openat2(dirfd int, path string, how *unix.OpenHow) (int, error) {
	for tries := 0; ; tries++ {
		fd, err := unix.Openat2(dirfd, path, how)
		if err == nil || tries == 128 || (!errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)) {
			return fd, err
		}
	}
}

// MkdirAllInRoot makes path and its missing parents below root and opens it
// (O_PATH). Symbolic links are followed inside root, also where they lead to what
// is made then; a component that is a file is ENOTDIR.
func MkdirAllInRoot(root *os.File, path string, perm os.FileMode) (*os.File, error) {
	return mkdirAll(root, path, perm, maxLinks)
}

// maxLinks is how many dangling links are followed, like the kernel's own limit.
const maxLinks = 40

func mkdirAll(root *os.File, path string, perm os.FileMode, links int) (*os.File, error) {
	const dir = unix.O_PATH | unix.O_DIRECTORY
	if f, err := OpenInRoot(root, path, dir, 0); err == nil || !errors.Is(err, unix.ENOENT) {
		return f, err
	}
	// Find the deepest parent that exists, then make one component at a time below
	// descriptors: nothing is resolved twice.
	parts := splitPath(path)
	at := len(parts) - 1
	var cur *os.File
	for ; ; at-- {
		f, err := OpenInRoot(root, strings.Join(parts[:at], "/"), dir, 0)
		if err == nil {
			cur = f
			break
		}
		if !errors.Is(err, unix.ENOENT) || at == 0 {
			return nil, err
		}
	}
	if to, ok := dangling(cur, parts, at); ok {
		cur.Close()
		if links == 0 {
			return nil, &os.PathError{Op: "mkdir", Path: path, Err: unix.ELOOP}
		}
		return mkdirAll(root, to, perm, links-1)
	}
	for _, name := range parts[at:] {
		next, err := mkdirStep(root, cur, name, perm)
		cur.Close()
		if err != nil {
			return nil, fmt.Errorf("make directory %s: %w", path, err)
		}
		cur = next
	}
	return cur, nil
}

// dangling says where a path leads whose component at, the first that is not there,
// is a link in dir. The answer is resolved again from the root: nobody who changes
// the link meanwhile gets out.
func dangling(dir *os.File, parts []string, at int) (to string, ok bool) {
	if at >= len(parts) || parts[at] == ".." {
		return "", false
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(FD(dir), parts[at], buf)
	if err != nil || n == len(buf) {
		return "", false
	}
	to = string(buf[:n])
	if !strings.HasPrefix(to, "/") {
		to = strings.Join(append(parts[:at:at], to), "/")
	}
	return strings.Join(append([]string{to}, parts[at+1:]...), "/"), true
}

func mkdirStep(root, cur *os.File, name string, perm os.FileMode) (*os.File, error) {
	if name == ".." {
		return nil, unix.EINVAL // a missing directory has no parent to go to
	}
	err := unix.Mkdirat(FD(cur), name, uint32(perm.Perm()))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, err
	}
	// A link that dangles is EEXIST above and fails here: it is not followed out.
	return openat2(cur, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
}

func splitPath(p string) []string {
	var out []string
	for s := range strings.SplitSeq(p, "/") {
		if s != "" && s != "." {
			out = append(out, s)
		}
	}
	return out
}

// CreateInRoot makes an empty regular file at path below root, with parents,
// unless something is there already, and opens it (O_PATH).
func CreateInRoot(root *os.File, path string, perm os.FileMode) (*os.File, error) {
	return createFile(root, path, perm, maxLinks)
}

func createFile(root *os.File, path string, perm os.FileMode, links int) (*os.File, error) {
	if f, err := OpenInRoot(root, path, unix.O_PATH, 0); err == nil || !errors.Is(err, unix.ENOENT) {
		return f, err
	}
	parts := splitPath(path)
	if len(parts) == 0 {
		return nil, unix.EISDIR
	}
	name := parts[len(parts)-1]
	if name == ".." {
		return nil, unix.EINVAL
	}
	dir, err := MkdirAllInRoot(root, strings.Join(parts[:len(parts)-1], "/"), 0o755)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	if to, ok := dangling(dir, parts, len(parts)-1); ok {
		if links == 0 {
			return nil, &os.PathError{Op: "create", Path: path, Err: unix.ELOOP}
		}
		return createFile(root, to, perm, links-1)
	}
	// O_EXCL does not follow a link in the last component; mknod neither.
	fd, err := unix.Openat(FD(dir), name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, uint32(perm.Perm()))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, &os.PathError{Op: "create", Path: path, Err: err}
	}
	if err == nil {
		unix.Close(fd)
	}
	return openat2(dir, name, unix.O_PATH|unix.O_NOFOLLOW, 0, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
}

// ProcPath is the magic link of an open descriptor, for system calls that know
// only paths.
func ProcPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", FD(f)) }
