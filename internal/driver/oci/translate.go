package oci

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/linux"
	wire "hull/internal/monitor/oci"
)

const (
	// minSandboxMemory is the smallest limit with which a sandbox starts: gVisor's
	// kernel and file server are in the container's cgroup, and runsc while it makes
	// them.
	minSandboxMemory = 64 << 20
	// sandboxTasks is how many tasks gVisor has for itself; they come on top of a limit
	// on the container's.
	sandboxTasks = 128
)

// translation makes an engine's specification one for a foreign runtime.
type translation struct {
	style  wire.Style
	netns  string // "" = the host's
	pod    string // sandbox that the container is one of several in; "" = none
	holder string // the hull-monitor binary
	cgroup string
	tty    bool
	host   hostLimits
}

// translate returns the specification; s is not changed, what it points to is
// shared. What gVisor would silently leave out is refused.
func (x translation) translate(s *specs.Spec) (*specs.Spec, error) {
	if x.style == wire.Runsc {
		if err := refuse(s); err != nil {
			return nil, err
		}
	}
	out, p, l := *s, *s.Process, specs.Linux{}
	if s.Linux != nil {
		l = *s.Linux
	}
	out.Process, out.Linux = &p, &l
	readonly := s.Root != nil && s.Root.Readonly
	out.Root = &specs.Root{Path: "rootfs", Readonly: readonly}
	p.Terminal = x.tty
	p.OOMScoreAdj = x.host.oomScore(p.OOMScoreAdj)
	if p.Cwd == "" {
		p.Cwd = "/"
	}
	l.Namespaces = slices.DeleteFunc(slices.Clone(l.Namespaces), func(n specs.LinuxNamespace) bool {
		return n.Type == specs.NetworkNamespace
	})
	if x.netns != "" {
		l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: x.netns})
	}
	l.CgroupsPath = x.cgroup
	if x.style != wire.Runsc {
		p.Capabilities = x.host.caps(p.Capabilities)
		// What the engine uses of the specification is older than its newest version,
		// which older runtimes refuse (crun before 1.9).
		out.Version = "1.0.2"
		l.Resources = noUnlimited(l.Resources)
		return &out, nil
	}
	// Limits are the cgroup's, in which the sandbox is born. The system calls of the
	// workload never reach the host's kernel: what filters them there filters gVisor.
	l.CgroupsPath, l.Resources, l.Seccomp = "", nil, nil
	p.ApparmorProfile, p.SelinuxLabel, l.MountLabel = "", "", ""
	if out.Hostname == "" { // the host's is meant: gVisor always has a name of its own
		name, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("read the host's name: %w", err)
		}
		out.Hostname = name
	}
	if !slices.ContainsFunc(s.Mounts, func(m specs.Mount) bool { return filepath.Clean(m.Destination) == "/tmp" }) {
		mode := "rw"
		if readonly {
			mode = "ro"
		}
		out.Mounts = append(slices.Clone(s.Mounts), specs.Mount{Destination: "/tmp", Type: "bind", Source: wire.TmpDir, Options: []string{"bind", mode}})
	}
	if x.pod != "" {
		wire.Annotate(&out, x.pod)
	} else {
		wire.Hold(&out, x.holder)
	}
	return &out, nil
}

// noUnlimited leaves out a limit on tasks that is none: crun before 1.9 cannot write
// it on v1.
func noUnlimited(r *specs.LinuxResources) *specs.LinuxResources {
	if r == nil || r.Pids == nil || r.Pids.Limit != nil && *r.Pids.Limit > 0 {
		return r
	}
	limited := *r
	limited.Pids = nil
	return &limited
}

// refuse names what of a specification gVisor cannot do.
func refuse(s *specs.Spec) error {
	f := found{style: wire.Runsc}
	if s.Linux == nil {
		return nil
	}
	own := map[specs.LinuxNamespaceType]bool{}
	for _, n := range s.Linux.Namespaces {
		own[n.Type] = true
		if n.Path != "" && n.Type != specs.NetworkNamespace {
			return unable("sharing the "+string(n.Type)+" namespace of another container", f)
		}
	}
	for t, flag := range map[specs.LinuxNamespaceType]string{specs.PIDNamespace: "--pid host", specs.IPCNamespace: "--ipc host"} {
		if !own[t] {
			return unable(flag, f)
		}
	}
	if len(s.Linux.Sysctl) > 0 {
		return unable("--sysctl", f)
	}
	// A privileged container names every device of the host; of those it gets what
	// gVisor has. One by one, they were asked for.
	if d := s.Linux.Devices; len(d) > 0 && !allDevices(s.Linux.Resources) {
		return unable("--device "+d[0].Path, f)
	}
	for _, m := range s.Mounts {
		if slices.Contains(m.Options, "rshared") || slices.Contains(m.Options, "shared") {
			return unable("mount propagation "+m.Destination+":shared", f)
		}
	}
	if r := s.Linux.Resources; r != nil && r.Memory != nil && r.Memory.Limit != nil && *r.Memory.Limit > 0 && *r.Memory.Limit < minSandboxMemory {
		return tooSmall(*r.Memory.Limit)
	}
	return nil
}

