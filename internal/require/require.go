// Package require gates tests on what the machine can do: a missing capability
// skips, unless HULL_REQUIRE names it (comma separated, or "all"), then it
// fails. A CI that silently skips proves nothing.
package require

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Must is called by the gates: ok = the capability is there.
func Must(t testing.TB, name string, ok bool, why string) {
	t.Helper()
	if ok {
		return
	}
	for n := range strings.SplitSeq(os.Getenv("HULL_REQUIRE"), ",") {
		if n == name || n == "all" {
			t.Fatalf("HULL_REQUIRE names %q, which is missing here: %s", name, why)
		}
	}
	t.Skipf("needs %s: %s", name, why)
}

// Root needs uid 0.
func Root(t testing.TB) {
	t.Helper()
	Must(t, "root", os.Geteuid() == 0, "not root")
}

// Program needs an executable in PATH, and returns its path.
func Program(t testing.TB, name string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	Must(t, name, err == nil, "not installed")
	return p
}

// Runsc needs gVisor's runtime, as "make runsc" builds it: in HULL_BIN, or kept
// outside the tree. It returns its path.
func Runsc(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("HULL_BIN"); dir != "" {
		if p := filepath.Join(dir, "runsc"); exists(p) {
			return p
		}
	}
	cache := os.Getenv("HULL_CACHE")
	if home, err := os.UserHomeDir(); err == nil && cache == "" {
		cache = filepath.Join(home, ".cache/hull")
	}
	found, err := filepath.Glob(filepath.Join(cache, "tools/runsc-v*"))
	Must(t, "runsc", err == nil && len(found) > 0, "not built; run make runsc")
	return found[len(found)-1]
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
