package volume

import (
	"context"
	"errors"
	"fmt"
	"hull/internal/hull"
	"hull/internal/linux"
	"hull/internal/undo"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// Mount makes mount points ready for a run of containerID. The Source of each that
// it returns is where the container's driver finds what to bind, until the release:
// the host's path of a bind or a plain volume, or a detached mount of this process.
// root opens the container's root file system, of which an empty volume gets a copy
// of what the image has in its place. The release may be called twice.
func (s *Service) Mount(ctx context.Context, containerID string, mounts []hull.MountPoint, root func() (*os.File, error)) (_ []hull.MountPoint, _ hull.Release, err error) {
	var back undo.Stack
	defer func() {
		if err != nil {
			err = errors.Join(err, back.Run(ctx, releaseLimit))
		}
	}()
	rootfs := lazyRoot{open: root}
	defer func() { err = errors.Join(err, rootfs.close()) }()
	ready := slices.Clone(mounts)
	var held []*os.File
	for i, m := range mounts {
		switch m.Type {
		case hull.MountBind:
			if err := bindSource(m.Spec); err != nil {
				return nil, nil, err
			}
		case hull.MountVolume:
			f, err := s.mountVolume(ctx, containerID, m, &rootfs)
			if err != nil {
				return nil, nil, err
			}
			if f != nil {
				held = append(held, f)
				ready[i].Source = linux.HandOver(f)
			}
			back.Add("release volume "+m.Name, func(context.Context) error { return s.release(containerID, m, f) })
		case hull.MountTmpfs, hull.MountImage, hull.MountSecret:
		}
	}
	again := s.Reattach(containerID, mounts)
	return ready, func(ctx context.Context) error {
		closeAll(held...)
		held = nil
		return again(ctx)
	}, nil
}

// Reattach is Mount for a run that goes on after a restart of the engine: nothing
// is mounted, and the release is the same.
func (s *Service) Reattach(containerID string, mounts []hull.MountPoint) hull.Release {
	for _, m := range mounts {
		if m.Type != hull.MountVolume {
			continue
		}
		s.mu.Lock()
		st := s.of(m.Name)
		st.users[containerID] = struct{}{}
		s.mu.Unlock()
		st.mu.Lock()
		st.running[containerID] = struct{}{}
		st.mu.Unlock()
	}
	return func(context.Context) error {
		var errs []error
		for _, m := range mounts {
			if m.Type == hull.MountVolume {
				errs = append(errs, s.release(containerID, m, nil))
			}
		}
		return errors.Join(errs...)
	}
}

// mountVolume opens a volume's file system, if it has one, fills it, and gives the
// detached mount to bind; nil = the volume's directory on the host.
func (s *Service) mountVolume(ctx context.Context, containerID string, m hull.MountPoint, root *lazyRoot) (mnt *os.File, err error) {
	v, err := s.store.Volume(m.Name)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	st := s.of(v.Name)
	st.users[containerID] = struct{}{}
	s.mu.Unlock()

	st.mu.Lock()
	defer st.mu.Unlock()
	fail := func(err error) (*os.File, error) { return nil, fmt.Errorf("mount volume %s: %w", v.Name, err) }
	if err := os.MkdirAll(s.data(v.Name), 0o755); err != nil {
		return fail(err)
	}
	fs, err := s.fileSystem(ctx, v, st, true)
	if err != nil {
		return fail(err)
	}
	if m.Spec.Subpath != "" {
		sub, err := s.subpath(v, fs, m.Spec.Subpath)
		closeAll(fs)
		if err != nil {
			return fail(fmt.Errorf("subpath: %w", err))
		}
		fs = sub
	}
	if !m.Spec.NoCopy {
		if err := s.copyUp(v, m, fs, len(st.running) > 0, root); err != nil {
			closeAll(fs)
			return fail(err)
		}
	}
	if _, again := st.running[containerID]; !again {
		st.running[containerID] = struct{}{}
		s.publish("mount", v, map[string]string{
			"container": containerID, "destination": m.Target,
			"read/write": fmt.Sprint(m.RW), "propagation": m.Propagation,
		})
	}
	return fs, nil
}

// release is the reverse of mountVolume.
func (s *Service) release(containerID string, m hull.MountPoint, f *os.File) error {
	closeAll(f)
	s.mu.Lock()
	st := s.state[m.Name]
	s.mu.Unlock()
	if st == nil {
		return nil
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if _, ok := st.running[containerID]; !ok {
		return nil
	}
	delete(st.running, containerID)
	if len(st.running) == 0 {
		closeAll(st.held)
		st.held = nil
	}
	if v, err := s.store.Volume(m.Name); err == nil {
		s.publish("unmount", v, map[string]string{"container": containerID})
	}
	return nil
}

func closeAll(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close() // only a reference to a mount
		}
	}
}

// copyUp fills an empty volume with what the image has at the mount's target,
// owner and mode of the directory itself included.
func (s *Service) copyUp(v hull.Volume, m hull.MountPoint, fs *os.File, shared bool, root *lazyRoot) error {
	dst, err := s.directory(v, fs)
	if errors.Is(err, syscall.ENOTDIR) {
		return nil // a bound file
	}
	if err != nil {
		return err
	}
	defer dst.Close()
	if empty, err := isEmpty(dst); err != nil || !empty {
		return err
	}
	r, err := root.get()
	if err != nil || r == nil {
		return err
	}
	// The image decides what lies at the target, a link out of it for one.
	src, err := linux.OpenInRoot(r, m.Target, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP) {
		return nil
	}
	if err != nil {
		return err
	}
	defer src.Close()
	err = linux.CopyTree(src, dst)
	if errors.Is(err, syscall.EROFS) {
		return nil // asked for so
	}
	if err != nil {
		err = fmt.Errorf("copy the image's content: %w", err)
		if shared { // what is there now may be another container's
			return err
		}
		// Else the next start would find it not empty, and take a part for all.
		return errors.Join(err, clearDir(linux.ProcPath(dst)))
	}
	return nil
}

func isEmpty(dir *os.File) (bool, error) {
	_, err := dir.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}

func clearDir(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(path, e.Name())))
	}
	return errors.Join(errs...)
}

// lazyRoot opens the container's root file system when the first volume needs it.
type lazyRoot struct {
	open func() (*os.File, error)
	f    *os.File
}

func (l *lazyRoot) get() (*os.File, error) {
	if l.f != nil || l.open == nil {
		return l.f, nil
	}
	f, err := l.open()
	if err != nil {
		return nil, fmt.Errorf("open root file system: %w", err)
	}
	l.f = f
	return f, nil
}

func (l *lazyRoot) close() error {
	if l.f == nil {
		return nil
	}
	return l.f.Close()
}
