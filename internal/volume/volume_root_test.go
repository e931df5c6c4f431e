package volume

import (
	"errors"
	"hull/internal/hull"
	"hull/internal/linux"
	"hull/internal/require"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
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

// TestFileSystemsAreNotOnTheHost: what a volume's options name is shown to each
// container that runs, the same to all, and mounted nowhere.
func TestFileSystemsAreNotOnTheHost(t *testing.T) {
	t.Parallel()
	inMountNS(t, func() {
		w := newWorld(t)
		source := t.TempDir()
		must(t, os.WriteFile(filepath.Join(source, "host"), nil, 0o600))
		for name, o := range map[string]map[string]string{
			"tmp":   {"type": "tmpfs", "device": "tmpfs", "o": "size=1m,mode=700,noexec"},
			"bind":  {"type": "none", "device": source, "o": "bind,ro"},
			"sized": {"size": "8m"},
		} {
			_, err := w.Create(t.Context(), hull.Volume{Name: name, Options: o})
			must(t, err)
			img := image(t, map[string]string{"d/file": "from the image"})
			m := []hull.Mount{vol(name, "/d")}
			p1, err := w.Resolve(t.Context(), "c1", m)
			must(t, err)
			p2, err := w.Resolve(t.Context(), "c2", m)
			must(t, err)
			r1, rel1, err := w.Mount(t.Context(), "c1", p1, img)
			must(t, err)
			r2, rel2, err := w.Mount(t.Context(), "c2", p2, img)
			must(t, err)
			must(t, rel1(t.Context()))
			must(t, rel1(t.Context()))
			if r1[0].Source == p1[0].Source || r2[0].Source == p2[0].Source {
				t.Error(name, "is handed over as a path of the host")
			}
			err = os.WriteFile(filepath.Join(r2[0].Source, "x"), nil, 0o600)
			if (name == "bind") != (err != nil) {
				t.Error(name, err)
			}
			if name != "bind" && read(t, r2[0].Source, "file") != "from the image" {
				t.Error("no copy-up into", name)
			}
			if e, err := os.ReadDir(w.data(name)); err != nil || len(e) != 0 {
				t.Error(name, "is on the host:", e, err)
			}
			// The engine is killed and comes back: c2 runs on.
			w.store.containers = []hull.Container{{ID: "c1", Mounts: p1}, {ID: "c2", Mounts: p2}}
			w.restart()
			must(t, w.Reattach("c2", p2)(t.Context()))
			must(t, rel2(t.Context()))
			w.store.containers = nil
			w.restart()
			must(t, w.Remove(t.Context(), name, false))
		}
		bad := map[string]string{"type": "none", "device": source + "/missing", "o": "bind"}
		_, err := w.Create(t.Context(), hull.Volume{Name: "bad", Options: bad})
		must(t, err)
		p, err := w.Resolve(t.Context(), "c3", []hull.Mount{vol("", "/d"), vol("bad", "/e")})
		must(t, err)
		if _, _, err := w.Mount(t.Context(), "c3", p, nil); err == nil || !strings.Contains(err.Error(), "no such file or directory") {
			t.Error(err)
		}
	})
}

// TestSizeIsABound: a container fills a volume, and neither the engine's disk nor
// what was there before is touched.
func TestSizeIsABound(t *testing.T) {
	t.Parallel()
	inMountNS(t, func() {
		w := newWorld(t)
		v, err := w.Create(t.Context(), hull.Volume{Name: "small", Options: map[string]string{"size": "4m"}})
		must(t, err)
		f, err := w.open(t.Context(), "small", "")
		must(t, err)
		in := linux.ProcPath(f)
		must(t, os.WriteFile(filepath.Join(in, "kept"), []byte("x"), 0o600))
		big := make([]byte, 1<<20)
		for i := range 5 {
			if err = os.WriteFile(filepath.Join(in, "fill"+string(rune('a'+i))), big, 0o600); err != nil {
				break
			}
		}
		if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
			t.Error("5 MiB went into 4 MiB:", err)
		}
		if read(t, in, "kept") != "x" {
			t.Error("what was there is not")
		}
		must(t, f.Close())
		if n, _, err := w.Usage(t.Context(), "small"); err != nil || n < 1<<20 || n > 5<<20 {
			t.Error(n, err)
		}
		c, err := w.Clone(t.Context(), "small", "copy")
		must(t, err)
		if c.Options["size"] != v.Options["size"] {
			t.Error("a clone is not bounded:", c.Options)
		}
		must(t, w.Remove(t.Context(), "small", false))
		f, err = w.open(t.Context(), "copy", "")
		must(t, err)
		if read(t, linux.ProcPath(f), "kept") != "x" {
			t.Error("a clone is incomplete")
		}
		must(t, f.Close())
	})
}

