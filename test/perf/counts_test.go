package perf

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"hull/test/harness"
)

// TestCounts holds the run path to counts, which are the same on a quiet machine
// and on a busy one: a regression shows before the machine is quiet enough for
// TestNumbers. The limits are twice what was measured, so that neither another
// kernel nor a pool's refilling at another moment trips them.
func TestCounts(t *testing.T) {
	e := harness.Start(t, []string{"busybox"})
	hull := e.Hull().Direct()

	t.Run("run", func(t *testing.T) {
		const runs = 20
		hull.Run("run", "--rm", "busybox", "true") // pools are made
		before := counters(t, e.Pid())
		for range runs {
			hull.Run("run", "--rm", "busybox", "true")
		}
		after := counters(t, e.Pid())
		// Reads and writes of hulld for one container: requests, messages to monitors,
		// limits, records, the namespaces and monitors that take the place of the used.
		for name, limit := range map[string]float64{"syscr": 160, "syscw": 110} {
			if n := (after[name] - before[name]) / runs; n > limit {
				t.Errorf("%s of hulld: %.0f for a run, at most %.0f", name, n, limit)
			}
		}
	})

	t.Run("exec", func(t *testing.T) {
		const runs = 20
		hull.Run("run", "-d", "--name", "still", "busybox", "sleep", "10000")
		defer hull.Run("rm", "-f", "still")
		pid := func() int {
			return number(t, hull.Run("exec", "still", "sh", "-c", "echo $$"))
		}
		monitor := parent(t, number(t, hull.Run("inspect", "-f", "{{.State.Pid}}", "still")))
		first := pid()
		engine, pod := counters(t, e.Pid()), counters(t, monitor)
		for range runs {
			hull.Run("exec", "still", "true")
		}
		for process, c := range map[string]struct {
			pid    int
			before map[string]float64
			limits map[string]float64
		}{
			"hulld":        {e.Pid(), engine, map[string]float64{"syscr": 38, "syscw": 6}},
			"hull-monitor": {monitor, pod, map[string]float64{"syscr": 22, "syscw": 3}},
		} {
			after := counters(t, c.pid)
			for name, limit := range c.limits {
				n := (after[name] - c.before[name]) / runs
				t.Logf("%s of %s for an exec: %.1f", name, process, n)
				if n > limit {
					t.Errorf("%s of %s: %.0f for an exec, at most %.0f", name, process, n, limit)
				}
			}
		}
		// Nothing is started in a container beside what was asked for.
		if n := pid() - first; n != runs+1 {
			t.Errorf("%d processes in the container for %d execs", n, runs+1)
		}
	})

	// What a container writes goes from its monitor to the log: not through hulld.
	t.Run("output", func(t *testing.T) {
		before := counters(t, e.Pid())
		hull.Run("run", "--name", "loud", "-d", "busybox", "sh", "-c", "head -c 16777216 /dev/zero | tr '\\0' 'x' | fold -w 100")
		e.Docker().Direct().Run("wait", "loud")
		after := counters(t, e.Pid())
		for _, name := range []string{"rchar", "wchar"} {
			if n := after[name] - before[name]; n > 4<<20 {
				t.Errorf("%s of hulld: %.0f bytes while a container wrote 16 MiB", name, n)
			}
		}
		hull.Run("rm", "loud")
	})
}

func number(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// counters are the sums of /proc/PID/task/*/io: of the threads alone, for the
// process's own counts take in those of every child that it has waited for, and a
// monitor is one.
func counters(t *testing.T, pid int) map[string]float64 {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/io", pid))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		for _, name := range []string{"rchar", "wchar", "syscr", "syscw"} {
			out[name] += field(string(b), name)
		}
	}
	if out["syscr"] == 0 {
		t.Fatalf("no counts in %s", files)
	}
	return out
}
