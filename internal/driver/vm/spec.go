package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/guest"
	"hull/internal/hull"
	monitorvm "hull/internal/monitor/vm"
)

// maxFile is how large a file may be that the guest gets a copy of.
const maxFile = 256 << 10

// inGuest is a specification as it is in the machine: the network namespace is
// the machine's, host paths are those of the share, and the machine is the
// boundary that a user namespace would be.
func (b *sandbox) inGuest(in *specs.Spec, x *monitorvm.Spec) (*specs.Spec, error) {
	s, l := *in, specs.Linux{}
	if in.Linux != nil {
		l = *in.Linux
	}
	l.Namespaces = nil
	for _, n := range in.Linux.Namespaces {
		switch {
		case n.Type == specs.NetworkNamespace, n.Type == specs.UserNamespace:
		case n.Path != "":
			return nil, fmt.Errorf("a virtual machine shares no %s namespace with another container; use --isolation container: %w", n.Type, errdefs.ErrInvalidArgument)
		default:
			l.Namespaces = append(l.Namespaces, n)
		}
	}
	l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: guest.NetNS})
	if !slices.ContainsFunc(l.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.MountNamespace }) {
		l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: specs.MountNamespace})
	}
	l.UIDMappings, l.GIDMappings = nil, nil
	l.Devices = slices.DeleteFunc(slices.Clone(l.Devices), func(d specs.LinuxDevice) bool { return !guestHas(d) })
	s.Linux, s.Mounts = &l, nil
	for _, m := range in.Mounts {
		y, err := b.share(m, x)
		if err != nil {
			return nil, err
		}
		s.Mounts = append(s.Mounts, y)
	}
	return &s, nil
}

// guestHas says whether a device node means the same in the machine: the ones of
// memory and terminals do, a host's hardware is not there.
func guestHas(d specs.LinuxDevice) bool {
	return d.Type == "c" && (d.Major == 1 || d.Major == 5 || d.Major == 10 && (d.Minor == 200 || d.Minor == 229))
}

// share leads a bind mount to where the machine has its source. What the engine
// itself made for the pod is sent as a copy.
func (b *sandbox) share(m specs.Mount, x *monitorvm.Spec) (specs.Mount, error) {
	bind := m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
	m.UIDMappings, m.GIDMappings = nil, nil
	if !bind {
		return m, nil
	}
	m.Options = slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool {
		return o == "idmap" || o == "ridmap" || o == "rshared" || o == "shared" || o == "rslave" || o == "slave"
	})
	st, err := os.Stat(m.Source)
	if err != nil {
		return m, fmt.Errorf("bind mount on %s: %w", m.Destination, err)
	}
	name := strconv.Itoa(len(x.Binds) + len(x.Container.Files))
	own := filepath.Dir(m.Source) == filepath.Clean(b.Dir())
	if st.Mode().IsRegular() && st.Size() <= maxFile && own {
		data, err := os.ReadFile(m.Source)
		if err != nil {
			return m, fmt.Errorf("bind mount on %s: %w", m.Destination, err)
		}
		uid, gid := 0, 0
		if sys, ok := st.Sys().(*syscall.Stat_t); ok {
			uid, gid = int(sys.Uid), int(sys.Gid)
		}
		x.Container.Files = append(x.Container.Files, guest.File{Name: name, Data: data, Mode: uint32(st.Mode().Perm()), UID: uid, GID: gid})
		x.Copied = append(x.Copied, m.Source)
		m.Source = filepath.Join(guest.FilesDir, name)
		return m, nil
	}
	if err := b.shares(m.Source + " of the host"); err != nil {
		return m, err
	}
	x.Binds = append(x.Binds, monitorvm.Bind{Name: name, Source: m.Source, ReadOnly: slices.Contains(m.Options, "ro")})
	m.Source = filepath.Join(guest.ShareDir, name)
	return m, nil
}

