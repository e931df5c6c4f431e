package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Pack writes what is below root as a tar, sorted by name, so that the same
// files always give the same bytes. Other file systems mounted below root are
// left out but for their mount points; sockets are left out, as no tar has them.
func Pack(ctx context.Context, w io.Writer, root *os.File) error {
	return pack(ctx, w, root, false)
}

// PackDiff writes the upper directory of an overlay as a layer: overlayfs's
// marks become whiteouts.
func PackDiff(ctx context.Context, w io.Writer, upper *os.File) error {
	return pack(ctx, w, upper, true)
}

type packer struct {
	ctx   context.Context //nolint:containedctx // the life of one call
	tw    *tar.Writer
	diff  bool
	dev   uint64
	links map[uint64]string // first name of a file with several, by inode
	buf   []byte
}

func pack(ctx context.Context, w io.Writer, root *os.File, diff bool) error {
	var st unix.Stat_t
	if err := unix.Fstat(fdOf(root), &st); err != nil {
		return fmt.Errorf("stat root: %w", err)
	}
	p := &packer{ctx: ctx, tw: tar.NewWriter(w), diff: diff, dev: st.Dev, links: map[uint64]string{}, buf: make([]byte, 128<<10)}
	if err := p.dir(root, ""); err != nil {
		return err
	}
	if err := p.tw.Close(); err != nil {
		return fmt.Errorf("write tar: %w", err)
	}
	return nil
}

// dir writes what is in an open directory; prefix ends with a slash unless empty.
func (p *packer) dir(d *os.File, prefix string) error {
	names, err := readNames(d)
	if err != nil {
		return fmt.Errorf("read directory /%s: %w", prefix, err)
	}
	for _, n := range names {
		if p.ctx.Err() != nil {
			return context.Cause(p.ctx)
		}
		if err := p.entry(d, prefix, n); err != nil {
			return err
		}
	}
	return nil
}

// readNames lists a directory in order. It opens it anew, because an offset is
// shared by everybody who holds the descriptor.
func readNames(d *os.File) ([]string, error) {
	fd, err := unix.Openat(fdOf(d), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), d.Name())
	defer f.Close()
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// entry writes one file. One that vanishes meanwhile is no error: a container
// may be running.
func (p *packer) entry(d *os.File, prefix, name string) error {
	f, err := openAt(d, name)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fdOf(f), &st); err != nil {
		return &os.PathError{Op: "stat", Path: prefix + name, Err: err}
	}
	if p.diff && isWhiteout(&st) {
		return p.empty(prefix+whPrefix+name, &st)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFSOCK {
		return nil
	}
	h, err := header(f, prefix+name, &st)
	if err != nil {
		return err
	}
	if h.Typeflag == tar.TypeReg && st.Nlink > 1 {
		if first, ok := p.links[st.Ino]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		} else {
			p.links[st.Ino] = h.Name
		}
	}
	if h.Typeflag == tar.TypeReg {
		return p.regular(f, h)
	}
	if err := p.tw.WriteHeader(h); err != nil {
		return fmt.Errorf("write tar entry %s: %w", h.Name, err)
	}
	if h.Typeflag != tar.TypeDir {
		return nil
	}
	return p.subdir(f, h.Name, &st)
}

// subdir goes into a directory, unless something else is mounted there. Only an
// overlay may show several devices in one mount, and not for directories.
func (p *packer) subdir(f *os.File, prefix string, st *unix.Stat_t) error {
	if st.Dev != p.dev {
		return nil
	}
	if p.diff && isOpaque(f) {
		if err := p.empty(prefix+whOpaque, st); err != nil {
			return err
		}
	}
	sub, err := os.Open(procPath(f, ""))
	if err != nil {
		return fmt.Errorf("open directory /%s: %w", prefix, err)
	}
	defer sub.Close()
	return p.dir(sub, prefix)
}

// regular writes a file with exactly the size its header says.
func (p *packer) regular(f *os.File, h *tar.Header) error {
	in, err := os.Open(procPath(f, ""))
	if err != nil {
		return fmt.Errorf("open /%s: %w", h.Name, err)
	}
	defer in.Close()
	if err := p.tw.WriteHeader(h); err != nil {
		return fmt.Errorf("write tar entry %s: %w", h.Name, err)
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{p.tw}, io.LimitReader(in, h.Size), p.buf)
	if err != nil {
		return fmt.Errorf("write tar entry %s: %w", h.Name, err)
	}
	for n < h.Size { // it shrank meanwhile
		m, err := p.tw.Write(zeros[:min(int64(len(zeros)), h.Size-n)])
		if err != nil {
			return fmt.Errorf("write tar entry %s: %w", h.Name, err)
		}
		n += int64(m)
	}
	return nil
}

// empty writes a whiteout.
func (p *packer) empty(name string, st *unix.Stat_t) error {
	h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o600, ModTime: mtime(st), Format: tar.FormatPAX}
	if err := p.tw.WriteHeader(h); err != nil {
		return fmt.Errorf("write whiteout %s: %w", name, err)
	}
	return nil
}

func mtime(st *unix.Stat_t) time.Time { return time.Unix(st.Mtim.Sec, st.Mtim.Nsec) }

// openAt opens a file of a directory by itself, whatever it is, following nothing.
func openAt(d *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat(fdOf(d), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

func isOpaque(f *os.File) bool {
	for _, a := range []string{OpaqueXattr, OpaqueXattrUser} {
		if v, err := getXattr(procPath(f, ""), a); err == nil && string(v) == "y" {
			return true
		}
	}
	return false
}

// header describes a file opened with O_PATH.
func header(f *os.File, name string, st *unix.Stat_t) (*tar.Header, error) {
	h := &tar.Header{
		Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: mtime(st), Format: tar.FormatPAX,
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, st.Size
	case unix.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
		to, err := readlink(f)
		if err != nil {
			return nil, &os.PathError{Op: "readlink", Path: name, Err: err}
		}
		h.Linkname = to
		return h, nil // links have no attributes of use
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	}
	return h, addXattrs(f, h)
}

// addXattrs records extended attributes, but overlayfs's own and the labels of
// this host's security module.
func addXattrs(f *os.File, h *tar.Header) error {
	names, err := listXattrs(procPath(f, ""))
	if err != nil {
		return &os.PathError{Op: "list attributes", Path: h.Name, Err: err}
	}
	for _, n := range names {
		if strings.HasPrefix(n, overlayTrusted) || strings.HasPrefix(n, overlayUser) || n == "security.selinux" {
			continue
		}
		v, err := getXattr(procPath(f, ""), n)
		if err != nil {
			return &os.PathError{Op: "read attribute " + n, Path: h.Name, Err: err}
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[paxXattr+n] = string(v)
	}
	return nil
}

// readlink reads a link opened with O_PATH.
func readlink(f *os.File) (string, error) {
	b := make([]byte, 4096)
	n, err := unix.Readlinkat(fdOf(f), "", b)
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}
