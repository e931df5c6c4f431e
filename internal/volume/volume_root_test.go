package volume

import (
	"hull/internal/hull"
	"hull/internal/require"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// inMountNS runs fn in a mount namespace of its own and checks that it leaves no
// mount behind. The thread is never unlocked: it ends with the test.
func inMountNS(t *testing.T, fn func()) {
	t.Helper()
	require.Root(t)
	runtime.LockOSThread()
	must(t, syscall.Unshare(syscall.CLONE_FS|syscall.CLONE_NEWNS))
	must(t, syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""))
	fn()
	if left := mounts(t); len(left) != 0 {
		t.Error("mounts are left:", left)
	}
}

// mounts are those below the test's own directories. Others come and go: the
// namespace began as a copy of the machine's.
func mounts(t *testing.T) (out []string) {
	t.Helper()
	b, err := os.ReadFile("/proc/thread-self/mountinfo")
	must(t, err)
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, "/"+t.Name()) {
			out = append(out, line)
		}
	}
	return out
}

func TestDeviceIsMountedWhileUsed(t *testing.T) {
	t.Parallel()
	inMountNS(t, func() {
		w := newWorld(t)
		source := t.TempDir()
		for name, o := range map[string]map[string]string{
			"tmp":  {"type": "tmpfs", "device": "tmpfs", "o": "size=1m,mode=700,noexec"},
			"bind": {"type": "none", "device": source, "o": "bind,ro"},
		} {
			_, err := w.Create(t.Context(), hull.Volume{Name: name, Options: o})
			must(t, err)
			img := image(t, map[string]string{"d/file": "from the image"})
			if name == "bind" {
				img = nil
			}
			m := []hull.Mount{vol(name, "/d")}
			p1, err := w.Resolve(t.Context(), "c1", m)
			must(t, err)
			p2, err := w.Resolve(t.Context(), "c2", m)
			must(t, err)
			rel1, err := w.Mount(t.Context(), "c1", p1, img)
			must(t, err)
			_, err = w.Mount(t.Context(), "c2", p2, img)
			must(t, err)
			must(t, rel1(t.Context()))
			if ok, err := isMountPoint(w.data(name)); !ok || err != nil {
				t.Error(name, "is gone while c2 uses it:", err)
			}
			err = os.WriteFile(filepath.Join(w.data(name), "x"), nil, 0o600)
			if name == "bind" != (err != nil) {
				t.Error(name, err)
			}
			if name == "tmp" && read(t, w.data(name), "file") != "from the image" {
				t.Error("no copy-up into a mounted volume")
			}
			// The engine is killed and comes back: c2 runs on.
			w.store.containers = []hull.Container{{ID: "c1", Mounts: p1}, {ID: "c2", Mounts: p2}}
			w.restart()
			rel2, err := w.Mount(t.Context(), "c2", p2, img)
			must(t, err)
			must(t, rel2(t.Context()))
			if ok, _ := isMountPoint(w.data(name)); ok {
				t.Error(name, "is still mounted")
			}
		}
		bad := map[string]string{"type": "none", "device": source + "/missing", "o": "bind"}
		_, err := w.Create(t.Context(), hull.Volume{Name: "bad", Options: bad})
		must(t, err)
		p, err := w.Resolve(t.Context(), "c3", []hull.Mount{vol("tmp", "/d"), vol("bad", "/e")})
		must(t, err)
		if _, err := w.Mount(t.Context(), "c3", p, nil); err == nil || !strings.Contains(err.Error(), "no such file or directory") {
			t.Error(err)
		}
	})
}

