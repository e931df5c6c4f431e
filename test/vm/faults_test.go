package vm

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"hull/internal/require"
	"hull/test/harness"
)

// TestFaults: a guest that panics, one that hangs, a template that is damaged, and
// what a machine cannot do. Each is told, ends in bounded time and leaves nothing,
// which the end of every test looks at.
func TestFaults(t *testing.T) {
	t.Parallel()
	w := start(t, "busybox")
	c := w.c
	vm := func(args ...string) []string { return append([]string{"run", "--rm", "--isolation", "vm"}, args...) }

	// What is refused before anything starts.
	for want, args := range map[string][]string{
		"give 16 MiB or more":     vm("-m", "8m", "busybox", "true"),
		"a namespace of the host": vm("--network", "host", "busybox", "true"),
		"--device":                vm("--device", "/dev/null:/dev/x", "busybox", "true"),
	} {
		c.Fails(125, []string{want}, args...)
	}

	// A program for another processor.
	foreign := append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 200)...)
	foreign[16], foreign[18], foreign[20] = 2, 183, 1 // executable, aarch64
	c.Run("import", "--platform", "linux/arm64", w.WriteFile("foreign.tar", string(tarOf(t, "prog", foreign))), "foreign")
	c.Fails(126, []string{"exec format error"}, vm("foreign", "/prog")...)

	// A guest that panics (hull's own kernel cannot be told to): the end is told, with the machine's last words in the log.
	w.run("panics", "--privileged", "busybox", "sh", "-c", "test -e /proc/sysrq-trigger || exit 9; echo c > /proc/sysrq-trigger; sleep 1000")
	w.slowly("the machine has ended", func() error { return w.state("panics", "exited") })
	want := "137 "
	if _, modules := modulesOf(t); !modules {
		want = "9 "
	}
	if code := c.Run("inspect", "-f", "{{.State.ExitCode}} {{.State.Error}}", "panics"); !strings.HasPrefix(code, want) {
		t.Errorf("the end of a guest that panicked is %q", code)
	}
	c.Run("rm", "panics")

	// One that gives memory back, and then hangs: nothing in it answers, and it goes
	// all the same.
	w.run("hangs", "--shm-size", "200m", "busybox", "sleep", "1000")
	w.givesBack("hangs")
	if err := syscall.Kill(w.qemu("hangs"), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	c.Run("rm", "-f", "hangs")

	// Its template is damaged: the machine boots, and the next one has another.
	states, err := filepath.Glob(filepath.Join(w.Root, "vm", "templates", "*", "state"))
	if err != nil || len(states) == 0 {
		t.Fatalf("no template in %s: %v", w.Root, err)
	}
	for _, s := range states {
		if err := os.WriteFile(s, []byte("no device state"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		w.want("a machine whose template was damaged", c.Run(vm("busybox", "echo", "runs")...), "runs")
	}
	for _, s := range states {
		if b, err := os.ReadFile(s); err == nil && string(b) == "no device state" {
			t.Error("the damaged template is still there")
		}
	}
}

// tarOf is an archive of one program.
func tarOf(t *testing.T, name string, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))})
	if err == nil {
		_, err = w.Write(content)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// givesBack asserts that memory which is freed in a machine is free on the host.
func (w *world) givesBack(name string) {
	w.t.Helper()
	const size = 150 // MiB
	pid := w.qemu(name)
	before := w.private(pid)
	w.c.Run("exec", name, "dd", "if=/dev/zero", "of=/dev/shm/big", "bs=1M", fmt.Sprintf("count=%d", size))
	full := w.private(pid)
	if full < before+size*9/10 {
		w.t.Fatalf("qemu has %d MiB of its own with %d MiB in the machine's memory, and had %d before", full, size, before)
	}
	w.c.Run("exec", name, "rm", "/dev/shm/big")
	w.slowly("the memory is back", func() error {
		if left := w.private(pid); left > full-size*3/4 {
			return fmt.Errorf("qemu has %d MiB; it had %d when full and %d before", left, full, before)
		}
		return nil
	})
}

// private is how much memory a process shares with nobody, in MiB.
func (w *world) private(pid int) (mib int) {
	w.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var kib int
		if n, _ := fmt.Sscanf(line, "Anonymous: %d kB", &kib); n == 1 {
			return kib >> 10
		}
	}
	w.t.Fatalf("no anonymous memory in %s", b)
	return 0
}

// state asserts the state of a container.
func (w *world) state(name, want string) error {
	if got := w.c.Run("inspect", "-f", "{{.State.Status}}", name); got != want {
		return fmt.Errorf("it is %s, not %s", got, want)
	}
	return nil
}

// TestKernelWithoutDrivers: a kernel that lacks what a guest needs does not boot, and
// says so within a bounded time.
func TestKernelWithoutDrivers(t *testing.T) {
	t.Parallel()
	kernel, modules := modulesOf(t)
	if !modules {
		t.Skip("kernel " + kernel + " has all that a guest needs built in")
	}
	dir := t.TempDir()
	bare := filepath.Join(dir, "vmlinux")
	b, err := os.ReadFile(kernel)
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string][]byte{bare: b, filepath.Join(dir, "hull-kernel.json"): []byte(`{"Name":"bare","ACPI":true}`)} {
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	e := harness.Start(t, []string{"busybox"}, harness.Args("--vm-kernel", bare))
	out, err := e.Docker().Cmd("run", "--rm", "--isolation", "vm", "busybox", "true").CombinedOutput()
	if err == nil {
		t.Fatal("it runs")
	}
	for _, want := range []string{"boot the guest with kernel " + bare, "--vm-kernel FILE", "does the kernel have virtio_"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q lacks %q", out, want)
		}
	}
}

// modulesOf is the kernel that machines boot here, and whether it needs modules.
func modulesOf(t *testing.T) (kernel string, modules bool) {
	t.Helper()
	kernel = require.VM(t)
	_, err := os.Stat(filepath.Join(filepath.Dir(kernel), "hull-kernel.json"))
	return kernel, err == nil
}
