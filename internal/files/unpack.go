package files

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"

	"bufio"

	"hull/internal/hull"
	"hull/internal/linux"
)

// Unpack reads a tar, plain or gzip, and makes its entries below the directory
// r.Path of root. Names that climb out of that directory are refused; links,
// the tar's and the container's, are resolved inside root.
func (f Files) Unpack(ctx context.Context, root *os.File, r hull.CopyToRequest, in io.Reader) error {
	if r.IDs.Size == 0 {
		return f.unpack(ctx, root, r, in)
	}
	// As the container's root: the host's has no place among a container's owners.
	return linux.InThread(func() error {
		if err := linux.ActAs(r.IDs.UID, r.IDs.GID); err != nil {
			return err
		}
		return f.unpack(ctx, root, r, in)
	})
}

func (Files) unpack(ctx context.Context, root *os.File, r hull.CopyToRequest, in io.Reader) error {
	base, err := linux.OpenInRoot(root, path.Join("/", r.Path), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return notFound(r.Path, err)
	}
	base.Close()
	src, err := decompress(in)
	if err != nil {
		return err
	}
	u := unpacker{root: root, base: path.Join("/", r.Path), req: r, buf: make([]byte, 256<<10)}
	tr := tar.NewReader(src)
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return u.finish()
		}
		if err != nil {
			return fmt.Errorf("read tar: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		if err := u.entry(h, tr); err != nil {
			return err
		}
	}
}

// decompress knows what clients send: nothing but tar and gzip. The
// decompressor is ours, never one found in the container.
func decompress(in io.Reader) (io.Reader, error) {
	b := bufio.NewReaderSize(in, 64<<10)
	head, _ := b.Peek(2)
	if len(head) == 2 && head[0] == 0x1f && head[1] == 0x8b {
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, fmt.Errorf("read gzip: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		return z, nil
	}
	return b, nil
}

type dirTime struct {
	path string
	at   time.Time
}

type unpacker struct {
	root  *os.File
	base  string
	req   hull.CopyToRequest
	buf   []byte
	times []dirTime // set last: entries change their directory's time
}

// local refuses a name that leads out of the directory it is unpacked in.
func local(name string) (string, error) {
	clean := path.Clean("./" + strings.TrimLeft(name, "/"))
	if clean == ".." || strings.HasPrefix(clean, "../") || strings.ContainsRune(name, 0) {
		return "", fmt.Errorf("tar entry %q leads out of the destination: %w", name, errdefs.ErrInvalidArgument)
	}
	return clean, nil
}

func (u *unpacker) entry(h *tar.Header, body io.Reader) error {
	name, err := local(h.Name)
	if err != nil {
		return err
	}
	full := path.Join(u.base, name)
	if name == "." {
		return nil // the destination itself stays as it is
	}
	dir, err := linux.MkdirAllInRoot(u.root, path.Dir(full), 0o755)
	if err != nil {
		return fmt.Errorf("make directory for %s: %w", h.Name, notFound(full, err))
	}
	defer dir.Close()
	if err := u.place(dir, path.Base(full), h, body); err != nil {
		return fmt.Errorf("unpack %s: %w", h.Name, err)
	}
	if h.Typeflag == tar.TypeDir {
		u.times = append(u.times, dirTime{full, h.ModTime})
	}
	return nil
}

// place makes one entry in the open directory dir. What is there already is
// replaced, but a directory stays one where the tar has a directory too.
func (u *unpacker) place(dir *os.File, name string, h *tar.Header, body io.Reader) error {
	fd := linux.FD(dir)
	var old unix.Stat_t
	there := fstatat(dir, name, &old) == nil
	isDir := there && old.Mode&unix.S_IFMT == unix.S_IFDIR
	if there && u.req.NoOverwriteDirNonDir && isDir != (h.Typeflag == tar.TypeDir) {
		if isDir {
			return fmt.Errorf("cannot overwrite directory %q with non-directory: %w", h.Name, errdefs.ErrInvalidArgument)
		}
		return fmt.Errorf("cannot overwrite non-directory %q with directory: %w", h.Name, errdefs.ErrInvalidArgument)
	}
	if there && !(isDir && h.Typeflag == tar.TypeDir) {
		if err := removeAt(dir, name, isDir); err != nil {
			return err
		}
	}
	mode := uint32(h.Mode & 0o7777)
	switch h.Typeflag {
	case tar.TypeDir:
		if err := unix.Mkdirat(fd, name, mode); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	case tar.TypeReg:
		if err := u.file(dir, name, h, body); err != nil {
			return err
		}
	case tar.TypeSymlink:
		if err := unix.Symlinkat(h.Linkname, fd, name); err != nil {
			return err
		}
	case tar.TypeLink:
		return u.link(dir, name, h.Linkname)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		kind := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}[h.Typeflag]
		dev := unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)) //nolint:gosec // the kernel checks
		if err := unix.Mknodat(fd, name, kind|mode, int(dev)); err != nil {
			return err
		}
	case tar.TypeXGlobalHeader:
		return nil
	default:
		return fmt.Errorf("unknown kind of entry %q: %w", h.Typeflag, errdefs.ErrInvalidArgument)
	}
	return u.attributes(dir, name, h, mode)
}

