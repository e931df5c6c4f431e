package perf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"hull/internal/require"
	"hull/test/harness"
)

// TestTraced counts what a run makes the kernel do: system calls, programs executed,
// syncs, messages, by the kernel's own counters, which disturb nothing. Such counts do
// not depend on how fast or how busy the machine is. The limits are about twice what
// was measured.
func TestTraced(t *testing.T) {
	tracing(t)
	e := harness.Start(t, []string{"busybox"})
	hull := e.Hull().Direct()
	hull.Run("run", "--rm", "busybox", "true") // pools are made

	t.Run("client", func(t *testing.T) {
		counts := countOwn(t, func() { hull.Run("run", "--rm", "busybox", "true") })
		over(t, "hull run", counts, 1, map[string]float64{"calls": 900, "programs": 1})
	})
	t.Run("run", func(t *testing.T) {
		const runs = 20
		counts := countOf(t, e.Pid(), func() {
			for range runs {
				hull.Run("run", "--rm", "busybox", "true")
			}
		})
		// With the monitors, of which few are started meanwhile: one serves again and again.
		over(t, "hulld with its monitors for a run", counts, runs, map[string]float64{"calls": 2100, "programs": 2.5, "syncs": 0, "messages": 60})
	})
	t.Run("durable", func(t *testing.T) {
		const runs = 20
		before := written(t, e.Pid())
		counts := countOf(t, e.Pid(), func() {
			for i := range runs {
				name := fmt.Sprint("kept", i)
				hull.Run("run", "-d", "--name", name, "busybox", "true")
				hull.Run("rm", "-f", name)
			}
		})
		// Two when it is made, two when it is removed; its run costs none.
		over(t, "hulld with its monitors for a container that stays and is removed", counts, runs, map[string]float64{"calls": 2100, "programs": 2.5, "syncs": 10, "messages": 80})
		n := (written(t, e.Pid()) - before) / runs
		t.Logf("bytes written to disk for a container that stays and is removed: %.0f", n)
		if n > 700<<10 {
			t.Errorf("%.0f bytes written to disk for one container", n)
		}
	})
	t.Run("bundle", func(t *testing.T) {
		b := &bench{t: t}
		dir := b.bundle(e, &cli{name: "hull", cmd: hull.Cmd})
		counts := countOwn(t, func() {
			cmd := exec.Command(filepath.Join(e.BinDir(), "hull-runc"), "--root", e.Dir("state"), "run", "counted")
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		})
		// Itself, itself once more from a read-only mount, the workload.
		over(t, "hull-runc run", counts, 1, map[string]float64{"calls": 2600, "programs": 3, "syncs": 0})
	})
}

// written is what a process has caused to be written to disk, bytes.
func written(t *testing.T, pid int) float64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		t.Fatal(err)
	}
	return field(string(b), "write_bytes")
}

// over compares counts, each divided by n, with limits.
func over(t *testing.T, what string, counts map[string]float64, n float64, limits map[string]float64) {
	t.Helper()
	for name, limit := range limits {
		t.Logf("%s: %s: %.1f", what, name, counts[name]/n)
		if counts[name]/n > limit {
			t.Errorf("%s: %s: %.1f, at most %.0f", what, name, counts[name]/n, limit)
		}
	}
	if counts["calls"] == 0 {
		t.Errorf("%s: nothing was counted", what)
	}
}

// waiting are the calls of Go's scheduler: there are more of them the longer a thing
// takes.
const waiting = "waiting"

// counted is what is counted, and at which of the kernel's points: calls are all
// system calls (but for those of waiting, which are taken off), messages those by
// which netlink is spoken.
func counted() map[string][]string {
	return map[string][]string{
		"calls":    {"raw_syscalls/sys_enter"},
		"programs": {"syscalls/sys_enter_execve", "syscalls/sys_enter_execveat"},
		"syncs":    {"syscalls/sys_enter_fsync", "syscalls/sys_enter_fdatasync", "syscalls/sys_enter_syncfs"},
		"messages": {"syscalls/sys_enter_sendto", "syscalls/sys_enter_sendmsg"},
		waiting: {
			"syscalls/sys_enter_nanosleep", "syscalls/sys_enter_futex", "syscalls/sys_enter_epoll_pwait", "syscalls/sys_enter_sched_yield",
			"syscalls/sys_enter_tgkill", "syscalls/sys_enter_getpid", "syscalls/sys_enter_rt_sigreturn",
		},
	}
}

