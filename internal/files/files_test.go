package files

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"

	"hull/internal/hull"
)

func open(t *testing.T, dir string) *os.File {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestRoundTrip packs a tree and unpacks it elsewhere.
func TestRoundTrip(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	must(t, os.MkdirAll(filepath.Join(from, "data/sub"), 0o750))
	must(t, os.WriteFile(filepath.Join(from, "data/a"), []byte("hello"), 0o640))
	must(t, os.Link(filepath.Join(from, "data/a"), filepath.Join(from, "data/b")))
	must(t, os.Symlink("/data/a", filepath.Join(from, "data/sub/l")))
	var buf bytes.Buffer
	must(t, Files{}.Pack(context.Background(), open(t, from), hull.CopyFromRequest{Path: "/data"}, &buf))
	err := Files{}.Unpack(context.Background(), open(t, to), hull.CopyToRequest{Path: "/"}, &buf)
	if os.Geteuid() != 0 && err != nil {
		t.Skip("owners can only be set by root")
	}
	must(t, err)
	got, err := os.ReadFile(filepath.Join(to, "data/b"))
	if err != nil || string(got) != "hello" {
		t.Fatalf("hard link: %q, %v", got, err)
	}
	a, _ := os.Stat(filepath.Join(to, "data/a"))
	b, _ := os.Stat(filepath.Join(to, "data/b"))
	if !os.SameFile(a, b) || a.Mode().Perm() != 0o640 {
		t.Errorf("a and b: same=%v mode=%v", os.SameFile(a, b), a.Mode())
	}
	if l, err := os.Readlink(filepath.Join(to, "data/sub/l")); err != nil || l != "/data/a" {
		t.Errorf("link: %q, %v", l, err)
	}
	if st, _ := os.Stat(filepath.Join(to, "data/sub")); st.Mode().Perm() != 0o750 {
		t.Errorf("directory mode %v", st.Mode())
	}
}

// TestArchiveNames: what a tar's names start with is what clients rename by.
func TestArchiveNames(t *testing.T) {
	root := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(root, "a/b"), 0o755))
	must(t, os.WriteFile(filepath.Join(root, "a/b/f"), nil, 0o600))
	must(t, os.Symlink("b", filepath.Join(root, "a/l")))
	for _, tc := range []struct{ path, first, last string }{
		{"/", "/", "/a/l"},
		{".", "./", "./a/l"},
		{"/.", "./", "./a/l"},
		{"./", "./", "./a/l"},
		{"a/b", "b/", "b/f"},
		{"/a/b/", "b/", "b/f"},
		{"/a/b/.", "./", "./f"},
		{"a/b/f", "f", "f"},
		{"a/l", "l", "l"},
		{"a/l/", "l/", "l/f"},
		{"a/l/.", "./", "./f"},
	} {
		var buf bytes.Buffer
		must(t, Files{}.Pack(context.Background(), open(t, root), hull.CopyFromRequest{Path: tc.path}, &buf))
		var names []string
		for r := tar.NewReader(&buf); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			must(t, err)
			names = append(names, h.Name)
		}
		if names[0] != tc.first || names[len(names)-1] != tc.last {
			t.Errorf("%s: %q", tc.path, names)
		}
	}
}

// TestFileIsNoDirectory: a slash at the end asks for a directory.
func TestFileIsNoDirectory(t *testing.T) {
	root := t.TempDir()
	must(t, os.WriteFile(filepath.Join(root, "f"), nil, 0o600))
	if _, err := (Files{}).Stat(open(t, root), "/", "/f/"); !errdefs.IsInvalidArgument(err) || !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("file with a slash: %v", err)
	}
	if _, err := (Files{}).Stat(open(t, root), "/", "/f/g/"); !errdefs.IsNotFound(err) {
		t.Errorf("below a file: %v", err)
	}
}

// TestOwner: what is unpacked belongs to whom the tar says, or to one owner.
func TestOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("owners can only be set by root")
	}
	for _, tc := range []struct {
		owner *hull.FileOwner
		want  uint32
	}{{nil, 1234}, {&hull.FileOwner{UID: 77, GID: 78}, 77}} {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		must(t, w.WriteHeader(&tar.Header{Name: "f", Typeflag: tar.TypeReg, Mode: 0o600, Uid: 1234, Gid: 1234}))
		must(t, w.Close())
		root := t.TempDir()
		must(t, Files{}.Unpack(context.Background(), open(t, root), hull.CopyToRequest{Path: "/", Owner: tc.owner}, &buf))
		var st syscall.Stat_t
		must(t, syscall.Stat(filepath.Join(root, "f"), &st))
		if st.Uid != tc.want {
			t.Errorf("owner %v: uid %d, want %d", tc.owner, st.Uid, tc.want)
		}
	}
}

