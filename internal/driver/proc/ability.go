package proc

import (
	"bytes"
	"context"
	"errors"
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

// Root implements the ability driver.Root.
func (b *sandbox) Root(ctx context.Context, id string) (*os.File, error) {
	p := b.find(id)
	if p == nil || p.container != "" {
		return nil, fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound)
	}
	f, err := os.OpenFile("/proc/"+strconv.Itoa(p.Pid())+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open root of container %s: %w", id, errors.Join(err, errdefs.ErrNotFound))
	}
	// The monitor has not reaped it yet, so the pid was its all the time.
	if err := p.Signal(ctx, 0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Pause implements the ability driver.Pause.
func (b *sandbox) Pause(ctx context.Context, id string) error {
	bx, err := b.box(id)
	if err != nil {
		return err
	}
	return bx.group.Freeze(ctx)
}

// Resume implements the ability driver.Resume.
func (b *sandbox) Resume(ctx context.Context, id string) error {
	bx, err := b.box(id)
	if err != nil {
		return err
	}
	return bx.group.Thaw(ctx)
}

// Pids implements the ability driver.Pids.
func (b *sandbox) Pids(_ context.Context, id string) ([]int, error) {
	bx, err := b.box(id)
	if err != nil {
		return nil, err
	}
	return bx.group.Pids()
}

// Update implements the ability driver.Update.
func (b *sandbox) Update(_ context.Context, id string, r hull.Resources) error {
	bx, err := b.box(id)
	if err != nil {
		return err
	}
	res := limits(r)
	if runtime.CanSeat(cgroupOf(bx.group)) {
		res = withSeat(res)
	}
	warnings, err := bx.group.Set(res)
	if err != nil {
		return fmt.Errorf("update container %s: %w", id, err)
	}
	b.warn(id, warnings)
	return nil
}

// limits are the non-zero fields of r that a cgroup can change while it is in use.
func limits(r hull.Resources) *specs.LinuxResources {
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
	if r.Blkio.Weight > 0 {
		res.BlockIO = &specs.LinuxBlockIO{Weight: ptr(r.Blkio.Weight)}
	}
	return res
}

func ptr[T any](v T) *T { return &v }

// Stats implements the ability driver.Stats.
func (b *sandbox) Stats(_ context.Context, id string) (hull.Stats, error) {
	bx, err := b.box(id)
	if err != nil {
		return hull.Stats{}, err
	}
	if !bx.group.Exists() {
		return hull.Stats{}, fmt.Errorf("container %s is not running: %w", id, errdefs.ErrNotFound)
	}
	s, err := bx.group.Stats()
	if err != nil {
		return hull.Stats{}, fmt.Errorf("sample container %s: %w", id, err)
	}
	x := sample(s)
	if runtime.CanSeat(cgroupOf(bx.group)) { // the seat's thread is no task of the container's
		x.Pids.Current -= min(x.Pids.Current, 1)
		x.Pids.Limit -= min(x.Pids.Limit, 1)
	}
	x.Read, x.CgroupV2 = time.Now(), bx.group.V2()
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

// host adds the machine's side of a sample: CPU time of all CPUs, from the first
// line of /proc/stat in ticks of 10 ms (USER_HZ is 100 on every Linux), and how
// many there are; and the machine's memory where there is no limit.
func host(x *hull.Stats) error {
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
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return err
	}
	if total := si.Totalram * uint64(si.Unit); x.Memory.Limit == 0 || x.Memory.Limit > total {
		x.Memory.Limit = total
	}
	return nil
}
