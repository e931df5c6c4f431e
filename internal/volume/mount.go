package volume

import (
	"context"
	"errors"
	"fmt"
	"hull/internal/hull"
	"hull/internal/linux"
	"hull/internal/undo"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Mount makes mount points ready for a run of containerID. root opens the
// container's root file system, of which an empty volume gets a copy of what the
// image has in its place. It may be called again for the same run (after a
// restart of the engine), and its release twice.
func (s *Service) Mount(ctx context.Context, containerID string, mounts []hull.MountPoint, root func() (*os.File, error)) (_ hull.Release, err error) {
	var back undo.Stack
	defer func() {
		if err != nil {
			err = errors.Join(err, back.Run(ctx, releaseLimit))
		}
	}()
	rootfs := lazyRoot{open: root}
	defer func() { err = errors.Join(err, rootfs.close()) }()
	for _, m := range mounts {
		switch m.Type {
		case hull.MountBind:
			if err := bindSource(m.Spec); err != nil {
				return nil, err
			}
		case hull.MountVolume:
			if err := s.mountVolume(ctx, containerID, m, &rootfs); err != nil {
				return nil, err
			}
			back.Add("release volume "+m.Name, func(context.Context) error { return s.release(containerID, m) })
		case hull.MountTmpfs, hull.MountImage:
		}
	}
	return func(context.Context) error {
		var errs []error
		for _, m := range mounts {
			if m.Type == hull.MountVolume {
				errs = append(errs, s.release(containerID, m))
			}
		}
		return errors.Join(errs...)
	}, nil
}

// mountVolume mounts a volume's file system, if it has one, fills it and makes
// the mount of its subpath.
func (s *Service) mountVolume(ctx context.Context, containerID string, m hull.MountPoint, root *lazyRoot) error {
	v, err := s.store.Volume(m.Name)
	if err != nil {
		return err
	}
	s.mu.Lock()
	st := s.of(v.Name)
	st.users[containerID] = struct{}{}
	s.mu.Unlock()

	st.mu.Lock()
	defer st.mu.Unlock()
	fail := func(err error) error { return fmt.Errorf("mount volume %s: %w", v.Name, err) }
	if err := os.MkdirAll(s.data(v.Name), 0o755); err != nil {
		return fail(err)
	}
	if err := mountDevice(ctx, s.data(v.Name), v.Options); err != nil {
		return fail(err)
	}
	if !m.Spec.NoCopy && m.Spec.Subpath == "" {
		if err := s.copyUp(v, m, len(st.running) > 0, root); err != nil {
			return fail(err)
		}
	}
	if m.Spec.Subpath != "" {
		if err := mountSubpath(s.data(v.Name), m.Spec.Subpath, m.Source); err != nil {
			return fail(fmt.Errorf("subpath: %w", err))
		}
	}
	if _, again := st.running[containerID]; !again {
		st.running[containerID] = struct{}{}
		s.publish("mount", v, map[string]string{
			"container": containerID, "destination": m.Target,
			"read/write": fmt.Sprint(m.RW), "propagation": m.Propagation,
		})
	}
	return nil
}

// release is the reverse of mountVolume.
func (s *Service) release(containerID string, m hull.MountPoint) error {
	s.mu.Lock()
	st := s.state[m.Name]
	s.mu.Unlock()
	if st == nil {
		return nil
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if m.Spec.Subpath != "" {
		if err := unmountSubpath(m.Source); err != nil {
			return fmt.Errorf("release volume %s: %w", m.Name, err)
		}
	}
	if _, ok := st.running[containerID]; !ok {
		return nil
	}
	delete(st.running, containerID)
	if v, err := s.store.Volume(m.Name); err == nil {
		s.publish("unmount", v, map[string]string{"container": containerID})
	}
	if len(st.running) > 0 {
		return nil
	}
	if err := unmount(s.data(m.Name)); err != nil {
		return fmt.Errorf("release volume %s: %w", m.Name, err)
	}
	return nil
}

// copyUp fills an empty volume with what the image has at the mount's target,
// owner and mode of the directory itself included.
func (s *Service) copyUp(v hull.Volume, m hull.MountPoint, shared bool, root *lazyRoot) error {
	dst, err := os.Open(s.data(v.Name))
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
	if err := linux.CopyTree(src, dst); err != nil {
		err = fmt.Errorf("copy the image's content: %w", err)
		if shared { // what is there now may be another container's
			return err
		}
		// Else the next start would find it not empty, and take a part for all.
		return errors.Join(err, clearDir(s.data(v.Name)))
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

// mountDevice mounts the file system that a volume's options name on path,
// unless it is there already.
func mountDevice(ctx context.Context, path string, o map[string]string) error {
	if o["type"] == "" && o["device"] == "" {
		return nil
	}
	if mounted, err := isMountPoint(path); err != nil || mounted {
		return err
	}
	flags, data := mountOptions(o["o"])
	device := o["device"]
	if o["type"] == "nfs" || o["type"] == "nfs4" || o["type"] == "cifs" {
		var err error
		if data, err = withAddress(ctx, data); err != nil {
			return err
		}
	}
	if flags&syscall.MS_BIND != 0 {
		if _, err := os.Stat(device); err != nil {
			return invalid("failed to mount local volume: mount %s:%s, flags: %#x: no such file or directory", device, path, flags)
		}
	}
	if err := syscall.Mount(device, path, o["type"], flags, data); err != nil {
		return fmt.Errorf("mount %s (type %s, options %q): %w", device, o["type"], o["o"], err)
	}
	if flags&syscall.MS_BIND != 0 && flags&^(syscall.MS_BIND|syscall.MS_REC) != 0 {
		// The first call of a bind mount ignores every other flag.
		if err := syscall.Mount("", path, "", flags|syscall.MS_REMOUNT, ""); err != nil {
			return errors.Join(fmt.Errorf("mount %s with options %q: %w", device, o["o"], err), unmount(path))
		}
	}
	return nil
}

// withAddress replaces a host name in addr= by its address: the kernel has no
// resolver.
func withAddress(ctx context.Context, data string) (string, error) {
	opts := strings.Split(data, ",")
	for i, o := range opts {
		host, ok := strings.CutPrefix(o, "addr=")
		if !ok || net.ParseIP(host) != nil {
			continue
		}
		ips, err := net.DefaultResolver.LookupHost(ctx, host)
		if err != nil {
			return "", fmt.Errorf("resolve address of volume server: %w", err)
		}
		opts[i] = "addr=" + ips[0]
	}
	return strings.Join(opts, ","), nil
}

// mountOptions splits mount(8)'s option string into flags and the rest, which is
// the file system's own.
func mountOptions(s string) (flags uintptr, data string) {
	known := map[string]struct {
		set, clear uintptr
	}{
		"defaults": {}, "ro": {set: syscall.MS_RDONLY}, "rw": {clear: syscall.MS_RDONLY},
		"nosuid": {set: syscall.MS_NOSUID}, "suid": {clear: syscall.MS_NOSUID},
		"nodev": {set: syscall.MS_NODEV}, "dev": {clear: syscall.MS_NODEV},
		"noexec": {set: syscall.MS_NOEXEC}, "exec": {clear: syscall.MS_NOEXEC},
		"sync": {set: syscall.MS_SYNCHRONOUS}, "async": {clear: syscall.MS_SYNCHRONOUS},
		"dirsync": {set: syscall.MS_DIRSYNC}, "mand": {set: syscall.MS_MANDLOCK}, "nomand": {clear: syscall.MS_MANDLOCK},
		"noatime": {set: syscall.MS_NOATIME}, "atime": {clear: syscall.MS_NOATIME},
		"nodiratime": {set: syscall.MS_NODIRATIME}, "diratime": {clear: syscall.MS_NODIRATIME},
		"relatime": {set: syscall.MS_RELATIME}, "norelatime": {clear: syscall.MS_RELATIME},
		"strictatime": {set: syscall.MS_STRICTATIME},
		"bind":        {set: syscall.MS_BIND}, "rbind": {set: syscall.MS_BIND | syscall.MS_REC},
	}
	var rest []string
	for o := range strings.SplitSeq(s, ",") {
		k, ok := known[o]
		if !ok && o != "" {
			rest = append(rest, o)
			continue
		}
		flags = flags&^k.clear | k.set
	}
	return flags, strings.Join(rest, ",")
}

// mountSubpath binds sub of the volume at data to path. A container that has the
// volume may swap any component for a link at any time, so sub is resolved once,
// without following any, and what was found is mounted by descriptor.
func mountSubpath(data, sub, path string) (err error) {
	if mounted, err := isMountPoint(path); err != nil || mounted {
		return err
	}
	root, err := os.Open(data)
	if err != nil {
		return err
	}
	defer root.Close()
	f, err := linux.OpenBeneath(root, sub, oPath, 0)
	switch {
	case errors.Is(err, syscall.EXDEV) || errors.Is(err, syscall.ELOOP):
		return invalid("%s leads out of the volume", sub)
	case errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENOTDIR):
		return invalid("cannot access path %s: no such file or directory", sub)
	case err != nil:
		return err
	}
	defer f.Close()
	if err := makePlace(f, path); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, unmountSubpath(path))
		}
	}()
	if err := syscall.Mount(linux.ProcPath(f), path, "", syscall.MS_BIND, ""); err != nil {
		return err
	}
	return syscall.Mount("", path, "", syscall.MS_PRIVATE, "")
}

// makePlace makes something at path that f can be mounted on.
func makePlace(f *os.File, path string) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.IsDir() {
		return os.MkdirAll(path, 0o700)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	p, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return err
	}
	return p.Close()
}

func unmountSubpath(path string) error {
	if err := unmount(path); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	// The container's directory goes with the last one.
	err := os.Remove(filepath.Dir(path))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EBUSY) {
		return nil
	}
	return err
}
