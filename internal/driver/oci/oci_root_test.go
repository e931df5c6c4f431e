package oci_test

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"hull/internal/driver"
	"hull/internal/driver/drivertest"
	"hull/internal/driver/oci"
	"hull/internal/hull"
	"hull/internal/linux/cgroup"
	"hull/internal/monitor"
	backend "hull/internal/monitor/oci"
	"hull/internal/require"
)

// TestMain makes this binary a hull-monitor when it is started as one, and the
// first process of a sandbox.
func TestMain(m *testing.M) {
	if os.Args[0] == "hull-monitor" {
		os.Exit(monitor.Main(map[string]monitor.NewBackend{backend.Backend: backend.New}))
	}
	if filepath.Base(os.Args[0]) == backend.PauseMode {
		os.Exit(backend.PauseMain(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// world is a machine with one engine's parent cgroup.
type world struct {
	t       testing.TB
	dir     string
	parent  string
	monitor string
	runtime string
	drivers []*oci.Driver
	roots   int
	before  counts
}

// counts is what may leak.
type counts struct{ fds, mounts int }

func newWorld(t testing.TB, runtime string) *world {
	t.Helper()
	require.Root(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if dir := os.Getenv("HULL_BIN"); dir != "" { // the real one: for figures
		exe = filepath.Join(dir, "hull-monitor")
	}
	w := &world{t: t, dir: t.TempDir(), parent: "/hulltest-" + strconv.Itoa(os.Getpid()), monitor: exe, runtime: runtime}
	sys, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sys.Group(w.parent).Create(nil); err != nil && !errdefs.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	lower := filepath.Join(w.dir, "lower")
	busybox(t, lower)
	t.Cleanup(func() {
		for _, d := range w.drivers {
			d.Close()
		}
		dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + w.parent)
		for _, d := range dirs {
			os.Remove(d)
		}
	})
	w.before = w.count()
	return w
}

// busybox makes a root file system of the statically linked busybox.
func busybox(t testing.TB, dir string) {
	t.Helper()
	b, err := os.ReadFile(require.Program(t, "busybox"))
	if err != nil {
		t.Fatal(err)
	}
	exe, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	dynamic := slices.ContainsFunc(exe.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
	require.Must(t, "busybox-static", !dynamic, "busybox needs shared libraries")
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

func (w *world) driver() *oci.Driver {
	d, err := oci.New(oci.Config{Runtime: w.runtime, MonitorPath: w.monitor, CgroupParent: w.parent, RunDir: w.dir, Log: slog.New(slog.NewTextHandler(testWriter{w.t}, nil))})
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

func (w *world) Driver() driver.Driver { return w.driver() }

func (w *world) Rootfs() hull.Rootfs {
	w.roots++
	r := hull.Rootfs{
		Kind: hull.RootfsOverlay, Lower: []string{filepath.Join(w.dir, "lower")},
		Upper: filepath.Join(w.dir, fmt.Sprintf("upper%d", w.roots)), Work: filepath.Join(w.dir, fmt.Sprintf("work%d", w.roots)),
	}
	for _, d := range []string{r.Upper, r.Work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			w.t.Fatal(err)
		}
	}
	return r
}

func (*world) NetNS() string { return "" }

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
	for range 1000 {
		c, err := monitor.Dial(filepath.Join(w.dir, "pods", podID))
		if err != nil {
			return
		}
		c.Close()
		time.Sleep(time.Millisecond)
	}
	w.t.Fatal("the monitor is still there")
}

func (w *world) Leaks() []string {
	for _, d := range w.drivers {
		d.Close()
	}
	limit := time.Now().Add(10 * time.Second)
	for {
		left := w.leaks()
		if len(left) == 0 || time.Now().After(limit) {
			return left
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (w *world) leaks() (left []string) {
	c, b := w.count(), w.before
	if c.fds > b.fds || c.mounts > b.mounts {
		left = append(left, fmt.Sprintf("%+v, before %+v", c, b))
	}
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	for _, f := range tasks {
		if b, err := os.ReadFile(f); err == nil && len(b) > 0 {
			left = append(left, "child processes "+string(b))
		}
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*" + w.parent + "/*/")
	left = append(left, groups...)
	return left
}

// count looks at this process and at mounts of this test's directories: others
// may use the machine at the same time.
func (w *world) count() (c counts) {
	w.t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		w.t.Fatal(err)
	}
	c.mounts = bytes.Count(mounts, []byte(w.dir))
	for _, n := range names(w.t, "/proc/self/fd") {
		// The cgroup library keeps one of these open for ever.
		if to, err := os.Readlink("/proc/self/fd/" + n); err == nil && to != "/sys/fs/cgroup" {
			c.fds++
		}
	}
	return c
}

func names(t testing.TB, dir string) (n []string) {
	t.Helper()
	d, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, e := range d {
		n = append(n, e.Name())
	}
	return n
}

// TestContractSandboxRoot: the contract holds for gVisor.
func TestContractSandboxRoot(t *testing.T) {
	require.Root(t)
	path := require.Runsc(t)
	drivertest.Run(t, func(t *testing.T) drivertest.World { return newWorld(t, path) })
}

// TestContractRuntimeRoot: and for a runtime that follows runc.
func TestContractRuntimeRoot(t *testing.T) {
	require.Root(t)
	path := os.Getenv("HULL_TEST_RUNTIME")
	if path == "" {
		path = require.Program(t, "runc")
	}
	drivertest.Run(t, func(t *testing.T) drivertest.World { return newWorld(t, path) })
}
