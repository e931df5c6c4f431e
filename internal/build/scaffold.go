package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/hull"
	"hull/internal/linux"
)

// scaffold makes a layer with what the step's mounts go on, between its root file
// system and its own layer: the mount points are then no part of what the step
// has changed. (BuildKit's own executor removes them afterwards, by path.)
//
// The kernel makes it, as the upper directory of an overlay, so that directories
// of the image that are in it have the image's attributes; their times are put
// back.
func (e *executor) scaffold(id string, fs hull.Rootfs, binds []bind) (string, hull.Release, error) {
	at := filepath.Join(e.cfg.Root, "steps", id)
	dir, work := filepath.Join(at, "fs"), filepath.Join(at, "work")
	release := func(context.Context) error { return os.RemoveAll(at) }
	for _, d := range []string{dir, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return "", nil, errors.Join(err, release(nil)) //nolint:staticcheck // not used
		}
	}
	lower := fs.Lower
	if fs.Upper != "" {
		lower = append([]string{fs.Upper}, lower...) // it may have files: a second step on the same snapshot
	}
	if err := likeDir(lower[0], dir); err != nil {
		return "", nil, errors.Join(err, release(nil)) //nolint:staticcheck // not used
	}
	root, err := linux.MountOverlay(linux.Overlay{Lower: lower, Upper: dir, Work: work})
	if err != nil {
		return "", nil, errors.Join(err, release(nil)) //nolint:staticcheck // not used
	}
	defer func() { go root.Close() }() // the end of a mount takes an RCU grace period
	f := furnisher{root: root, times: map[string]time.Time{}}
	for _, d := range []string{"/proc", "/sys", "/dev"} {
		f.dir(d)
	}
	for _, n := range []string{"/etc/resolv.conf", "/etc/hosts", "/etc/hostname"} {
		f.file(n)
	}
	for _, b := range binds {
		if b.file {
			f.file(b.target)
		} else {
			f.dir(b.target)
		}
	}
	if err := errors.Join(f.err, f.restore()); err != nil {
		return "", nil, errors.Join(err, release(nil)) //nolint:staticcheck // not used
	}
	return dir, release, nil
}

// likeDir gives dir the owner, mode and time of another.
func likeDir(like, dir string) error {
	var st unix.Stat_t
	if err := unix.Stat(like, &st); err != nil {
		return &os.PathError{Op: "stat", Path: like, Err: err}
	}
	if err := os.Chown(dir, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return unix.Chmod(dir, st.Mode&0o7777)
}

// furnisher makes mount points below root.
type furnisher struct {
	root  *os.File
	times map[string]time.Time // of directories that were there
	err   error
}

// note remembers the time of the deepest directory on the way to p that is there.
func (f *furnisher) note(p string) {
	for d := path.Dir(p); ; d = path.Dir(d) {
		if _, ok := f.times[d]; ok {
			return
		}
		h, err := linux.OpenInRoot(f.root, d, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err == nil {
			if st, err := h.Stat(); err == nil {
				f.times[d] = st.ModTime()
			}
			h.Close()
			return
		}
		if d == "/" {
			return
		}
	}
}

func (f *furnisher) there(p string) bool {
	h, err := linux.OpenInRoot(f.root, p, unix.O_PATH, 0)
	if err != nil {
		return false
	}
	h.Close()
	return true
}

func (f *furnisher) dir(p string) {
	if f.err != nil || p == "/" || f.there(p) {
		return
	}
	f.note(p)
	d, err := linux.MkdirAllInRoot(f.root, p, 0o755)
	if err != nil {
		f.fail(p, err)
		return
	}
	d.Close()
}

func (f *furnisher) file(p string) {
	if f.err != nil || f.there(p) {
		return
	}
	f.dir(path.Dir(p))
	f.note(p)
	h, err := linux.OpenInRoot(f.root, p, unix.O_RDONLY|unix.O_CREAT, 0o644)
	if err != nil {
		f.fail(p, err)
		return
	}
	h.Close()
}

// fail keeps an error, unless the image has something strange there (a dangling
// link): that is the runtime's to report, if it matters.
func (f *furnisher) fail(p string, err error) {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ELOOP) || strings.HasPrefix(p, "/etc/") && errors.Is(err, os.ErrPermission) {
		return
	}
	f.err = fmt.Errorf("make %s: %w", p, err)
}

// restore puts the times of the image's directories back.
func (f *furnisher) restore() error {
	for d, t := range f.times {
		h, err := linux.OpenInRoot(f.root, d, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w", d, err)
		}
		ts := unix.NsecToTimespec(t.UnixNano())
		err = unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", h.Fd()), []unix.Timespec{ts, ts}, 0)
		h.Close()
		if err != nil {
			return fmt.Errorf("set time of %s: %w", d, err)
		}
	}
	return nil
}
