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

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Options say how to unpack.
type Options struct {
	Limits Limits
	// Lower gives the directories of the layers below, topmost first, when they
	// are complete; it may wait for that. It is called at most once, after the
	// last entry, and only for a layer that needs it: one with a file whose parent
	// it does not describe, or with a hard link to a file it does not hold. The files
	// are Unpack's to close.
	Lower func(context.Context) ([]*os.File, error)
	// User makes whiteouts of the form that an overlay in a user namespace reads.
	User bool
	// SkipOwner leaves every file to the caller: for an engine that is not root.
	SkipOwner bool
	// Plain unpacks a root file system instead of a layer: names that look like
	// whiteouts are files.
	Plain bool
	// Packed: the tar may be compressed. Only packed.Layer looks at it.
	Packed bool
	// Compressed tells how many compressed bytes were read so far, for the limit
	// on the ratio; nil = not compressed.
	Compressed func() int64
}

// Result is what was unpacked.
type Result struct {
	Entries int64
	Bytes   int64 // sum of the sizes of regular files, hard links once
}

type unpacker struct {
	ctx     context.Context //nolint:containedctx // the life of one call of Unpack
	t       *tree
	o       Options
	lim     Limits
	buf     []byte
	res     Result
	ownUID  int
	times   []dirTime           // applied last: every entry in a directory changes its time
	implied map[string]struct{} // directories made because an entry needed a parent
	links   []pendingLink       // to files of lower layers
	setgid  bool                // some directory hands its group down
}

type dirTime struct {
	name string
	ts   [2]unix.Timespec
}

type pendingLink struct{ name, target string }

// Unpack reads a layer's tar to its end and makes its files below root, an empty
// directory. ids, modes, times and attributes are those of the tar.
//
// Errors: *LimitError; errdefs.ErrInvalidArgument for an entry that no honest
// layer has and for a tar that is broken; and what the file system says
// (ENOSPC). root is then in an undefined state, and nothing outside has changed.
func Unpack(ctx context.Context, r io.Reader, root *os.File, o Options) (Result, error) {
	u := &unpacker{
		ctx: ctx, t: newTree(root), o: o, lim: o.Limits.WithDefaults(),
		buf: make([]byte, 128<<10), ownUID: os.Geteuid(), implied: map[string]struct{}{},
	}
	defer u.t.forget()
	u.implied[""] = struct{}{}
	tr := tar.NewReader(r)
	for {
		if err := ctx.Err(); err != nil {
			return u.res, context.Cause(ctx)
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return u.res, tarError(err)
		}
		if err := u.entry(h, tr); err != nil {
			return u.res, err
		}
	}
	if err := u.finish(); err != nil {
		return u.res, err
	}
	// What follows the end mark is still part of the layer's digest.
	if _, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{r}, u.buf); err != nil {
		return u.res, tarError(err)
	}
	return u.res, nil
}

// tarError gives broken tars a kind, and leaves errors of the source as they are.
func tarError(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, tar.ErrFieldTooLong) {
		return fmt.Errorf("read tar: %w", errors.Join(err, errdefs.ErrInvalidArgument))
	}
	return fmt.Errorf("read tar: %w", err)
}

// entry makes one file.
func (u *unpacker) entry(h *tar.Header, body io.Reader) error {
	if u.res.Entries++; u.res.Entries > u.lim.Entries {
		return &LimitError{What: "entries", Limit: u.lim.Entries}
	}
	name, err := clean(h.Name, u.lim.Depth)
	if err != nil {
		return err
	}
	if name == "" {
		if h.Typeflag != tar.TypeDir {
			return hostile(h.Name, "the root of a layer is a directory")
		}
		delete(u.implied, "")
		return u.attributes(u.t.root, "", "", h)
	}
	dir, base := split(name)
	if !u.o.Plain {
		if strings.Contains("/"+dir, "/"+whMeta) {
			return nil // AUFS's own records, of no meaning to anybody else
		}
		if strings.HasPrefix(base, whPrefix) {
			return u.whiteout(h.Name, dir, base)
		}
	}
	p, err := u.parent(dir)
	if err != nil {
		return err
	}
	if err := u.create(h, p, name, base, body); err != nil {
		if errors.Is(err, errPending) {
			return nil
		}
		return err
	}
	if h.Typeflag == tar.TypeLink {
		return nil // shares everything with its target
	}
	return u.attributes(p, base, name, h)
}