// TestRemoveSparesWhatIsMounted: the engine was killed while a volume's device
// was mounted, and the volume is removed afterwards.
func TestRemoveSparesWhatIsMounted(t *testing.T) {
	t.Parallel()
	inMountNS(t, func() {
		w := newWorld(t)
		precious := t.TempDir()
		must(t, os.WriteFile(filepath.Join(precious, "data"), []byte("x"), 0o600))
		o := map[string]string{"type": "none", "device": precious, "o": "bind"}
		_, err := w.Create(t.Context(), hull.Volume{Name: "dev", Options: o})
		must(t, err)
		p, err := w.Resolve(t.Context(), "c1", []hull.Mount{vol("dev", "/d")})
		must(t, err)
		_, err = w.Mount(t.Context(), "c1", p, nil)
		must(t, err)
		w.restart() // and the container's record is gone
		must(t, w.Remove(t.Context(), "dev", false))
		if read(t, precious, "data") != "x" {
			t.Error("data of the device was deleted")
		}
	})
}

// TestSubpathCannotBeSwapped: another container that has the volume swaps a
// component of the subpath for a link to the host's files.
func TestSubpathCannotBeSwapped(t *testing.T) {
	t.Parallel()
	inMountNS(t, func() {
		w := newWorld(t)
		v, err := w.Create(t.Context(), hull.Volume{Name: "data"})
		must(t, err)
		must(t, os.MkdirAll(filepath.Join(v.Mountpoint, "a", "b"), 0o755))
		must(t, os.WriteFile(filepath.Join(v.Mountpoint, "a", "b", "who"), []byte("volume"), 0o600))
		outside := t.TempDir()
		must(t, os.MkdirAll(filepath.Join(outside, "b"), 0o755))
		must(t, os.WriteFile(filepath.Join(outside, "b", "who"), []byte("host"), 0o600))
		evil := filepath.Join(v.Mountpoint, "evil")
		must(t, os.Symlink(outside, evil))

		m := vol("data", "/d")
		m.Subpath = "evil/b"
		p, err := w.Resolve(t.Context(), "c0", []hull.Mount{m})
		must(t, err)
		if _, err := w.Mount(t.Context(), "c0", p, nil); err == nil {
			t.Error("a link out of the volume was followed")
		}

		m.Subpath = "a/b"
		p, err = w.Resolve(t.Context(), "c1", []hull.Mount{m})
		must(t, err)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				_ = os.Rename(filepath.Join(v.Mountpoint, "a"), filepath.Join(v.Mountpoint, "x"))
				_ = os.Rename(evil, filepath.Join(v.Mountpoint, "a"))
				_ = os.Rename(filepath.Join(v.Mountpoint, "a"), evil)
				_ = os.Rename(filepath.Join(v.Mountpoint, "x"), filepath.Join(v.Mountpoint, "a"))
			}
		})
		mounted := 0
		for range 300 {
			rel, err := w.Mount(t.Context(), "c1", p, nil)
			if err != nil {
				continue
			}
			mounted++
			if who := read(t, p[0].Source, "who"); who != "volume" {
				t.Error("the container was given", who)
			}
			must(t, rel(t.Context()))
		}
		close(stop)
		wg.Wait()
		rel, err := w.Mount(t.Context(), "c1", p, nil)
		must(t, err)
		must(t, rel(t.Context()))
		must(t, rel(t.Context()))
		if left, _ := os.ReadDir(w.subdir); len(left) != 0 {
			t.Error("left behind:", left)
		}
	})
}

func TestSubpathOfAFile(t *testing.T) {
	t.Parallel()
	inMountNS(t, func() {
		w := newWorld(t)
		v, err := w.Create(t.Context(), hull.Volume{Name: "data"})
		must(t, err)
		must(t, os.WriteFile(filepath.Join(v.Mountpoint, "conf"), []byte("x"), 0o600))
		m := vol("data", "/etc/conf")
		m.Subpath = "conf"
		p, err := w.Resolve(t.Context(), "c1", []hull.Mount{m})
		must(t, err)
		for range 2 { // the second time as after a restart
			rel, err := w.Mount(t.Context(), "c1", p, nil)
			must(t, err)
			if read(t, p[0].Source) != "x" {
				t.Error("not the file")
			}
			w.restart()
			defer func() { must(t, rel(t.Context())) }()
		}
		rel, err := w.Mount(t.Context(), "c1", p, nil)
		must(t, err)
		must(t, rel(t.Context()))
	})
}
