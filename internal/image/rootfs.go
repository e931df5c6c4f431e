package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hull/internal/hull"
	"hull/internal/image/archive"
	"hull/internal/linux"
)

// Open mounts the root file system of a container that does not run, nowhere,
// and returns its root directory. The mount ends with the last descriptor in it.
func (s *Service) Open(ctx context.Context, id string) (*os.File, error) {
	b, err := s.mounted(ctx, id)
	if err != nil {
		return nil, err
	}
	lower, err := s.lower(b)
	if err != nil {
		return nil, err
	}
	dir := s.boxDir(id)
	f, err := linux.MountOverlay(linux.Overlay{Lower: lower, Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work")})
	if err != nil {
		return nil, fmt.Errorf("open root file system of container %s: %w", id, err)
	}
	return f, nil
}

// OpenImage mounts what container id stands on without its writable layer, nowhere
// and read-only, and opens the root or what is at subpath below it. Owners are shown
// as those of ids.
func (s *Service) OpenImage(ctx context.Context, id, subpath string, ids hull.IDRange) (*os.File, error) {
	b, err := s.mounted(ctx, id)
	if err != nil {
		return nil, err
	}
	dirs, err := s.lowerOf(b.chain)
	if err != nil {
		return nil, err
	}
	root, err := mountLayers(dirs, ids)
	if err != nil || subpath == "" {
		return root, err
	}
	f, err := linux.CloneBelow(root, s.root, subpath)
	err = errors.Join(err, root.Close())
	if errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.EXDEV) {
		return nil, fmt.Errorf("%s leads out of the image: path concatenation escapes the base directory: %w", subpath, errdefs.ErrInvalidArgument)
	}
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENOTDIR) {
		return nil, fmt.Errorf("cannot access path %s of the image: %w: %w", subpath, err, errdefs.ErrInvalidArgument)
	}
	return f, err
}

// mountLayers mounts layers read-only. On a kernel that cannot map the owners of
// several at once, they are nobody's to ids.
func mountLayers(dirs []string, ids hull.IDRange) (*os.File, error) {
	if ids.Size > 0 {
		users, err := linux.NewUserNS([]linux.IDMap{{Host: ids.UID, Size: ids.Size}}, []linux.IDMap{{Host: ids.GID, Size: ids.Size}})
		if err != nil {
			return nil, err
		}
		defer users.Close()
		if root, err := linux.MountMapped(dirs, users); !errors.Is(err, syscall.EINVAL) {
			return root, err
		}
	}
	return linux.MountOverlay(linux.Overlay{Lower: dirs})
}

// Changes lists what the writable layer changed, sorted by path.
func (s *Service) Changes(ctx context.Context, id string) ([]hull.Change, error) {
	b, err := s.mounted(ctx, id)
	if err != nil {
		return nil, err
	}
	upper, lower, done, err := s.openBox(id, b)
	if err != nil {
		return nil, err
	}
	defer done()
	list, err := archive.Changes(upper, lower)
	if err != nil {
		return nil, fmt.Errorf("changes of container %s: %w", id, err)
	}
	return list, nil
}

// Refill makes the writable layer what layer holds, the tar of a layer; nil =
// empty it. The tar is unpacked as a pulled layer's is: it
// comes from a machine, and so from a container.
func (s *layerMaker) Refill(ctx context.Context, id string, layer io.Reader) error {
	if _, err := s.writable.box(id); err != nil {
		return err
	}
	upper, err := os.Open(filepath.Join(s.writable.boxDir(id), "upper"))
	if err != nil {
		return fmt.Errorf("open writable layer: %w", err)
	}
	defer upper.Close()
	names, err := upper.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("empty writable layer: %w", err)
	}
	for _, n := range names {
		if err := os.RemoveAll(filepath.Join(upper.Name(), n)); err != nil {
			return fmt.Errorf("empty writable layer: %w", err)
		}
	}
	if layer == nil {
		return nil
	}
	o := archive.Options{Limits: s.cfg.Limits, User: s.cfg.UserXattr, SkipOwner: s.cfg.SkipOwner}
	if _, _, err := s.cfg.Unpack(ctx, layer, upper, o); err != nil {
		return fmt.Errorf("unpack writable layer: %w", err)
	}
	return nil
}

