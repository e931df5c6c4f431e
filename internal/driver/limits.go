package driver

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/hull"
)

// Limits are r in the terms of the OCI specification, without what r says nothing
// of. errdefs.ErrInvalidArgument: a path of --blkio-weight-device or of a rate is no block
// device.
func Limits(r hull.Resources) (*specs.LinuxResources, error) {
	res := &specs.LinuxResources{CPU: cpuLimits(r), Memory: memoryLimits(r)}
	if r.PidsLimit != nil {
		n := *r.PidsLimit
		if n <= 0 {
			n = -1 // no limit; 0 and -1 both mean that to Docker's users
		}
		res.Pids = &specs.LinuxPids{Limit: &n}
	}
	var err error
	res.BlockIO, err = blockLimits(r.Blkio)
	return res, err
}

func cpuLimits(r hull.Resources) *specs.LinuxCPU {
	cpu := &specs.LinuxCPU{Cpus: r.CpusetCpus, Mems: r.CpusetMems}
	if r.CPUShares > 0 {
		cpu.Shares = new(uint64(r.CPUShares))
	}
	if r.NanoCPUs > 0 {
		// 100 ms is the kernel's own default period (sched-bwc.rst).
		cpu.Period, cpu.Quota = new(uint64(100000)), new(r.NanoCPUs/10000)
	}
	if r.CPUPeriod > 0 {
		cpu.Period = new(uint64(r.CPUPeriod))
	}
	if r.CPUQuota != 0 {
		cpu.Quota = new(r.CPUQuota)
	}
	if r.CPURealtimePeriod > 0 {
		cpu.RealtimePeriod = new(uint64(r.CPURealtimePeriod))
	}
	if r.CPURealtimeRun > 0 {
		cpu.RealtimeRuntime = new(r.CPURealtimeRun)
	}
	return cpu
}

func memoryLimits(r hull.Resources) *specs.LinuxMemory {
	mem := &specs.LinuxMemory{DisableOOMKiller: r.OomKillDisable}
	if r.Memory > 0 {
		mem.Limit = new(r.Memory)
	}
	if r.MemoryReservation > 0 {
		mem.Reservation = new(r.MemoryReservation)
	}
	if r.MemorySwap != 0 {
		mem.Swap = new(r.MemorySwap)
	}
	if r.MemorySwappiness != nil && *r.MemorySwappiness >= 0 {
		mem.Swappiness = new(uint64(*r.MemorySwappiness))
	}
	return mem
}

// blockLimits is nil where b says nothing.
func blockLimits(b hull.Blkio) (*specs.LinuxBlockIO, error) {
	var io specs.LinuxBlockIO
	some := b.Weight > 0
	if some {
		io.Weight = new(b.Weight)
	}
	for _, w := range b.WeightDevice {
		d := specs.LinuxWeightDevice{Weight: new(w.Weight)}
		var err error
		if d.Major, d.Minor, err = blockDevice(w.Path); err != nil {
			return nil, err
		}
		io.WeightDevice, some = append(io.WeightDevice, d), true
	}
	for _, rates := range []struct {
		from []hull.DeviceRate
		to   *[]specs.LinuxThrottleDevice
	}{
		{b.ReadBps, &io.ThrottleReadBpsDevice}, {b.WriteBps, &io.ThrottleWriteBpsDevice},
		{b.ReadIOps, &io.ThrottleReadIOPSDevice}, {b.WriteIOps, &io.ThrottleWriteIOPSDevice},
	} {
		for _, r := range rates.from {
			d := specs.LinuxThrottleDevice{Rate: r.Rate}
			var err error
			if d.Major, d.Minor, err = blockDevice(r.Path); err != nil {
				return nil, err
			}
			*rates.to, some = append(*rates.to, d), true
		}
	}
	if !some {
		return nil, nil //nolint:nilnil // most have none
	}
	return &io, nil
}

// blockDevice is the number of the device at a path of the host.
func blockDevice(path string) (major, minor int64, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, 0, fmt.Errorf("block device %s: %w: %w", path, err, errdefs.ErrInvalidArgument)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return 0, 0, fmt.Errorf("%s is not a block device: %w", path, errdefs.ErrInvalidArgument)
	}
	return int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev)), nil
}
