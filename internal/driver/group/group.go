// Package group is a container's cgroup in the terms of a driver: limits as users
// say them, samples as hull shows them.
package group

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
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

// Limits are the non-zero fields of r that a cgroup can change while it is in use.
// errdefs.ErrInvalidArgument: a path is no block device.
func Limits(r hull.Resources) (*specs.LinuxResources, error) {
	cpu := specs.LinuxCPU{Cpus: r.CpusetCpus, Mems: r.CpusetMems}
	if r.CPUShares > 0 {
		cpu.Shares = ptr(uint64(r.CPUShares))
	}
	if r.NanoCPUs > 0 { // a fraction of the kernel's default period of 100 ms
		cpu.Period, cpu.Quota = ptr(uint64(100000)), ptr(r.NanoCPUs/10000)
	}
	if r.CPUPeriod > 0 {
		cpu.Period = ptr(uint64(r.CPUPeriod))
	}
	if r.CPUQuota != 0 {
		cpu.Quota = ptr(r.CPUQuota)
	}
	if r.CPURealtimePeriod > 0 {
		cpu.RealtimePeriod = ptr(uint64(r.CPURealtimePeriod))
	}
	if r.CPURealtimeRun > 0 {
		cpu.RealtimeRuntime = ptr(r.CPURealtimeRun)
	}
	mem := specs.LinuxMemory{DisableOOMKiller: r.OomKillDisable}
	if r.Memory > 0 {
		mem.Limit = ptr(r.Memory)
	}
	if r.MemoryReservation > 0 {
		mem.Reservation = ptr(r.MemoryReservation)
	}
	if r.MemorySwap != 0 {
		mem.Swap = ptr(r.MemorySwap)
	}
	res := &specs.LinuxResources{CPU: &cpu, Memory: &mem}
	if r.PidsLimit != nil {
		n := *r.PidsLimit
		if n <= 0 {
			n = -1 // unlimited
		}
		res.Pids = &specs.LinuxPids{Limit: &n}
	}
	io := &specs.LinuxBlockIO{}
	if r.Blkio.Weight > 0 {
		io.Weight, res.BlockIO = ptr(r.Blkio.Weight), io
	}
	for _, rates := range []struct {
		from []hull.DeviceRate
		to   *[]specs.LinuxThrottleDevice
	}{
		{r.Blkio.ReadBps, &io.ThrottleReadBpsDevice}, {r.Blkio.WriteBps, &io.ThrottleWriteBpsDevice},
		{r.Blkio.ReadIOps, &io.ThrottleReadIOPSDevice}, {r.Blkio.WriteIOps, &io.ThrottleWriteIOPSDevice},
	} {
		for _, d := range rates.from {
			t, err := throttle(d)
			if err != nil {
				return nil, err
			}
			*rates.to, res.BlockIO = append(*rates.to, t), io
		}
	}
	return res, nil
}

// throttle is a rate for the device at a path of the host.
func throttle(d hull.DeviceRate) (specs.LinuxThrottleDevice, error) {
	t := specs.LinuxThrottleDevice{Rate: d.Rate}
	var st unix.Stat_t
	if err := unix.Stat(d.Path, &st); err != nil {
		return t, fmt.Errorf("block device %s: %w: %w", d.Path, err, errdefs.ErrInvalidArgument)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return t, fmt.Errorf("%s is not a block device: %w", d.Path, errdefs.ErrInvalidArgument)
	}
	t.Major, t.Minor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	return t, nil
}

func ptr[T any](v T) *T { return &v }

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
