package vm_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"hull/internal/driver"
	"hull/internal/driver/drivertest"
	"hull/internal/driver/vm"
	"hull/internal/hull"
	"hull/internal/linux"
	"hull/internal/linux/cgroup"
	"hull/internal/monitor"
	backend "hull/internal/monitor/vm"
	"hull/internal/require"
	"hull/internal/vmm"
)

// TestMain makes this binary a hull-monitor when it is started as one.
func TestMain(m *testing.M) {
	if os.Args[0] == "hull-monitor" {
		os.Exit(monitor.Main(map[string]monitor.NewBackend{backend.Name: backend.New}))
	}
	os.Exit(m.Run())
}

// shared is what all worlds of one test have in common, because it takes long to
// make: disks, the guest program, and the driver's directory with the templates.
type shared struct{ kernel, guest, root, disk, state string }

func prepare(t *testing.T) shared {
	t.Helper()
	s := shared{kernel: require.VM(t)}
	dir := t.TempDir()
	s.guest, s.root, s.disk, s.state = filepath.Join(dir, "hull-guest"), filepath.Join(dir, "root.erofs"), filepath.Join(dir, "empty.ext4"), filepath.Join(dir, "vm")
	tool := func(argv ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", argv, err, out)
		}
	}
	tool("go", "build", "-o", s.guest, "hull/cmd/hull-guest")
	tree := filepath.Join(dir, "tree")
	busybox(t, tree)
	tool("mkfs.erofs", "--quiet", s.root, tree)
	for _, f := range []string{s.root, s.disk} {
		if f == s.disk {
			if err := os.WriteFile(f, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Truncate(f, vmm.DiskSize); err != nil {
			t.Fatal(err)
		}
	}
	tool("/usr/sbin/mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", "-J", "size=16", "-i", "65536", s.disk)
	return s
}

// busybox makes a root file system of the statically linked busybox.
func busybox(t testing.TB, dir string) {
	t.Helper()
	b, err := os.ReadFile(require.Program(t, "busybox"))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"bin", "proc", "dev", "sys", "tmp", "etc", "sbin"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), b, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"sh", "true", "false", "sleep", "cat", "echo", "tail", "stty", "ls", "head", "ps", "kill", "id", "dd", "yes"} {
		if err := os.Link(filepath.Join(dir, "bin/busybox"), filepath.Join(dir, "bin", a)); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"notexec": "data", "etc/passwd": "root:x:0:0::/root:/bin/sh\nalice:x:1000:100::/home/alice:/bin/sh\n",
		"etc/group": "root:x:0:\nusers:x:100:\nwheel:x:2000:alice\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// world is a machine with one engine's parent cgroup.
type world struct {
	shared

	t       testing.TB
	dir     string
	parent  string
	netns   string
	drivers []*vm.Driver
	roots   int
	fds     int
}

func newWorld(t testing.TB, s shared) *world {
	t.Helper()
	w := &world{shared: s, t: t, dir: t.TempDir(), parent: "/hulltest-vm-" + strconv.Itoa(os.Getpid())}
	sys, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sys.Group(w.parent).Create(nil); err != nil && !errdefs.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	w.netns = filepath.Join(w.dir, "netns")
	if err := linux.NewNetNS(w.netns); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, d := range w.drivers {
			d.Close()
		}
		if err := linux.Unpin(w.netns); err != nil {
			t.Error(err)
		}
		dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + w.parent)
		for _, d := range dirs {
			os.Remove(d)
		}
	})
	w.fds = w.openFiles()
	return w
}

func (w *world) Driver() driver.Driver {
	d, err := vm.New(vm.Config{
		MonitorPath: "/proc/self/exe", GuestPath: w.guest, Kernels: []string{w.kernel}, Dir: w.state, CgroupParent: w.parent, RunDir: w.dir,
		Log: slog.New(slog.NewTextHandler(testWriter{w.t}, nil)),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.drivers = append(w.drivers, d)
	return d
}

// testWriter is the engine's log.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}

func (w *world) NetNS() string { return w.netns }

func (w *world) Rootfs() hull.Rootfs {
	w.roots++
	disk := filepath.Join(w.dir, fmt.Sprintf("disk%d", w.roots))
	if out, err := exec.Command("cp", "--sparse=always", w.disk, disk).CombinedOutput(); err != nil {
		w.t.Fatalf("copy disk: %v: %s", err, out)
	}
	return hull.Rootfs{Kind: hull.RootfsBlock, Block: w.root, Disk: disk}
}

func (w *world) RunDir(id string) string {
	dir := filepath.Join(w.dir, "pods", id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		w.t.Fatal(err)
	}
	return dir
}

func (w *world) Log(id string) hull.LogTarget {
	return hull.LogTarget{Driver: "json-file", Path: filepath.Join(w.dir, "log-"+id)}
}

func (w *world) Logged(id string) string {
	b, err := os.ReadFile(w.Log(id).Path)
	if err != nil && !os.IsNotExist(err) {
		w.t.Fatal(err)
	}
	var text strings.Builder
	for line := range bytes.Lines(b) {
		var l struct{ Log string }
		if err := json.Unmarshal(line, &l); err != nil {
			w.t.Fatalf("log line %q: %v", line, err)
		}
		text.WriteString(l.Log)
	}
	return text.String()
}

func (w *world) KillMonitor(podID string) {
	c, err := monitor.Dial(filepath.Join(w.dir, "pods", podID))
	if err != nil {
		w.t.Fatal(err)
	}
	pid := c.Pid()
	c.Close()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		w.t.Fatal(err)
	}
	// Dead for everybody: its socket refuses.
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		c, err := monitor.Dial(filepath.Join(w.dir, "pods", podID))
		if err != nil {
			return
		}
		c.Close()
	}
	w.t.Fatal("the monitor is still there")
}

func (w *world) Leaks() (left []string) {
	for _, d := range w.drivers {
		d.Close()
	}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if left = w.leaks(); len(left) == 0 {
			return nil
		}
	}
	return left
}

func (w *world) leaks() (left []string) {
	if n := w.openFiles(); n > w.fds {
		left = append(left, fmt.Sprintf("%d descriptors, before %d", n, w.fds))
	}
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	for _, f := range tasks {
		if b, err := os.ReadFile(f); err == nil && len(b) > 0 {
			left = append(left, "child processes "+string(b))
		}
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*" + w.parent + "/*/")
	return append(left, groups...)
}

func (w *world) openFiles() (n int) {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		w.t.Fatal(err)
	}
	for _, fd := range fds {
		// The cgroup library keeps one of these open for ever.
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && to != "/sys/fs/cgroup" {
			n++
		}
	}
	return n
}

// TestContractVMRoot: the contract holds for machines.
func TestContractVMRoot(t *testing.T) {
	if os.Getenv("HULL_VM") == "" {
		t.Skip("boots some forty machines: make test-vm runs it")
	}
	s := prepare(t)
	if err := os.Mkdir(s.state, 0o700); err != nil {
		t.Fatal(err)
	}
	drivertest.Run(t, func(t *testing.T) drivertest.World { return newWorld(t, s) })
}
