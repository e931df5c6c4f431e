package linux

import (
	"hull/internal/require"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func stat(t *testing.T, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Lstat(path, &st))
	return st
}

func copyTree(t *testing.T, src, dst string) error {
	t.Helper()
	from, err := os.Open(src)
	must(t, err)
	defer from.Close()
	to, err := os.Open(dst)
	must(t, err)
	defer to.Close()
	return CopyTree(from, to)
}

func TestCopyTreeKeepsEverything(t *testing.T) {
	t.Parallel()
	require.Root(t)
	src, dst := t.TempDir(), t.TempDir()
	in := func(name string) string { return filepath.Join(src, name) }
	must(t, os.Mkdir(in("dir"), 0o700))
	must(t, os.WriteFile(in("dir/file"), []byte("hello"), 0o600))
	must(t, os.Link(in("dir/file"), in("other")))
	must(t, os.Symlink("/etc/passwd", in("link")))
	must(t, unix.Mkfifo(in("pipe"), 0o622))
	must(t, unix.Mknod(in("null"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	sparse, err := os.Create(in("sparse"))
	must(t, err)
	_, err = sparse.WriteAt([]byte("end"), 1<<30)
	must(t, err)
	must(t, sparse.Close())
	must(t, unix.Setxattr(in("dir/file"), "user.x", []byte("y"), 0))
	must(t, unix.Setxattr(in("dir/file"), "security.capability", []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	must(t, unix.Setxattr(in("dir"), "trusted.overlay.opaque", []byte("y"), 0))
	names := []string{"", "dir", "dir/file", "other", "link", "pipe", "null", "sparse"}
	for i, name := range names {
		must(t, os.Lchown(in(name), 1000+i, 2000+i))
	}
	must(t, os.Chmod(in("dir/file"), 0o755|os.ModeSetuid))
	must(t, unix.Setxattr(in("dir/file"), "security.capability", []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	must(t, os.Chmod(src, 0o1777))

	must(t, copyTree(t, src, dst))
	for _, name := range names {
		a, b := stat(t, in(name)), stat(t, filepath.Join(dst, name))
		if a.Mode != b.Mode || a.Uid != b.Uid || a.Gid != b.Gid || a.Rdev != b.Rdev || a.Nlink != b.Nlink || a.Mtim != b.Mtim {
			t.Errorf("%s: %+v became %+v", name, a, b)
		}
		if a.Mode&unix.S_IFMT == unix.S_IFREG && (a.Size != b.Size || b.Blocks > a.Blocks+16) {
			t.Errorf("%s: %d bytes in %d blocks became %d in %d", name, a.Size, a.Blocks, b.Size, b.Blocks)
		}
	}
	if stat(t, filepath.Join(dst, "other")).Ino != stat(t, filepath.Join(dst, "dir/file")).Ino {
		t.Error("hard link was broken")
	}
	if l, err := os.Readlink(filepath.Join(dst, "link")); err != nil || l != "/etc/passwd" {
		t.Error(l, err)
	}
	attr := func(name, key string) string {
		b := make([]byte, 100)
		n, err := unix.Lgetxattr(filepath.Join(dst, name), key, b)
		if err != nil {
			return err.Error()
		}
		return string(b[:n])
	}
	if attr("dir/file", "user.x") != "y" || !strings.HasPrefix(attr("dir/file", "security.capability"), "\x01\x00\x00\x02") {
		t.Error("extended attributes:", attr("dir/file", "user.x"), attr("dir/file", "security.capability"))
	}
	if v := attr("dir", "trusted.overlay.opaque"); v == "y" {
		t.Error("an attribute of overlayfs was copied")
	}
}

// TestCopyTreeIntoHostileDirectory copies while somebody swaps a directory of the
// destination for a link to a place outside.
func TestCopyTreeIntoHostileDirectory(t *testing.T) {
	t.Parallel()
	require.Root(t)
	src, outside := t.TempDir(), t.TempDir()
	must(t, os.MkdirAll(filepath.Join(src, "a", "b"), 0o755))
	for _, n := range []string{"1", "2", "3", "4"} {
		must(t, os.WriteFile(filepath.Join(src, "a", "b", n), []byte("x"), 0o644))
		must(t, os.Link(filepath.Join(src, "a", "b", n), filepath.Join(src, "a", n)))
	}
	must(t, os.WriteFile(filepath.Join(outside, "1"), []byte("host"), 0o600))
	must(t, os.Chmod(outside, 0o700))
	before := stat(t, outside)
	for range 200 {
		dst := t.TempDir()
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			link := filepath.Join(dst, "evil")
			_ = os.Symlink(outside, link)
			for {
				select {
				case <-stop:
					return
				default:
				}
				_ = unix.Renameat2(unix.AT_FDCWD, link, unix.AT_FDCWD, filepath.Join(dst, "a"), unix.RENAME_EXCHANGE)
			}
		})
		_ = copyTree(t, src, dst) // may fail, must not get out
		close(stop)
		wg.Wait()
	}
	after := stat(t, outside)
	b, err := os.ReadFile(filepath.Join(outside, "1"))
	must(t, err)
	if string(b) != "host" || after.Mode != before.Mode || after.Mtim != before.Mtim || stat(t, filepath.Join(outside, "1")).Nlink != 1 {
		t.Error("the copy got out of its directory")
	}
}

func TestCopyTreeDepth(t *testing.T) {
	t.Parallel()
	require.Root(t)
	src, dst := t.TempDir(), t.TempDir()
	dir, err := os.Open(src)
	must(t, err)
	for range maxDepth + 10 {
		must(t, unix.Mkdirat(FD(dir), "d", 0o755))
		next, err := OpenNoSymlinks(dir, "d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		must(t, err)
		must(t, dir.Close())
		dir = next
	}
	must(t, dir.Close())
	if err := copyTree(t, src, dst); err == nil || !strings.Contains(err.Error(), "more than 1000") {
		t.Error(err)
	}
}