// parent opens the directory of an entry and makes what is missing of it.
func (u *unpacker) parent(dir string) (*os.File, error) {
	p, err := u.t.mkdirs(dir, func(d string) { u.implied[d] = struct{}{} })
	if err == nil {
		return p, nil
	}
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EXDEV) {
		return nil, hostile(dir, "a parent of it is not a directory")
	}
	return nil, err
}

var errPending = errors.New("link to a lower layer")

// create makes the file itself. Whatever has its name gives way, except that a
// directory is merged with one.
func (u *unpacker) create(h *tar.Header, p *os.File, name, base string, body io.Reader) error {
	pfd := fdOf(p)
	var st unix.Stat_t
	hidesLower := false
	switch err := unix.Fstatat(pfd, base, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case err == nil:
		isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
		if h.Typeflag == tar.TypeDir && isDir {
			delete(u.implied, name)
			return nil
		}
		// A directory in the place of a whiteout still hides the one below it.
		hidesLower = isWhiteout(&st)
		if err := removeAll(p, base); err != nil {
			return err
		}
		if isDir || st.Mode&unix.S_IFMT == unix.S_IFLNK {
			u.t.forget()
			if p, err = u.t.dir(dirOf(name)); err != nil {
				return err
			}
			pfd = fdOf(p)
		}
	case !errors.Is(err, unix.ENOENT):
		return &os.PathError{Op: "stat", Path: name, Err: err}
	}

	var err error
	switch h.Typeflag {
	case tar.TypeDir:
		if err = unix.Mkdirat(pfd, base, 0o700); err == nil && hidesLower {
			return u.opaque(p, base)
		}
	case tar.TypeReg, tar.TypeRegA: //nolint:staticcheck // old tars have the latter
		return u.file(h, p, name, base, body)
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) > 4095 || strings.IndexByte(h.Linkname, 0) >= 0 {
			return hostile(h.Name, "its link target is empty or too long")
		}
		err = unix.Symlinkat(h.Linkname, pfd, base)
	case tar.TypeLink:
		err = u.link(h, p, name, base)
		if errors.Is(err, errPending) || errors.Is(err, errdefs.ErrInvalidArgument) {
			return err
		}
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		err = u.node(h, pfd, base)
		if errors.Is(err, errdefs.ErrInvalidArgument) {
			return err
		}
	case tar.TypeXGlobalHeader:
		return errPending // records for all entries that follow: nothing to make
	default:
		return hostile(h.Name, fmt.Sprintf("unknown type %q", h.Typeflag))
	}
	if err != nil {
		return &os.PathError{Op: "create", Path: name, Err: err}
	}
	return nil
}

func dirOf(name string) string {
	d, _ := split(name)
	return d
}

// node makes a device or a pipe.
func (u *unpacker) node(h *tar.Header, pfd int, base string) error {
	var mode uint32
	switch h.Typeflag {
	case tar.TypeChar:
		mode = unix.S_IFCHR
	case tar.TypeBlock:
		mode = unix.S_IFBLK
	default:
		return unix.Mkfifoat(pfd, base, 0o600)
	}
	if h.Devmajor < 0 || h.Devminor < 0 || h.Devmajor > 0xfff || h.Devminor > 0xfffff {
		return hostile(h.Name, "device numbers out of range")
	}
	if h.Devmajor == 0 && h.Devminor == 0 {
		return hostile(h.Name, "device 0:0 is a whiteout and not a file")
	}
	return unix.Mknodat(pfd, base, mode|0o600, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
}

// link makes a hard link to a file of this layer, or notes one to a layer below.
func (u *unpacker) link(h *tar.Header, p *os.File, name, base string) error {
	target, err := clean(h.Linkname, u.lim.Depth)
	if err != nil {
		return err
	}
	if target == "" || target == name {
		return hostile(h.Name, "hard link to itself or to the root")
	}
	tdir, tbase := split(target)
	td, err := u.t.dir(tdir)
	if err == nil {
		if err = unix.Linkat(fdOf(td), tbase, fdOf(p), base, 0); err == nil {
			return nil
		}
		var st unix.Stat_t
		if serr := unix.Fstatat(fdOf(td), tbase, &st, unix.AT_SYMLINK_NOFOLLOW); serr == nil {
			if st.Mode&unix.S_IFMT == unix.S_IFDIR {
				return hostile(h.Name, "hard link to a directory")
			}
			return err
		}
	}
	if (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)) && u.o.Lower != nil {
		u.links = append(u.links, pendingLink{name, target})
		return errPending
	}
	return hostile(h.Name, fmt.Sprintf("hard link to %q, which is not in the layer", h.Linkname))
}

