package linux

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Overlay is an overlay file system. Without Upper it is read-only; with one
// lower directory and no upper it is that directory, read-only.
type Overlay struct {
	Lower    []string // topmost first, at least one
	Upper    string
	Work     string
	ReadOnly bool
}

// MountOverlay mounts o nowhere: it returns the root directory of a detached
// mount, which ends when the descriptor (and what was opened below it) is
// closed. It can be used with OpenInRoot, or attached with move_mount.
func MountOverlay(o Overlay) (*os.File, error) {
	if len(o.Lower) == 0 {
		return nil, fmt.Errorf("overlay without a lower directory: %w", unix.EINVAL)
	}
	if o.Upper == "" && len(o.Lower) == 1 {
		return OpenTreeReadOnly(o.Lower[0])
	}
	fs, err := Fsopen("overlay")
	if err != nil {
		return nil, err
	}
	defer fs.Close()
	if err := overlayConfig(fs, o); err != nil {
		return nil, err
	}
	return fs.mount(o.attrs())
}

func (o Overlay) attrs() int {
	if o.ReadOnly || o.Upper == "" {
		return unix.MOUNT_ATTR_RDONLY
	}
	return 0
}

func overlayConfig(fs *FsContext, o Overlay) error {
	if err := fs.lower(o.Lower); err != nil {
		return err
	}
	if o.Upper != "" {
		if err := fs.Set("upperdir", o.Upper); err != nil {
			return err
		}
		if err := fs.Set("workdir", o.Work); err != nil {
			return err
		}
	}
	return nil
}

// lower adds lower directories one by one (kernel 6.5), which has no length
// limit and needs no quoting, or as one string where the kernel is older.
func (fs *FsContext) lower(dirs []string) error {
	for i, d := range dirs {
		err := fs.Set("lowerdir+", d)
		if err != nil && i == 0 && errors.Is(err, unix.EINVAL) {
			quoted := make([]string, len(dirs))
			for j, d := range dirs {
				quoted[j] = strings.NewReplacer(`\`, `\\`, `:`, `\:`).Replace(d)
			}
			return fs.Set("lowerdir", strings.Join(quoted, ":"))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// MountMapped mounts lower directories, read-only and nowhere, with their owners
// shown through a user namespace as CloneIDMapped does. EINVAL before kernel 6.15,
// unless there is one only.
func MountMapped(lower []string, userns *os.File) (*os.File, error) {
	var o Overlay
	for _, dir := range lower {
		clone, err := CloneIDMapped(dir, userns)
		if err != nil {
			return nil, err
		}
		if len(lower) == 1 {
			if err := readOnly(clone); err != nil {
				clone.Close()
				return nil, err
			}
			return clone, nil
		}
		defer clone.Close() // the overlay has its own
		o.Lower = append(o.Lower, fmt.Sprintf("/proc/self/fd/%d", FD(clone)))
	}
	return MountOverlay(o)
}

func readOnly(mount *os.File) error {
	if err := unix.MountSetattr(FD(mount), "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return fmt.Errorf("make %s read-only: %w", mount.Name(), err)
	}
	return nil
}

// OpenTreeReadOnly is OpenTree of a mount alone, read-only.
func OpenTreeReadOnly(dir string) (*os.File, error) {
	f, err := OpenTree(dir, false)
	if err != nil {
		return nil, err
	}
	if err := readOnly(f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// OpenTree clones the mount at path (with everything below it if recursive) as
// a detached one.
func OpenTree(path string, recursive bool) (*os.File, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, flags)
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// HandedOver recognises /proc/PID/fd/N, under which a process hands a mount over
// that is mounted nowhere.
func HandedOver(source string) bool {
	rest, ok := strings.CutPrefix(source, "/proc/")
	pid, n, isFd := strings.Cut(rest, "/fd/")
	_, perr := strconv.Atoi(pid)
	_, nerr := strconv.Atoi(n)
	return ok && isFd && perr == nil && nerr == nil
}

// OpenSource is OpenTree of what a bind mount shows, to be moved to its place. A
// mount that is handed over is given itself where the kernel does not clone it, for
// it was cloned in another mount namespace: it can be moved once.
func OpenSource(source string, recursive bool) (*os.File, error) {
	f, err := OpenTree(source, recursive)
	if !errors.Is(err, unix.EINVAL) || !HandedOver(source) {
		return f, err
	}
	return os.OpenFile(source, unix.O_PATH, 0)
}

// FsContext is a file system being configured (fsopen). After an error the
// kernel's own explanation is part of it.
type FsContext struct {
	fd   int
	name string
}

// Fsopen starts a file system of the named type.
func Fsopen(name string) (*FsContext, error) {
	fd, err := unix.Fsopen(name, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsopen %s: %w", name, err)
	}
	return &FsContext{fd, name}, nil
}

// Close ends the configuration; mounts made of it stay.
func (fs *FsContext) Close() { unix.Close(fs.fd) }

// Set sets key to value; an empty value sets a flag.
func (fs *FsContext) Set(key, value string) error {
	var err error
	if value == "" {
		err = unix.FsconfigSetFlag(fs.fd, key)
	} else {
		err = unix.FsconfigSetString(fs.fd, key, value)
	}
	if err != nil {
		return fs.explain(fmt.Sprintf("%s: set %s=%s", fs.name, key, value), err)
	}
	return nil
}

// Mount makes the file system and returns its detached mount; attrs are
// MOUNT_ATTR_*.
func (fs *FsContext) Mount(attrs int) (*os.File, error) { return fs.mount(attrs) }

func (fs *FsContext) mount(attrs int) (*os.File, error) {
	if err := unix.FsconfigCreate(fs.fd); err != nil {
		return nil, fs.explain("mount "+fs.name, err)
	}
	fd, err := unix.Fsmount(fs.fd, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return nil, fs.explain("mount "+fs.name, err)
	}
	return os.NewFile(uintptr(fd), fs.name), nil
}

// explain adds what the kernel wrote to the context's log.
func (fs *FsContext) explain(what string, err error) error {
	var buf [1024]byte
	var said []string
	for range 8 {
		n, rerr := unix.Read(fs.fd, buf[:])
		if rerr != nil || n <= 0 {
			break
		}
		if buf[0] == 'e' || buf[0] == 'w' {
			said = append(said, strings.TrimSpace(string(buf[2:n])))
		}
	}
	if len(said) > 0 {
		return fmt.Errorf("%s: %s: %w", what, strings.Join(said, "; "), err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// MountsBelow lists the mount points below dir in this process's mount namespace,
// relative to dir, outer ones first.
func MountsBelow(dir string) ([]string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	prefix := strings.TrimSuffix(dir, "/") + "/"
	unquote := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var out []string
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		if rel, ok := strings.CutPrefix(unquote.Replace(f[4]), prefix); ok && rel != "" {
			out = append(out, rel)
		}
	}
	return out, nil
}
