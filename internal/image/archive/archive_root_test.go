package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"hull/internal/hull"
	"hull/internal/linux"
	"hull/internal/require"
)

// capNetRaw is a version 2 security.capability value with cap_net_raw=ep.
const capNetRaw = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// TestExact: owners, modes, devices, capabilities and attributes are the tar's.
func TestExact(t *testing.T) {
	require.Root(t)
	x := newCell(t)
	if _, err := x.unpack(t, tarOf(t,
		ent{name: "d/", uid: 1000, gid: 2000, mode: 0o2750},
		ent{name: "d/f", body: "f", uid: 65534, gid: 7, mode: 0o4711, pax: map[string]string{"SCHILY.xattr.security.capability": capNetRaw, "SCHILY.xattr.user.note": "hi"}},
		ent{name: "d/l", typ: tar.TypeSymlink, link: "f", uid: 5, gid: 6},
		ent{name: "null", typ: tar.TypeChar, major: 1, minor: 3, mode: 0o666, uid: 1, gid: 1},
		ent{name: "loop", typ: tar.TypeBlock, major: 7, minor: 300, mode: 0o660, uid: 1, gid: 1},
		ent{name: "pipe", typ: tar.TypeFifo, mode: 0o600, uid: 1, gid: 1},
		ent{name: "o/.wh..wh..opq"},
	), Options{}); err != nil {
		t.Fatal(err)
	}
	type facts struct {
		Mode, UID, GID uint32
		Rdev           uint64
	}
	for name, want := range map[string]facts{
		"d":    {unix.S_IFDIR | 0o2750, 1000, 2000, 0},
		"d/f":  {unix.S_IFREG | 0o4711, 65534, 7, 0},
		"d/l":  {unix.S_IFLNK | 0o777, 5, 6, 0},
		"null": {unix.S_IFCHR | 0o666, 1, 1, unix.Mkdev(1, 3)},
		"loop": {unix.S_IFBLK | 0o660, 1, 1, unix.Mkdev(7, 300)},
		"pipe": {unix.S_IFIFO | 0o600, 1, 1, 0},
	} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(x.root, name), &st); err != nil {
			t.Fatal(err)
		}
		if got := (facts{st.Mode, st.Uid, st.Gid, st.Rdev}); got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
	for _, a := range []struct{ path, name, want string }{
		{"d/f", "security.capability", capNetRaw}, {"d/f", "user.note", "hi"}, {"o", OpaqueXattr, "y"},
	} {
		got, err := getXattr(filepath.Join(x.root, a.path), a.name)
		if err != nil || string(got) != a.want {
			t.Errorf("%s %s: %q, %v", a.path, a.name, got, err)
		}
	}
}

// TestChangesAndDiff works on an overlay of the kernel's, reads what changed,
// packs it as a layer, and finds the same in that layer unpacked.
func TestChangesAndDiff(t *testing.T) {
	require.Root(t)
	low := newCell(t)
	if _, err := low.unpack(t, tarOf(t,
		ent{name: "keep", body: "k"}, ent{name: "edit", body: "1"}, ent{name: "gone", body: "x"},
		ent{name: "dir/"}, ent{name: "dir/a", body: "a"}, ent{name: "dir/b", body: "b"},
		ent{name: "redo/"}, ent{name: "redo/old", body: "o"}, ent{name: "deaddir/"}, ent{name: "deaddir/x", body: "x"},
	), Options{}); err != nil {
		t.Fatal(err)
	}
	box := t.TempDir()
	upper, work := filepath.Join(box, "upper"), filepath.Join(box, "work")
	for _, d := range []string{upper, work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m, err := linux.MountOverlay(linux.Overlay{Lower: []string{low.root}, Upper: upper, Work: work})
	if err != nil {
		t.Fatal(err)
	}
	root := linux.ProcPath(m)
	for _, step := range []func() error{
		func() error { return os.WriteFile(root+"/edit", []byte("2"), 0o644) },
		func() error { return os.Remove(root + "/gone") },
		func() error { return os.WriteFile(root+"/dir/new", []byte("n"), 0o644) },
		func() error { return os.Link(root+"/dir/new", root+"/dir/new2") },
		func() error { return os.Remove(root + "/dir/b") },
		func() error { return os.RemoveAll(root + "/redo") },
		func() error { return os.Mkdir(root+"/redo", 0o755) },
		func() error { return os.WriteFile(root+"/redo/fresh", []byte("f"), 0o644) },
		func() error { return os.RemoveAll(root + "/deaddir") },
		func() error { return unix.Setxattr(root+"/dir/new", "user.tag", []byte("v"), 0) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	m.Close()

	up, err := os.Open(upper)
	if err != nil {
		t.Fatal(err)
	}
	defer up.Close()
	lo, err := os.Open(low.root)
	if err != nil {
		t.Fatal(err)
	}
	defer lo.Close()
	want := []hull.Change{
		{Path: "/deaddir", Kind: deleted}, {Path: "/dir", Kind: changed}, {Path: "/dir/b", Kind: deleted}, {Path: "/dir/new", Kind: added},
		{Path: "/dir/new2", Kind: added}, {Path: "/edit", Kind: changed}, {Path: "/gone", Kind: deleted}, {Path: "/redo", Kind: changed},
		{Path: "/redo/fresh", Kind: added}, {Path: "/redo/old", Kind: deleted},
	}
	got, err := Changes(up, []*os.File{lo})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}

	var layer, again bytes.Buffer
	for _, b := range []*bytes.Buffer{&layer, &again} {
		if err := PackDiff(context.Background(), b, up); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(layer.Bytes(), again.Bytes()) {
		t.Error("the same files gave different layers")
	}
	copied := newCell(t)
	if _, err := copied.unpack(t, layer.Bytes(), Options{}); err != nil {
		t.Fatal(err)
	}
	cp, err := os.Open(copied.root)
	if err != nil {
		t.Fatal(err)
	}
	defer cp.Close()
	if got, err = Changes(cp, []*os.File{lo}); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("changes of the layer packed and unpacked:\n%s", d)
	}
	if v, err := getXattr(copied.root+"/dir/new", "user.tag"); err != nil || string(v) != "v" {
		t.Errorf("attribute %q, %v", v, err)
	}
	links := 0
	tr := tar.NewReader(&layer)
	for h, err := tr.Next(); err != io.EOF; h, err = tr.Next() {
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeLink {
			links++
		}
	}
	if links != 1 {
		t.Errorf("%d hard links in the layer, want 1", links)
	}
}
