package layers

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// put makes a layer with one file.
func put(t *testing.T, s *Store, i Info) {
	t.Helper()
	d, err := s.New()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.path, "fs", "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Commit(i); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, root string) *Store {
	t.Helper()
	s, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// TestReboot: a layer that was not on disk when the machine went down is not
// trusted; one that was is.
func TestReboot(t *testing.T) {
	root := t.TempDir()
	s := open(t, root)
	a, b := digest.FromString("a"), digest.FromString("b")
	put(t, s, Info{Chain: a, Diff: a})
	s.Sync()
	s.Close()
	put(t, s, Info{Chain: b, Parent: a, Diff: b})
	if !s.Whole(b) || len(s.Chain(b)) != 2 {
		t.Error("chain is incomplete")
	}
	for _, c := range []digest.Digest{a, b} { // both were made before the last boot
		p := filepath.Join(root, "layers", c.Encoded(), "layer.json")
		text, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(strings.ReplaceAll(string(text), s.boot, "earlier")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = open(t, root)
	if !s.Has(a) || s.Has(b) || s.Whole(b) {
		t.Errorf("has a %v, b %v", s.Has(a), s.Has(b))
	}
}

// TestCrash: what was half made or half deleted is gone after the next start.
func TestCrash(t *testing.T) {
	root := t.TempDir()
	s := open(t, root)
	a := digest.FromString("a")
	put(t, s, Info{Chain: a, Diff: a})
	if _, err := s.New(); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(a); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(a); err != nil {
		t.Error("second remove:", err)
	}
	s = open(t, root)
	for _, d := range []string{"layers", "new", "trash"} {
		if list, err := os.ReadDir(filepath.Join(root, d)); err != nil || len(list) != 0 {
			t.Errorf("%s holds %v, %v", d, list, err)
		}
	}
	if s.Has(a) {
		t.Error("removed layer is there")
	}
}

// TestTwice: two who make the same layer both succeed, and one is kept.
func TestTwice(t *testing.T) {
	s := open(t, t.TempDir())
	a := digest.FromString("a")
	put(t, s, Info{Chain: a, Diff: a, Size: 1})
	put(t, s, Info{Chain: a, Diff: a, Size: 2})
	if i, err := s.Info(a); err != nil || i.Size != 1 {
		t.Error(i, err)
	}
	if list, _ := os.ReadDir(filepath.Join(s.root, "new")); len(list) != 0 {
		t.Error(list)
	}
}
