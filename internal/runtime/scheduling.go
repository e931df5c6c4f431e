package runtime

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// scheduling compiles what sched_setattr, ioprio_set and personality take.
func (p *ProcPlan) scheduling(s *specs.Process, l *specs.Linux) (warnings []string, err error) {
	if sc := s.Scheduler; sc != nil {
		policies := map[specs.LinuxSchedulerPolicy]int32{
			specs.SchedOther: 0, specs.SchedFIFO: 1, specs.SchedRR: 2, specs.SchedBatch: 3,
			specs.SchedISO: 4, specs.SchedIdle: 5, specs.SchedDeadline: 6,
		}
		flags := map[specs.LinuxSchedulerFlag]uint64{
			specs.SchedFlagResetOnFork: 1, specs.SchedFlagReclaim: 2, specs.SchedFlagDLOverrun: 4, specs.SchedFlagKeepPolicy: 8,
			specs.SchedFlagKeepParams: 16, specs.SchedFlagUtilClampMin: 32, specs.SchedFlagUtilClampMax: 64,
		}
		pol, ok := policies[sc.Policy]
		switch fair := sc.Policy == specs.SchedOther || sc.Policy == specs.SchedBatch; {
		case !ok:
			return nil, invalid("scheduler policy %q", sc.Policy)
		case fair && (sc.Nice < -20 || sc.Nice > 19):
			return nil, invalid("scheduler.nice: %d when scheduler.policy is %s", sc.Nice, sc.Policy)
		case sc.Priority != 0 && sc.Policy != specs.SchedFIFO && sc.Policy != specs.SchedRR:
			return nil, invalid("scheduler.priority can only be specified for SchedFIFO or SchedRR policy")
		case sc.Policy != specs.SchedDeadline && (sc.Runtime != 0 || sc.Deadline != 0 || sc.Period != 0):
			return nil, invalid("scheduler runtime/deadline/period can only be specified for SchedDeadline policy")
		}
		a := &SchedAttr{
			Policy: pol, Nice: sc.Nice, Priority: uint32(sc.Priority),
			Runtime: sc.Runtime, Deadline: sc.Deadline, Period: sc.Period,
			Pinned: l.Resources != nil && l.Resources.CPU != nil && l.Resources.CPU.Cpus != "",
		}
		for _, f := range sc.Flags {
			v, ok := flags[f]
			if !ok {
				return nil, invalid("scheduler flag %q", f)
			}
			a.Flags |= v
		}
		p.Sched = a
	}
	if io := s.IOPriority; io != nil {
		class, ok := map[specs.IOPriorityClass]int{
			specs.IOPRIO_CLASS_RT: 1, specs.IOPRIO_CLASS_BE: 2, specs.IOPRIO_CLASS_IDLE: 3,
		}[io.Class]
		if !ok || io.Priority < 0 || io.Priority > 7 {
			return nil, invalid("I/O priority %s %d", io.Class, io.Priority)
		}
		p.IOPrio = class<<13 | io.Priority
	}
	if pe := l.Personality; pe != nil {
		v, ok := map[specs.LinuxPersonalityDomain]uintptr{specs.PerLinux: 0, specs.PerLinux32: 8}[pe.Domain]
		if !ok {
			return nil, invalid("personality %q", pe.Domain)
		}
		if len(pe.Flags) > 0 {
			warnings = append(warnings, fmt.Sprintf("personality flags %v are not applied: there are none in the specification", pe.Flags))
		}
		p.Person = &v
	}
	if l.MemoryPolicy != nil {
		if p.MemPolicy, err = memoryPolicy(l.MemoryPolicy); err != nil {
			return nil, err
		}
	}
	return warnings, nil
}

// CPUMask has a bit for each processor.
type CPUMask []uint64

//nolint:gochecknoglobals // constant
var allCPUs = func() CPUMask {
	m := make(CPUMask, maxCPUs/64)
	for i := range m {
		m[i] = 1<<64 - 1
	}
	return m
}()

const (
	maxCPUs  = 8192 // CONFIG_NR_CPUS at its largest
	maxNodes = 1024 // of memory, likewise
)

// Hex is the mask as one number.
func (m CPUMask) Hex() string {
	var b strings.Builder
	for i := len(m) - 1; i >= 0; i-- {
		switch {
		case b.Len() > 0:
			fmt.Fprintf(&b, "%016x", m[i])
		case m[i] != 0 || i == 0:
			fmt.Fprintf(&b, "%x", m[i])
		}
	}
	return b.String()
}

