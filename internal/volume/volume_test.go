package volume

import (
	"errors"
	"hull/internal/hull"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
)

// memory is a Store.
type memory struct {
	mu         sync.Mutex
	volumes    map[string]hull.Volume
	containers []hull.Container
}

func (m *memory) PutVolume(v hull.Volume, _ bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.volumes[v.Name] = v
	return nil
}

func (m *memory) Volume(name string) (hull.Volume, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.volumes[name]
	if !ok {
		return v, errdefs.ErrNotFound.WithMessage("get " + name + ": no such volume")
	}
	return v, nil
}

func (m *memory) Volumes() (out []hull.Volume) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, v := range m.volumes {
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b hull.Volume) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func (m *memory) DeleteVolume(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.volumes, name)
	return nil
}

func (m *memory) Containers() []hull.Container { return m.containers }

type world struct {
	*Service
	t      *testing.T
	cfg    Config
	store  *memory
	events []string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{t: t, store: &memory{volumes: map[string]hull.Volume{}}}
	w.cfg = Config{
		Root: filepath.Join(dir, "root"), Store: w.store,
		Events: func(e hull.Event) { w.events = append(w.events, e.Action) },
	}
	w.restart()
	return w
}

func (w *world) restart() {
	w.t.Helper()
	s, err := New(w.cfg)
	must(w.t, err)
	w.Service = s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// image makes a root file system with files under it.
func image(t *testing.T, files map[string]string) func() (*os.File, error) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		if link, ok := strings.CutPrefix(text, "-> "); ok {
			must(t, os.Symlink(link, path))
		} else {
			must(t, os.WriteFile(path, []byte(text), 0o640))
		}
	}
	return func() (*os.File, error) { return os.Open(dir) }
}

func vol(name, target string) hull.Mount {
	return hull.Mount{Type: hull.MountVolume, Source: name, Target: target}
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	must(t, err)
	return string(b)
}

func TestNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, text := range map[string]string{
		"a":                      "create a: volume name is too short, names should be at least two alphanumeric characters",
		"../etc":                 `create ../etc: "../etc" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path`,
		".removed-x":             "",
		"a b":                    "",
		"a\x00b":                 "",
		strings.Repeat("x", 300): "",
	} {
		_, err := w.Create(t.Context(), hull.Volume{Name: name})
		if !errdefs.IsInvalidArgument(err) || text != "" && err.Error() != text {
			t.Errorf("%q: %v", name, err)
		}
	}
	v, err := w.Create(t.Context(), hull.Volume{})
	must(t, err)
	if !anonymous(v.Name) || !v.Anonymous || v.Driver != "local" || v.Scope != "local" {
		t.Error(v)
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for text, o := range map[string]map[string]string{
		`create vv: invalid option: "foo"`:                           {"foo": "x"},
		`create vv: missing required option: "type"`:                 {"device": "x"},
		`create vv: missing required option: "device"`:               {"type": "nfs"},
		`create vv: option "size": "x" is not a size of at least 1m`: {"size": "x"},
		`create vv: option "size" bounds a volume of this engine's own disk; a tmpfs file system takes its own size option in "o"`: {"size": "1g", "type": "tmpfs", "device": "tmpfs"},
	} {
		_, err := w.Create(t.Context(), hull.Volume{Name: "vv", Options: o})
		if !errdefs.IsInvalidArgument(err) || err.Error() != text {
			t.Errorf("%v: %v", o, err)
		}
	}
	_, err := w.Create(t.Context(), hull.Volume{Name: "vv", Driver: "rex"})
	if !errdefs.IsNotFound(err) || err.Error() != `create vv: error looking up volume plugin rex: plugin "rex" not found` {
		t.Error(err)
	}
}

func TestBadMounts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	missing := filepath.Join(t.TempDir(), "missing")
	for text, m := range map[string]hull.Mount{
		`invalid mount config for type "bind": bind source path does not exist: ` + missing:                           {Type: hull.MountBind, Source: missing, Target: "/x"},
		`invalid mount config for type "bind": invalid mount path: 'rel' mount path must be absolute`:                 {Type: hull.MountBind, Source: "rel", Target: "/x"},
		`invalid mount config for type "volume": invalid mount path: 'x' mount path must be absolute`:                 vol("vv", "x"),
		`invalid mount config for type "volume": invalid specification: destination can't be '/'`:                     vol("vv", "/."),
		`invalid mount config for type "volume": volume subpath "../x" must be a relative path within a named volume`: {Type: hull.MountVolume, Source: "vv", Target: "/x", Subpath: "../x"},
		`invalid mount config for type "npipe": mount type unknown`:                                                   {Type: "npipe", Target: "/x"},
		`invalid mount config for type "bind": invalid propagation mode: weird`:                                       {Type: hull.MountBind, Source: "/tmp", Target: "/x", Propagation: "weird"},
	} {
		_, err := w.Resolve(t.Context(), "c1", []hull.Mount{vol("", "/data"), m})
		if !errdefs.IsInvalidArgument(err) || err.Error() != text {
			t.Errorf("%v: %v", m, err)
		}
	}
	if _, err := w.Resolve(t.Context(), "c1", []hull.Mount{vol("aa", "/d"), vol("bb", "/d/")}); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	for _, v := range w.store.Volumes() {
		if v.Anonymous {
			t.Error("a failed Resolve left", v.Name)
		}
	}
	m := hull.Mount{Type: hull.MountBind, Source: missing, Target: "/x", CreateSource: true}
	p, err := w.Resolve(t.Context(), "c1", []hull.Mount{m})
	must(t, err)
	if st, err := os.Stat(missing); err != nil || !st.IsDir() || p[0].Propagation != "rprivate" || !p[0].RW {
		t.Error(p, err)
	}
}

