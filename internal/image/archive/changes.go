package archive

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"hull/internal/hull"
)

// Kinds of hull.Change.
const (
	changed = 0
	added   = 1
	deleted = 2
)

// Changes lists what upper changes of the layers below it (topmost first), in
// Docker's way: sorted, with the directories in which something changed.
func Changes(upper *os.File, lower []*os.File) ([]hull.Change, error) {
	c := &comparer{}
	if err := c.dir(upper, merged(lower), ""); err != nil {
		return nil, err
	}
	slices.SortFunc(c.list, func(a, b hull.Change) int { return strings.Compare(a.Path, b.Path) })
	return c.list, nil
}

type comparer struct{ list []hull.Change }

func (c *comparer) add(path string, kind int) {
	c.list = append(c.list, hull.Change{Path: path, Kind: kind})
}

// dir compares one directory of upper with what is below it.
func (c *comparer) dir(upper *os.File, low merged, path string) error {
	names, err := readNames(upper)
	if err != nil {
		return fmt.Errorf("read directory %s: %w", path, err)
	}
	for _, n := range names {
		if err := c.entry(upper, low, path, n); err != nil {
			return err
		}
	}
	if path != "" && isOpaque(upper) {
		return c.hidden(names, low, path)
	}
	return nil
}

// hidden lists what an opaque directory hides.
func (c *comparer) hidden(names []string, low merged, path string) error {
	below, err := low.names()
	if err != nil {
		return err
	}
	for _, n := range below {
		if !slices.Contains(names, n) {
			c.add(path+"/"+n, deleted)
		}
	}
	return nil
}

func (c *comparer) entry(upper *os.File, low merged, dir, name string) error {
	path := dir + "/" + name
	f, err := openAt(upper, name)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fdOf(f), &st); err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	was, below, err := low.lookup(name)
	if err != nil {
		return err
	}
	defer below.close()
	if isWhiteout(&st) {
		if was != nil {
			c.add(path, deleted)
		}
		return nil
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	at := len(c.list)
	if isDir {
		sub, err := os.Open(procPath(f, ""))
		if err != nil {
			return fmt.Errorf("open directory %s: %w", path, err)
		}
		defer sub.Close()
		if err := c.dir(sub, below, path); err != nil {
			return err
		}
	}
	switch {
	case was == nil:
		c.add(path, added)
	case isDir && len(c.list) == at && sameDir(was, &st):
		// Copied up because something below it was, and that was undone.
	default:
		c.add(path, changed)
	}
	return nil
}

func sameDir(a, b *unix.Stat_t) bool {
	return a.Mode == b.Mode && a.Uid == b.Uid && a.Gid == b.Gid && a.Mtim == b.Mtim
}

// merged is one directory as the layers below show it: the directories of that
// name that are seen, topmost first.
type merged []*os.File

func (m merged) close() {
	for _, f := range m {
		f.Close()
	}
}

// lookup finds a name. st is nil when it does not exist; below is the merged
// directory when it is one, to be closed by the caller.
func (m merged) lookup(name string) (st *unix.Stat_t, below merged, err error) {
	for _, d := range m {
		var s unix.Stat_t
		if err := unix.Fstatat(fdOf(d), name, &s, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			if errors.Is(err, unix.ENOENT) {
				continue
			}
			below.close()
			return nil, nil, &os.PathError{Op: "stat", Path: name, Err: err}
		}
		if s.Mode&unix.S_IFMT != unix.S_IFDIR {
			if st == nil && !isWhiteout(&s) {
				st = &s
			}
			return st, below, nil
		}
		if st == nil {
			st = &s
		}
		fd, err := unix.Openat(fdOf(d), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			below.close()
			return nil, nil, &os.PathError{Op: "open", Path: name, Err: err}
		}
		f := os.NewFile(uintptr(fd), name)
		below = append(below, f)
		if isOpaque(f) {
			return st, below, nil
		}
	}
	return st, below, nil
}

// names lists the directory.
func (m merged) names() ([]string, error) {
	gone, seen := map[string]bool{}, map[string]bool{}
	for _, d := range m {
		list, err := readNames(d)
		if err != nil {
			return nil, fmt.Errorf("read directory: %w", err)
		}
		for _, n := range list {
			var st unix.Stat_t
			if seen[n] || gone[n] || unix.Fstatat(fdOf(d), n, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
				continue
			}
			if isWhiteout(&st) {
				gone[n] = true
			} else {
				seen[n] = true
			}
		}
	}
	list := make([]string, 0, len(seen))
	for n := range seen {
		list = append(list, n)
	}
	slices.Sort(list)
	return list, nil
}
