package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"hull/internal/hull"
	"hull/internal/linux"
)

// blockSize is the size of every disk. Templates of machines hold their disks'
// sizes, so all are alike; the files are sparse.
const blockSize = 64 << 30

// blocks are root file systems as disks, for machines: one read-only image for
// each chain, made once, and an empty writable disk that every container's is a
// copy of.
//
//	ROOT/block/<chain>.erofs
//	ROOT/block/blank.<content>.erofs   what machines rehearse with
//	ROOT/block/empty-1.ext4
//	ROOT/containers/<id>/disk    a container's writable disk
type blocks struct {
	dir string

	mu     sync.Mutex
	making map[string]*makingBlock
}

type makingBlock struct {
	done chan struct{}
	err  error
}

const (
	emptyDisk = "empty-1.ext4"
	diskName  = "disk"
)

// once makes a file below the directory unless it is there; who comes meanwhile
// waits.
func (b *blocks) once(ctx context.Context, name string, fill func(tmp string) error) (string, error) {
	path := filepath.Join(b.dir, name)
	for {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
		b.mu.Lock()
		m := b.making[name]
		if m == nil {
			m = &makingBlock{done: make(chan struct{})}
			if b.making == nil {
				b.making = map[string]*makingBlock{}
			}
			b.making[name] = m
			b.mu.Unlock()
			m.err = b.fill(path, fill)
			b.mu.Lock()
			delete(b.making, name)
			b.mu.Unlock()
			close(m.done)
			return path, m.err
		}
		b.mu.Unlock()
		select {
		case <-m.done:
			if m.err != nil {
				return "", m.err
			}
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

func (b *blocks) fill(path string, fill func(tmp string) error) error {
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return err
	}
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := fill(tmp)
	if err == nil {
		err = os.Truncate(tmp, blockSize)
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(err, removeIfThere(tmp))
	}
	return nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// tool runs a program that makes a file system.
func tool(ctx context.Context, pkg, name string, args []string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/bin"} {
			if _, e := os.Stat(filepath.Join(dir, name)); e == nil {
				path, err = filepath.Join(dir, name), nil
				break
			}
		}
	}
	if err != nil {
		return fmt.Errorf("%s is not installed; install Debian's package %s to run virtual machines: %w", name, pkg, errdefs.ErrFailedPrecondition)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// mountBlock describes the root file system of container id as disks. The image's
// is made when the first container of it starts.
func (s *boxStore) mountBlock(ctx context.Context, id string, b box) (hull.Rootfs, error) {
	lower, err := s.lower(b)
	if err != nil {
		return hull.Rootfs{}, err
	}
	img, err := s.blocks.once(ctx, blockName(b.chain), func(tmp string) error { return makeErofs(ctx, tmp, lower) })
	if err != nil {
		return hull.Rootfs{}, fmt.Errorf("make block image: %w", err)
	}
	now := time.Now()
	if err := os.Chtimes(img, now, now); err != nil { // see Disks
		s.log.Warn("when a block image was used last cannot be kept", "error", err)
	}
	empty, err := s.blocks.once(ctx, emptyDisk, func(tmp string) error { return makeEmpty(ctx, tmp) })
	if err != nil {
		return hull.Rootfs{}, fmt.Errorf("make empty disk: %w", err)
	}
	dir := s.boxDir(id)
	disk := filepath.Join(dir, diskName)
	if _, err := os.Lstat(disk); errors.Is(err, fs.ErrNotExist) {
		if err := copySparse(empty, disk); err != nil {
			return hull.Rootfs{}, fmt.Errorf("make writable disk: %w", err)
		}
	}
	return hull.Rootfs{
		Kind: hull.RootfsBlock, Block: img, Disk: disk,
		Lower: lower, Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work"),
	}, nil
}

// Blank gives a root file system as a disk that holds nothing but files, which is
// kept, and an empty writable disk that is gone with its descriptor. All files are
// executable.
func (s *boxStore) Blank(ctx context.Context, files map[string][]byte) (root, disk *os.File, err error) {
	sum := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(sum, "%q %d ", name, len(files[name]))
		sum.Write(files[name])
	}
	img, err := s.blocks.once(ctx, fmt.Sprintf(blank+"%x.erofs", sum.Sum(nil)), func(tmp string) error {
		if err := s.blocks.removeBlanks(); err != nil {
			s.log.Warn("what machines of a former version rehearsed with stays", "error", err)
		}
		dir, err := os.MkdirTemp(filepath.Dir(tmp), blank+"*")
		if err != nil {
			return err
		}
		for name, data := range files {
			path := filepath.Join(dir, name)
			if err == nil {
				err = os.MkdirAll(filepath.Dir(path), 0o755)
			}
			if err == nil {
				err = os.WriteFile(path, data, 0o755)
			}
		}
		if err == nil {
			err = makeErofs(ctx, tmp, []string{dir})
		}
		return errors.Join(err, os.RemoveAll(dir))
	})
	if err != nil {
		return nil, nil, fmt.Errorf("make block image: %w", err)
	}
	empty, err := s.blocks.once(ctx, emptyDisk, func(tmp string) error { return makeEmpty(ctx, tmp) })
	if err != nil {
		return nil, nil, fmt.Errorf("make empty disk: %w", err)
	}
	if disk, err = copyUnnamed(empty); err != nil {
		return nil, nil, fmt.Errorf("make writable disk: %w", err)
	}
	if root, err = os.Open(img); err != nil {
		disk.Close()
		return nil, nil, err
	}
	return root, disk, nil
}

// blank begins the names of what Blank makes.
const blank = "blank."

// removeBlanks removes what Blank has made of other files, or not to the end.
func (b *blocks) removeBlanks() error {
	old, err := filepath.Glob(filepath.Join(b.dir, blank+"*"))
	for _, path := range old {
		err = errors.Join(err, os.RemoveAll(path))
	}
	return err
}

func blockName(chain digest.Digest) string {
	if chain == "" {
		return "none.erofs"
	}
	return chain.Algorithm().String() + "-" + chain.Encoded() + ".erofs"
}

// makeErofs writes what the lower directories are together. It is not compressed:
// the page cache is shared by all machines, and to decompress would be theirs to do.
func makeErofs(ctx context.Context, path string, lower []string) error {
	root, err := linux.MountOverlay(linux.Overlay{Lower: lower, ReadOnly: true})
	if err != nil {
		return fmt.Errorf("open image: %w", err)
	}
	defer root.Close()
	// The program wants a path. It gets one in a mount namespace that nobody else
	// is in.
	dir, err := os.MkdirTemp(filepath.Dir(path), "root-*")
	if err != nil {
		return err
	}
	err = linux.InThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("make mounts private: %w", err)
		}
		if err := linux.Attach(root, dir); err != nil {
			return fmt.Errorf("mount image: %w", err)
		}
		return tool(ctx, "erofs-utils", "mkfs.erofs", []string{"--quiet", "-Eforce-inode-extended", path, dir})
	})
	return errors.Join(err, os.Remove(dir))
}

