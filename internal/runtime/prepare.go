package runtime

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func invalid(format string, a ...any) error {
	return fmt.Errorf(format+": %w", append(a, errdefs.ErrInvalidArgument)...)
}

func prepare(spec *specs.Spec, o Options) (*Plan, error) {
	if spec.Process == nil {
		return nil, invalid("specification has no process")
	}
	if len(o.Rootfs.Lower) == 0 && o.Rootfs.Dir == "" {
		return nil, invalid("no root file system")
	}
	l := spec.Linux
	if l == nil {
		l = &specs.Linux{}
	}
	p := &Plan{
		Rootfs: o.Rootfs, Hostname: spec.Hostname, Domainname: spec.Domainname,
		Masked: unique(l.MaskedPaths), Readonly: unique(l.ReadonlyPaths), Init: o.Init, NoPivot: o.NoPivot,
	}
	if spec.Root != nil && spec.Root.Readonly {
		p.Rootfs.ReadOnly = true
	}
	var ok bool
	if p.Propagation, ok = propagations[l.RootfsPropagation]; !ok && l.RootfsPropagation != "" {
		return nil, invalid("root propagation %q", l.RootfsPropagation)
	}
	if err := p.namespaces(l); err != nil {
		return nil, err
	}
	if err := p.mounts(spec, o.Bundle); err != nil {
		return nil, err
	}
	if err := p.devices(l); err != nil {
		return nil, err
	}
	for _, path := range slices.Concat(l.MaskedPaths, l.ReadonlyPaths) {
		if !filepath.IsAbs(path) || strings.ContainsRune(path, 0) {
			return nil, invalid("masked or read-only path %q is not absolute", path)
		}
	}
	var err error
	if p.Sysctls, err = planSysctls(l.Sysctl, p.has); err != nil {
		return nil, err
	}
	host, err := hostCaps()
	if err != nil {
		return nil, err
	}
	if p.Process, p.Warnings, err = planProcess(spec.Process, l, host); err != nil {
		return nil, err
	}
	p.Process.KeepKeyring = o.KeepKeyring
	if (p.Hostname != "" || p.Domainname != "") && !p.has(unix.CLONE_NEWUTS) {
		return nil, invalid("a host name needs an own UTS namespace")
	}
	return p, nil
}

func prepareExec(spec *specs.Spec, proc *specs.Process, privileged bool) (*ExecPlan, error) {
	if spec.Process == nil {
		return nil, invalid("specification has no process")
	}
	q := *proc
	base := spec.Process
	if q.Capabilities == nil {
		q.Capabilities = base.Capabilities
	}
	if q.Rlimits == nil {
		q.Rlimits = base.Rlimits
	}
	if q.Cwd == "" {
		q.Cwd = base.Cwd
	}
	if q.Env == nil {
		q.Env = base.Env
	}
	if q.OOMScoreAdj == nil {
		q.OOMScoreAdj = base.OOMScoreAdj
	}
	if q.ApparmorProfile == "" {
		q.ApparmorProfile = base.ApparmorProfile
	}
	if q.SelinuxLabel == "" {
		q.SelinuxLabel = base.SelinuxLabel
	}
	if q.Scheduler == nil {
		q.Scheduler = base.Scheduler
	}
	if q.IOPriority == nil {
		q.IOPriority = base.IOPriority
	}
	if q.ExecCPUAffinity == nil {
		q.ExecCPUAffinity = base.ExecCPUAffinity
	}
	if q.User.Umask == nil {
		q.User.Umask = base.User.Umask
	}
	q.NoNewPrivileges = q.NoNewPrivileges || base.NoNewPrivileges
	l := spec.Linux
	if l == nil {
		l = &specs.Linux{}
	}
	host, err := hostCaps()
	if err != nil {
		return nil, err
	}
	if privileged {
		q.Capabilities = nil
		l = &specs.Linux{Personality: l.Personality}
	}
	pp, warn, err := planProcess(&q, l, host)
	if err != nil {
		return nil, err
	}
	if err := pp.affinity(q.ExecCPUAffinity); err != nil {
		return nil, err
	}
	if privileged {
		pp.Caps = Caps{Bounding: host, Effective: host, Permitted: host}
	}
	return &ExecPlan{Process: pp, Warnings: warn}, nil
}

