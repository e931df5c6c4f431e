package volume

import (
	"context"
	"errors"
	"fmt"
	"hull/internal/hull"
	"hull/internal/linux"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
)

// image is the file system of a volume that no quota bounds.
func (s places) image(name string) string { return filepath.Join(s.dir, name, "image") }

// fileSystem mounts what a volume's options name, nowhere. nil = it is a plain
// directory. fresh = a file system in memory may be made. The caller holds st.mu.
func (s *Service) fileSystem(ctx context.Context, v hull.Volume, st *state, fresh bool) (*os.File, error) {
	o := v.Options
	switch typ := o["type"]; {
	case o["size"] != "":
		return s.openImage(v.Name)
	case typ == "":
		return nil, nil //nolint:nilnil // documented
	case typ == "tmpfs" || typ == "ramfs":
		return s.memory(v, st, fresh)
	case slices.ContainsFunc(strings.Split(o["o"], ","), func(w string) bool { return w == "bind" || w == "rbind" }):
		return openBind(o["device"], o["o"])
	default:
		options := o["o"]
		if typ == "nfs" || typ == "nfs4" || typ == "cifs" {
			var err error
			if options, err = withAddress(ctx, options); err != nil {
				return nil, err
			}
		}
		f, err := linux.MountFS(typ, o["device"], options)
		if err != nil {
			return nil, fmt.Errorf("%s (type %s, options %q): %w", o["device"], typ, o["o"], err)
		}
		return f, nil
	}
}

func openBind(device, options string) (*os.File, error) {
	if !filepath.IsAbs(device) {
		return nil, invalid("device %q of a bind is not an absolute path", device)
	}
	f, err := linux.MountBind(device, options)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, invalid("device %s: no such file or directory", device)
	}
	if err != nil {
		return nil, fmt.Errorf("%s (options %q): %w", device, options, err)
	}
	return f, nil
}

// memory opens a file system that exists only as a mount: that of a container
// which runs with it, else a new one.
func (s *Service) memory(v hull.Volume, st *state, fresh bool) (*os.File, error) {
	if st.held != nil {
		if f, err := linux.CloneAt(st.held, false); err == nil {
			return f, nil
		}
	}
	for _, c := range s.store.Containers() {
		if _, runs := st.running[c.ID]; !runs || c.Status.Pid == 0 {
			continue
		}
		for _, m := range c.Mounts {
			if m.Type != hull.MountVolume || m.Name != v.Name || m.Spec.Subpath != "" {
				continue
			}
			f, err := linux.CloneOf(c.Status.Pid, m.Target)
			if err != nil {
				continue // it has just ended
			}
			// The container may have put something else there.
			if magic, err := linux.FSType(f); err == nil && magic == linux.TmpfsMagic {
				return f, nil
			}
			closeAll(f)
		}
	}
	if !fresh {
		return nil, errdefs.ErrNotFound.WithMessage("it is in memory, and exists only while a container that uses it runs")
	}
	f, err := linux.MountFS(v.Options["type"], v.Options["device"], v.Options["o"])
	if err != nil {
		return nil, fmt.Errorf("type %s, options %q: %w", v.Options["type"], v.Options["o"], err)
	}
	clone, err := linux.CloneAt(f, false)
	if err != nil {
		return f, nil //nolint:nilerr // a kernel before 6.15: the next container gets a clone of this one's
	}
	// Kept without any container's ids: a mount that has some cannot get others.
	st.held = f
	return clone, nil
}

// directory opens a volume's root for reading and writing in it.
func (s places) directory(v hull.Volume, fs *os.File) (*os.File, error) {
	path := s.data(v.Name)
	if fs != nil {
		path = linux.ProcPath(fs)
	}
	return os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY, 0)
}

// subpath is a detached mount of sub in the volume. A container that has the volume
// may swap any component for a link at any time, so sub is resolved once, without
// leaving the volume, and what was found is mounted by descriptor.
func (s places) subpath(v hull.Volume, fs *os.File, sub string) (*os.File, error) {
	f, err := s.clone(v, fs, sub)
	switch {
	case errors.Is(err, syscall.EXDEV) || errors.Is(err, syscall.ELOOP):
		return nil, invalid("%s leads out of the volume: path concatenation escapes the base directory", sub)
	case errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENOTDIR):
		return nil, invalid("cannot access path %s: no such file or directory", sub)
	}
	return f, err
}

