package cgroup

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // sets cgroups.DevicesSetV2
	dev "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// limiter writes limits into one group and collects what cannot be done here.
type limiter struct {
	g     *Group
	fresh bool // the group was just made: every value is the default
	warn  []string
}

func (g *Group) set(r *specs.LinuxResources) ([]string, error) { return g.apply(r, false) }

// apply writes only what r names.
func (g *Group) apply(r *specs.LinuxResources, fresh bool) ([]string, error) {
	l := &limiter{g: g, fresh: fresh}
	steps := []func(*specs.LinuxResources) error{l.memory, l.cpu, l.cpuset, l.pids, l.blkio, l.hugetlb, l.unified}
	if fresh || len(r.Devices) > 0 {
		steps = append(steps, l.devices)
	}
	for _, s := range steps {
		if err := s(r); err != nil {
			return l.warn, fmt.Errorf("cgroup %s: %w", g.path, err)
		}
	}
	return l.warn, nil
}

// put writes a value. A controller or file that this host lacks is a warning.
func (l *limiter) put(controller, file, value string) error {
	dir := l.g.dir(controller)
	if dir == "" {
		l.warnf("this host has no %s cgroup controller: %s not set", controller, file)
		return nil
	}
	err := write(dir, file, value)
	if errors.Is(err, os.ErrNotExist) {
		if l.fresh || l.g.Exists() {
			l.warnf("this host's kernel has no %s: not set", file)
			return nil
		}
		return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ERANGE) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return err
}

func (l *limiter) warnf(format string, a ...any) { l.warn = append(l.warn, fmt.Sprintf(format, a...)) }

func itoa[T int64 | uint64](v T) string { return fmt.Sprint(v) }

// orMax is how v2 spells "unlimited".
func orMax(v int64) string {
	if v < 0 {
		return "max"
	}
	return itoa(v)
}

func (l *limiter) memory(r *specs.LinuxResources) error {
	m := r.Memory
	if m == nil {
		return nil
	}
	if l.g.sys.V2 {
		return l.memory2(m)
	}
	if err := l.memoryLimits1(m.Limit, m.Swap); err != nil {
		return err
	}
	if m.Reservation != nil && *m.Reservation != 0 {
		if err := l.put("memory", "memory.soft_limit_in_bytes", itoa(*m.Reservation)); err != nil {
			return err
		}
	}
	if m.KernelTCP != nil && *m.KernelTCP != 0 {
		if err := l.put("memory", "memory.kmem.tcp.limit_in_bytes", itoa(*m.KernelTCP)); err != nil {
			return err
		}
	}
	if m.Swappiness != nil {
		if *m.Swappiness > 100 {
			return fmt.Errorf("memory swappiness %d is not within 0..100: %w", *m.Swappiness, errdefs.ErrInvalidArgument)
		}
		if err := l.put("memory", "memory.swappiness", itoa(*m.Swappiness)); err != nil {
			return err
		}
	}
	if m.DisableOOMKiller != nil && (*m.DisableOOMKiller || !l.fresh) {
		v := "0"
		if *m.DisableOOMKiller {
			v = "1"
		}
		return l.put("memory", "memory.oom_control", v)
	}
	return nil
}