// openBox opens a writable layer's directory and those below it.
func (s *boxStore) openBox(id string, b box) (upper *os.File, lower []*os.File, done func(), err error) {
	dirs, err := s.lower(b)
	if err != nil {
		return nil, nil, nil, err
	}
	var open []*os.File
	done = func() { linux.CloseAll(open) }
	for _, d := range append([]string{filepath.Join(s.boxDir(id), "upper")}, dirs...) {
		f, err := os.Open(d)
		if err != nil {
			done()
			return nil, nil, nil, fmt.Errorf("open layer: %w", err)
		}
		open = append(open, f)
	}
	return open[0], open[1:], done, nil
}

// Export writes the whole root file system of a container, which may run, as a tar. The
// writable layer is shown as one that is not written to: a mount of it with its work
// directory would empty that, and the one that a container runs on is of no use then.
func (s *Service) Export(ctx context.Context, id string, w io.Writer) error {
	b, err := s.mounted(ctx, id)
	if err != nil {
		return err
	}
	lower, err := s.lower(b)
	if err != nil {
		return err
	}
	root, err := linux.MountOverlay(linux.Overlay{Lower: append([]string{filepath.Join(s.boxDir(id), "upper")}, lower...), ReadOnly: true})
	if err != nil {
		return fmt.Errorf("open root file system of container %s: %w", id, err)
	}
	defer root.Close()
	return archive.Pack(ctx, w, root)
}

// Size is the bytes of the writable layer and of the whole root file system.
func (s *Service) Size(_ context.Context, id string) (rw, root int64, err error) {
	b, err := s.box(id)
	if err != nil {
		return 0, 0, err
	}
	upper, err := os.Open(filepath.Join(s.boxDir(id), "upper"))
	if err != nil {
		return 0, 0, fmt.Errorf("open writable layer: %w", err)
	}
	defer upper.Close()
	rw, err = archive.Size(upper)
	if err != nil {
		return 0, 0, fmt.Errorf("size of container %s: %w", id, err)
	}
	var disk unix.Stat_t // a machine's writable layer: what it occupies
	if unix.Lstat(filepath.Join(s.boxDir(id), diskName), &disk) == nil {
		rw += disk.Blocks * 512
	}
	root = rw
	for _, c := range s.layers.Chain(b.chain) {
		if i, err := s.layers.Info(c); err == nil {
			root += i.Size
		}
	}
	return rw, root, nil
}

// scaffold is the layer between an image and a container: the files and
// directories that a container's own mounts go on. It is made once per image, by
// the kernel, as the upper directory of an overlay, so that what it adds to has
// the image's own attributes. Because of it a container that changed nothing
// shows no changes, and a read-only one can be started.
func (s *boxStore) scaffold(b box) (string, error) {
	below, err := s.lowerOf(b.chain)
	if err != nil {
		return "", err
	}
	fill := func(dir string) error {
		if err := s.likeRoot(b.chain, dir); err != nil {
			return fmt.Errorf("make init layer: %w", err)
		}
		work := dir + ".work"
		if err := os.Mkdir(work, 0o700); err != nil {
			return fmt.Errorf("make init layer: %w", err)
		}
		root, err := linux.MountOverlay(linux.Overlay{Lower: below, Upper: dir, Work: work})
		if err != nil {
			return fmt.Errorf("make init layer: %w", err)
		}
		defer root.Close()
		return furnish(root)
	}
	return s.layers.Init(b.chain, fill)
}

// furnish makes what is missing of Docker's list.
func furnish(root *os.File) error {
	for _, d := range []string{"dev/pts", "dev/shm", "proc", "sys", "etc"} {
		f, err := linux.MkdirAllInRoot(root, d, 0o755)
		if err != nil {
			return fmt.Errorf("make /%s: %w", d, err)
		}
		f.Close()
	}
	for _, n := range []string{".dockerenv", "etc/hosts", "etc/hostname", "etc/resolv.conf", "dev/console"} {
		f, err := linux.OpenInRoot(root, n, os.O_RDONLY|os.O_CREATE, 0o755)
		if err != nil {
			// The image has a dangling link or something stranger there: it is the
			// runtime's to deal with.
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
				continue
			}
			return fmt.Errorf("make /%s: %w", n, err)
		}
		f.Close()
	}
	return archive.SymlinkIn(root, "etc", "mtab", "/proc/mounts")
}