func tooSmall(limit int64) error {
	return fmt.Errorf("a memory limit of %d MiB is too small for isolation sandbox (gVisor), whose kernel counts, too; use at least %d MiB, or --isolation container: %w",
		limit>>20, minSandboxMemory>>20, errdefs.ErrInvalidArgument)
}

func allDevices(r *specs.LinuxResources) bool {
	return r != nil && len(r.Devices) == 1 && r.Devices[0].Allow && r.Devices[0].Type == "" && r.Devices[0].Access == "rwm"
}

// withSandbox makes room for gVisor in the limits of a container's cgroup. The
// devices that it needs itself (/dev/kvm, a null file) are the host's, and none of
// the workload's: that has no way to the host's devices.
func withSandbox(res *specs.LinuxResources) *specs.LinuxResources {
	if res == nil {
		return nil
	}
	r := *res
	r.Devices = nil
	if r.Pids != nil && r.Pids.Limit != nil && *r.Pids.Limit > 0 {
		limit := *r.Pids.Limit + sandboxTasks
		r.Pids = &specs.LinuxPids{Limit: &limit}
	}
	return &r
}

// bindsOf are the directories and files of the host that a container sees.
func bindsOf(s *specs.Spec) []wire.Bind {
	var all []wire.Bind
	for _, m := range s.Mounts {
		rec := slices.Contains(m.Options, "rbind")
		if m.Type == "bind" || rec || slices.Contains(m.Options, "bind") {
			all = append(all, wire.Bind{Source: m.Source, Target: m.Destination, Recursive: rec, ReadOnly: slices.Contains(m.Options, "ro")})
		}
	}
	return all
}

// hostLimits are what this process may pass on: a runtime that is asked for more
// fails, where a container could do without.
type hostLimits struct {
	bounding uint64
	oom      int
	lower    bool // may lower an OOM score
}

// capNames are the capabilities by their numbers.
var capNames = strings.Fields(`CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP ` + //nolint:gochecknoglobals // a constant that Go cannot express
	`LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT ` +
	`SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE ` +
	`AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE`)

// hostOf reads them once.
var hostOf = sync.OnceValue(func() hostLimits { //nolint:gochecknoglobals // facts of this process, which do not change
	h := hostLimits{bounding: ^uint64(0)}
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return h
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "CapBnd:"); ok {
			if n, err := strconv.ParseUint(strings.TrimSpace(v), 16, 64); err == nil {
				h.bounding = n
			}
		}
	}
	h.lower = h.has("CAP_SYS_RESOURCE")
	f, err := os.Open("/proc/self/oom_score_adj")
	if err != nil {
		return h
	}
	defer f.Close()
	if b, err := linux.ReadAll(f, 64); err == nil {
		h.oom, _ = strconv.Atoi(strings.TrimSpace(string(b))) // 0 is as good as any
	}
	return h
})

func (h hostLimits) has(name string) bool {
	i := slices.Index(capNames, strings.TrimPrefix(name, "CAP_"))
	return i >= 0 && h.bounding&(1<<i) != 0
}

// caps are those of c that this host can give.
func (h hostLimits) caps(c *specs.LinuxCapabilities) *specs.LinuxCapabilities {
	if c == nil {
		return nil
	}
	keep := func(l []string) []string {
		return slices.DeleteFunc(slices.Clone(l), func(n string) bool { return !h.has(n) })
	}
	return &specs.LinuxCapabilities{
		Bounding: keep(c.Bounding), Effective: keep(c.Effective), Inheritable: keep(c.Inheritable),
		Permitted: keep(c.Permitted), Ambient: keep(c.Ambient),
	}
}

// oomScore is the nearest score that may be set.
func (h hostLimits) oomScore(v *int) *int {
	if v == nil || h.lower || *v >= h.oom {
		return v
	}
	return nil
}
