package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// ent is one entry of a test's tar. Owners are the caller's, so that tests run
// without root.
type ent struct {
	name, body, link string
	typ              byte
	mode             int64
	pax              map[string]string
	major, minor     int64
	uid, gid         int
	time             time.Time
}

func tarOf(t testing.TB, ents ...ent) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range ents {
		h := &tar.Header{Name: e.name, Linkname: e.link, Typeflag: e.typ, Mode: e.mode, Size: int64(len(e.body)), PAXRecords: e.pax,
			Devmajor: e.major, Devminor: e.minor, Uid: e.uid, Gid: e.gid, ModTime: e.time, Format: tar.FormatPAX}
		if h.Uid == 0 {
			h.Uid, h.Gid = os.Getuid(), os.Getgid()
		}
		if e.typ == 0 {
			h.Typeflag = tar.TypeReg
			if strings.HasSuffix(e.name, "/") {
				h.Typeflag = tar.TypeDir
			}
		}
		if e.mode == 0 {
			h.Mode = 0o755
		}
		if e.time.IsZero() {
			h.ModTime = time.Unix(1_500_000_000, 0)
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatalf("%s: %v", e.name, err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// cell is a directory to unpack into, beside a canary that must never change.
type cell struct {
	dir, root string
}

func newCell(t testing.TB) cell {
	t.Helper()
	c := cell{dir: t.TempDir()}
	c.root = filepath.Join(c.dir, "root")
	for _, d := range []string{c.root, filepath.Join(c.dir, "out")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(c.dir, "out", "canary"), []byte("alive"), 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c cell) unpack(t testing.TB, b []byte, o Options) (Result, error) {
	t.Helper()
	root, err := os.Open(c.root)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	o.SkipOwner, o.User = os.Geteuid() != 0, os.Geteuid() != 0
	return Unpack(context.Background(), bytes.NewReader(b), root, o)
}

// check fails when anything outside the root changed.
func (c cell) check(t testing.TB) {
	t.Helper()
	got := list(t, c.dir)
	for k := range got {
		if k == "root" || strings.HasPrefix(k, "root/") {
			delete(got, k)
		}
	}
	if d := cmp.Diff(map[string]string{"out": "/", "out/canary": "alive"}, got); d != "" {
		t.Errorf("something outside the layer changed:\n%s", d)
	}
	if st, err := os.Stat(filepath.Join(c.dir, "out", "canary")); err != nil || st.Mode() != 0o600 { // CVE-2021-32760
		t.Errorf("a file outside the layer changed: %+v, %v", st, err)
	}
}

func list(t testing.TB, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		switch {
		case d.IsDir():
			got[rel] = "/"
		case d.Type()&os.ModeSymlink != 0:
			to, err := os.Readlink(p)
			got[rel] = "-> " + to
			return err
		case d.Type().IsRegular():
			b, err := os.ReadFile(p)
			got[rel] = string(b)
			return err
		case d.Type()&os.ModeCharDevice != 0:
			var st unix.Stat_t
			if err := unix.Lstat(p, &st); err != nil {
				return err
			}
			got[rel] = fmt.Sprintf("c %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		default:
			got[rel] = d.Type().String()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestHostile tries what malicious layers try. Every case is unpacked beside a
// canary; refused says that an error is due, otherwise the tree is compared.
func TestHostile(t *testing.T) {
	long := strings.Repeat("x", 256)
	for name, c := range map[string]struct {
		ents    []ent
		opt     Options
		refused error // nil = accepted
		want    map[string]string
	}{
		"dot dot":                   {ents: []ent{{name: "../out/canary", body: "dead"}}, refused: errdefs.ErrInvalidArgument},
		"dot dot inside":            {ents: []ent{{name: "a/../../out/canary", body: "dead"}}, refused: errdefs.ErrInvalidArgument},
		"dot dot that stays inside": {ents: []ent{{name: "a/../b", body: "b"}}, want: map[string]string{"b": "b"}},
		"absolute name":             {ents: []ent{{name: "/etc/x", body: "x"}}, want: map[string]string{"etc": "/", "etc/x": "x"}},
		"empty name":                {ents: []ent{{name: "", body: "x"}}, refused: errdefs.ErrInvalidArgument},
		"root as file":              {ents: []ent{{name: ".", typ: tar.TypeReg}}, refused: errdefs.ErrInvalidArgument},
		"root as link":              {ents: []ent{{name: ".", typ: tar.TypeSymlink, link: "../out"}, {name: "canary", body: "dead"}}, refused: errdefs.ErrInvalidArgument},
		"absolute link, write through": {
			ents: []ent{{name: "out/"}, {name: "l", typ: tar.TypeSymlink, link: "/out"}, {name: "l/canary", body: "inside"}},
			want: map[string]string{"l": "-> /out", "out": "/", "out/canary": "inside"},
		},
		"climbing link, write through": {
			ents: []ent{{name: "out/"}, {name: "l", typ: tar.TypeSymlink, link: "../../../out"}, {name: "l/canary", body: "inside"}},
			want: map[string]string{"l": "-> ../../../out", "out": "/", "out/canary": "inside"},
		},
		"dangling link, write through": {ents: []ent{{name: "l", typ: tar.TypeSymlink, link: "../out"}, {name: "l/canary", body: "dead"}}, refused: errdefs.ErrInvalidArgument},
		"link to proc, write through":  {ents: []ent{{name: "l", typ: tar.TypeSymlink, link: "/proc/self/cwd"}, {name: "l/canary", body: "dead"}}, refused: errdefs.ErrInvalidArgument},
		"file over link":               {ents: []ent{{name: "l", typ: tar.TypeSymlink, link: "../out/canary"}, {name: "l", body: "mine"}}, want: map[string]string{"l": "mine"}},
		"directory over link":          {ents: []ent{{name: "l", typ: tar.TypeSymlink, link: "../out"}, {name: "l/"}, {name: "l/canary", body: "mine"}}, want: map[string]string{"l": "/", "l/canary": "mine"}},
		"link over directory with cached parent": {
			ents:    []ent{{name: "d/"}, {name: "d/a", body: "a"}, {name: "d", typ: tar.TypeSymlink, link: "../out"}, {name: "d/canary", body: "dead"}},
			refused: errdefs.ErrInvalidArgument,
		},
		"link loop":              {ents: []ent{{name: "a", typ: tar.TypeSymlink, link: "b"}, {name: "b", typ: tar.TypeSymlink, link: "a"}, {name: "a/x", body: "x"}}, refused: errdefs.ErrInvalidArgument},
		"file as parent":         {ents: []ent{{name: "f", body: "f"}, {name: "f/x", body: "x"}}, refused: errdefs.ErrInvalidArgument},
		"hard link outside":      {ents: []ent{{name: "h", typ: tar.TypeLink, link: "../out/canary"}}, refused: errdefs.ErrInvalidArgument},
		"hard link absolute":     {ents: []ent{{name: "h", typ: tar.TypeLink, link: "/etc/passwd"}}, refused: errdefs.ErrInvalidArgument},
		"hard link through link": {ents: []ent{{name: "l", typ: tar.TypeSymlink, link: "../out"}, {name: "h", typ: tar.TypeLink, link: "l/canary"}}, refused: errdefs.ErrInvalidArgument},
		"hard link to link": {
			ents: []ent{{name: "l", typ: tar.TypeSymlink, link: "../out/canary"}, {name: "h", typ: tar.TypeLink, link: "l", mode: 0o4777}},
			want: map[string]string{"l": "-> ../out/canary", "h": "-> ../out/canary"},
		},
		"write through hard link to link": {
			ents: []ent{{name: "l", typ: tar.TypeSymlink, link: "../out/canary"}, {name: "h", typ: tar.TypeLink, link: "l"}, {name: "h", body: "mine"}},
			want: map[string]string{"l": "-> ../out/canary", "h": "mine"},
		},
		"hard link to directory":    {ents: []ent{{name: "d/"}, {name: "h", typ: tar.TypeLink, link: "d"}}, refused: errdefs.ErrInvalidArgument},
		"hard link to itself":       {ents: []ent{{name: "h", body: "x"}, {name: "h", typ: tar.TypeLink, link: "h"}}, refused: errdefs.ErrInvalidArgument},
		"hard link to nothing":      {ents: []ent{{name: "h", typ: tar.TypeLink, link: "nowhere"}}, refused: errdefs.ErrInvalidArgument},
		"whiteout of parent":        {ents: []ent{{name: ".wh..", body: ""}}, refused: errdefs.ErrInvalidArgument},
		"whiteout of grand parent":  {ents: []ent{{name: ".wh...", body: ""}}, refused: errdefs.ErrInvalidArgument},
		"whiteout of nothing":       {ents: []ent{{name: ".wh.", body: ""}}, refused: errdefs.ErrInvalidArgument},
		"whiteout through link":     {ents: []ent{{name: "l", typ: tar.TypeSymlink, link: "../out"}, {name: "l/.wh.canary"}}, refused: errdefs.ErrInvalidArgument},
		"whiteout below dot dot":    {ents: []ent{{name: "../out/.wh.canary"}}, refused: errdefs.ErrInvalidArgument},
		"opaque through link":       {ents: []ent{{name: "l", typ: tar.TypeSymlink, link: "../out"}, {name: "l/.wh..wh..opq"}}, refused: errdefs.ErrInvalidArgument},
		"whiteout":                  {ents: []ent{{name: "d/"}, {name: "d/.wh.x"}}, want: map[string]string{"d": "/", "d/x": "c 0:0"}},
		"whiteout of own file":      {ents: []ent{{name: "x", body: "x"}, {name: ".wh.x"}}, want: map[string]string{"x": "x"}},
		"file after its whiteout":   {ents: []ent{{name: ".wh.x"}, {name: "x", body: "x"}}, want: map[string]string{"x": "x"}},
		"aufs records":              {ents: []ent{{name: ".wh..wh.plnk/1.2", body: "x"}, {name: ".wh..wh.aufs", body: "x"}}, want: map[string]string{}},
		"device 0:0":                {ents: []ent{{name: "n", typ: tar.TypeChar}}, refused: errdefs.ErrInvalidArgument},
		"device out of range":       {ents: []ent{{name: "n", typ: tar.TypeChar, major: 1 << 20, minor: 1}}, refused: errdefs.ErrInvalidArgument},
		"overlay's attribute":       {ents: []ent{{name: "d/", pax: map[string]string{"SCHILY.xattr.trusted.overlay.opaque": "y"}}}, refused: errdefs.ErrInvalidArgument},
		"overlay's redirect":        {ents: []ent{{name: "d/", pax: map[string]string{"SCHILY.xattr.trusted.overlay.redirect": "/out"}}}, refused: errdefs.ErrInvalidArgument},
		"path by PAX record":        {ents: []ent{{name: strings.Repeat("a/", 60) + "../../" + strings.Repeat("../", 70) + "out/canary", body: "dead"}}, refused: errdefs.ErrInvalidArgument},
		"long component":            {ents: []ent{{name: long, body: "x"}}, refused: errdefs.ErrInvalidArgument},
		"empty link":                {ents: []ent{{name: "l", typ: tar.TypeSymlink, link: strings.Repeat("y", 5000)}}, refused: errdefs.ErrInvalidArgument},
		"too deep":                  {ents: []ent{{name: strings.Repeat("d/", 300) + "x", body: "x"}}, refused: errdefs.ErrResourceExhausted},
		"too many":                  {ents: []ent{{name: "a"}, {name: "b"}, {name: "c"}}, opt: Options{Limits: Limits{Entries: 2}}, refused: errdefs.ErrResourceExhausted},
		"too large":                 {ents: []ent{{name: "a", body: strings.Repeat("z", 100)}}, opt: Options{Limits: Limits{Bytes: 99}}, refused: errdefs.ErrResourceExhausted},
		"duplicates, last wins":     {ents: []ent{{name: "a", body: "1"}, {name: "a", body: "2"}, {name: "b/"}, {name: "b", body: "file"}, {name: "c", body: "file"}, {name: "c/"}, {name: "c/x", body: "x"}}, want: map[string]string{"a": "2", "b": "file", "c": "/", "c/x": "x"}},
		"directory twice is merged": {ents: []ent{{name: "d/"}, {name: "d/a", body: "a"}, {name: "d/"}, {name: "d/b", body: "b"}}, want: map[string]string{"d": "/", "d/a": "a", "d/b": "b"}},
		"root entry":                {ents: []ent{{name: "./", mode: 0o711}, {name: "./a", body: "a"}}, want: map[string]string{"a": "a"}},
		"whiteout names in a plain tar": {
			ents: []ent{{name: ".wh.x", body: "file"}}, opt: Options{Plain: true}, want: map[string]string{".wh.x": "file"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := newCell(t)
			_, err := x.unpack(t, tarOf(t, c.ents...), c.opt)
			x.check(t)
			switch {
			case c.refused != nil:
				if !errors.Is(err, c.refused) {
					t.Fatalf("want %v, got %v", c.refused, err)
				}
			case err != nil:
				t.Fatal(err)
			default:
				if d := cmp.Diff(c.want, list(t, x.root)); d != "" {
					t.Error(d)
				}
			}
		})
	}
}

// TestSparseBomb: a file of which the header promises much and the body has
// nothing but zeros takes no space.
func TestSparseBomb(t *testing.T) {
	x := newCell(t)
	const size = 64 << 20
	if _, err := x.unpack(t, tarOf(t, ent{name: "zeros", body: strings.Repeat("\x00", size)}), Options{}); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(x.root, "zeros"), &st); err != nil {
		t.Fatal(err)
	}
	if st.Size != size || st.Blocks*512 > 1<<20 {
		t.Errorf("size %d, blocks %d", st.Size, st.Blocks)
	}
}

// TestBrokenTars: whatever ends too early is an error, and never a shorter layer.
func TestBrokenTars(t *testing.T) {
	whole := tarOf(t, ent{name: "a", body: strings.Repeat("a", 3000)}, ent{name: "b", body: "b"})
	for _, n := range []int{100, 700, 2000, 3600} {
		x := newCell(t)
		if _, err := x.unpack(t, whole[:n], Options{}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
	x := newCell(t)
	if _, err := x.unpack(t, bytes.Repeat([]byte{0xff}, 4096), Options{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("noise: %v", err)
	}
}

func TestTimesAndModes(t *testing.T) {
	x := newCell(t)
	at := time.Unix(1_234_567_890, 123_000_000)
	if _, err := x.unpack(t, tarOf(t,
		ent{name: "d/", mode: 0o1777, time: at}, ent{name: "d/f", body: "x", mode: 0o4750, time: at.Add(time.Hour)},
		ent{name: "d/l", typ: tar.TypeSymlink, link: "f", time: at.Add(2 * time.Hour)}), Options{}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct {
		mode os.FileMode
		at   time.Time
	}{
		"d":   {os.ModeDir | os.ModeSticky | 0o777, at},
		"d/f": {os.ModeSetuid | 0o750, at.Add(time.Hour)},
		"d/l": {os.ModeSymlink | 0o777, at.Add(2 * time.Hour)},
	} {
		st, err := os.Lstat(filepath.Join(x.root, name))
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode() != want.mode || !st.ModTime().Equal(want.at) {
			t.Errorf("%s: %v %v, want %v %v", name, st.Mode(), st.ModTime(), want.mode, want.at)
		}
	}
}

// TestLower: what a layer does not say comes from those below it.
func TestLower(t *testing.T) {
	low, up := newCell(t), newCell(t)
	if _, err := low.unpack(t, tarOf(t, ent{name: "./", mode: 0o711}, ent{name: "d/", mode: 0o700}, ent{name: "d/f", body: "low", mode: 0o640}), Options{}); err != nil {
		t.Fatal(err)
	}
	below, err := os.Open(low.root)
	if err != nil {
		t.Fatal(err)
	}
	defer below.Close()
	asked := 0
	o := Options{Lower: func(context.Context) ([]*os.File, error) { asked++; return []*os.File{below}, nil }}
	if _, err := up.unpack(t, tarOf(t, ent{name: "d/g", body: "new"}, ent{name: "h", typ: tar.TypeLink, link: "d/f"}), o); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string]string{"d": "/", "d/g": "new", "h": "low"}, list(t, up.root)); d != "" {
		t.Error(d)
	}
	for name, want := range map[string]os.FileMode{"": 0o711, "d": 0o700, "h": 0o640} {
		st, err := os.Stat(filepath.Join(up.root, name))
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm() != want {
			t.Errorf("%q has mode %v, want %v", name, st.Mode().Perm(), want)
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
	if _, err := below.Stat(); !errors.Is(err, os.ErrClosed) { // else they stay open until the collector comes by
		t.Errorf("the layer below is still open: %v", err)
	}
}

func TestCancel(t *testing.T) {
	x := newCell(t)
	root, err := os.Open(x.root)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("enough")
	cancel(why)
	if _, err := Unpack(ctx, bytes.NewReader(tarOf(t, ent{name: "a"})), root, Options{}); !errors.Is(err, why) {
		t.Error(err)
	}
}

// FuzzUnpack: no tar whatsoever may touch anything outside.
func FuzzUnpack(f *testing.F) {
	f.Add(tarOf(f, ent{name: "a/"}, ent{name: "a/b", body: "x"}, ent{name: "a/.wh.c"}, ent{name: "l", typ: tar.TypeSymlink, link: "/a"}, ent{name: "l/x", body: "y"}))
	f.Add(tarOf(f, ent{name: "h", body: "1"}, ent{name: "i", typ: tar.TypeLink, link: "h"}, ent{name: "d/.wh..wh..opq"}))
	f.Add(tarOf(f, ent{name: "../x", body: "1"}, ent{name: "p", typ: tar.TypeFifo, pax: map[string]string{"SCHILY.xattr.user.x": "1"}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		x := newCell(t)
		_, _ = x.unpack(t, b, Options{Limits: Limits{Bytes: 1 << 20, Entries: 1000}}) //nolint:errcheck // any answer is fine
		x.check(t)
	})
}
