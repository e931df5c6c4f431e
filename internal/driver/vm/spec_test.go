package vm

import (
	"strings"
	"testing"

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
	} {
		if got := cpusOf(c.r); got != c.want {
			t.Errorf("processors of %+v: %d, want %d", c.r, got, c.want)
		}
	}
}
