package cdi

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/hull"
)

// TestNames: the shortest names that the specification allows are names, and what is
// none is refused in words.
func TestNames(t *testing.T) {
	dir := t.TempDir()
	file := `{"cdiVersion": "0.6.0", "kind": "a/b", "devices": [{"name": "c", "containerEdits": {"env": ["D=e"]}}]}`
	if err := os.WriteFile(filepath.Join(dir, "short.json"), []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	d := New([]string{dir}, nil)
	c, err := d.read()
	if err != nil {
		t.Fatal(err)
	}
	if got := c.ListDevices(); !slices.Equal(got, []string{"a/b=c"}) {
		t.Errorf("names: %q", got)
	}
	s := specs.Spec{Process: &specs.Process{}}
	if err := d.Inject(&s, []hull.DeviceRequest{{Driver: "cdi", IDs: []string{"a/b=c"}}}); err != nil || !slices.Contains(s.Process.Env, "D=e") {
		t.Errorf("%q, %v", s.Process.Env, err)
	}
	for _, name := range []string{"", "=", "/", "a", "a/", "/b", "a/b", "a/b=", "a/b=\x00", "1/2=3", "a/b=d", "../a/b=c"} {
		if err := d.Inject(&s, []hull.DeviceRequest{{Driver: "cdi", IDs: []string{name}}}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", name, err)
		}
	}
}