var zeros [128 << 10]byte

// file makes a regular file. Runs of zeros become holes, so that a sparse file
// costs what it holds.
func (u *unpacker) file(h *tar.Header, p *os.File, name, base string, body io.Reader) error {
	if h.Size < 0 {
		return hostile(h.Name, "negative size")
	}
	if u.res.Bytes += h.Size; u.res.Bytes > u.lim.Bytes {
		return &LimitError{What: "bytes", Limit: u.lim.Bytes}
	}
	fd, err := unix.Openat(fdOf(p), base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return &os.PathError{Op: "create", Path: name, Err: err}
	}
	defer unix.Close(fd)
	var at int64
	hole := false
	for at < h.Size {
		n, err := io.ReadFull(body, u.buf[:min(int64(len(u.buf)), h.Size-at)])
		if err != nil {
			return tarError(err)
		}
		if hole = n >= 4096 && string(u.buf[:n]) == string(zeros[:n]); !hole {
			if err := pwrite(fd, u.buf[:n], at); err != nil {
				return &os.PathError{Op: "write", Path: name, Err: err}
			}
		}
		at += int64(n)
		if err := u.checkRatio(at - h.Size); err != nil {
			return err
		}
		if err := u.ctx.Err(); err != nil {
			return context.Cause(u.ctx)
		}
	}
	if hole {
		if err := unix.Ftruncate(fd, h.Size); err != nil {
			return &os.PathError{Op: "truncate", Path: name, Err: err}
		}
	}
	return nil
}

// checkRatio compares what came out so far with what went in. ahead is what was
// counted but not yet read, as a negative number.
func (u *unpacker) checkRatio(ahead int64) error {
	out := u.res.Bytes + ahead
	if u.o.Compressed == nil || out < ratioFloor {
		return nil
	}
	if in := u.o.Compressed(); out/max(in, 1) > u.lim.Ratio {
		return &LimitError{What: "unpacked bytes per compressed byte", Limit: u.lim.Ratio}
	}
	return nil
}

func pwrite(fd int, b []byte, at int64) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(fd, b, at)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		b, at = b[n:], at+int64(n)
	}
	return nil
}

// whiteout makes overlayfs's form of a deletion.
func (u *unpacker) whiteout(entry, dir, base string) error {
	p, err := u.parent(dir)
	if err != nil {
		return err
	}
	if base == whOpaque {
		return u.opaque(p, "")
	}
	if strings.HasPrefix(base, whMeta) {
		return nil
	}
	name := strings.TrimPrefix(base, whPrefix)
	if name == "" || name == "." || name == ".." {
		return hostile(entry, "whiteout of no file")
	}
	var st unix.Stat_t
	switch err := unix.Fstatat(fdOf(p), name, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR:
		// A whiteout speaks of the layers below only: what this layer has stays.
		return u.opaque(p, name)
	case err == nil:
		return nil
	case !errors.Is(err, unix.ENOENT):
		return &os.PathError{Op: "stat", Path: entry, Err: err}
	}
	if err := unix.Mknodat(fdOf(p), name, unix.S_IFCHR, 0); err != nil {
		return &os.PathError{Op: "make whiteout", Path: entry, Err: err}
	}
	return nil
}

// opaque marks directory base in p ("" = p itself).
func (u *unpacker) opaque(p *os.File, base string) error {
	attr := OpaqueXattr
	if u.o.User {
		attr = OpaqueXattrUser
	}
	if err := setXattr(p, base, attr, []byte("y")); err != nil {
		return fmt.Errorf("mark directory %s opaque: %w", base, err)
	}
	return nil
}

