package vm

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hull/internal/require"
	"hull/test/harness"
)

// TestKernel gives an engine its guest kernel: from a directory, a file and an
// image, and takes it away. The README's test boots one.
func TestKernel(t *testing.T) {
	t.Parallel()
	dir := filepath.Dir(require.VM(t))
	e := harness.Start(t, nil)
	w := &world{Engine: e, t: t}
	h := e.Hull()
	usable := func() bool { return !strings.Contains(h.Run("info"), "vm: not available") }
	if usable() {
		t.Fatal("machines are available without a kernel")
	}

	name := h.Run("vm", "kernel", "install", dir)
	if !usable() {
		t.Errorf("%s is installed, and machines are not available:\n%s", name, h.Run("info"))
	}
	w.want("from the file", h.Run("vm", "kernel", "install", filepath.Join(dir, "vmlinux")), name)
	h.Run("vm", "kernel", "rm")
	if usable() {
		t.Error("machines are available after the kernel's removal")
	}
	h.Fails(1, []string{"no guest kernel is installed"}, "vm", "kernel", "rm")

	tar, err := exec.Command("tar", "-C", dir, "-c", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	if r := h.TryStdin(string(tar), "import", "-", "team/kernel:1"); r.Code != 0 {
		t.Fatal(r)
	}
	w.want("from an image", h.Run("vm", "kernel", "install", "team/kernel:1"), name)
	w.want("containers left", h.Run("ps", "-aq"), "")
	if !usable() {
		t.Error("the image's kernel cannot be used")
	}

	h.Fails(1, []string{"not for x86-64"}, "vm", "kernel", "install", e.WriteFile("vmlinux", strings.Repeat("x", 4096)))
	h.Fails(1, []string{"no such file"}, "vm", "kernel", "install", "./nothing")
	if !usable() {
		t.Error("what was refused took the place of what was there")
	}
	other := harness.Start(t, nil, harness.Args("--vm-kernel", filepath.Join(dir, "vmlinux")))
	other.Hull().Fails(1, []string{"--vm-kernel"}, "vm", "kernel", "install", dir)
}