// memoryLimits1 sets memory and memory+swap. The kernel wants the first not above
// the second at every moment, so which goes first depends on what is there.
func (l *limiter) memoryLimits1(limit, swap *int64) error {
	const lf, sf = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
	setLimit := limit != nil && *limit != 0
	setSwap := swap != nil && *swap != 0
	switch {
	case setLimit && setSwap:
		dir := l.g.dir("memory")
		if dir != "" && !l.fresh {
			cur, err := read(dir, sf)
			if err == nil {
				n, err := strconv.ParseUint(cur, 10, 64)
				if err == nil && (*limit < 0 || uint64(*limit) > n) {
					if err := l.put("memory", sf, itoa(*swap)); err != nil {
						return err
					}
					return l.put("memory", lf, itoa(*limit))
				}
			}
		}
		if err := l.limit1(*limit); err != nil {
			return err
		}
		return l.put("memory", sf, itoa(*swap))
	case setLimit:
		if dir := l.g.dir("memory"); *limit < 0 && dir != "" {
			// No limit of memory needs no limit of memory and swap, where there is one.
			if err := write(dir, sf, "-1"); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		return l.limit1(*limit)
	case setSwap:
		return l.put("memory", sf, itoa(*swap))
	}
	return nil
}

func (l *limiter) limit1(v int64) error {
	err := l.put("memory", "memory.limit_in_bytes", itoa(v))
	if errors.Is(err, unix.EBUSY) {
		use, _ := read(l.g.dir("memory"), "memory.usage_in_bytes") // only for the message
		return fmt.Errorf("memory limit %d is below what is in use (%s): %w", v, use, err)
	}
	return err
}

func (l *limiter) memory2(m *specs.LinuxMemory) error {
	if m.Limit != nil && *m.Limit != 0 {
		if err := l.put("memory", "memory.max", orMax(*m.Limit)); err != nil {
			return err
		}
	}
	if m.Swap != nil && *m.Swap != 0 {
		var limit int64
		if m.Limit != nil {
			limit = *m.Limit
		}
		v, err := cgroups.ConvertMemorySwapToCgroupV2Value(*m.Swap, limit)
		if err != nil {
			return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
		if err := l.put("memory", "memory.swap.max", orMax(v)); err != nil {
			return err
		}
	}
	if m.Reservation != nil && *m.Reservation != 0 {
		if err := l.put("memory", "memory.low", orMax(*m.Reservation)); err != nil {
			return err
		}
	}
	if m.Swappiness != nil {
		l.warnf("cgroup v2 has no memory swappiness: not set")
	}
	if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
		l.warnf("cgroup v2 cannot turn the OOM killer off: not set")
	}
	return nil
}

func (l *limiter) cpu(r *specs.LinuxResources) error {
	c := r.CPU
	if c == nil {
		return nil
	}
	if l.g.sys.V2 {
		return l.cpu2(c)
	}
	type kv struct{ file, value string }
	var w []kv
	if c.Shares != nil && *c.Shares != 0 {
		w = append(w, kv{"cpu.shares", itoa(*c.Shares)})
	}
	if c.Period != nil && *c.Period != 0 {
		w = append(w, kv{"cpu.cfs_period_us", itoa(*c.Period)})
	}
	if c.Quota != nil && *c.Quota != 0 {
		w = append(w, kv{"cpu.cfs_quota_us", itoa(*c.Quota)})
	}
	if c.Burst != nil {
		w = append(w, kv{"cpu.cfs_burst_us", itoa(*c.Burst)})
	}
	if c.RealtimePeriod != nil && *c.RealtimePeriod != 0 {
		w = append(w, kv{"cpu.rt_period_us", itoa(*c.RealtimePeriod)})
	}
	if c.RealtimeRuntime != nil && *c.RealtimeRuntime != 0 {
		w = append(w, kv{"cpu.rt_runtime_us", itoa(*c.RealtimeRuntime)})
	}
	if c.Idle != nil && (*c.Idle != 0 || !l.fresh) {
		w = append(w, kv{"cpu.idle", itoa(*c.Idle)})
	}
	for i, x := range w {
		err := l.put("cpu", x.file, x.value)
		if err != nil && i+1 < len(w) && (x.file == "cpu.cfs_period_us" && w[i+1].file == "cpu.cfs_quota_us" || x.file == "cpu.rt_period_us" && w[i+1].file == "cpu.rt_runtime_us") {
			// The old quota may be too large for the new period: then the new quota first.
			if err = l.put("cpu", w[i+1].file, w[i+1].value); err == nil {
				err = l.put("cpu", x.file, x.value)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *limiter) cpu2(c *specs.LinuxCPU) error {
	if c.Shares != nil && *c.Shares != 0 {
		if err := l.put("cpu", "cpu.weight", itoa(cgroups.ConvertCPUSharesToCgroupV2Value(*c.Shares))); err != nil {
			return err
		}
	}
	quota, period := "", ""
	if c.Quota != nil && *c.Quota != 0 {
		quota = orMax(*c.Quota)
	}
	if c.Period != nil && *c.Period != 0 {
		period = itoa(*c.Period)
	}
	if quota != "" || period != "" {
		if quota == "" {
			cur, err := read(l.g.dir("cpu"), "cpu.max")
			if err != nil {
				return err
			}
			quota, _, _ = strings.Cut(cur, " ")
		}
		if err := l.put("cpu", "cpu.max", strings.TrimSpace(quota+" "+period)); err != nil {
			return err
		}
	}
	if c.Burst != nil {
		if err := l.put("cpu", "cpu.max.burst", itoa(*c.Burst)); err != nil {
			return err
		}
	}
	if c.Idle != nil && (*c.Idle != 0 || !l.fresh) {
		if err := l.put("cpu", "cpu.idle", itoa(*c.Idle)); err != nil {
			return err
		}
	}
	if c.RealtimePeriod != nil || c.RealtimeRuntime != nil {
		l.warnf("cgroup v2 has no real-time CPU limits: not set")
	}
	return nil
}

func (l *limiter) cpuset(r *specs.LinuxResources) error {
	if r.CPU == nil {
		return nil
	}
	if r.CPU.Cpus != "" {
		if err := l.put("cpuset", "cpuset.cpus", r.CPU.Cpus); err != nil {
			return err
		}
	}
	if r.CPU.Mems != "" {
		return l.put("cpuset", "cpuset.mems", r.CPU.Mems)
	}
	return nil
}

func (l *limiter) pids(r *specs.LinuxResources) error {
	if r.Pids == nil || r.Pids.Limit == nil {
		return nil
	}
	v := *r.Pids.Limit
	if v == 0 {
		v = 1 // as in runc: no group can have less
	}
	if v < 0 && l.fresh {
		return nil
	}
	return l.put("pids", "pids.max", orMax(v))
}

func (l *limiter) blkio(r *specs.LinuxResources) error {
	b := r.BlockIO
	if b == nil {
		return nil
	}
	if b.Weight != nil && *b.Weight != 0 {
		if *b.Weight < 10 || *b.Weight > 1000 {
			return fmt.Errorf("block I/O weight %d is not within 10..1000: %w", *b.Weight, errdefs.ErrInvalidArgument)
		}
		file, v := l.weightFile("blkio.weight", "blkio.bfq.weight"), strconv.Itoa(int(*b.Weight))
		if l.g.sys.V2 {
			file, v = "io.weight", itoa(cgroups.ConvertBlkIOToIOWeightValue(*b.Weight))
		}
		if err := l.put(l.io(), file, v); err != nil {
			return err
		}
	}
	for _, d := range b.WeightDevice {
		if d.Weight == nil {
			continue
		}
		file := l.weightFile("blkio.weight_device", "blkio.bfq.weight_device")
		if l.g.sys.V2 {
			file = "io.weight"
			if _, err := os.Stat(l.g.unified() + "/io.bfq.weight"); err == nil {
				file = "io.bfq.weight"
			}
		}
		if err := l.put(l.io(), file, fmt.Sprintf("%d:%d %d", d.Major, d.Minor, *d.Weight)); err != nil {
			return err
		}
	}
	for _, t := range []struct {
		devs     []specs.LinuxThrottleDevice
		file, v2 string
	}{
		{b.ThrottleReadBpsDevice, "blkio.throttle.read_bps_device", "rbps"},
		{b.ThrottleWriteBpsDevice, "blkio.throttle.write_bps_device", "wbps"},
		{b.ThrottleReadIOPSDevice, "blkio.throttle.read_iops_device", "riops"},
		{b.ThrottleWriteIOPSDevice, "blkio.throttle.write_iops_device", "wiops"},
	} {
		for _, d := range t.devs {
			file, value := t.file, fmt.Sprintf("%d:%d %d", d.Major, d.Minor, d.Rate)
			if l.g.sys.V2 {
				rate := itoa(d.Rate)
				if d.Rate == 0 {
					rate = "max"
				}
				file, value = "io.max", fmt.Sprintf("%d:%d %s=%s", d.Major, d.Minor, t.v2, rate)
			}
			if err := l.put(l.io(), file, value); err != nil {
				return err
			}
		}
	}
	return nil
}

// weightFile is bfq where that is the only scheduler (on v1).
func (l *limiter) weightFile(cfq, bfq string) string {
	if _, err := os.Stat(l.g.dir("blkio") + "/" + bfq); err == nil {
		return bfq
	}
	return cfq
}

func (l *limiter) io() string {
	if l.g.sys.V2 {
		return "io"
	}
	return "blkio"
}

func (l *limiter) hugetlb(r *specs.LinuxResources) error {
	for _, h := range r.HugepageLimits {
		if strings.ContainsAny(h.Pagesize, "/\x00") {
			return fmt.Errorf("huge page size %q: %w", h.Pagesize, errdefs.ErrInvalidArgument)
		}
		file := "hugetlb." + h.Pagesize + ".limit_in_bytes"
		if l.g.sys.V2 {
			file = "hugetlb." + h.Pagesize + ".max"
		}
		if err := l.put("hugetlb", file, itoa(h.Limit)); err != nil {
			return err
		}
	}
	return nil
}

// unified writes files of cgroup v2 by name.
func (l *limiter) unified(r *specs.LinuxResources) error {
	if len(r.Unified) == 0 {
		return nil
	}
	if !l.g.sys.V2 {
		return fmt.Errorf("invalid configuration: cannot use unified on cgroup v1: %w", errdefs.ErrInvalidArgument)
	}
	for k, v := range r.Unified {
		if strings.Contains(k, "/") || !strings.Contains(k, ".") || strings.HasPrefix(k, "cgroup.") {
			return fmt.Errorf("unified resource %q: must be a controller's file name: %w", k, errdefs.ErrInvalidArgument)
		}
		if err := write(l.g.unified(), k, v); err != nil {
			return fmt.Errorf("unified resource: %w", err)
		}
	}
	return nil
}

// baseRules are what every container may do, as in runc: make any node, use the
// harmless devices and terminals.
//
//nolint:gochecknoglobals // constant
var baseRules = []string{
	"c *:* m", "b *:* m",
	"c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm", "c 5:0 rwm",
	"c 136:* rwm", "c 5:2 rwm",
}

// devices limits device access: everything is denied but baseRules and what the
// rules allow, in order. No rules at all means no limit on an update; on a fresh
// group it means baseRules.
func (l *limiter) devices(r *specs.LinuxResources) error {
	rules, err := deviceRules(r.Devices)
	if err != nil {
		return err
	}
	if l.g.sys.V2 {
		return l.devices2(rules)
	}
	dir := l.g.dir("devices")
	if dir == "" {
		// Without it a container could make nodes of any device and open them.
		return fmt.Errorf("no devices cgroup: %w", errdefs.ErrFailedPrecondition)
	}
	// Consecutive rules of one kind go to one file, in order.
	for len(rules) > 0 {
		n := 1
		for n < len(rules) && rules[n].allow == rules[0].allow {
			n++
		}
		file := "devices.deny"
		if rules[0].allow {
			file = "devices.allow"
		}
		var lines []string
		for _, x := range rules[:n] {
			if !slices.Contains(lines, x.text) {
				lines = append(lines, x.text)
			}
		}
		if err := writeAll(dir, file, lines...); err != nil {
			return fmt.Errorf("device rules: %w", err)
		}
		rules = rules[n:]
	}
	return nil
}

type deviceRule struct {
	allow bool
	text  string
	rule  dev.Rule
}

// deviceRules turns rules into what devices.allow and devices.deny take, after a
// first "deny all" and followed by baseRules. A rule list that allows everything
// (privileged) is that one line.
func deviceRules(in []specs.LinuxDeviceCgroup) ([]deviceRule, error) {
	out := []deviceRule{{text: "a", rule: dev.Rule{Type: dev.WildcardDevice, Major: -1, Minor: -1, Permissions: "rwm"}}}
	all := false
	for _, d := range in {
		r, err := oneRule(d)
		if err != nil {
			return nil, err
		}
		if r.rule.Type == dev.WildcardDevice {
			// Applies to everything before it.
			out, all = out[:0], d.Allow
			r.text = "a"
		}
		out = append(out, r)
	}
	if all {
		return out, nil
	}
	for _, b := range baseRules {
		r, err := parseRule(b)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

func oneRule(d specs.LinuxDeviceCgroup) (deviceRule, error) {
	typ := d.Type
	if typ == "" {
		typ = "a"
	}
	num := func(n *int64) (int64, string) {
		if n == nil || *n < 0 {
			return dev.Wildcard, "*"
		}
		return *n, itoa(*n)
	}
	major, ma := num(d.Major)
	minor, mi := num(d.Minor)
	access := d.Access
	if access == "" {
		access = "rwm"
	}
	// Letters that mean nothing to a device are ignored, as in runc.
	access = strings.Map(func(r rune) rune {
		if strings.ContainsRune("rwm", r) {
			return r
		}
		return -1
	}, access)
	if access == "" || !strings.Contains("abc", typ) || len(typ) != 1 {
		return deviceRule{}, fmt.Errorf("device rule %s %s:%s %s: %w", typ, ma, mi, access, errdefs.ErrInvalidArgument)
	}
	return deviceRule{
		allow: d.Allow, text: fmt.Sprintf("%s %s:%s %s", typ, ma, mi, access),
		rule: dev.Rule{
			Type: dev.Type(typ[0]), Major: major, Minor: minor, Permissions: dev.Permissions(access), Allow: d.Allow,
		},
	}, nil
}

func parseRule(s string) (deviceRule, error) {
	var typ, nums, access string
	if _, err := fmt.Sscan(s, &typ, &nums, &access); err != nil {
		return deviceRule{}, err
	}
	d := specs.LinuxDeviceCgroup{Allow: true, Type: typ, Access: access}
	ma, mi, _ := strings.Cut(nums, ":")
	for _, x := range []struct {
		s string
		p **int64
	}{{ma, &d.Major}, {mi, &d.Minor}} {
		if x.s != "*" {
			n, err := strconv.ParseInt(x.s, 10, 64)
			if err != nil {
				return deviceRule{}, err
			}
			*x.p = &n
		}
	}
	return oneRule(d)
}

func (l *limiter) devices2(rules []deviceRule) error {
	r := &cgroups.Resources{}
	for i := range rules {
		r.Devices = append(r.Devices, &rules[i].rule)
	}
	if cgroups.DevicesSetV2 == nil {
		return cgroups.ErrDevicesUnsupported
	}
	return cgroups.DevicesSetV2(l.g.unified(), r)
}