// attributes sets owner, mode, extended attributes and times, in the order in
// which none undoes another: chown drops set-id bits and capabilities.
func (u *unpacker) attributes(p *os.File, base, name string, h *tar.Header) error {
	pfd, flags := fdOf(p), unix.AT_SYMLINK_NOFOLLOW
	if base == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) > 1<<32-2 || int64(h.Gid) > 1<<32-2 {
		return hostile(h.Name, "owner out of range")
	}
	// A new file has our own owner, which is root's mostly, and then right already.
	if !u.o.SkipOwner && (h.Uid != 0 || h.Gid != 0 || u.ownUID != 0 || u.setgid || h.Typeflag == tar.TypeDir) {
		if err := unix.Fchownat(pfd, base, h.Uid, h.Gid, flags); err != nil {
			return &os.PathError{Op: "chown", Path: h.Name, Err: err}
		}
	}
	if h.Typeflag != tar.TypeSymlink {
		mode := uint32(h.Mode) & 0o7777
		var err error
		if base == "" {
			err = unix.Fchmod(pfd, mode)
		} else {
			// Not a link: it was made with O_EXCL or mkdir a moment ago, and nobody
			// but us is in here.
			err = unix.Fchmodat(pfd, base, mode, 0)
		}
		if err != nil {
			return &os.PathError{Op: "chmod", Path: h.Name, Err: err}
		}
		if h.Typeflag == tar.TypeDir && mode&unix.S_ISGID != 0 {
			u.setgid = true
		}
	}
	if err := u.xattrs(p, base, h); err != nil {
		return err
	}
	ts := [2]unix.Timespec{timespec(h.AccessTime, h.ModTime), timespec(h.ModTime, h.ModTime)}
	if h.Typeflag == tar.TypeDir {
		u.times = append(u.times, dirTime{name, ts})
		return nil
	}
	if err := unix.UtimesNanoAt(pfd, base, ts[:], unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "set times", Path: h.Name, Err: err}
	}
	return nil
}

// timespec converts t, or instead when t is zero. Times the file system cannot
// hold become its start.
func timespec(t, instead time.Time) unix.Timespec {
	if t.IsZero() {
		t = instead
	}
	if t.IsZero() || t.Unix() < 0 || t.Unix() > 1<<34 {
		t = time.Unix(0, 0)
	}
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}

// xattrs sets extended attributes. Those that overlayfs reads as orders are not
// a layer's to give.
func (u *unpacker) xattrs(p *os.File, base string, h *tar.Header) error {
	for k, v := range h.PAXRecords {
		attr, ok := strings.CutPrefix(k, paxXattr)
		if !ok {
			continue
		}
		if strings.HasPrefix(attr, overlayTrusted) {
			return hostile(h.Name, "attribute "+attr+" is overlayfs's own")
		}
		if strings.HasPrefix(attr, overlayUser) {
			continue
		}
		err := setXattr(p, base, attr, []byte(v))
		switch {
		case err == nil:
		case errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.EPERM), errors.Is(err, unix.EINVAL):
			// The host's file system or security module does not know it: everybody
			// in the field goes on. But a capability that is lost is a program that
			// fails later, so that one is said.
			if attr == "security.capability" && u.ownUID == 0 {
				return &os.PathError{Op: "set " + attr, Path: h.Name, Err: err}
			}
		default:
			return &os.PathError{Op: "set " + attr, Path: h.Name, Err: err}
		}
	}
	return nil
}

// finish does what needs the layers below, and the times of directories.
func (u *unpacker) finish() error {
	if len(u.implied) > 0 || len(u.links) > 0 {
		if err := u.fromLower(); err != nil {
			return err
		}
	}
	// A later entry may have replaced a directory; the last time given counts.
	for _, d := range u.times {
		f, err := openIn(u.t.root, "./"+d.name, unix.O_PATH|unix.O_NOFOLLOW)
		if err != nil {
			continue
		}
		var st unix.Stat_t
		if unix.Fstat(fdOf(f), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			err = unix.UtimesNanoAt(unix.AT_FDCWD, procPath(f, ""), d.ts[:], 0)
		}
		f.Close()
		if err != nil {
			return &os.PathError{Op: "set times", Path: d.name, Err: err}
		}
	}
	return nil
}

// fromLower gives implied directories the attributes they have in the layers
// below (an overlay shows the upper one's), and makes the pending hard links to
// copies of the files below.
func (u *unpacker) fromLower() error {
	if u.o.Lower == nil {
		return nil // the lowest layer: 0755 root, as everybody makes them
	}
	lower, err := u.o.Lower(u.ctx)
	if err != nil {
		return fmt.Errorf("wait for the layers below: %w", err)
	}
	defer func() {
		for _, l := range lower {
			l.Close()
		}
	}()
	dirs := make([]string, 0, len(u.implied))
	for d := range u.implied {
		dirs = append(dirs, d)
	}
	slices.Sort(dirs)
	for _, d := range dirs {
		if err := u.likeLower(lower, d); err != nil {
			return err
		}
	}
	for _, l := range u.links {
		if err := u.linkLower(lower, l); err != nil {
			return err
		}
	}
	return nil
}

