package archive

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// tree is a directory that may hold anything, and is only reached through its
// descriptor. Directories that were opened lately stay open: consecutive
// entries of a tar mostly share their parent.
type tree struct {
	root *os.File
	open map[string]*os.File
}

const treeCache = 48

func newTree(root *os.File) *tree { return &tree{root: root, open: map[string]*os.File{}} }

// forget closes cached directories. It is called when a directory or a link was
// replaced, because a cached descriptor then stands for a place that is gone.
func (t *tree) forget() {
	for k, f := range t.open {
		f.Close()
		delete(t.open, k)
	}
}

func (t *tree) keep(dir string, f *os.File) {
	if len(t.open) >= treeCache {
		t.forget()
	}
	t.open[dir] = f
}

// dir opens an existing directory, following links inside the tree only. The
// result belongs to the tree.
func (t *tree) dir(dir string) (*os.File, error) {
	if dir == "" {
		return t.root, nil
	}
	if f, ok := t.open[dir]; ok {
		return f, nil
	}
	f, err := openIn(t.root, dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	t.keep(dir, f)
	return f, nil
}

// openIn opens path below root with RESOLVE_IN_ROOT.
func openIn(root *os.File, path string, flags uint64) (*os.File, error) {
	how := unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	for {
		fd, err := unix.Openat2(fdOf(root), path, &how)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), path), nil
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue // EAGAIN: a rename elsewhere raced with "..", try again
		default:
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

// fdOf is the descriptor number. The caller keeps f alive.
func fdOf(f *os.File) int { return int(f.Fd()) }

// mkdirs opens dir, making what is missing, and reports each directory it made
// through made. A component that is a link is followed inside the tree.
func (t *tree) mkdirs(dir string, made func(dir string)) (*os.File, error) {
	f, err := t.dir(dir)
	if err == nil || !errors.Is(err, unix.ENOENT) {
		return f, err
	}
	parent, base := split(dir)
	p, err := t.mkdirs(parent, made)
	if err != nil {
		return nil, err
	}
	switch err := unix.Mkdirat(fdOf(p), base, 0o755); {
	case err == nil:
		made(dir)
	case errors.Is(err, unix.EEXIST):
		// Present and yet not found: a dangling link. Making its target would be
		// writing where the layer did not say.
		return nil, hostile(dir, "a parent of it is a dangling link")
	default:
		return nil, &os.PathError{Op: "mkdir", Path: dir, Err: err}
	}
	return t.dir(dir)
}

// removeAll deletes base in the open directory p, whatever it is, following nothing.
func removeAll(p *os.File, base string) error {
	err := unix.Unlinkat(fdOf(p), base, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return &os.PathError{Op: "unlink", Path: base, Err: err}
	}
	r, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", fdOf(p)))
	if err != nil {
		return fmt.Errorf("open directory of %s: %w", base, err)
	}
	defer r.Close()
	return r.RemoveAll(base)
}

// isWhiteout says whether st is overlayfs's mark of a deleted file.
func isWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// procPath names base in p for the few calls that have no *at form. The last
// component is not followed by them (l*xattr).
func procPath(p *os.File, base string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "/proc/self/fd/%d", fdOf(p))
	if base != "" {
		b.WriteByte('/')
		b.WriteString(base)
	}
	return b.String()
}

// SymlinkIn makes a link named base in directory dir below root, unless
// something has that name.
func SymlinkIn(root *os.File, dir, base, target string) error {
	d, err := openIn(root, dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Symlinkat(target, fdOf(d), base); err != nil && !errors.Is(err, unix.EEXIST) {
		return &os.PathError{Op: "link", Path: dir + "/" + base, Err: err}
	}
	return nil
}

// CopyOwnerMode gives directory to the owner and the mode of directory from.
func CopyOwnerMode(from, to string, skipOwner bool) error {
	var st unix.Stat_t
	if err := unix.Stat(from, &st); err != nil {
		return &os.PathError{Op: "stat", Path: from, Err: err}
	}
	if !skipOwner {
		if err := os.Chown(to, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
		return &os.PathError{Op: "chmod", Path: to, Err: err}
	}
	return nil
}
