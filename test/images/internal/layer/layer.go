// Package layer writes and applies image layers, and writes image archives, for
// the test images. It trusts its input: the trees were made a moment ago.
package layer

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

// FromTree writes the tree below dir (a root file system, or an overlay's upper
// directory) as a layer: hard links kept, overlay whiteouts as .wh. files.
func FromTree(dir, file string) (err error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	buf := bufio.NewWriterSize(f, 1<<20)
	tw := tar.NewWriter(buf)
	w := writer{tw: tw, links: map[inode]string{}}
	err = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		return w.add(path, rel)
	})
	if err != nil {
		return err
	}
	if err := tw.Close(); err != nil {
		return err
	}
	return buf.Flush()
}

type inode struct{ dev, ino uint64 }

type writer struct {
	tw    *tar.Writer
	links map[inode]string
}

func (w writer) add(path, rel string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	st := info.Sys().(*syscall.Stat_t)
	if st.Mode&syscall.S_IFMT == syscall.S_IFCHR && st.Rdev == 0 { // overlay's whiteout
		return w.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: filepath.Join(filepath.Dir(rel), whiteout+filepath.Base(rel)), Format: tar.FormatPAX})
	}
	if st.Mode&syscall.S_IFMT == syscall.S_IFSOCK {
		return nil
	}
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	h.Name, h.Uname, h.Gname, h.Format = rel, "", "", tar.FormatPAX
	if info.IsDir() {
		h.Name += "/"
	}
	if st.Nlink > 1 && info.Mode().IsRegular() {
		key := inode{st.Dev, st.Ino}
		if first, ok := w.links[key]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			return w.tw.WriteHeader(h)
		}
		w.links[key] = rel
	}
	if capability, err := xattr(path, "security.capability"); err == nil {
		h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": string(capability)}
	}
	if err := w.tw.WriteHeader(h); err != nil {
		return err
	}
	if info.IsDir() {
		if v, err := xattr(path, "trusted.overlay.opaque"); err == nil && string(v) == "y" {
			return w.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: filepath.Join(rel, opaque), Format: tar.FormatPAX})
		}
		return nil
	}
	if !info.Mode().IsRegular() {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w.tw, f)
	return err
}

func xattr(path, name string) ([]byte, error) {
	buf := make([]byte, 256)
	n, err := unix.Lgetxattr(path, name, buf)
	if err != nil {
		return nil, err
	}
	return buf[:n], nil
}

// Apply unpacks a layer over the tree in dir: what it takes away first, then what
// it brings.
func Apply(ctx context.Context, file, dir string) error {
	if err := takeAway(file, dir); err != nil {
		return fmt.Errorf("unpack %s: %w", file, err)
	}
	cmd := exec.CommandContext(ctx, "tar", "--exclude=.wh.*", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", file, "-C", dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("unpack %s: %w: %s", file, err, out)
	}
	return nil
}

// takeAway carries out the whiteouts of a layer.
func takeAway(file, dir string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		base := filepath.Base(h.Name)
		parent := filepath.Join(dir, filepath.Dir(h.Name))
		switch {
		case base == opaque:
			below, err := filepath.Glob(filepath.Join(parent, "*"))
			if err != nil {
				return err
			}
			for _, path := range below {
				if err := os.RemoveAll(path); err != nil {
					return err
				}
			}
		case strings.HasPrefix(base, whiteout):
			if err := os.RemoveAll(filepath.Join(parent, strings.TrimPrefix(base, whiteout))); err != nil {
				return err
			}
		}
	}
}