// bitList compiles "0-3,7".
func bitList(s string, limit int) ([]uint64, error) {
	var m []uint64
	for part := range strings.SplitSeq(s, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		first, last, ok := strings.Cut(part, "-")
		if !ok {
			last = first
		}
		lo, err := strconv.Atoi(first)
		hi, err2 := strconv.Atoi(last)
		if err := errors.Join(err, err2); err != nil {
			return nil, err
		}
		if lo < 0 || hi < lo || hi >= limit {
			return nil, fmt.Errorf("%q is not within 0-%d", part, limit-1)
		}
		for n := lo; n <= hi; n++ {
			for len(m) <= n/64 {
				m = append(m, 0)
			}
			m[n/64] |= 1 << (n % 64)
		}
	}
	return m, nil
}

// affinity compiles where an exec's process runs.
func (p *ProcPlan) affinity(a *specs.CPUAffinity) error {
	if a == nil {
		return nil
	}
	for _, x := range []struct {
		list string
		to   *CPUMask
	}{{a.Initial, &p.FirstCPUs}, {a.Final, &p.CPUs}} {
		m, err := bitList(x.list, maxCPUs)
		if err != nil {
			return invalid("CPU affinity %q: %v", x.list, err)
		}
		*x.to = m
	}
	return nil
}

func setAffinity(m CPUMask) error {
	var s unix.CPUSet
	for i := range min(64*len(m), 64*len(s)) {
		if m[i/64]&(1<<(i%64)) != 0 {
			s.Set(i)
		}
	}
	return unix.SchedSetaffinity(0, &s)
}

//nolint:gochecknoglobals // constants
var (
	memoryModes = map[specs.MemoryPolicyModeType]uintptr{
		specs.MpolDefault: unix.MPOL_DEFAULT, specs.MpolPreferred: unix.MPOL_PREFERRED, specs.MpolBind: unix.MPOL_BIND,
		specs.MpolInterleave: unix.MPOL_INTERLEAVE, specs.MpolLocal: unix.MPOL_LOCAL, specs.MpolPreferredMany: unix.MPOL_PREFERRED_MANY,
		specs.MpolWeightedInterleave: unix.MPOL_WEIGHTED_INTERLEAVE,
	}
	memoryFlags = map[specs.MemoryPolicyFlagType]uintptr{
		specs.MpolFStaticNodes: unix.MPOL_F_STATIC_NODES, specs.MpolFRelativeNodes: unix.MPOL_F_RELATIVE_NODES,
		specs.MpolFNumaBalancing: unix.MPOL_F_NUMA_BALANCING,
	}
)

func memoryPolicy(s *specs.LinuxMemoryPolicy) (*MemPolicy, error) {
	mode, ok := memoryModes[s.Mode]
	if !ok {
		return nil, invalid("invalid memory policy mode %q", s.Mode)
	}
	nodes, err := bitList(s.Nodes, maxNodes)
	if err != nil {
		return nil, invalid("invalid memory policy nodes %q: %v", s.Nodes, err)
	}
	for _, f := range s.Flags {
		v, ok := memoryFlags[f]
		if !ok {
			return nil, invalid("invalid memory policy flag %q", f)
		}
		mode |= v
	}
	switch base := memoryModes[s.Mode]; {
	case (base == unix.MPOL_DEFAULT || base == unix.MPOL_LOCAL) && len(nodes) > 0:
		return nil, invalid("memory policy mode requires 0 nodes but got %d", bits(nodes))
	case base != unix.MPOL_DEFAULT && base != unix.MPOL_LOCAL && base != unix.MPOL_PREFERRED && len(nodes) == 0:
		return nil, invalid("memory policy mode requires at least one node but got 0")
	}
	return &MemPolicy{Mode: mode, Nodes: nodes}, nil
}

func bits(m []uint64) int {
	n := 0
	for _, w := range m {
		for ; w != 0; w &= w - 1 {
			n++
		}
	}
	return n
}

// labels takes over what the host's security modules can apply, and says what they
// cannot.
func (p *ProcPlan) labels(s *specs.Process) (warnings []string) {
	if l := s.ApparmorProfile; l != "" {
		if onHost("/sys/module/apparmor/parameters/enabled", "Y") {
			p.AppArmor = l
		} else if l != "unconfined" {
			warnings = append(warnings, fmt.Sprintf("AppArmor profile %q is not applied: this host has no AppArmor", l))
		}
	}
	if l := s.SelinuxLabel; l != "" {
		if onHost("/sys/fs/selinux/enforce", "1", "0") {
			p.SELinux = l
		} else {
			warnings = append(warnings, fmt.Sprintf("SELinux label %q is not applied: this host has no SELinux", l))
		}
	}
	return warnings
}

// onHost says whether a file holds one of the values.
func onHost(path string, values ...string) bool {
	b, err := os.ReadFile(path)
	return err == nil && slices.Contains(values, strings.TrimSpace(string(b)))
}
