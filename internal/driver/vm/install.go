package vm

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hull/internal/linux"
)

// maxKernel is how large a guest kernel with all that belongs to it may be, in bytes.
const maxKernel = 1 << 30

// KernelPlace is where a guest kernel is put that was sent to the engine: Dir, as a
// whole, with "vmlinux" in it and what lies beside a kernel (KernelInfo, "modules").
type KernelPlace struct {
	Dir  string
	Used []string // Config.Kernels

	mu sync.Mutex
}

// Install takes a kernel out of a tar (see api.KernelPath) in place of the one that
// is there, and returns its name. Machines that run keep theirs.
// errdefs.ErrInvalidArgument: no kernel for machines of this host, or not whole;
// errdefs.ErrFailedPrecondition: hulld was told to use another.
func (p *KernelPlace) Install(ctx context.Context, r io.Reader) (_ string, err error) {
	path := filepath.Join(p.Dir, "vmlinux")
	if !slices.Contains(p.Used, path) {
		return "", fmt.Errorf("hulld was started with --vm-kernel %s and would use no other: start it without: %w", strings.Join(p.Used, ", "), errdefs.ErrFailedPrecondition)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.sweep(); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(filepath.Dir(p.Dir), filepath.Base(p.Dir)+".new*")
	if err != nil {
		return "", fmt.Errorf("install guest kernel: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }() // then the former kernel, when there was one
	if err := receiveKernel(ctx, dir, r); err != nil {
		return "", fmt.Errorf("install guest kernel: %w", err)
	}
	k, err := wholeKernel(filepath.Join(dir, "vmlinux"))
	if err != nil {
		return "", err
	}
	if err := replaceDir(p.Dir, dir); err != nil {
		return "", fmt.Errorf("install guest kernel: %w", err)
	}
	return k.Name, nil
}

// Remove takes the installed kernel away. errdefs.ErrNotFound: there is none.
func (p *KernelPlace) Remove() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.sweep(); err != nil {
		return err
	}
	if err := os.Rename(p.Dir, p.Dir+".new"); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no guest kernel is installed: %w", errdefs.ErrNotFound)
	} else if err != nil {
		return fmt.Errorf("remove guest kernel: %w", err)
	}
	return p.sweep()
}

// sweep removes what an installation or removal has left, also one that was cut short.
func (p *KernelPlace) sweep() error {
	old, err := filepath.Glob(p.Dir + ".new*")
	for _, dir := range old {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	if err != nil {
		return fmt.Errorf("remove former guest kernel: %w", err)
	}
	return nil
}

// receiveKernel writes what belongs to a kernel out of a tar into dir.
func receiveKernel(ctx context.Context, dir string, r io.Reader) error {
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "modules"), 0o755), os.Chmod(dir, 0o755)); err != nil { //nolint:gosec // QEMU reads it as a user of no rights
		return err
	}
	archive, left := tar.NewReader(r), int64(maxKernel)
	for ctx.Err() == nil {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return errors.Join(linux.SyncDir(filepath.Join(dir, "modules")), linux.SyncDir(dir))
		}
		if err != nil {
			return fmt.Errorf("read the archive: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		name, ok := kernelFile(h)
		if !ok {
			continue
		}
		if left -= h.Size; left < 0 {
			return fmt.Errorf("it has more than %d bytes: %w", maxKernel, errdefs.ErrInvalidArgument)
		}
		if err := writeNew(filepath.Join(dir, name), archive); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// kernelFile says where an entry of the archive goes, if it is of those that are
// wanted: vmlinux, its description, a module.
func kernelFile(h *tar.Header) (string, bool) {
	name := path.Clean("/" + h.Name)[1:]
	in, base := path.Split(name)
	switch {
	case h.Typeflag != tar.TypeReg:
		return "", false
	case name == "vmlinux", name == KernelInfo, in == "modules/" && base != "":
		return name, true
	}
	return "", false
}

// writeNew writes a file that machines may read, and waits for the disk.
func writeNew(path string, r io.Reader) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644) //nolint:gosec // QEMU reads it as a user of no rights
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is in the archive twice: %w", filepath.Base(path), errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
}

// wholeKernel reads a kernel's description and looks whether all it names is there.
func wholeKernel(path string) (Kernel, error) {
	k, err := findKernel([]string{path})
	if errors.Is(err, errdefs.ErrFailedPrecondition) {
		return k, fmt.Errorf("the archive has no vmlinux: %w", errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return k, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	if err := checkKernel(path); err != nil {
		return k, fmt.Errorf("install guest kernel: %w", err)
	}
	for _, m := range slices.Concat(k.Modules, k.VLAN) {
		if !filepath.IsLocal(m) || filepath.Base(m) != m {
			return k, fmt.Errorf("module %q of guest kernel %s is no file name: %w", m, k.Name, errdefs.ErrInvalidArgument)
		}
		if _, err := os.Stat(filepath.Join(filepath.Dir(path), "modules", m)); err != nil {
			return k, fmt.Errorf("guest kernel %s needs module %s, which is not in the archive: %w", k.Name, m, errdefs.ErrInvalidArgument)
		}
	}
	return k, nil
}

// replaceDir puts the directory fresh in place of path in one step; what was there
// before lies at fresh then.
func replaceDir(path, fresh string) error {
	err := unix.Renameat2(unix.AT_FDCWD, fresh, unix.AT_FDCWD, path, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.ENOENT) {
		err = os.Rename(fresh, path)
	}
	return errors.Join(err, linux.SyncDir(filepath.Dir(path)))
}
