package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func (g *Group) create(r *specs.LinuxResources) (warnings []string, err error) {
	made := 0
	defer func() {
		if err != nil {
			for _, d := range g.dirs[:made] {
				err = errors.Join(err, os.Remove(d.Path))
			}
		}
	}()
	for i, h := range g.sys.hiers {
		if err := g.mkdir(h, g.dirs[i].Path); err != nil {
			return nil, err
		}
		made++
	}
	if r == nil {
		return nil, nil
	}
	return g.apply(r, true)
}

// mkdir makes one directory and, the first time, its parents.
func (g *Group) mkdir(h hierarchy, path string) error {
	err := os.Mkdir(path, 0o755)
	if errors.Is(err, os.ErrNotExist) {
		if err := g.mkparents(h, filepath.Dir(path)); err != nil {
			return err
		}
		err = os.Mkdir(path, 0o755)
	}
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("cgroup %s: %w", path, errdefs.ErrAlreadyExists)
	}
	if err != nil {
		return err
	}
	return g.sys.inheritCpuset(h, path, false)
}

func (g *Group) createParent() error {
	for i, h := range g.sys.hiers {
		path := g.dirs[i].Path
		if err := g.mkparents(h, path); err != nil {
			return err
		}
		if err := g.sys.inheritCpuset(h, path, true); err != nil {
			return err
		}
	}
	return nil
}

func (g *Group) mkparents(h hierarchy, path string) error {
	if len(path) <= len(h.mount) {
		return nil
	}
	if err := g.mkparents(h, filepath.Dir(path)); err != nil {
		return err
	}
	err := os.Mkdir(path, 0o755)
	ours := err == nil
	if errors.Is(err, os.ErrExist) {
		err = nil
	}
	if err == nil && h.v2 && g.sys.V2 {
		err = g.delegate(filepath.Dir(path))
		if err == nil {
			err = g.delegate(path)
		}
	}
	if err != nil {
		return err
	}
	return g.sys.inheritCpuset(h, path, ours)
}

// delegate turns the controllers on for what is below dir (v2).
func (g *Group) delegate(dir string) error {
	have, err := read(dir, "cgroup.controllers")
	if err != nil {
		return err
	}
	for c := range strings.FieldsSeq(have) {
		// One by one: a controller that cannot be delegated (cpu with real-time
		// tasks in the root) does not take the others with it.
		if err := write(dir, "cgroup.subtree_control", "+"+c); err != nil && c != "cpu" && c != "hugetlb" && c != "rdma" && c != "misc" {
			return err
		}
	}
	return nil
}

// inheritCpuset fills a v1 cpuset, which cannot be joined while it is empty. The
// kernel does it where the parent says so; our own parents are made to say it.
func (s *System) inheritCpuset(h hierarchy, path string, parent bool) error {
	if !slices.Contains(h.controllers, "cpuset") {
		return nil
	}
	if !parent && s.clones(filepath.Dir(path)) {
		return nil
	}
	for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
		if v, err := read(path, f); err != nil || v != "" {
			if err != nil {
				return err
			}
			continue
		}
		v, err := read(filepath.Dir(path), f)
		if err == nil && v == "" && filepath.Dir(path) != h.mount {
			// A parent that somebody else made and left empty.
			if err = s.inheritCpuset(h, filepath.Dir(path), false); err == nil {
				v, err = read(filepath.Dir(path), f)
			}
		}
		if err != nil {
			return err
		}
		if err := write(path, f, v); err != nil {
			return err
		}
	}
	if parent {
		return write(path, cloneChildren, "1")
	}
	return nil
}

const cloneChildren = "cgroup.clone_children"

// clones says whether new cpusets below dir start filled. Yes is remembered.
func (s *System) clones(dir string) bool {
	if _, ok := s.cloning.Load(dir); ok {
		return true
	}
	if v, err := read(dir, cloneChildren); err != nil || v != "1" {
		return false
	}
	s.cloning.Store(dir, struct{}{})
	return true
}

