package engine

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/hull"
)

// ociInput is all that the OCI specification of a run depends on.
type ociInput struct {
	c           hull.Container
	mounts      []hull.MountPoint
	endpoint    hull.Endpoint
	join        joined
	cgroupPath  string
	hostDevices func() ([]specs.LinuxDevice, error) // --privileged
	device      func(path string) ([]specs.LinuxDevice, error)
	seccomp     func(caps []string, profile string) (*specs.LinuxSeccomp, error)
	appArmor    bool // the host has it
	hostname    string
}

// joined are the pids whose namespaces are shared, 0 = none.
type joined struct{ pid, ipc, uts int }

// ociSpec builds the OCI runtime specification of one run. It is pure but for
// the functions in the input. Sources: OCI runtime-spec 1.3, moby
// daemon/oci_linux.go for the defaults a Docker user knows.
func ociSpec(in ociInput) (*specs.Spec, error) {
	c := in.c
	sec, err := parseSecurity(c.Spec.Security)
	if err != nil {
		return nil, err
	}
	caps, err := capabilities(c.Spec.Security)
	if err != nil {
		return nil, err
	}
	s := &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Readonly: c.Spec.Security.ReadOnlyRootfs},
		Process: &specs.Process{
			Terminal:        c.Spec.Process.TTY,
			Args:            append([]string{c.Resolved.Path}, c.Resolved.Args...),
			Env:             processEnv(c.Resolved.Env, in.hostname, c.Spec.Process.TTY),
			Cwd:             c.Resolved.WorkDir,
			Capabilities:    capSet(caps),
			NoNewPrivileges: sec.noNewPrivileges,
			Rlimits:         rlimits(c.Spec.Resources.Ulimits),
		},
		Annotations: c.Spec.Annotations,
		Linux: &specs.Linux{
			CgroupsPath:       in.cgroupPath,
			Namespaces:        namespaces(c.Spec, in),
			Sysctl:            c.Spec.Security.Sysctls,
			RootfsPropagation: rootfsPropagation(in.mounts),
		},
	}
	if c.Spec.Namespaces.UTS != "host" { // the host keeps its name
		s.Hostname, s.Domainname = in.hostname, c.Spec.Domainname
	}
	if c.Spec.Process.TTY && c.Spec.Process.ConsoleSize != [2]uint{} {
		s.Process.ConsoleSize = &specs.Box{Height: c.Spec.Process.ConsoleSize[0], Width: c.Spec.Process.ConsoleSize[1]}
	}
	if c.Spec.Resources.OomScoreAdj != 0 {
		adj := c.Spec.Resources.OomScoreAdj
		s.Process.OOMScoreAdj = &adj
	}
	if in.appArmor && !c.Spec.Security.Privileged {
		s.Process.ApparmorProfile = sec.appArmor
	}
	s.Mounts = mounts(c, in, sec.writableCgroups)
	s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = paths(c.Spec.Security, sec)
	if err := devices(s, c.Spec, in); err != nil {
		return nil, err
	}
	if s.Linux.Seccomp, err = seccompFor(c.Spec.Security, sec, caps, in.seccomp); err != nil {
		return nil, err
	}
	return s, nil
}

// seccompFor is nil for an unconfined process.
func seccompFor(s hull.Security, opt securityOptions, caps []string, load func([]string, string) (*specs.LinuxSeccomp, error)) (*specs.LinuxSeccomp, error) {
	if opt.seccomp == "unconfined" || (s.Privileged && opt.seccomp == "") {
		return nil, nil //nolint:nilnil // no filter is an answer
	}
	return load(caps, opt.seccomp)
}

func processEnv(env []string, hostname string, tty bool) []string {
	out := make([]string, 0, len(env)+3)
	if !hasEnv(env, "PATH") {
		out = append(out, defaultPath)
	}
	if hostname != "" && !hasEnv(env, "HOSTNAME") {
		out = append(out, "HOSTNAME="+hostname)
	}
	if tty && !hasEnv(env, "TERM") {
		out = append(out, "TERM=xterm")
	}
	return append(out, env...)
}

func rlimits(u []hull.Ulimit) []specs.POSIXRlimit {
	var out []specs.POSIXRlimit
	for _, l := range u {
		out = append(out, specs.POSIXRlimit{
			Type: "RLIMIT_" + strings.ToUpper(l.Name),
			Soft: uint64(l.Soft), Hard: uint64(l.Hard), //nolint:gosec // -1 is RLIM_INFINITY in two's complement
		})
	}
	return out
}

