package vm

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"hull/internal/vmm"
)

// TestTemplatesOfNoUse: a template goes when what it was made of has changed or gone,
// when somebody has written to its memory, and when it was never finished.
func TestTemplatesOfNoUse(t *testing.T) {
	dir := t.TempDir()
	write := func(path, content string) string {
		t.Helper()
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	c := vmm.Config{QEMU: write("qemu", "q"), Kernel: write("kernel", "k"), Initrd: write("initrd", "i")}
	other := c
	other.Kernel = write("other", "k")
	ts := newTemplates(filepath.Join(dir, "templates"), nil, slog.New(slog.DiscardHandler))
	t.Cleanup(ts.close)
	add := func(name string, c vmm.Config) {
		t.Helper()
		write("templates/"+name+"/state", "s")
		write("templates/"+name+"/memory", "m")
		if _, err := seal(filepath.Join(ts.dir, name), c); err != nil {
			t.Fatal(err)
		}
	}
	there := func(want ...string) {
		t.Helper()
		all, err := os.ReadDir(ts.dir)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range all {
			got = append(got, e.Name())
		}
		if len(got) != len(want) {
			t.Fatalf("%q, want %q", got, want)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("%q, want %q", got, want)
			}
		}
	}
	sweep := func(keep *origin) {
		t.Helper()
		if err := ts.sweep(keep); err != nil {
			t.Fatal(err)
		}
	}
	sweep(nil) // nothing is there yet

	add("good", c)
	add("others", other)
	add("written", c)
	write("templates/written/memory", "more")
	write("templates/new-1/memory", "")
	write("templates/old/state", "of an engine that did not write down what it was made of")
	sweep(nil)
	there("good", "others")
	if state, memory := ts.find("good"); state == "" || memory == "" {
		t.Error("a good template is not found")
	}

	// Another kernel is in use: what belongs to the former goes when the first
	// template of it is made, and what is being made stays.
	write("templates/new-2/memory", "")
	o, err := readOrigin(filepath.Join(ts.dir, "others"))
	if err != nil {
		t.Fatal(err)
	}
	sweep(&o)
	there("new-2", "others")

	// The kernel is another one by now, and then it is not there.
	write("other", "another")
	if state, _ := ts.find("others"); state != "" {
		t.Error("a template of a kernel that has changed is found")
	}
	add("gone", c)
	if err := os.Remove(c.Kernel); err != nil {
		t.Fatal(err)
	}
	sweep(nil)
	there()
}

// TestInitrdsOfNoUse: an initramfs stays as long as a template was made with it.
func TestInitrdsOfNoUse(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"initrd-used", "initrd-old", "initrd-half.new1", "clock", "templates/one/memory"} {
		if err := os.MkdirAll(filepath.Dir(path(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path(name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ts := newTemplates(path("templates"), nil, slog.New(slog.DiscardHandler))
	t.Cleanup(ts.close)
	if _, err := seal(path("templates/one"), vmm.Config{QEMU: path("clock"), Kernel: path("clock"), Initrd: path("initrd-used")}); err != nil {
		t.Fatal(err)
	}
	if err := sweepInitrds(dir, ts.initrds()); err != nil {
		t.Fatal(err)
	}
	for name, stays := range map[string]bool{"initrd-used": true, "clock": true, "initrd-old": false, "initrd-half.new1": false} {
		if _, err := os.Stat(path(name)); (err == nil) != stays {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestThin: pages of zero become holes, and nothing else changes.
func TestThin(t *testing.T) {
	path := filepath.Join(t.TempDir(), "memory")
	want := make([]byte, 3*mib+page/2)
	for _, at := range []int{page - 1, 4 * page, mib, 2*mib + 7*page, 3*mib + 1} {
		want[at] = 1
	}
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 8*mib); err != nil {
		t.Fatal(err)
	}
	if err := thin(path); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil || len(got) != 8*mib || !bytes.Equal(got[:len(want)], want) || zeros(got[3*mib+page:]) != 5*mib-page {
		t.Errorf("%d bytes, other ones than were written (%v)", len(got), err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Blocks*512 > 16*page {
		t.Errorf("it takes %d bytes (%v)", st.Blocks*512, err)
	}
}

// TestInitrdOfAnotherGuest: an initramfs is not used for a hull-guest that it was not
// made with, and made again where it has gone.
func TestInitrdOfAnotherGuest(t *testing.T) {
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	d := &Driver{cfg: Config{Dir: t.TempDir(), GuestPath: filepath.Join(t.TempDir(), "hull-guest")}}
	initrd := func(program []byte) string {
		t.Helper()
		if err := os.WriteFile(d.cfg.GuestPath, program, 0o755); err != nil {
			t.Fatal(err)
		}
		path, err := d.initrd(t.Context(), Kernel{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
		return path
	}
	first := initrd(exe)
	if other := initrd(append(exe, 0)); other == first {
		t.Error("it is the former one's")
	}
	if again := initrd(exe); again != first {
		t.Errorf("%s, not %s", again, first)
	}
	if err := os.Remove(first); err != nil {
		t.Fatal(err)
	}
	if again, err := d.initrd(t.Context(), Kernel{}); err != nil || again != first {
		t.Errorf("%s, not %s (%v)", again, first, err)
	}
	if _, err := os.Stat(first); err != nil {
		t.Error(err)
	}
}

// TestFirstBoots: of those that find no template one boots, before it is made; nobody
// boots for it once its making has begun. An engine that has ended makes none.
func TestFirstBoots(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ts := newTemplates(filepath.Join(dir, "templates"), nil, slog.New(slog.DiscardHandler))
	for i, want := range []bool{true, false} {
		if got := ts.first("one"); got != want {
			t.Errorf("start %d boots: %t", i, got)
		}
	}
	made := make(chan error)
	ts.later(func(ctx context.Context) {
		_, _, err := ts.get(ctx, "two", vmm.Config{QEMU: filepath.Join(dir, "none")}, nil)
		made <- err
	})
	if err := <-made; err == nil {
		t.Error("a template without QEMU")
	}
	if ts.first("two") {
		t.Error("one boots whose template cannot be made, as if nobody had tried")
	}
	ts.close()
	ts.later(func(context.Context) { t.Error("a template is begun by an engine that has ended") })
	ts.wg.Wait()
}
