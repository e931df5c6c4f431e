// Package require gates tests on what the machine can do: a missing capability
// skips, unless HULL_REQUIRE names it (comma separated, or "all"), then it
// fails. A CI that silently skips proves nothing.
package require

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
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
	found, err := filepath.Glob(filepath.Join(cacheDir(), "tools/runsc-v*"))
	Must(t, "runsc", err == nil && len(found) > 0, "not built; run make runsc")
	return found[len(found)-1]
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// VM needs what boots machines: QEMU, the tools that make disks, and a guest
// kernel, HULL_VM_KERNEL or one that "make kernel" or "make kernel-debian" has kept
// outside the tree. It returns the kernel's path.
func VM(t testing.TB) string {
	t.Helper()
	Root(t)
	Must(t, "vm", runtime.GOARCH == "amd64", "machines are x86-64")
	for _, p := range []string{"/usr/bin/qemu-system-x86_64", "/usr/bin/mkfs.erofs", "/usr/sbin/mkfs.ext4"} {
		Must(t, "vm", exists(p), p+" is not installed; run make setup")
	}
	if k := os.Getenv("HULL_VM_KERNEL"); k != "" {
		Must(t, "vm", exists(k), k+" is not there")
		return k
	}
	for _, which := range []string{"debian-*", "*"} {
		found, err := filepath.Glob(filepath.Join(cacheDir(), "kernel", which, "vmlinux"))
		if err == nil && len(found) > 0 {
			return found[len(found)-1]
		}
	}
	Must(t, "vm", false, "no guest kernel; run make kernel-debian")
	return ""
}

// cacheDir is where tools and kernels are kept outside the tree.
func cacheDir() string {
	if dir := os.Getenv("HULL_CACHE"); dir != "" {
		return dir
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "/nonexistent"
	}
	return filepath.Join(home, ".cache/hull")
}