func (s places) clone(v hull.Volume, fs *os.File, sub string) (*os.File, error) {
	if fs != nil {
		return linux.CloneBelow(fs, s.dir, sub)
	}
	root, err := s.directory(v, nil)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := linux.OpenBeneath(root, sub, oPath, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return linux.CloneAt(f, false)
}

// Open opens what a mount point of a container shows, for a container that does
// not run. The mount, if one is needed, ends with the descriptor.
func (s *Service) Open(ctx context.Context, m hull.MountPoint) (*os.File, error) {
	if m.Type != hull.MountVolume {
		return os.Open(m.Source)
	}
	f, err := s.open(ctx, m.Name, m.Spec.Subpath)
	if err != nil {
		return nil, fmt.Errorf("open volume %s: %w", m.Name, err)
	}
	return f, nil
}

// open opens a volume, or sub in it.
func (s *Service) open(ctx context.Context, name, sub string) (*os.File, error) {
	v, err := s.store.Volume(name)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	st := s.of(v.Name)
	s.mu.Unlock()
	st.mu.Lock()
	defer st.mu.Unlock()
	if err := os.MkdirAll(s.data(v.Name), 0o755); err != nil {
		return nil, err
	}
	fs, err := s.fileSystem(ctx, v, st, false)
	if err != nil {
		return nil, err
	}
	if sub != "" {
		mnt, err := s.subpath(v, fs, sub)
		closeAll(fs)
		if err != nil {
			return nil, err
		}
		fs = mnt
	}
	defer closeAll(fs)
	if fs == nil {
		return s.directory(v, nil)
	}
	return os.Open(linux.ProcPath(fs)) // holds the mount, and reads
}

// bound limits what a new, empty volume may hold.
func (s places) bound(name string, size int64) error {
	dir, err := os.Open(s.data(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	err = linux.LimitTree(dir, 0, size)
	if !errors.Is(err, linux.ErrNoQuota) {
		return err
	}
	return makeImage(s.image(name), size)
}

// makeImage makes a sparse file of that many bytes with an empty file system.
func makeImage(path string, size int64) error {
	mkfs, err := exec.LookPath("mke2fs")
	if err != nil {
		return errdefs.ErrNotImplemented.WithMessage("a size needs project quota on the engine's file system (mount option prjquota), or the program mke2fs (Debian: apt-get install e2fsprogs)")
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = errors.Join(f.Truncate(size), f.Close())
	if err != nil {
		return err
	}
	// -m 0: nothing is reserved for root, whoever is root inside.
	cmd := exec.Command(mkfs, "-q", "-F", "-t", "ext4", "-m", "0", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1", path) //nolint:noctx // takes no time and cannot be left half done
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make file system: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// openImage mounts a volume's own file system, nowhere. nil = a quota bounds it.
func (s places) openImage(name string) (*os.File, error) {
	if _, err := os.Lstat(s.image(name)); errors.Is(err, os.ErrNotExist) {
		return nil, nil //nolint:nilnil // documented
	}
	dev, err := linux.LoopDevice(s.image(name))
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	f, err := linux.MountFS("ext4", dev.Name(), "")
	if err != nil {
		return nil, err
	}
	// An empty volume is empty: programs (and copy-up) look whether it is. fsck makes
	// it again when it needs it.
	if err := os.Remove(filepath.Join(linux.ProcPath(f), "lost+found")); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// project gives back the quota project of a directory after its removal.
func (s places) project(data string) (free func() error) {
	none := func() error { return nil }
	dir, err := os.Open(data)
	if err != nil {
		return none
	}
	defer dir.Close()
	own, err := linux.ProjectOf(dir)
	if err != nil || own == 0 {
		return none
	}
	return func() error {
		at, err := os.Open(s.dir)
		if err != nil {
			return err
		}
		defer at.Close()
		if all, err := linux.ProjectOf(at); err == nil && all == own {
			return nil // inherited: not ours
		}
		if err := linux.FreeTree(at, own); err != nil && !errors.Is(err, linux.ErrNoQuota) {
			return fmt.Errorf("free quota: %w", err)
		}
		return nil
	}
}

// size is the disk space that a volume takes. Bytes.
func (s places) size(ctx context.Context, v hull.Volume) (int64, error) {
	if st, err := os.Lstat(s.image(v.Name)); err == nil {
		if sys, ok := st.Sys().(*syscall.Stat_t); ok {
			return sys.Blocks * 512, nil
		}
	}
	return diskUsage(ctx, v.Mountpoint)
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