// shares reports a guest kernel that cannot see directories of this host.
func (b *sandbox) shares(what string) error {
	if b.kind.kernel.VirtioFS {
		return nil
	}
	return fmt.Errorf("the guest kernel %s cannot show %s to the machine; use hull's own kernel (`make kernel`): %w", b.kind.kernel.Name, what, errdefs.ErrFailedPrecondition)
}

// limits are what a container's limits are in cgroup v2.
func limits(r *specs.LinuxResources) guest.Limits {
	l := guest.Limits{}
	if r == nil {
		return l
	}
	if m := r.Memory; m != nil {
		if m.Limit != nil && *m.Limit > 0 {
			l["memory.max"] = strconv.FormatInt(*m.Limit, 10)
		}
		if m.Reservation != nil && *m.Reservation > 0 {
			l["memory.low"] = strconv.FormatInt(*m.Reservation, 10)
		}
	}
	if p := r.Pids; p != nil && p.Limit != nil {
		if l["pids.max"] = "max"; *p.Limit > 0 {
			l["pids.max"] = strconv.FormatInt(*p.Limit, 10)
		}
	}
	if c := r.CPU; c != nil {
		if c.Quota != nil && *c.Quota > 0 {
			period := uint64(100000)
			if c.Period != nil && *c.Period > 0 {
				period = *c.Period
			}
			l["cpu.max"] = strconv.FormatInt(*c.Quota, 10) + " " + strconv.FormatUint(period, 10)
		}
		if c.Shares != nil && *c.Shares > 0 { // as runc converts them
			l["cpu.weight"] = strconv.FormatUint(1+(min(max(*c.Shares, 2), 262144)-2)*9999/262142, 10)
		}
	}
	return l
}

// hostLimits are those of QEMU on the host, of what its container is to have:
// processors. Its memory is bounded by the machine's.
func hostLimits(r *specs.LinuxResources) *specs.LinuxResources {
	c := &specs.LinuxCPU{Cpus: r.CPU.Cpus, Mems: r.CPU.Mems, Shares: r.CPU.Shares, Period: r.CPU.Period}
	if q := r.CPU.Quota; q != nil && *q > 0 {
		c.Quota = q
	}
	return &specs.LinuxResources{CPU: c}
}

// sample makes statistics of a guest's cgroup files.
func sample(g guest.Stats) hull.Stats {
	var x hull.Stats
	cpu := fields(g["cpu.stat"])
	x.CPU = hull.CPUStats{
		Total: cpu["usage_usec"] * 1000, User: cpu["user_usec"] * 1000, System: cpu["system_usec"] * 1000,
		Periods: cpu["nr_periods"], ThrottledPeriods: cpu["nr_throttled"], ThrottledTime: cpu["throttled_usec"] * 1000,
	}
	x.Memory = hull.MemoryStats{Usage: number(g["memory.current"]), MaxUsage: number(g["memory.peak"]), Limit: number(g["memory.max"]), Raw: fields(g["memory.stat"])}
	if x.Memory.Limit == 0 {
		x.Memory.Limit = number(g["machine"])
	}
	x.Pids = hull.PidsStats{Current: number(g["pids.current"]), Limit: number(g["pids.max"])}
	for line := range strings.Lines(g["io.stat"]) {
		dev, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		major, minor, ok := strings.Cut(dev, ":")
		if !ok {
			continue
		}
		for f := range strings.FieldsSeq(rest) {
			k, v, _ := strings.Cut(f, "=")
			e := hull.BlkioEntry{Major: number(major), Minor: number(minor), Value: number(v)}
			switch k {
			case "rbytes", "wbytes":
				e.Kind = "service_bytes"
			case "rios", "wios":
				e.Kind = "serviced"
			default:
				continue
			}
			if e.Op = "Read"; k[0] == 'w' {
				e.Op = "Write"
			}
			x.Blkio = append(x.Blkio, e)
		}
	}
	return x
}

// number is 0 for "max" and for what a guest may send instead of numbers.
func number(s string) uint64 {
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func fields(s string) map[string]uint64 {
	m := map[string]uint64{}
	for line := range strings.Lines(s) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			m[k] = number(v)
		}
	}
	return m
}