func unique(in []string) []string {
	var out []string
	for _, s := range in {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// has says whether the container has a namespace of that kind that is not the
// host's.
func (p *Plan) has(kind uintptr) bool {
	if p.Unshare&kind != 0 {
		return true
	}
	return slices.ContainsFunc(p.Join, func(j JoinPlan) bool { return j.Kind == kind })
}

//nolint:gochecknoglobals // constant
var nsKinds = map[specs.LinuxNamespaceType]uintptr{
	specs.PIDNamespace:     unix.CLONE_NEWPID,
	specs.NetworkNamespace: unix.CLONE_NEWNET,
	specs.MountNamespace:   unix.CLONE_NEWNS,
	specs.IPCNamespace:     unix.CLONE_NEWIPC,
	specs.UTSNamespace:     unix.CLONE_NEWUTS,
	specs.UserNamespace:    unix.CLONE_NEWUSER,
	specs.CgroupNamespace:  unix.CLONE_NEWCGROUP,
	specs.TimeNamespace:    unix.CLONE_NEWTIME,
}

func (p *Plan) namespaces(l *specs.Linux) error {
	var seen uintptr
	for _, n := range l.Namespaces {
		k, ok := nsKinds[n.Type]
		if !ok {
			return invalid("namespace type %q", n.Type)
		}
		if seen&k != 0 {
			return invalid("namespace %q twice", n.Type)
		}
		seen |= k
		if n.Path == "" {
			p.Unshare |= k
			continue
		}
		if !filepath.IsAbs(n.Path) {
			return invalid("path %q of the %s namespace is not absolute", n.Path, n.Type)
		}
		p.Join = append(p.Join, JoinPlan{Kind: k, Path: n.Path})
	}
	if !p.has(unix.CLONE_NEWNS) && (p.Rootfs.Dir == "" || seen&unix.CLONE_NEWUSER != 0 || p.NoPivot) {
		return invalid("a container needs a mount namespace")
	}
	p.UIDMap, p.GIDMap = idMap(l.UIDMappings), idMap(l.GIDMappings)
	switch user := p.Unshare&unix.CLONE_NEWUSER != 0; {
	case user && (len(p.UIDMap) == 0 || len(p.GIDMap) == 0):
		return invalid("a user namespace without id mappings")
	case !user && !p.has(unix.CLONE_NEWUSER) && len(p.UIDMap)+len(p.GIDMap) > 0:
		return invalid("id mappings without a user namespace")
	}
	for k, off := range l.TimeOffsets {
		if p.Unshare&unix.CLONE_NEWTIME == 0 {
			return invalid("time offsets without a time namespace")
		}
		if k != "monotonic" && k != "boottime" {
			return invalid("time offset of clock %q", k)
		}
		p.TimeOffsets += fmt.Sprintf("%s %d %d\n", k, off.Secs, off.Nanosecs)
	}
	return nil
}

func idMap(m []specs.LinuxIDMapping) []IDMap {
	var out []IDMap
	for _, x := range m {
		out = append(out, IDMap{Container: x.ContainerID, Host: x.HostID, Size: x.Size})
	}
	return out
}

// defaultDevices are those the OCI runtime specification demands.
//
//nolint:gochecknoglobals // constant
var defaultDevices = []Device{
	{Path: "/dev/null", Major: 1, Minor: 3},
	{Path: "/dev/zero", Major: 1, Minor: 5},
	{Path: "/dev/full", Major: 1, Minor: 7},
	{Path: "/dev/random", Major: 1, Minor: 8},
	{Path: "/dev/urandom", Major: 1, Minor: 9},
	{Path: "/dev/tty", Major: 5, Minor: 0},
}

func (p *Plan) devices(l *specs.Linux) error {
	for _, d := range defaultDevices {
		if !slices.ContainsFunc(l.Devices, func(x specs.LinuxDevice) bool { return filepath.Clean(x.Path) == d.Path }) {
			d.Mode = unix.S_IFCHR | 0o666
			p.Devices = append(p.Devices, d)
		}
	}
	for _, d := range l.Devices {
		if !filepath.IsAbs(d.Path) || strings.ContainsRune(d.Path, 0) {
			return invalid("device path %q is not absolute", d.Path)
		}
		x := Device{Path: filepath.Clean(d.Path), Major: uint32(d.Major), Minor: uint32(d.Minor), Mode: 0o666}
		if d.Major < 0 || d.Minor < 0 || d.Major > 0xfff || d.Minor > 0xfffff {
			return invalid("device %s: number %d:%d", d.Path, d.Major, d.Minor)
		}
		if d.FileMode != nil {
			x.Mode = uint32(d.FileMode.Perm())
		}
		switch d.Type {
		case "c", "u":
			x.Mode |= unix.S_IFCHR
		case "b":
			x.Mode |= unix.S_IFBLK
		case "p":
			x.Mode |= unix.S_IFIFO
		default:
			return invalid("device %s: type %q", d.Path, d.Type)
		}
		if d.UID != nil {
			x.UID = *d.UID
		}
		if d.GID != nil {
			x.GID = *d.GID
		}
		p.Devices = append(p.Devices, x)
	}
	return nil
}

func planProcess(s *specs.Process, l *specs.Linux, host uint64) (ProcPlan, []string, error) {
	p := ProcPlan{
		Args: s.Args, Env: s.Env, Cwd: s.Cwd, Terminal: s.Terminal, Umask: 0o022, NoNewPrivs: s.NoNewPrivileges,
		UID: s.User.UID, GID: s.User.GID, Groups: s.User.AdditionalGids, OOMScore: s.OOMScoreAdj,
	}
	if len(s.Args) == 0 || s.Args[0] == "" {
		return p, nil, invalid("no command")
	}
	if p.Cwd == "" {
		p.Cwd = "/"
	}
	if !filepath.IsAbs(p.Cwd) {
		return p, nil, invalid("working directory %q is not absolute", p.Cwd)
	}
	for _, x := range slices.Concat(s.Args, s.Env, []string{s.Cwd}) {
		if strings.ContainsRune(x, 0) {
			return p, nil, invalid("NUL in argument, environment or working directory %q", x)
		}
	}
	for _, e := range s.Env {
		if i := strings.IndexByte(e, '='); i <= 0 {
			return p, nil, invalid("environment variable %q has no name or no =", e)
		}
	}
	p.Env = lastValues(s.Env)
	if s.User.UID > maxID || s.User.GID > maxID {
		return p, nil, invalid("user id %d:%d out of range", s.User.UID, s.User.GID)
	}
	if s.User.Umask != nil {
		p.Umask = int(*s.User.Umask & 0o777)
	}
	if s.ConsoleSize != nil {
		p.Rows, p.Cols = uint16(min(s.ConsoleSize.Height, 0xffff)), uint16(min(s.ConsoleSize.Width, 0xffff))
	}
	if p.OOMScore != nil && (*p.OOMScore < -1000 || *p.OOMScore > 1000) {
		return p, nil, invalid("OOM score adjustment %d is not within -1000..1000", *p.OOMScore)
	}
	var warn []string
	p.Caps, warn = planCaps(s.Capabilities, host)
	var err error
	if p.Rlimits, err = planRlimits(s.Rlimits); err != nil {
		return p, nil, err
	}
	if l.Seccomp != nil {
		if p.Seccomp, err = seccompFilter(l.Seccomp); err != nil {
			return p, nil, fmt.Errorf("seccomp profile: %w", err)
		}
	}
	w, err := p.scheduling(s, l)
	if err != nil {
		return p, nil, err
	}
	warn = append(warn, w...)
	return p, append(warn, p.labels(s)...), nil
}

const maxID = 1<<31 - 1

// lastValues leaves the last of several values of a variable, and no empty HOME:
// that one is looked up.
func lastValues(env []string) []string {
	last := make(map[string]int, len(env))
	for i, e := range env {
		name, _, _ := strings.Cut(e, "=")
		last[name] = i
	}
	out := make([]string, 0, len(env))
	for i, e := range env {
		name, _, _ := strings.Cut(e, "=")
		if last[name] == i && e != "HOME=" {
			out = append(out, e)
		}
	}
	return out
}

//nolint:gochecknoglobals // constant
var rlimitNames = map[string]int{
	"RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_DATA": unix.RLIMIT_DATA,
	"RLIMIT_STACK": unix.RLIMIT_STACK, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_RSS": unix.RLIMIT_RSS,
	"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK,
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
	"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME": unix.RLIMIT_RTTIME,
}

func planRlimits(in []specs.POSIXRlimit) ([]Rlimit, error) {
	var out []Rlimit
	seen := map[int]bool{}
	for _, r := range in {
		n, ok := rlimitNames[r.Type]
		if !ok || seen[n] {
			return nil, invalid("resource limit %q", r.Type)
		}
		if r.Soft > r.Hard {
			return nil, invalid("resource limit %s: soft %d is above hard %d", r.Type, r.Soft, r.Hard)
		}
		seen[n] = true
		out = append(out, Rlimit{Resource: n, Soft: r.Soft, Hard: r.Hard})
	}
	if !seen[unix.RLIMIT_NOFILE] {
		// Go has raised our own soft limit; programs that use select(2) or walk all
		// descriptors want the usual one.
		out = append(out, Rlimit{Resource: unix.RLIMIT_NOFILE, Soft: 1024, KeepHard: true})
	}
	return out, nil
}