// TestMemoryIsShared: containers that run at the same time see one tmpfs, whether
// the first has taken its mount yet or not; it is not to be had without them.
func TestMemoryIsShared(t *testing.T) {
	t.Parallel()
	inMountNS(t, func() {
		w := newWorld(t)
		_, err := w.Create(t.Context(), hull.Volume{Name: "tmp", Options: map[string]string{"type": "tmpfs", "device": "tmpfs"}})
		must(t, err)
		p, err := w.Resolve(t.Context(), "c1", []hull.Mount{vol("tmp", "/tmp")})
		must(t, err)
		if _, err := w.Open(t.Context(), p[0]); !errdefs.IsNotFound(err) {
			t.Error(err)
		}
		r1, rel1, err := w.Mount(t.Context(), "c1", p, nil)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(r1[0].Source, "x"), []byte("shared"), 0o600))
		// A process beside stands for the container: it has the mount at /tmp.
		cmd := exec.CommandContext(t.Context(), "sleep", "1000")
		at, err := os.OpenFile(r1[0].Source, oPath, 0)
		must(t, err)
		must(t, linux.MoveInto(at, "/tmp", cmd.Start))
		must(t, at.Close())
		defer func() { must(t, cmd.Process.Kill()); _ = cmd.Wait() }()
		w.store.containers = []hull.Container{{ID: "c1", Mounts: p, Status: hull.Status{Pid: cmd.Process.Pid}}}
		p2, err := w.Resolve(t.Context(), "c2", []hull.Mount{vol("tmp", "/d")})
		must(t, err)
		r2, rel2, err := w.Mount(t.Context(), "c2", p2, nil)
		must(t, err)
		if read(t, r2[0].Source, "x") != "shared" {
			t.Error("the second container has another file system")
		}
		must(t, rel2(t.Context()))
		must(t, rel1(t.Context()))
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
		_, rel, err := w.Mount(t.Context(), "c1", p, nil)
		must(t, err)
		defer func() { must(t, rel(t.Context())) }()
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
		if _, _, err := w.Mount(t.Context(), "c0", p, nil); err == nil {
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
			ready, rel, err := w.Mount(t.Context(), "c1", p, nil)
			if err != nil {
				continue
			}
			mounted++
			if who := read(t, ready[0].Source, "who"); who != "volume" {
				t.Error("the container was given", who)
			}
			must(t, rel(t.Context()))
		}
		close(stop)
		wg.Wait()
		_, rel, err := w.Mount(t.Context(), "c1", p, nil)
		must(t, err)
		must(t, rel(t.Context()))
		must(t, rel(t.Context()))
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
			ready, rel, err := w.Mount(t.Context(), "c1", p, nil)
			must(t, err)
			if read(t, ready[0].Source) != "x" {
				t.Error("not the file")
			}
			w.restart()
			defer func() { must(t, rel(t.Context())) }()
		}
		_, rel, err := w.Mount(t.Context(), "c1", p, nil)
		must(t, err)
		must(t, rel(t.Context()))
	})
}

// TestSubpathInAnotherFileSystemIsMapped: what a container in a user namespace is
// given of a volume with a file system of its own can have that namespace's ids.
func TestSubpathInAnotherFileSystemIsMapped(t *testing.T) {
	t.Parallel()
	inMountNS(t, func() {
		w := newWorld(t)
		_, err := w.Create(t.Context(), hull.Volume{Name: "sized", Options: map[string]string{"size": "8m"}})
		must(t, err)
		f, err := w.open(t.Context(), "sized", "")
		must(t, err)
		must(t, os.MkdirAll(filepath.Join(linux.ProcPath(f), "a", "b"), 0o755))
		must(t, os.WriteFile(filepath.Join(linux.ProcPath(f), "a", "file"), []byte("x"), 0o600))
		must(t, f.Close())
		for _, sub := range []string{"a/b", "a/file"} {
			m := vol("sized", "/d")
			m.Subpath = sub
			p, err := w.Resolve(t.Context(), "c1", []hull.Mount{m})
			must(t, err)
			ready, rel, err := w.Mount(t.Context(), "c1", p, nil)
			must(t, err)
			for range 2 { // each container maps a clone of its own
				if got, err := w.Mapping(ready[0].Source); err != nil || got != hull.Mapped {
					t.Errorf("%s: %v, %v", sub, got, err)
				}
			}
			must(t, rel(t.Context()))
		}
	})
}