// makeEmpty writes an empty file system for containers' writable layers. What the
// kernel may do later is not done now, so that the file, and each copy, is small.
func makeEmpty(ctx context.Context, path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(blockSize), f.Close()); err != nil {
		return err
	}
	return tool(ctx, "e2fsprogs", "mkfs.ext4", []string{
		"-q", "-F", "-m", "0", "-i", "65536", "-J", "size=16", "-O", "^resize_inode,^metadata_csum_seed",
		"-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0", path,
	})
}

// copySparse copies a file's data and leaves its holes.
func copySparse(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	tmp := to + ".new"
	out, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp))
		}
	}()
	if err := errors.Join(copyAll(in, out), out.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, to)
}

// copyUnnamed is copySparse to a file that has no name.
func copyUnnamed(from string) (*os.File, error) {
	in, err := os.Open(from)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	out, err := os.OpenFile(filepath.Dir(from), unix.O_TMPFILE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := copyAll(in, out); err != nil {
		return nil, errors.Join(err, out.Close())
	}
	return out, nil
}

func copyAll(in, out *os.File) error {
	st, err := in.Stat()
	if err != nil {
		return err
	}
	return linux.CopyData(in, out, st.Size())
}

// sweepBlocks removes block images whose layers have gone.
func (s *boxStore) sweepBlocks(have func(chain digest.Digest) bool) error {
	list, err := s.blocks.images()
	errs := []error{err}
	for _, chain := range list {
		if !have(chain) {
			errs = append(errs, removeIfThere(filepath.Join(s.blocks.dir, blockName(chain))))
		}
	}
	return errors.Join(errs...)
}

// images lists the chains of which there is an image.
func (b *blocks) images() ([]digest.Digest, error) {
	list, err := os.ReadDir(b.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var chains []digest.Digest
	for _, e := range list {
		name, ok := strings.CutSuffix(e.Name(), ".erofs")
		algorithm, hex, ok2 := strings.Cut(name, "-")
		if ok && ok2 {
			chains = append(chains, digest.NewDigestFromEncoded(digest.Algorithm(algorithm), hex))
		}
	}
	return chains, nil
}