func namespaces(s hull.Spec, in ociInput) []specs.LinuxNamespace {
	ns := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	add := func(t specs.LinuxNamespaceType, mode string, pid int, file string) {
		switch {
		case mode == "host":
		case pid > 0:
			ns = append(ns, specs.LinuxNamespace{Type: t, Path: fmt.Sprintf("/proc/%d/ns/%s", pid, file)})
		default:
			ns = append(ns, specs.LinuxNamespace{Type: t})
		}
	}
	add(specs.PIDNamespace, s.Namespaces.PID, in.join.pid, "pid")
	add(specs.IPCNamespace, s.Namespaces.IPC, in.join.ipc, "ipc")
	add(specs.UTSNamespace, s.Namespaces.UTS, in.join.uts, "uts")
	add(specs.CgroupNamespace, s.Namespaces.Cgroup, 0, "cgroup")
	if in.endpoint.NetNS != "" {
		ns = append(ns, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: in.endpoint.NetNS})
	}
	return ns
}

func mounts(c hull.Container, in ociInput, writableCgroups bool) []specs.Mount {
	s := c.Spec
	rw, groups := "ro", "ro"
	if s.Security.Privileged {
		rw = "rw"
	}
	if s.Security.Privileged || writableCgroups {
		groups = "rw"
	}
	all := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", rw}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{groups, "nosuid", "noexec", "nodev"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
	}
	if in.join.ipc > 0 {
		// The other container's shared memory: the runtime takes it from there.
		all = append(all, specs.Mount{Destination: "/dev/shm", Type: "bind", Source: fmt.Sprintf("/proc/%d/root/dev/shm", in.join.ipc),
			Options: []string{"bind", "private", "nosuid", "noexec", "nodev"}})
	} else if s.Namespaces.IPC == "host" {
		all = append(all, specs.Mount{Destination: "/dev/shm", Type: "bind", Source: "/dev/shm", Options: []string{"rbind", "rprivate"}})
	} else if s.Namespaces.IPC != "none" {
		all = append(all, specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm",
			Options: []string{"nosuid", "noexec", "nodev", "mode=1777", fmt.Sprintf("size=%d", s.Resources.ShmSize)}})
	}
	for _, f := range []struct{ target, source string }{
		{"/etc/resolv.conf", in.endpoint.ResolvConf},
		{"/etc/hostname", in.endpoint.HostnameFile},
		{"/etc/hosts", in.endpoint.Hosts},
	} {
		if f.source == "" {
			continue
		}
		m := specs.Mount{Destination: f.target, Type: "bind", Source: f.source, Options: []string{"rbind", "rprivate"}}
		if s.Security.ReadOnlyRootfs {
			m.Options = append(m.Options, "ro")
		}
		all = append(all, m)
	}
	var users []specs.Mount
	for _, m := range in.mounts {
		users = append(users, userMount(m, s.Security.ReadOnlyRootfs))
	}
	// A parent is mounted before what lies below it (Docker sorts by depth).
	slices.SortStableFunc(users, func(a, b specs.Mount) int {
		return strings.Count(path.Clean(a.Destination), "/") - strings.Count(path.Clean(b.Destination), "/")
	})
	// A mount of the user's replaces a default one at the same place or above it,
	// but the files of /etc that the engine writes lie on top of a mounted /etc.
	var top []specs.Mount
	all = slices.DeleteFunc(all, func(d specs.Mount) bool {
		for _, u := range users {
			to := path.Clean(u.Destination)
			switch {
			case to == d.Destination:
				return true
			case to == "/etc" && path.Dir(d.Destination) == to:
				if !slices.ContainsFunc(users, func(u specs.Mount) bool { return path.Clean(u.Destination) == d.Destination }) {
					top = append(top, d)
				}
				return true
			case strings.HasPrefix(d.Destination, to+"/") && to != "/dev" && to != "/sys":
				return true
			}
		}
		return false
	})
	return slices.Concat(all, users, top)
}

func userMount(m hull.MountPoint, roRootfs bool) specs.Mount {
	if m.Type == hull.MountTmpfs {
		opt := []string{"noexec", "nosuid", "nodev"}
		if m.Spec.TmpfsOptions != "" {
			for o := range strings.SplitSeq(m.Spec.TmpfsOptions, ",") {
				opt = slices.DeleteFunc(opt, func(d string) bool { return d == "no"+o })
				opt = append(opt, o)
			}
		}
		if m.Spec.TmpfsSize > 0 {
			opt = append(opt, fmt.Sprintf("size=%d", m.Spec.TmpfsSize))
		}
		if m.Spec.TmpfsMode != 0 {
			opt = append(opt, fmt.Sprintf("mode=%o", m.Spec.TmpfsMode))
		}
		if m.Spec.ReadOnly {
			opt = append(opt, "ro")
		}
		return specs.Mount{Destination: m.Target, Type: "tmpfs", Source: "tmpfs", Options: opt}
	}
	bind := "rbind"
	if m.Spec.NonRecursive {
		bind = "bind"
	}
	opt := []string{bind}
	if !m.RW {
		opt = append(opt, "ro")
		if !m.Spec.ReadOnlyNonRec {
			opt = append(opt, "rro") // and what is mounted below it, as Docker since 25
		}
	}
	prop := m.Propagation
	if prop == "" {
		prop = "rprivate"
	}
	return specs.Mount{Destination: m.Target, Type: "bind", Source: m.Source, Options: append(opt, prop)}
}

