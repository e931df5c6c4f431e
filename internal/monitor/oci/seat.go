package oci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"hull/internal/linux"
	"hull/internal/runtime"
)

// seat is a thread with a mount namespace of its own. What is started on it lives
// in that namespace, and in the cgroups that it has joined.
type seat struct {
	work    chan func()
	leaves  chan struct{} // closed for the thread to end
	done    chan struct{} // closed by the thread
	unified *os.File      // v2 directory that children are cloned into; nil = none
}

var errSeatEnded = errors.New("the container's thread has ended")

func newSeat() *seat {
	s := &seat{work: make(chan func()), leaves: make(chan struct{}), done: make(chan struct{})}
	linux.GoOnThread(func() {
		defer close(s.done)
		for {
			select {
			case f := <-s.work:
				f()
			case <-s.leaves:
				return
			}
		}
	})
	return s
}

// do runs f on the thread.
func (s *seat) do(f func() error) error {
	res := make(chan error, 1)
	select {
	case s.work <- func() { res <- f() }:
		return <-res
	case <-s.done:
		return errSeatEnded
	}
}

// end lets the thread die, and with it the mounts that nobody else holds.
func (s *seat) end() {
	close(s.leaves)
	<-s.done
	if s.unified != nil {
		s.unified.Close()
	}
}

// leave makes the mount namespace. Mounts of the host come in, as far as they are
// shared there, nothing goes out.
func (s *seat) leave() error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("keep mounts to ourselves: %w", err)
	}
	return nil
}

// join enters a container's cgroup.
func (s *seat) join(cg runtime.Cgroup) error {
	for _, d := range cg.Dirs {
		if cg.V2 || d.Hierarchy == "unified" || d.Hierarchy == "" {
			// Only a whole process can be in this one: children are cloned into it.
			f, err := os.OpenFile(d.Path, unix.O_PATH|unix.O_DIRECTORY, 0)
			if err != nil {
				return err
			}
			s.unified = f
			continue
		}
		// A write of 0 is the thread itself.
		tasks, err := os.OpenFile(filepath.Join(d.Path, "tasks"), os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = tasks.WriteString("0")
		if err := errors.Join(err, tasks.Close()); err != nil {
			return fmt.Errorf("join cgroup: %w", err)
		}
	}
	return nil
}

// mountRoot mounts a root file system at dir, in this thread's namespace only.
func (s *seat) mountRoot(c *Container, dir string) error {
	f, err := linux.MountOverlay(linux.Overlay{Lower: c.Lower, Upper: c.Upper, Work: c.Work, ReadOnly: c.ReadOnly})
	if err != nil {
		return fmt.Errorf("mount root file system: %w", err)
	}
	defer f.Close()
	if err := linux.Attach(f, dir); err != nil {
		return fmt.Errorf("attach root file system: %w", err)
	}
	return nil
}

// attach mounts what was handed over to this process, below dir in this thread's
// namespace: a runtime cannot bind what is mounted nowhere. It returns where each
// source is now.
func (s *seat) attach(binds []Bind, dir string) (map[string]string, error) {
	places := map[string]string{}
	for i, b := range binds {
		if !linux.HandedOver(b.Source) {
			continue
		}
		at := filepath.Join(dir, strconv.Itoa(i))
		if err := attachOne(b, at); err != nil {
			return nil, fmt.Errorf("attach what is mounted on %s: %w", b.Target, err)
		}
		places[b.Source] = at
	}
	return places, nil
}

func attachOne(b Bind, at string) error {
	st, err := os.Stat(b.Source)
	if err != nil {
		return err
	}
	src, err := linux.OpenSource(b.Source, b.Recursive)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
		return err
	}
	if st.IsDir() {
		err = os.Mkdir(at, 0o700)
	} else {
		err = writeFile(at, nil)
	}
	if err != nil {
		return err
	}
	return linux.Attach(src, at)
}

// mountTmp attaches the /tmp of a root file system at dir, an empty directory where it
// has none.
func (s *seat) mountTmp(root, dir string) error {
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o777|os.ModeSticky)); err != nil {
		return fmt.Errorf("make /tmp: %w", err)
	}
	r, err := os.Open(root)
	if err != nil {
		return fmt.Errorf("find /tmp: %w", err)
	}
	defer r.Close()
	// A link of the image's leads nowhere else.
	tmp, err := linux.OpenInRoot(r, "/tmp", unix.O_PATH|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find /tmp: %w", err)
	}
	defer tmp.Close()
	f, err := linux.CloneAt(tmp, false)
	if err != nil {
		return fmt.Errorf("find /tmp: %w", err)
	}
	defer f.Close()
	if err := linux.Attach(f, dir); err != nil {
		return fmt.Errorf("attach /tmp: %w", err)
	}
	return nil
}

// maskControllers hides which v2 controllers there are.
func (s *seat) maskControllers(empty string) error {
	for _, dir := range []string{"/sys/fs/cgroup/unified"} {
		err := unix.Mount(empty, filepath.Join(dir, "cgroup.controllers"), "", unix.MS_BIND, "")
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
			return fmt.Errorf("hide cgroup controllers: %w", err)
		}
	}
	return nil
}
