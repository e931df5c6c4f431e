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

	"hull/internal/driver"
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

// setLimits puts limits into the OCI specification. res.Devices, set before, is kept.
func setLimits(res *specs.LinuxResources, r hull.Resources) error {
	l, err := driver.Limits(r)
	if err == nil {
		res.CPU, res.Memory, res.Pids, res.BlockIO = l.CPU, l.Memory, l.Pids, l.BlockIO
	}
	return err
}
