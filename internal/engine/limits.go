package engine

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/hull"
)

// onHost refuses limits of more than the host has, in Docker's words.
func onHost(r hull.Resources) error {
	if n := runtime.NumCPU(); r.NanoCPUs > int64(n)*1e9 {
		return fmt.Errorf("range of CPUs is from 0.01 to %d.00, as there are only %d CPUs available: %w", n, n, errdefs.ErrInvalidArgument)
	}
	if err := online("cpu", "cpuset cpus", "CPUs", r.CpusetCpus); err != nil {
		return err
	}
	return online("node", "cpuset mems", "memory nodes", r.CpusetMems)
}

// online refuses a list of processors or memory nodes (kind is sysfs's word) of
// which the host lacks one.
func online(kind, option, things, list string) error {
	if list == "" {
		return nil
	}
	want, err := hull.ParseRanges(list)
	if err != nil {
		return fmt.Errorf("Invalid value %s for %s: %w", list, option, errdefs.ErrInvalidArgument) //nolint:staticcheck // Docker's words
	}
	b, err := os.ReadFile("/sys/devices/system/" + kind + "/online")
	if errors.Is(err, os.ErrNotExist) {
		return nil // a kernel without memory nodes; the cgroup decides
	}
	if err != nil {
		return err
	}
	host := strings.TrimSpace(string(b))
	have, err := hull.ParseRanges(host)
	if err != nil {
		return err
	}
	for _, w := range want {
		if !slices.ContainsFunc(have, func(h hull.Range) bool { return h.First <= w.First && w.Last <= h.Last }) {
			return fmt.Errorf("Requested %s are not available - requested %s, available: %s: %w", things, list, host, errdefs.ErrInvalidArgument) //nolint:staticcheck // Docker's words
		}
	}
	return nil
}

// setLimits translates limits into the OCI specification. r.Devices, set
// before, is kept.
func setLimits(res *specs.LinuxResources, r hull.Resources, device func(string) ([]specs.LinuxDevice, error)) error {
	cpu := &specs.LinuxCPU{Cpus: r.CpusetCpus, Mems: r.CpusetMems}
	if r.CPUShares > 0 {
		cpu.Shares = ptr(uint64(r.CPUShares))
	}
	if r.NanoCPUs > 0 {
		// 100 ms is the kernel's own default period (sched-bwc.rst).
		cpu.Period = ptr(uint64(100000))
		cpu.Quota = ptr(r.NanoCPUs / 10000)
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
	res.CPU = cpu

	mem := &specs.LinuxMemory{DisableOOMKiller: r.OomKillDisable}
	if r.Memory > 0 {
		mem.Limit = ptr(r.Memory)
	}
	if r.MemoryReservation > 0 {
		mem.Reservation = ptr(r.MemoryReservation)
	}
	if r.MemorySwap != 0 {
		mem.Swap = ptr(r.MemorySwap)
	}
	if r.MemorySwappiness != nil && *r.MemorySwappiness >= 0 {
		mem.Swappiness = ptr(uint64(*r.MemorySwappiness))
	}
	res.Memory = mem

	if r.PidsLimit != nil {
		limit := *r.PidsLimit
		if limit <= 0 {
			limit = -1 // no limit; 0 and -1 both mean that to Docker's users
		}
		res.Pids = &specs.LinuxPids{Limit: &limit}
	}
	return setBlkio(res, r.Blkio, device)
}

func setBlkio(res *specs.LinuxResources, b hull.Blkio, device func(string) ([]specs.LinuxDevice, error)) error {
	io := &specs.LinuxBlockIO{}
	if b.Weight > 0 {
		io.Weight = ptr(b.Weight)
	}
	for _, w := range b.WeightDevice {
		d, err := device(w.Path)
		if err != nil || len(d) != 1 {
			return fmt.Errorf("block device %s of --blkio-weight-device: %w", w.Path, orNotDevice(err))
		}
		wd := specs.LinuxWeightDevice{Weight: ptr(w.Weight)}
		wd.Major, wd.Minor = d[0].Major, d[0].Minor
		io.WeightDevice = append(io.WeightDevice, wd)
	}
	for _, x := range []struct {
		from []hull.DeviceRate
		to   *[]specs.LinuxThrottleDevice
	}{
		{b.ReadBps, &io.ThrottleReadBpsDevice},
		{b.WriteBps, &io.ThrottleWriteBpsDevice},
		{b.ReadIOps, &io.ThrottleReadIOPSDevice},
		{b.WriteIOps, &io.ThrottleWriteIOPSDevice},
	} {
		for _, r := range x.from {
			d, err := device(r.Path)
			if err != nil || len(d) != 1 {
				return fmt.Errorf("block device %s of --device-read/write limits: %w", r.Path, orNotDevice(err))
			}
			td := specs.LinuxThrottleDevice{Rate: r.Rate}
			td.Major, td.Minor = d[0].Major, d[0].Minor
			*x.to = append(*x.to, td)
		}
	}
	if io.Weight != nil || io.WeightDevice != nil || io.ThrottleReadBpsDevice != nil || io.ThrottleWriteBpsDevice != nil ||
		io.ThrottleReadIOPSDevice != nil || io.ThrottleWriteIOPSDevice != nil {
		res.BlockIO = io
	}
	return nil
}

func ptr[T any](v T) *T { return &v }
