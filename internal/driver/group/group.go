// Package group is a container's cgroup in the terms of a driver: its directories for
// who starts processes in it, samples as hull shows them.
package group

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/hull"
	"hull/internal/linux/cgroup"
	"hull/internal/runtime"
)

// Of names a cgroup's directories for those who start processes in it.
func Of(g *cgroup.Group) runtime.Cgroup {
	c := runtime.Cgroup{V2: g.V2()}
	for _, d := range g.Dirs() {
		c.Dirs = append(c.Dirs, runtime.CgroupDir{Hierarchy: d.Hierarchy, Path: d.Path})
	}
	return c
}

// Sample is what a cgroup counts, as hull has it, with the machine's side of it.
func Sample(g *cgroup.Group) (hull.Stats, error) {
	s, err := g.Stats()
	if err != nil {
		return hull.Stats{}, err
	}
	x := sample(s)
	x.Read, x.CgroupV2 = time.Now(), g.V2()
	if err := host(&x); err != nil {
		return hull.Stats{}, fmt.Errorf("sample host: %w", err)
	}
	return x, nil
}

func sample(s *cgroup.Stats) hull.Stats {
	cpu, mem := &s.CpuStats, &s.MemoryStats
	x := hull.Stats{
		CPU: hull.CPUStats{
			Total: cpu.CpuUsage.TotalUsage, User: cpu.CpuUsage.UsageInUsermode, System: cpu.CpuUsage.UsageInKernelmode,
			PerCPU:  cpu.CpuUsage.PercpuUsage,
			Periods: cpu.ThrottlingData.Periods, ThrottledPeriods: cpu.ThrottlingData.ThrottledPeriods, ThrottledTime: cpu.ThrottlingData.ThrottledTime,
		},
		Memory: hull.MemoryStats{
			Usage: mem.Usage.Usage, MaxUsage: mem.Usage.MaxUsage, Limit: mem.Usage.Limit, Failcnt: mem.Usage.Failcnt, Raw: mem.Stats,
		},
		Pids: hull.PidsStats{Current: s.PidsStats.Current, Limit: s.PidsStats.Limit},
	}
	for _, e := range s.BlkioStats.IoServiceBytesRecursive {
		x.Blkio = append(x.Blkio, hull.BlkioEntry{Kind: "service_bytes", Major: e.Major, Minor: e.Minor, Op: e.Op, Value: e.Value})
	}
	for _, e := range s.BlkioStats.IoServicedRecursive {
		x.Blkio = append(x.Blkio, hull.BlkioEntry{Kind: "serviced", Major: e.Major, Minor: e.Minor, Op: e.Op, Value: e.Value})
	}
	return x
}

// host adds the machine's side of a sample, its memory where there is no limit.
func host(x *hull.Stats) error {
	if err := HostCPU(x); err != nil {
		return err
	}
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return err
	}
	if total := si.Totalram * uint64(si.Unit); x.Memory.Limit == 0 || x.Memory.Limit > total {
		x.Memory.Limit = total
	}
	return nil
}

// HostCPU adds the machine's processors to a sample: CPU time of all CPUs, from the
// first line of /proc/stat in ticks of 10 ms (USER_HZ is 100 on every Linux), and how
// many there are.
func HostCPU(x *hull.Stats) error {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return err
	}
	for line := range bytes.Lines(b) {
		f := strings.Fields(string(line))
		switch {
		case len(f) >= 9 && f[0] == "cpu":
			for _, v := range f[1:9] { // guest times are part of user's
				n, err := strconv.ParseUint(v, 10, 64)
				if err != nil {
					return err
				}
				x.SystemCPU += n * uint64(time.Second/100)
			}
		case len(f) > 0 && strings.HasPrefix(f[0], "cpu"):
			x.OnlineCPUs++
		}
	}
	return nil
}
