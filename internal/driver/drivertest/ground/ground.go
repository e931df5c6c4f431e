// Package ground is what the worlds of the contract suite stand on, for drivers
// whose pods have a monitor: directories, the engine's cgroup, logs, what may leak.
package ground

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"hull/internal/hull"
	"hull/internal/linux/cgroup"
	"hull/internal/monitor"
	"hull/internal/require"
)

// Ground is a machine with one engine's parent cgroup.
type Ground struct {
	Dir    string
	Parent string // cgroup
	// Patience is how long Leaks waits for what is on its way out, and Tries how
	// often KillMonitor looks, a millisecond apart, whether the monitor is dead.
	Patience time.Duration
	Tries    int

	t       testing.TB
	drivers []io.Closer
	roots   int
	before  counts
}

// counts is what may leak.
type counts struct{ fds, mounts int }

// New prepares a machine; Parent begins with prefix. Begin is to be called when all
// that belongs to it is there.
func New(t testing.TB, prefix string) *Ground {
	t.Helper()
	g := &Ground{t: t, Dir: t.TempDir(), Parent: prefix + strconv.Itoa(os.Getpid()), Patience: 10 * time.Second, Tries: 1000}
	t.Cleanup(func() {
		g.close()
		dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + g.Parent)
		for _, d := range dirs {
			os.Remove(d)
		}
	})
	return g
}

// CreateParent makes the engine's cgroup, for drivers that do not.
func (g *Ground) CreateParent() {
	g.t.Helper()
	sys, err := cgroup.Detect()
	if err != nil {
		g.t.Fatal(err)
	}
	if err := sys.Group(g.Parent).CreateParent(); err != nil {
		g.t.Fatal(err)
	}
}

// Begin counts what is there: what comes after it may leak.
func (g *Ground) Begin() { g.before = g.count() }

// Closing has a driver closed before leaks are counted.
func (g *Ground) Closing(d io.Closer) { g.drivers = append(g.drivers, d) }

func (g *Ground) close() {
	for _, d := range g.drivers {
		d.Close()
	}
}

// Logger is the engine's log.
func (g *Ground) Logger() *slog.Logger { return slog.New(slog.NewTextHandler(testWriter{g.t}, nil)) }

// MonitorProgram is the test's own program, which is to be a hull-monitor when it is
// started as one; or the real one, for figures.
func MonitorProgram(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("HULL_BIN"); dir != "" {
		return filepath.Join(dir, "hull-monitor")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

// Lower is the directory of Busybox's files that Overlay uses.
func (g *Ground) Lower() string { return filepath.Join(g.Dir, "lower") }

// Busybox makes a root file system of the statically linked busybox.
func Busybox(t testing.TB, dir string) {
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

// testWriter is a test's log.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}

// Overlay is a root file system of Lower, writable by one container.
func (g *Ground) Overlay() hull.Rootfs {
	g.roots++
	r := hull.Rootfs{
		Kind: hull.RootfsOverlay, Lower: []string{g.Lower()},
		Upper: filepath.Join(g.Dir, fmt.Sprintf("upper%d", g.roots)), Work: filepath.Join(g.Dir, fmt.Sprintf("work%d", g.roots)),
	}
	for _, d := range []string{r.Upper, r.Work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			g.t.Fatal(err)
		}
	}
	return r
}

// RunDir implements drivertest.World.
func (g *Ground) RunDir(id string) string {
	dir := filepath.Join(g.Dir, "pods", id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		g.t.Fatal(err)
	}
	return dir
}

// Log implements drivertest.World.
func (g *Ground) Log(id string) hull.LogTarget {
	return hull.LogTarget{Driver: "json-file", Path: filepath.Join(g.Dir, "log-"+id)}
}

// Logged implements drivertest.World.
func (g *Ground) Logged(id string) string {
	b, err := os.ReadFile(g.Log(id).Path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		g.t.Fatal(err)
	}
	var text strings.Builder
	for line := range bytes.Lines(b) {
		var l struct{ Log string }
		if err := json.Unmarshal(line, &l); err != nil {
			g.t.Fatalf("log line %q: %v", line, err)
		}
		text.WriteString(l.Log)
	}
	return text.String()
}

// KillMonitor implements drivertest.World.
func (g *Ground) KillMonitor(podID string) {
	c, err := monitor.Dial(filepath.Join(g.Dir, "pods", podID))
	if err != nil {
		g.t.Fatal(err)
	}
	pid := c.Pid()
	c.Close()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		g.t.Fatal(err)
	}
	// Dead for everybody: its socket refuses.
	for range g.Tries {
		c, err := monitor.Dial(filepath.Join(g.Dir, "pods", podID))
		if err != nil {
			return
		}
		c.Close()
		time.Sleep(time.Millisecond)
	}
	g.t.Fatal("the monitor is still there")
}

// Leaks implements drivertest.World.
func (g *Ground) Leaks() []string {
	g.close()
	limit := time.Now().Add(g.Patience)
	for {
		left := g.leaks()
		if len(left) == 0 || time.Now().After(limit) {
			return left
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (g *Ground) leaks() (left []string) {
	c, b := g.count(), g.before
	if c.fds > b.fds || c.mounts > b.mounts {
		left = append(left, fmt.Sprintf("%+v, before %+v", c, b))
	}
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	for _, f := range tasks {
		if b, err := os.ReadFile(f); err == nil && len(b) > 0 {
			left = append(left, "child processes "+string(b))
		}
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*" + g.Parent + "/*/")
	left = append(left, groups...)
	return left
}

// count looks at this process and at mounts of this test's directories: others
// may use the machine at the same time.
func (g *Ground) count() (c counts) {
	g.t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		g.t.Fatal(err)
	}
	c.mounts = bytes.Count(mounts, []byte(g.Dir))
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		g.t.Fatal(err)
	}
	for _, fd := range fds {
		// The cgroup library keeps one of these open for ever.
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && to != "/sys/fs/cgroup" {
			c.fds++
		}
	}
	return c
}