func (u *unpacker) file(dir *os.File, name string, h *tar.Header, body io.Reader) error {
	fd, err := unix.Openat(linux.FD(dir), name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, body, u.buf)
	if v, ok := h.PAXRecords[paxXattr+"security.capability"]; err == nil && ok {
		err = unix.Fsetxattr(fd, "security.capability", []byte(v), 0)
	}
	return errors.Join(err, f.Close())
}

// link makes a hard link; its target is a name of the same tar.
func (u *unpacker) link(dir *os.File, name, target string) error {
	to, err := local(target)
	if err != nil {
		return err
	}
	full := path.Join(u.base, to)
	from, err := linux.OpenInRoot(u.root, path.Dir(full), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return notFound(target, err)
	}
	defer from.Close()
	return unix.Linkat(linux.FD(from), path.Base(full), linux.FD(dir), name, 0)
}

// attributes sets owner, mode and time of an entry, following nothing.
func (u *unpacker) attributes(dir *os.File, name string, h *tar.Header, mode uint32) error {
	f, err := pin(dir, name)
	if err != nil {
		return err
	}
	defer f.Close()
	uid, gid := h.Uid, h.Gid
	if o := u.req.Owner; o != nil {
		uid, gid = o.UID, o.GID
	}
	uid, gid = u.req.IDs.Host(uid, gid)
	if err := unix.Fchownat(linux.FD(f), "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("set owner: %w", err)
	}
	if h.Typeflag == tar.TypeSymlink {
		return nil
	}
	if err := unix.Fchmodat(unix.AT_FDCWD, linux.ProcPath(f), mode, 0); err != nil {
		return fmt.Errorf("set mode: %w", err)
	}
	if h.Typeflag != tar.TypeDir {
		return setTime(f, h.ModTime)
	}
	return nil
}

func setTime(f *os.File, at time.Time) error {
	ts := unix.NsecToTimespec(at.UnixNano())
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, linux.ProcPath(f), []unix.Timespec{ts, ts}, 0); err != nil {
		return fmt.Errorf("set time: %w", err)
	}
	return nil
}

func (u *unpacker) finish() error {
	for i := len(u.times) - 1; i >= 0; i-- {
		f, err := linux.OpenInRoot(u.root, u.times[i].path, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			continue // replaced by a later entry
		}
		err = setTime(f, u.times[i].at)
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// removeAt deletes name in dir, whatever it is, following nothing.
func removeAt(dir *os.File, name string, isDir bool) error {
	if !isDir {
		return unix.Unlinkat(linux.FD(dir), name, 0)
	}
	r, err := os.OpenRoot(linux.ProcPath(dir))
	if err != nil {
		return err
	}
	defer r.Close()
	return r.RemoveAll(name)
}