// likeLower copies the attributes of directory d from the topmost layer that has it.
func (u *unpacker) likeLower(lower []*os.File, d string) error {
	src, st := findLower(lower, d)
	if src == nil {
		return nil
	}
	defer src.Close()
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	own, err := openIn(u.t.root, "./"+d, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer own.Close()
	if !u.o.SkipOwner {
		if err := unix.Fchown(fdOf(own), int(st.Uid), int(st.Gid)); err != nil {
			return &os.PathError{Op: "chown", Path: d, Err: err}
		}
	}
	if err := unix.Fchmod(fdOf(own), st.Mode&0o7777); err != nil {
		return &os.PathError{Op: "chmod", Path: d, Err: err}
	}
	if err := copyXattrs(procPath(src, ""), procPath(own, "")); err != nil {
		return fmt.Errorf("copy attributes of %s: %w", d, err)
	}
	u.times = append(u.times, dirTime{d, [2]unix.Timespec{st.Atim, st.Mtim}})
	return nil
}

// linkLower makes l a copy of the file below it names. (An overlay could not
// link across layers either: it copies up first.)
func (u *unpacker) linkLower(lower []*os.File, l pendingLink) error {
	src, st := findLower(lower, l.target)
	if src == nil {
		return hostile(l.name, fmt.Sprintf("hard link to %q, which is in no layer", l.target))
	}
	defer src.Close()
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return hostile(l.name, fmt.Sprintf("hard link to %q, which is not a plain file", l.target))
	}
	if u.res.Bytes += st.Size; u.res.Bytes > u.lim.Bytes {
		return &LimitError{What: "bytes", Limit: u.lim.Bytes}
	}
	dir, base := split(l.name)
	p, err := u.t.dir(dir)
	if err != nil {
		return err
	}
	in, err := os.Open(procPath(src, ""))
	if err != nil {
		return fmt.Errorf("open %s below: %w", l.target, err)
	}
	defer in.Close()
	fd, err := unix.Openat(fdOf(p), base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return &os.PathError{Op: "create", Path: l.name, Err: err}
	}
	out := os.NewFile(uintptr(fd), l.name)
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		return fmt.Errorf("copy %s: %w", l.target, err)
	}
	if !u.o.SkipOwner {
		if err := out.Chown(int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	if err := unix.Fchmod(fd, st.Mode&0o7777); err != nil {
		return &os.PathError{Op: "chmod", Path: l.name, Err: err}
	}
	if err := copyXattrs(procPath(src, ""), procPath(p, base)); err != nil {
		return fmt.Errorf("copy attributes of %s: %w", l.target, err)
	}
	ts := []unix.Timespec{st.Atim, st.Mtim}
	return unix.UtimesNanoAt(fdOf(p), base, ts, unix.AT_SYMLINK_NOFOLLOW)
}

// findLower finds name in the topmost layer that says anything about it. nil: no
// layer has it, or the topmost one that speaks of it deleted it.
func findLower(lower []*os.File, name string) (*os.File, unix.Stat_t) {
	var st unix.Stat_t
	for _, l := range lower {
		f, err := openIn(l, "./"+name, unix.O_PATH|unix.O_NOFOLLOW)
		if err != nil {
			continue
		}
		if unix.Fstat(fdOf(f), &st) != nil || isWhiteout(&st) {
			f.Close()
			return nil, st
		}
		return f, st
	}
	return nil, st
}

// copyXattrs copies all attributes but overlayfs's. Both are paths below /proc/self/fd.
func copyXattrs(from, to string) error {
	names, err := listXattrs(from)
	if err != nil {
		return err
	}
	for _, n := range names {
		if strings.HasPrefix(n, overlayTrusted) || strings.HasPrefix(n, overlayUser) {
			continue
		}
		v, err := getXattr(from, n)
		if err != nil {
			return err
		}
		if err := unix.Setxattr(to, n, v, 0); err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EPERM) {
			return err
		}
	}
	return nil
}