// rootfsPropagation must let shared and slave mounts through.
func rootfsPropagation(ms []hull.MountPoint) string {
	prop := ""
	for _, m := range ms {
		switch m.Propagation {
		case "shared", "rshared":
			return "shared"
		case "slave", "rslave":
			prop = "rslave"
		}
	}
	return prop
}

// Masked and read-only paths of Docker (moby daemon/pkg/oci/defaults.go).
func paths(s hull.Security, opt securityOptions) (masked, readonly []string) {
	if s.Privileged || opt.unconfinedPaths {
		return nil, nil
	}
	return s.ProtectedPaths()
}

// devices sets what the container may open: Docker's fixed list, --device, and
// everything when privileged.
func devices(s *specs.Spec, spec hull.Spec, in ociInput) error {
	res := &specs.LinuxResources{}
	s.Linux.Resources = res
	if spec.Security.Privileged {
		all, err := in.hostDevices()
		if err != nil {
			return fmt.Errorf("list host devices: %w", err)
		}
		s.Linux.Devices = all
		res.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		return nil
	}
	rule := func(typ string, major, minor int64, access string) specs.LinuxDeviceCgroup {
		r := specs.LinuxDeviceCgroup{Allow: true, Type: typ, Access: access}
		if major >= 0 {
			r.Major = &major
		}
		if minor >= 0 {
			r.Minor = &minor
		}
		return r
	}
	res.Devices = []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		rule("c", -1, -1, "m"), rule("b", -1, -1, "m"),
		rule("c", 1, 3, "rwm"), rule("c", 1, 5, "rwm"), rule("c", 1, 7, "rwm"), // null, zero, full
		rule("c", 1, 8, "rwm"), rule("c", 1, 9, "rwm"), // random, urandom
		rule("c", 5, 0, "rwm"), rule("c", 5, 1, "rwm"), rule("c", 5, 2, "rwm"), // tty, console, ptmx
		rule("c", 136, -1, "rwm"), // pts
	}
	for _, d := range spec.Resources.Devices {
		found, err := in.device(d.HostPath)
		if err != nil {
			return fmt.Errorf("error gathering device information while adding custom device %q: %w", d.HostPath, err)
		}
		for _, dev := range found {
			to := firstOf(d.Path, d.HostPath)
			dev.Path = path.Join(to, strings.TrimPrefix(dev.Path, d.HostPath))
			s.Linux.Devices = append(s.Linux.Devices, dev)
			res.Devices = append(res.Devices, rule(dev.Type, dev.Major, dev.Minor, firstOf(d.Permissions, "rwm")))
		}
	}
	for _, text := range spec.Resources.DeviceCgroupRules {
		r, err := parseDeviceRule(text)
		if err != nil {
			return err
		}
		res.Devices = append(res.Devices, r)
	}
	return nil
}

// parseDeviceRule reads "c 42:* rmw".
func parseDeviceRule(text string) (specs.LinuxDeviceCgroup, error) {
	var typ, access string
	bad := fmt.Errorf("invalid device cgroup rule format: '%s': %w", text, errdefs.ErrInvalidArgument)
	f := strings.Fields(text)
	if len(f) != 3 {
		return specs.LinuxDeviceCgroup{}, bad
	}
	typ, access = f[0], f[2]
	if !strings.Contains("abc", typ) || len(typ) != 1 || strings.Trim(access, "rwm") != "" {
		return specs.LinuxDeviceCgroup{}, bad
	}
	r := specs.LinuxDeviceCgroup{Allow: true, Type: typ, Access: access}
	major, minor, ok := strings.Cut(f[1], ":")
	if !ok {
		return r, bad
	}
	for _, p := range []struct {
		text string
		to   **int64
	}{{major, &r.Major}, {minor, &r.Minor}} {
		if p.text == "*" {
			continue
		}
		var n int64
		if _, err := fmt.Sscanf(p.text, "%d", &n); err != nil || n < 0 || fmt.Sprint(n) != p.text {
			return r, bad
		}
		*p.to = &n
	}
	return r, nil
}

// hostnameOf is the UTS name: the user's, the host's, or the short id.
func hostnameOf(c hull.Container) string {
	if c.Spec.Hostname != "" {
		return c.Spec.Hostname
	}
	if c.Spec.Namespaces.UTS == "host" || c.Spec.Network.Mode == "host" {
		if h, err := os.Hostname(); err == nil {
			return h
		}
	}
	return c.ID[:12]
}
