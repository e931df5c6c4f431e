package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hull/internal/hull"
	"hull/internal/linux"
	"hull/internal/require"
)

// smallDisk is a tmpfs of its own, mounted nowhere.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	c, err := linux.Fsopen("tmpfs")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Set("size", size); err != nil {
		t.Fatal(err)
	}
	m, err := c.Mount(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return linux.ProcPath(m)
}

// TestFullDisk: a disk that fills up during a pull is an error that says so; what
// the pull took is given back, and the service goes on.
func TestFullDisk(t *testing.T) {
	require.Root(t)
	img := build(t, nil, layerTar(t, file{name: "small", body: "s"}), layerTar(t, file{name: "big", body: noise(1, 6<<20)}))
	tiny := simple(t)
	for name, size := range map[string]string{"while it unpacks": "10m", "before it begins": "5m"} {
		t.Run(name, func(t *testing.T) {
			root := smallDisk(t, size)
			s := serviceAt(t, root, quick)
			host := registryFiles(t, img)
			_, err := s.Pull(t.Context(), hull.PullRequest{Ref: host + "/x:1"})
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
			clean(t, s)
			var st syscall.Statfs_t
			if err := syscall.Statfs(root, &st); err != nil {
				t.Fatal(err)
			}
			if used := int64(st.Blocks-st.Bfree) * st.Bsize; used > 2<<20 {
				t.Errorf("%d bytes are still taken", used)
			}
			load(t, s, tiny, "docker.io/library/tiny:1")
			if i := resolve(t, s, "tiny:1"); i.ID != tiny.id() {
				t.Error(i.ID)
			}
		})
	}
}

// TestContainerRoot: the root file system of a container that was not started has
// what its mounts need, shows no changes, and can be written, read, packed.
func TestContainerRoot(t *testing.T) {
	require.Root(t)
	s := service(t)
	img := build(t, nil,
		layerTar(t, file{name: "./", mode: 0o751}, file{name: "etc/", mode: 0o711}, file{name: "etc/hosts", body: "mine"}, file{name: "run", typ: tar.TypeSymlink, link: "var/run"}),
		layerTar(t, file{name: "bin/", mode: 0o755}, file{name: "bin/x", body: "x", mode: 0o4755}, file{name: "bin/y", body: "y"}))
	load(t, s, img, "docker.io/library/r:1")
	if err := s.Prepare(t.Context(), "c1", resolve(t, s, "r:1"), nil); err != nil {
		t.Fatal(err)
	}
	if list, err := s.Changes(t.Context(), "c1"); err != nil || len(list) != 0 {
		t.Errorf("changes of a fresh container: %v, %v", list, err)
	}
	root, err := s.Open(t.Context(), "c1")
	if err != nil {
		t.Fatal(err)
	}
	dir := linux.ProcPath(root)
	for name, want := range map[string]os.FileMode{".": 0o751, "etc": 0o711, "proc": 0o755, "dev/pts": 0o755, "etc/resolv.conf": 0o755, ".dockerenv": 0o755} {
		st, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
			continue
		}
		if st.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", name, st.Mode().Perm(), want)
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "etc/hosts")); err != nil || string(b) != "mine" {
		t.Errorf("the image's own file: %q, %v", b, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "etc/new"), []byte("n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "bin/x")); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := s.Export(t.Context(), "c1", &out); err != nil {
		t.Fatal(err)
	}
	// Whoever has it mounted can go on.
	if err := os.Remove(filepath.Join(dir, "bin/y")); err != nil {
		t.Errorf("after the export: %v", err)
	}
	root.Close()
	want := []hull.Change{{Path: "/bin", Kind: 0}, {Path: "/bin/x", Kind: 2}, {Path: "/bin/y", Kind: 2}, {Path: "/etc", Kind: 0}, {Path: "/etc/new", Kind: 1}}
	if list, err := s.Changes(t.Context(), "c1"); err != nil || cmp.Diff(want, list) != "" {
		t.Errorf("%v, %v", list, err)
	}
	var names []string
	tr := tar.NewReader(&out)
	for h, err := tr.Next(); !errors.Is(err, io.EOF); h, err = tr.Next() {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
	for _, n := range []string{"etc/", "etc/hosts", "etc/new", "run", "proc/", "bin/"} {
		if !slices.Contains(names, n) {
			t.Errorf("export lacks %s: %q", n, names)
		}
	}
	if slices.Contains(names, "bin/x") || slices.ContainsFunc(names, func(n string) bool { return strings.Contains(n, ".wh.") }) {
		t.Errorf("export has what was deleted: %q", names)
	}
	id, err := s.Commit(t.Context(), "c1", hull.CommitRequest{}, hull.ImageConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Prepare(t.Context(), "c2", resolve(t, s, id), nil); err != nil {
		t.Fatal(err)
	}
	again, err := s.Open(t.Context(), "c2")
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if _, err := os.Stat(filepath.Join(linux.ProcPath(again), "bin/x")); !errors.Is(err, os.ErrNotExist) {
		t.Error("what the container deleted is there again:", err)
	}
	if b, err := os.ReadFile(filepath.Join(linux.ProcPath(again), "etc/new")); err != nil || string(b) != "n" {
		t.Error(b, err)
	}
	if err := s.Sweep(t.Context(), func(id string) bool { return id == "c2" }); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Mount(t.Context(), "c1", []hull.RootfsKind{hull.RootfsOverlay}); err == nil {
		t.Error("swept container can be mounted")
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), s.cfg.Root) {
		t.Error("something is mounted on the host", err)
	}
}

// TestEmptyImage: an image without layers has a root file system, too.
func TestEmptyImage(t *testing.T) {
	require.Root(t)
	s := service(t)
	load(t, s, build(t, nil), "docker.io/library/scratch:1")
	var wg sync.WaitGroup
	for _, id := range []string{"a", "b", "c"} {
		wg.Go(func() {
			if err := s.Prepare(t.Context(), id, resolve(t, s, "scratch:1"), nil); err != nil {
				t.Error(err)
				return
			}
			f, err := s.Open(t.Context(), id)
			if err != nil {
				t.Error(err)
				return
			}
			f.Close()
		})
	}
	wg.Wait()
}
