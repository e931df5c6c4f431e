package build

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func TestNormalise(t *testing.T) {
	t.Parallel()
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "outside")
	for path, mode := range map[string]os.FileMode{filepath.Join(dir, "plain"): 0o660, filepath.Join(dir, "program"): 0o711, outside: 0o600} {
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(outside)
	if err != nil {
		t.Fatal(err)
	}
	if err := normalise(dir, "1700000000"); err != nil {
		t.Fatal(err)
	}
	want := time.Unix(1700000000, 0)
	for name, mode := range map[string]os.FileMode{"plain": 0o644, "program": 0o755, "link": 0o777, ".": 0o755} {
		st, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm() != mode || !st.ModTime().Equal(want) {
			t.Errorf("%s is %v %v", name, st.Mode(), st.ModTime())
		}
	}
	if after, err := os.Stat(outside); err != nil || after.Mode() != before.Mode() || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("what a link leads to was changed: %v %v", after, err)
	}
	for _, bad := range []string{"", "x", "-1"} {
		if err := normalise(dir, bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