// TestStat describes links by where they lead inside the container.
func TestStat(t *testing.T) {
	root := t.TempDir()
	must(t, os.WriteFile(filepath.Join(root, "f"), []byte("123"), 0o600))
	must(t, os.Symlink("../../../../f", filepath.Join(root, "l")))
	f := open(t, root)
	st, err := Files{}.Stat(f, "/", "/l")
	if err != nil || st.LinkTarget != "/f" || st.Mode&os.ModeSymlink == 0 {
		t.Errorf("link: %+v, %v", st, err)
	}
	if st, err := (Files{}).Stat(f, "/", "f"); err != nil || st.Size != 3 || st.Name != "f" {
		t.Errorf("file: %+v, %v", st, err)
	}
	if _, err := (Files{}).Stat(f, "/", "/no/such"); !errdefs.IsNotFound(err) {
		t.Errorf("missing: %v", err)
	}
}

// TestStatInVolume describes links of a volume by where they lead in the container.
func TestStatInVolume(t *testing.T) {
	root := t.TempDir()
	must(t, os.WriteFile(filepath.Join(root, "f"), nil, 0o600))
	links := map[string]struct{ to, want string }{
		"near":  {"f", "/data/f"},
		"none":  {"missing", "/data/missing"},
		"twice": {"near", "/data/f"},
		"whole": {"/data/near", "/data/f"},
		"out":   {"../etc", "/etc"},
		"root":  {"/f", "/f"},
		"alike": {"../data2/f", "/data2/f"},
	}
	for name, l := range links {
		must(t, os.Symlink(l.to, filepath.Join(root, name)))
	}
	for name, l := range links {
		if st, err := (Files{}).Stat(open(t, root), "/data", "/"+name); err != nil || st.LinkTarget != l.want {
			t.Errorf("%s -> %s: %+v, %v; want %s", name, l.to, st, err, l.want)
		}
	}
	if st, err := (Files{}).Stat(open(t, root), "/data", "/"); err != nil || st.Name != "data" {
		t.Errorf("the volume itself: %+v, %v", st, err)
	}
}

// TestHostileTar tries every way out that is known (CVE-2018-15664 and kin).
func TestHostileTar(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("owners can only be set by root")
	}
	outside := t.TempDir()
	canary := filepath.Join(outside, "canary")
	must(t, os.WriteFile(canary, []byte("safe"), 0o600))
	entries := map[string][]tar.Header{
		"dot dot":                 {{Name: "../canary", Typeflag: tar.TypeReg}},
		"absolute":                {{Name: canary, Typeflag: tar.TypeReg}},
		"through absolute link":   {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: outside}, {Name: "l/canary", Typeflag: tar.TypeReg}},
		"through relative link":   {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../../../../../../../.." + outside}, {Name: "l/canary", Typeflag: tar.TypeReg}},
		"onto a link":             {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: canary}, {Name: "l", Typeflag: tar.TypeReg}},
		"hard link to outside":    {{Name: "h", Typeflag: tar.TypeLink, Linkname: canary}, {Name: "h", Typeflag: tar.TypeReg}},
		"hard link climbing":      {{Name: "h", Typeflag: tar.TypeLink, Linkname: "../.." + canary}},
		"through the image's own": {{Name: "way-out/canary", Typeflag: tar.TypeReg}},
	}
	for name, hs := range entries {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			must(t, os.Symlink(outside, filepath.Join(root, "way-out")))
			must(t, os.Mkdir(filepath.Join(root, "dest"), 0o755))
			var buf bytes.Buffer
			w := tar.NewWriter(&buf)
			for _, h := range hs {
				h.Mode = 0o644
				if h.Typeflag == tar.TypeReg {
					h.Size = 4
				}
				must(t, w.WriteHeader(&h))
				if h.Size > 0 {
					_, err := w.Write([]byte("evil"))
					must(t, err)
				}
			}
			must(t, w.Close())
			_ = Files{}.Unpack(context.Background(), open(t, root), hull.CopyToRequest{Path: "/dest"}, &buf)
			got, err := os.ReadFile(canary)
			left, _ := os.ReadDir(outside)
			if err != nil || string(got) != "safe" || len(left) != 1 {
				t.Fatalf("the host changed: %q, %v, %d entries", got, err, len(left))
			}
		})
	}
}