func TestInUse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p, err := w.Resolve(t.Context(), "c1", []hull.Mount{vol("data", "/a"), vol("", "/b")})
	must(t, err)
	_, err = w.Resolve(t.Context(), "c2", []hull.Mount{vol("data", "/a")})
	must(t, err)
	check := func() {
		t.Helper()
		err := w.Remove(t.Context(), "data", false)
		if !errdefs.IsConflict(err) || !strings.HasPrefix(err.Error(), "remove data: volume is in use - [c1") {
			t.Error(err)
		}
		if r, err := w.Prune(t.Context(), nil); err != nil || len(r.Deleted) != 0 {
			t.Error(r, err)
		}
	}
	check()
	// After a restart the records say who uses what.
	w.store.containers = []hull.Container{{ID: "c1", Mounts: p}}
	w.restart()
	check()
	must(t, w.Drop(t.Context(), "c1", p, true))
	must(t, w.Drop(t.Context(), "c1", p, true))
	if _, err := w.Get(t.Context(), p[1].Name); !errdefs.IsNotFound(err) {
		t.Error("anonymous volume is still there", err)
	}
	if _, _, err := w.Usage(t.Context(), "data"); err != nil {
		t.Error(err)
	}
	must(t, w.Remove(t.Context(), "data", false))
	if err := w.Remove(t.Context(), "data", false); !errdefs.IsNotFound(err) || err.Error() != "get data: no such volume" {
		t.Error(err)
	}
	must(t, w.Remove(t.Context(), "data", true))
	left, _ := os.ReadDir(filepath.Join(w.cfg.Root, "volumes"))
	if len(left) != 0 {
		t.Error(left)
	}
}

func TestDirectoriesWithoutRecord(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	must(t, os.MkdirAll(w.data("lost"), 0o755))
	must(t, os.MkdirAll(filepath.Join(w.dir, trash+"gone", "_data", "x"), 0o755))
	w.restart()
	v, err := w.Get(t.Context(), "lost")
	if err != nil || v.Mountpoint != w.data("lost") {
		t.Error(v, err)
	}
	if _, err := os.Stat(filepath.Join(w.dir, trash+"gone")); !errors.Is(err, os.ErrNotExist) {
		t.Error("half-removed volume is still there", err)
	}
}

func TestCopyUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	secret := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(secret, []byte("host"), 0o600))
	img := image(t, map[string]string{
		"data/a": "hello", "data/sub/b": "b", "data/link": "-> /etc/passwd", "data/out": "-> " + secret,
		"moved": "-> /data", "evil": "-> ../../../../../../../../" + filepath.Dir(secret), "file": "x",
	})
	mount := func(id string, m hull.Mount) hull.MountPoint {
		t.Helper()
		p, err := w.Resolve(t.Context(), id, []hull.Mount{m})
		must(t, err)
		for range 2 { // a second time after a restart of the engine
			_, rel, err := w.Mount(t.Context(), id, p, img)
			must(t, err)
			must(t, rel(t.Context()))
			must(t, rel(t.Context()))
		}
		return p[0]
	}
	p := mount("c1", vol("v1", "/data"))
	if read(t, p.Source, "a") != "hello" || read(t, p.Source, "sub/b") != "b" {
		t.Error("content is missing")
	}
	if l, err := os.Readlink(filepath.Join(p.Source, "link")); err != nil || l != "/etc/passwd" {
		t.Error(l, err)
	}
	// Not again: the container may have changed it.
	must(t, os.WriteFile(filepath.Join(p.Source, "a"), []byte("mine"), 0o600))
	mount("c2", vol("v1", "/data"))
	if read(t, p.Source, "a") != "mine" {
		t.Error("content was overwritten")
	}
	if p = mount("c1", vol("v2", "/moved")); read(t, p.Source, "a") != "hello" {
		t.Error("link inside the image was not followed")
	}
	noCopy := vol("v3", "/data")
	noCopy.NoCopy = true
	for name, m := range map[string]hull.Mount{
		"nocopy": noCopy, "escape": vol("v4", "/evil"), "file": vol("v5", "/file"), "missing": vol("v6", "/none"),
	} {
		p := mount("c1", m)
		if e, err := os.ReadDir(p.Source); err != nil || len(e) != 0 {
			t.Errorf("%s: %v %v", name, e, err)
		}
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p, err := w.Resolve(t.Context(), "c1", []hull.Mount{vol("", "/a")})
	must(t, err)
	for range 2 {
		_, rel, err := w.Mount(t.Context(), "c1", p, nil)
		must(t, err)
		defer func() { must(t, rel(t.Context())) }()
	}
	_, rel, err := w.Mount(t.Context(), "c1", p, nil)
	must(t, err)
	must(t, rel(t.Context()))
	must(t, w.Drop(t.Context(), "c1", p, true))
	if got := strings.Join(w.events, " "); got != "create mount unmount destroy" {
		t.Error(got)
	}
}

func TestPrune(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, n := range []string{"aa", "bb"} {
		v, err := w.Create(t.Context(), hull.Volume{Name: n})
		must(t, err)
		must(t, os.WriteFile(filepath.Join(v.Mountpoint, "x"), make([]byte, 1<<20), 0o600))
	}
	r, err := w.Prune(t.Context(), func(v hull.Volume) bool { return v.Name == "bb" })
	must(t, err)
	if !slices.Equal(r.Deleted, []string{"aa"}) || r.Reclaimed < 1<<20 {
		t.Error(r)
	}
}
