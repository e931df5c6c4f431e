package vm

import (
	"math"
	"strings"
	"testing"
	"time"

	"hull/internal/guest"
	"hull/internal/hull"
)

// FuzzSample: a guest's counters are whatever it says.
func FuzzSample(f *testing.F) {
	for _, s := range [][4]string{
		{"usage_usec 7\nuser_usec 3\nsystem_usec 4\n", "4096\n", "max\n", "254:0 rbytes=1 wbytes=2 rios=3 wios=4\n"},
		{"usage_usec -1\n\n \nusage_usec", "18446744073709551616", "", "254 rbytes\n:\n1:2 =\n1:2 rbytes\n"},
		{strings.Repeat("a b\n", 1000), "\x00", "-5", "\xff"},
	} {
		f.Add(s[0], s[1], s[2], s[3])
	}
	f.Fuzz(func(t *testing.T, cpu, current, max, io string) {
		x := sample(map[string]string{"cpu.stat": cpu, "memory.current": current, "memory.max": max, "io.stat": io, "pids.current": current})
		for _, e := range x.Blkio {
			if e.Op != "Read" && e.Op != "Write" {
				t.Errorf("entry %+v", e)
			}
		}
	})
}

func TestSizes(t *testing.T) {
	for _, c := range []struct {
		limit, want int64
		ok          bool
	}{{0, defaultMemory, true}, {minMemory - 1, 0, false}, {minMemory, 128 * mib, true}, {512 * mib, 576 * mib, true}, {512*mib + 1, 640 * mib, true}} {
		if got, err := memoryOf(c.limit); got != c.want || err == nil != c.ok {
			t.Errorf("memory of %d: %d, %v", c.limit, got, err)
		}
	}
	for _, c := range []struct {
		r    hull.Resources
		want int
	}{
		{hull.Resources{}, 1}, {hull.Resources{NanoCPUs: 1}, 1}, {hull.Resources{NanoCPUs: 15e8}, 2}, {hull.Resources{NanoCPUs: 1e12}, maxCPUs},
		{hull.Resources{CPUQuota: 250000}, 3}, {hull.Resources{CpusetCpus: "0,1"}, 2},
		{hull.Resources{CpusetCpus: "0-3"}, 4}, {hull.Resources{CpusetCpus: "7"}, 1}, {hull.Resources{CpusetCpus: "0-3,2,6-7"}, 6},
		{hull.Resources{NanoCPUs: 1e9, CpusetCpus: "0-3"}, 1},
	} {
		if got := cpusOf(c.r); got != c.want {
			t.Errorf("processors of %+v: %d, want %d", c.r, got, c.want)
		}
	}
}

// TestTable: the table of ps, of whatever numbers a guest sends.
func TestTable(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	titles, rows := table([]guest.ProcessInfo{
		{Pid: 1, UID: 0, CPU: 90_000, Age: 180_000, Command: "sh -c x"},
		{Pid: 7, Parent: 1, UID: 999, TTY: 0x8801, CPU: 3_725_000, Age: 48 * 3600_000, Command: "postgres: writer"},
		{Pid: -1, Parent: math.MinInt, UID: -5, CPU: math.MinInt64, Age: math.MaxInt64},
		{CPU: math.MaxInt64, Age: math.MinInt64},
	}, now)
	for i, want := range []string{
		"root 1 0 50 11:57 ? 00:01:30 sh -c x", "999 7 1 2 Nov20 pts/1 01:02:05 postgres: writer",
	} {
		if got := strings.Join(rows[i], " "); got != want {
			t.Errorf("row %d: %q, want %q", i, got, want)
		}
	}
	for _, r := range rows {
		if len(r) != len(titles) {
			t.Errorf("row %q has not the columns %q", r, titles)
		}
	}
}
