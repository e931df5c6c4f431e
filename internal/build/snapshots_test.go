package build

import (
	"testing"

	"github.com/moby/buildkit/util/overlay"

	"hull/internal/image/layers"
	"hull/internal/image/snaps"
)

// TestStepsAreReadFromTheirUpperDirectory: BuildKit understands the mounts of our
// snapshots. If it does not, it says nothing and compares whole trees, file by file,
// after each step.
func TestStepsAreReadFromTheirUpperDirectory(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	ls, err := layers.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer ls.Close()
	s := snaps.New(root, ls, true)
	parent := ""
	for _, name := range []string{"one", "two", "three", "four"} {
		upper, err := s.Prepare(t.Context(), name+" work", parent)
		if err != nil {
			t.Fatal(err)
		}
		if parent != "" {
			lower, err := s.View(t.Context(), name+" below", parent)
			if err != nil {
				t.Fatal(err)
			}
			if dir, err := overlay.GetUpperdir(lower, upper); err != nil || dir == "" {
				t.Errorf("%s on %v and %v: %q, %v", name, lower, upper, dir, err)
			}
			if err := s.Remove(t.Context(), name+" below"); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Commit(t.Context(), name, name+" work"); err != nil {
			t.Fatal(err)
		}
		parent = name
	}
}