func (g *Group) freeze(ctx context.Context, on bool) error {
	if d := g.unified(); d != "" {
		want := "0"
		if on {
			want = "1"
		}
		if err := write(d, "cgroup.freeze", want); err != nil {
			return notFound(err)
		}
		return waitEvent(ctx, d, "frozen", want)
	}
	d, want := g.dir("freezer"), "THAWED"
	if on {
		want = "FROZEN"
	}
	if d == "" {
		return fmt.Errorf("freeze: no freezer cgroup here: %w", errdefs.ErrNotImplemented)
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		// Written again each time: v1 gives up when a process forks meanwhile.
		if err := write(d, "freezer.state", want); err != nil {
			return notFound(err)
		}
		if s, err := read(d, "freezer.state"); err != nil || s == want {
			return err
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

func (g *Group) frozen() (bool, error) {
	if d := g.unified(); d != "" {
		n, err := keyed(d, "cgroup.events", "frozen")
		return n == 1, notFound(err)
	}
	s, err := read(g.dir("freezer"), "freezer.state")
	return s != "THAWED", notFound(err)
}

// freezerSet looks at what was asked for, not at what has been done: an empty group
// is never done.
func (g *Group) freezerSet() (bool, error) {
	for _, f := range []struct{ dir, file, thawed string }{
		{g.unified(), "cgroup.freeze", "0"}, {g.dir("freezer"), "freezer.state", "THAWED"},
	} {
		if f.dir == "" {
			continue
		}
		s, err := read(f.dir, f.file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil || s != f.thawed {
			return err == nil, err
		}
	}
	return false, nil
}

// adopt makes what is missing of a group and applies all limits.
func (g *Group) adopt(r *specs.LinuxResources) ([]string, error) {
	for i, h := range g.sys.hiers {
		if err := g.mkdir(h, g.dirs[i].Path); err != nil && !errdefs.IsAlreadyExists(err) {
			return nil, err
		}
	}
	l := &limiter{g: g}
	warn, err := g.apply(r, false)
	if err == nil && len(r.Devices) == 0 {
		err = l.devices(r)
	}
	return append(warn, l.warn...), err
}

func notFound(err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	return err
}

// waitEvent waits until cgroup.events says key = want. The kernel wakes us.
func waitEvent(ctx context.Context, dir, key, want string) error {
	f, err := os.Open(dir + "/cgroup.events")
	if err != nil {
		return notFound(err)
	}
	defer f.Close()
	var buf [256]byte
	for {
		n, err := f.ReadAt(buf[:], 0)
		if n == 0 {
			return notFound(errors.Unwrap(err))
		}
		for line := range strings.Lines(string(buf[:n])) {
			if strings.TrimSpace(line) == key+" "+want {
				return nil
			}
		}
		// kernfs: POLLPRI after a change since the last read. Bounded, so that ctx
		// is looked at.
		fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(fds, 50); err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("poll", err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

func (g *Group) kill(ctx context.Context) error {
	if d := g.unified(); d != "" {
		err := write(d, "cgroup.kill", "1")
		switch {
		case err == nil:
			return ignoreMissing(waitEvent(ctx, d, "populated", "0"))
		case errdefs.IsNotFound(notFound(err)) && !g.Exists():
			return nil
		case !errdefs.IsNotFound(notFound(err)): // kernel before 5.14 has no such file
			return err
		}
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		pids, err := g.pids()
		if err != nil || len(pids) == 0 {
			return ignoreMissing(err)
		}
		// Frozen, nothing can fork away while the list is walked.
		froze := g.freeze(ctx, true) == nil
		if again, err := g.pids(); err == nil {
			pids = again
		}
		for _, p := range pids {
			if err := syscall.Kill(p, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("kill process %d: %w", p, err)
			}
		}
		if froze {
			if err := g.freeze(ctx, false); err != nil {
				return ignoreMissing(err)
			}
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

func ignoreMissing(err error) error {
	if errdefs.IsNotFound(notFound(err)) {
		return nil
	}
	return err
}

func (g *Group) destroy(ctx context.Context) error {
	var errs []error
	for i := range g.dirs {
		errs = append(errs, remove(ctx, g.dirs[i].Path))
	}
	return errors.Join(errs...)
}

// remove is rmdir, children first, repeated while the last process is still on
// its way out (EBUSY).
func remove(ctx context.Context, path string) error {
	for wait := 500 * time.Microsecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := unix.Rmdir(path)
		switch {
		case err == nil, errors.Is(err, unix.ENOENT):
			return nil
		case !errors.Is(err, unix.EBUSY), ctx.Err() != nil:
			return &os.PathError{Op: "rmdir", Path: path, Err: err}
		}
		children, err := os.ReadDir(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		for _, c := range children {
			if c.IsDir() {
				if err := remove(ctx, filepath.Join(path, c.Name())); err != nil {
					return err
				}
			}
		}
		if unix.Rmdir(path) == nil {
			return nil
		}
		if err := pause(ctx, wait); err != nil {
			return &os.PathError{Op: "rmdir", Path: path, Err: unix.EBUSY}
		}
	}
}
