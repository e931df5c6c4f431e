package files

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/hull"
	"hull/internal/linux"
)

const paxXattr = "SCHILY.xattr."

// archiveName is what the first name of a tar is, for the path as the user wrote it:
// its last component, "." for one that ends in a dot, "/" for the root itself.
func archiveName(p string) string {
	switch p = strings.TrimRight(p, "/"); {
	case p == "":
		return "/"
	case p == "." || strings.HasSuffix(p, "/."):
		return "."
	}
	return path.Base(path.Join("/", p))
}

// Pack writes r.Path, and all below it, as a tar whose names start at the last
// component that the user wrote (see archiveName). Sockets are left out, as by tar(1).
func (Files) Pack(ctx context.Context, root *os.File, r hull.CopyFromRequest, w io.Writer) error {
	p := r.Path
	dir, name, err := parent(root, p)
	if err != nil {
		return err
	}
	defer dir.Close()
	pk := packer{ctx: ctx, ids: r.IDs, tw: tar.NewWriter(w), links: map[inode]string{}, buf: make([]byte, 256<<10)}
	as := r.As
	if as == "" {
		as = p
	}
	as = archiveName(as)
	if err := pk.add(dir, name, as); err != nil {
		return err
	}
	if err := pk.tw.Close(); err != nil {
		return fmt.Errorf("finish tar: %w", err)
	}
	return nil
}

type inode struct{ dev, ino uint64 }

type packer struct {
	ctx   context.Context //nolint:containedctx // the life of one call of Pack
	tw    *tar.Writer
	links map[inode]string
	buf   []byte
	ids   hull.IDRange
}

// add writes the entry name of dir ("" = dir itself) as the tar name as.
func (k *packer) add(dir *os.File, name, as string) error {
	if err := k.ctx.Err(); err != nil {
		return context.Cause(k.ctx)
	}
	// One descriptor for all: what is read is what was looked at. O_PATH opens
	// anything without side effects.
	f, err := pin(dir, name)
	if errors.Is(err, unix.ENOENT) {
		return nil // deleted meanwhile
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", as, err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := fstatat(f, "", &st); err != nil {
		return fmt.Errorf("stat %s: %w", as, err)
	}
	h := header(&st, as)
	h.Uid, h.Gid = k.ids.Container(h.Uid, h.Gid)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		return nil
	case unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(linux.FD(f), "", buf)
		if err != nil {
			return fmt.Errorf("read link %s: %w", as, err)
		}
		h.Linkname = string(buf[:n])
	case unix.S_IFDIR:
		return k.dir(f, h, as)
	case unix.S_IFREG:
		return k.file(f, h, &st, as)
	}
	return k.header(h)
}

func (k *packer) header(h *tar.Header) error {
	if err := k.tw.WriteHeader(h); err != nil {
		return fmt.Errorf("write tar header of %s: %w", h.Name, err)
	}
	return nil
}

func (k *packer) file(pinned *os.File, h *tar.Header, st *unix.Stat_t, as string) error {
	id := inode{st.Dev, st.Ino}
	if first, ok := k.links[id]; ok {
		h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		return k.header(h)
	}
	if st.Nlink > 1 {
		k.links[id] = as
	}
	f, err := os.Open(linux.ProcPath(pinned)) // the very file that was pinned
	if err != nil {
		return fmt.Errorf("open %s: %w", as, err)
	}
	defer f.Close()
	h.PAXRecords = xattrs(f)
	if err := k.header(h); err != nil {
		return err
	}
	// The file may shrink or grow while it is read; the tar must not.
	n, err := io.CopyBuffer(k.tw, struct{ io.Reader }{io.LimitReader(f, h.Size)}, k.buf)
	if err != nil {
		return fmt.Errorf("read %s: %w", as, err)
	}
	for pad := h.Size - n; pad > 0; {
		c := min(pad, int64(len(k.buf)))
		clear(k.buf[:c])
		if _, err := k.tw.Write(k.buf[:c]); err != nil {
			return fmt.Errorf("write tar: %w", err)
		}
		pad -= c
	}
	return nil
}

func (k *packer) dir(pinned *os.File, h *tar.Header, as string) error {
	f, err := os.Open(linux.ProcPath(pinned))
	if err != nil {
		return fmt.Errorf("open %s: %w", as, err)
	}
	defer f.Close()
	h.PAXRecords = xattrs(f)
	if err := k.header(h); err != nil {
		return err
	}
	names, err := f.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("read directory %s: %w", as, err)
	}
	slices.Sort(names)
	for _, n := range names {
		if err := k.add(f, n, strings.TrimSuffix(as, "/")+"/"+n); err != nil {
			return err
		}
	}
	return nil
}

// pin opens an entry without following or waking anything.
func pin(dir *os.File, name string) (*os.File, error) {
	if name == "" {
		return linux.OpenBeneath(dir, ".", unix.O_PATH|unix.O_DIRECTORY, 0)
	}
	fd, err := unix.Openat(linux.FD(dir), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func header(st *unix.Stat_t, as string) *tar.Header {
	h := &tar.Header{
		Name: as, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Unix()), Format: tar.FormatPAX,
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, st.Size
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, strings.TrimSuffix(as, "/")+"/"
	case unix.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR:
		h.Typeflag = tar.TypeChar
	case unix.S_IFBLK:
		h.Typeflag = tar.TypeBlock
	}
	if h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock {
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	}
	return h
}

// xattrs are the attributes that make a difference elsewhere too.
func xattrs(f *os.File) map[string]string {
	const capability = "security.capability"
	buf := make([]byte, 1024)
	n, err := unix.Fgetxattr(linux.FD(f), capability, buf)
	if err != nil {
		return nil
	}
	return map[string]string{paxXattr + capability: string(buf[:n])}
}