// tracing is where the kernel's points are described. Where it is not mounted, or
// counting is not allowed, the test skips.
func tracing(t *testing.T) string {
	t.Helper()
	require.Root(t)
	for _, dir := range []string{"/sys/kernel/tracing", "/sys/kernel/debug/tracing"} {
		if _, err := os.Stat(dir + "/events/raw_syscalls/sys_enter/id"); err == nil {
			c, err := openCounter(dir+"/events/raw_syscalls/sys_enter", 0)
			require.Must(t, "tracepoints", err == nil, fmt.Sprint(err))
			_ = unix.Close(c)
			return dir
		}
	}
	require.Must(t, "tracepoints", false, "tracefs is not mounted")
	return ""
}

// openCounter counts how often a thread, and all threads and processes that it makes
// from now on, pass a point.
func openCounter(point string, tid int) (int, error) {
	b, err := os.ReadFile(point + "/id")
	if err != nil {
		return -1, err
	}
	id, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return -1, err
	}
	attr := &unix.PerfEventAttr{Type: unix.PERF_TYPE_TRACEPOINT, Config: id, Bits: unix.PerfBitInherit}
	return unix.PerfEventOpen(attr, tid, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
}

// counters of threads, by what they count.
type counterSet map[string][]int

func newCounters(t *testing.T, tids []int) counterSet {
	t.Helper()
	dir := tracing(t)
	set := counterSet{}
	t.Cleanup(func() {
		for _, fds := range set {
			for _, fd := range fds {
				_ = unix.Close(fd)
			}
		}
	})
	for what, points := range counted() {
		for _, point := range points {
			for _, tid := range tids {
				fd, err := openCounter(filepath.Join(dir, "events", point), tid)
				if errors.Is(err, unix.ESRCH) {
					continue // the thread has ended
				}
				if err != nil {
					t.Fatalf("count %s of thread %d: %v", point, tid, err)
				}
				set[what] = append(set[what], fd)
			}
		}
	}
	return set
}

func (s counterSet) read(t *testing.T) map[string]float64 {
	t.Helper()
	out := map[string]float64{}
	for what, fds := range s {
		for _, fd := range fds {
			buf := make([]byte, 8)
			if n, err := unix.Read(fd, buf); err != nil || n != len(buf) {
				t.Fatalf("read a counter: %d bytes, %v", n, err)
			}
			out[what] += float64(binary.NativeEndian.Uint64(buf))
		}
	}
	out["calls"] -= out[waiting]
	return out
}

// countOf counts what a process does while fn runs, with its children and what they
// start.
func countOf(t *testing.T, pid int, fn func()) map[string]float64 {
	t.Helper()
	var tids []int
	for _, p := range append(numbers(t, "/proc/%d/task/*/children", pid), pid) {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", p))
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range tasks {
			tids = append(tids, number(t, filepath.Base(task)))
		}
	}
	set := newCounters(t, tids)
	fn()
	return set.read(t)
}

// numbers are those in the files that match pattern with pid.
func numbers(t *testing.T, pattern string, pid int) (out []int) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf(pattern, pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue // the thread has ended
		}
		if err != nil {
			t.Fatal(err)
		}
		for field := range strings.FieldsSeq(string(b)) {
			out = append(out, number(t, field))
		}
	}
	return out
}

// countOwn counts what the programs do that fn starts.
func countOwn(t *testing.T, fn func()) map[string]float64 {
	t.Helper()
	runtime.LockOSThread() // a child inherits the counters of the thread that made it
	defer runtime.UnlockOSThread()
	set := newCounters(t, []int{unix.Gettid()})
	fn()
	return set.read(t)
}
