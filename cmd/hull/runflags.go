package main

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	units "github.com/docker/go-units"
)

// runRequest is a parsed "run".
type runRequest struct {
	body     createBody
	detach   bool
	name     string
	platform string
	keys     string // detach keys as given

	env, envFiles, labels, volumes, publish, networks, tmpfs, logOpts []string
	entrypoint                                                        *string
	initProcess                                                       *bool
	noHealthcheck                                                     bool
}

// runFlags are the flags of "run" that need nothing of hull-cli.
func runFlags(r *runRequest) []flag {
	b, h := &r.body, &r.body.HostConfig
	h.RestartPolicy.Name = "no"
	h.MemorySwappiness = -1
	return []flag{
		listFlag("env", 'e', &r.env),
		listFlag("env-file", 0, &r.envFiles),
		boolFlag("rm", 0, &h.AutoRemove),
		boolFlag("detach", 'd', &r.detach),
		boolFlag("interactive", 'i', &b.OpenStdin),
		boolFlag("tty", 't', &b.Tty),
		stringFlag("name", 0, &r.name),
		listFlag("volume", 'v', &r.volumes),
		listFlag("publish", 'p', &r.publish),
		boolFlag("publish-all", 'P', &h.PublishAllPorts),
		listFlag("network", 0, &r.networks),
		listFlag("net", 0, &r.networks),
		stringFlag("workdir", 'w', &b.WorkingDir),
		stringFlag("user", 'u', &b.User),
		stringFlag("hostname", 'h', &b.Hostname),
		stringFlag("domainname", 0, &b.Domainname),
		valueFlag("label", 'l', func(s string) bool { r.labels = append(r.labels, s); return validLabel(s) }),
		valueFlag("entrypoint", 0, func(s string) bool { r.entrypoint = &s; return true }),
		stringFlag("isolation", 0, &h.Isolation),
		stringFlag("runtime", 0, &h.Runtime),
		boolFlag("privileged", 0, &h.Privileged),
		boolFlag("read-only", 0, &h.ReadonlyRootfs),
		boolFlagPtr("init", &r.initProcess),
		listFlag("cap-add", 0, &h.CapAdd),
		listFlag("cap-drop", 0, &h.CapDrop),
		valueFlag("security-opt", 0, func(s string) bool { h.SecurityOpt = append(h.SecurityOpt, s); return plainSecurity(s) }),
		sizeFlag("memory", 'm', &h.Memory),
		sizeFlag("memory-reservation", 0, &h.MemoryReservation),
		sizeFlag("shm-size", 0, &h.ShmSize),
		valueFlag("cpus", 0, func(s string) (ok bool) { h.NanoCPUs, ok = nanoCPUs(s); return ok }),
		intFlag("cpu-shares", 'c', &h.CPUShares),
		stringFlag("cpuset-cpus", 0, &h.CpusetCpus),
		stringFlag("cpuset-mems", 0, &h.CpusetMems),
		intFlag("pids-limit", 0, &h.PidsLimit),
		intFlag("oom-score-adj", 0, &h.OomScoreAdj),
		boolFlag("oom-kill-disable", 0, &h.OomKillDisable),
		valueFlag("restart", 0, func(s string) (ok bool) { h.RestartPolicy, ok = parseRestart(s); return ok }),
		stringFlag("stop-signal", 0, &b.StopSignal),
		valueFlag("stop-timeout", 0, func(s string) bool {
			v, err := strconv.ParseInt(s, 10, 64)
			b.StopTimeout = &v
			return err == nil
		}),
		valueFlag("pull", 0, func(s string) bool { return s == "missing" || s == "never" || s == "" }),
		valueFlag("platform", 0, func(s string) bool {
			r.platform = s
			return s == "" || s == "linux/amd64" || s == "linux/arm64"
		}),
		stringFlag("cidfile", 0, &h.ContainerIDFile),
		stringFlag("detach-keys", 0, &r.keys),
		valueFlag("add-host", 0, func(s string) bool { return addHost(&h.ExtraHosts, s) }),
		valueFlag("dns", 0, func(s string) bool {
			a, err := netip.ParseAddr(s)
			h.DNS = append(h.DNS, a.String())
			return err == nil && a.Is4()
		}),
		listFlag("dns-opt", 0, &h.DNSOptions),
		listFlag("dns-option", 0, &h.DNSOptions),
		listFlag("tmpfs", 0, &r.tmpfs),
		stringFlag("log-driver", 0, &h.LogConfig.Type),
		listFlag("log-opt", 0, &r.logOpts),
		listFlag("group-add", 0, &h.GroupAdd),
		stringFlag("cgroup-parent", 0, &h.CgroupParent),
		stringFlag("volume-driver", 0, &h.VolumeDriver),
		boolFlag("no-healthcheck", 0, &r.noHealthcheck),
		oneOfFlag("cgroupns", &h.CgroupnsMode, "", "host", "private"),
		oneOfFlag("userns", &h.UsernsMode, "", "host", "private"),
		oneOfFlag("uts", &h.UTSMode, "", "host"),
		oneOfFlag("pid", &h.PidMode, "", "host", "private"),
		stringFlag("ipc", 0, &h.IpcMode),
		boolFlag("quiet", 'q', new(bool)), // of the pull, which is hull-cli's
	}
}

// parseRun reads the arguments of "run"; false = hull-cli is to do it.
func parseRun(args []string, getenv func(string) string) (*runRequest, bool) {
	r := &runRequest{}
	r.platform = getenv("DOCKER_DEFAULT_PLATFORM")
	args, ok := parseFlags(args, runFlags(r), false)
	if !ok || len(args) == 0 || args[0] == "" || r.platform != "" && !strings.HasPrefix(r.platform, "linux/") {
		return nil, false
	}
	b, h := &r.body, &r.body.HostConfig
	b.Image, b.Cmd = args[0], args[1:]
	if b.Env, ok = environment(r.envFiles, r.env); !ok {
		return nil, false
	}
	if r.entrypoint != nil {
		b.Entrypoint = []string{*r.entrypoint}
	}
	if h.AutoRemove && h.RestartPolicy.Name != "no" && h.RestartPolicy.Name != "" {
		return nil, false
	}
	if r.noHealthcheck {
		b.Healthcheck = &healthcheck{Test: []string{"NONE"}}
	}
	h.Init = r.initProcess
	if !r.detach {
		b.AttachStdin, b.AttachStdout, b.AttachStderr = b.OpenStdin, true, true
		b.StdinOnce = b.OpenStdin
	}
	b.Labels = pairs(r.labels)
	h.LogConfig.Config = pairs(r.logOpts)
	if h.LogConfig.Type == "none" && len(r.logOpts) > 0 {
		return nil, false
	}
	for _, t := range r.tmpfs {
		if h.Tmpfs == nil {
			h.Tmpfs = map[string]string{}
		}
		dir, opts, _ := strings.Cut(t, ":")
		h.Tmpfs[dir] = opts
	}
	h.CapAdd, h.CapDrop = capabilities(h.CapAdd), capabilities(h.CapDrop)
	return r, r.setVolumes() && r.setPorts() && r.setNetwork()
}

// setVolumes sorts -v into binds and anonymous volumes.
func (r *runRequest) setVolumes() bool {
	for _, spec := range r.volumes {
		parts := strings.Split(spec, ":")
		for i, p := range parts {
			// hull-cli looks at errors and at what may be a Windows path.
			if p == "" || len(parts) > 3 || len(p) == 1 && p != "." && p != "/" && i < len(parts)-1 || strings.HasPrefix(p, `\\`) {
				return false
			}
		}
		if len(parts) == 1 || len(spec) < 3 {
			if r.body.Volumes == nil {
				r.body.Volumes = map[string]struct{}{}
			}
			r.body.Volumes[spec] = struct{}{}
			continue
		}
		if strings.HasPrefix(spec, ".") {
			abs, err := filepath.Abs(parts[0])
			if err != nil {
				return false
			}
			parts[0] = abs
		}
		bind := strings.Join(parts, ":")
		if !slices.Contains(r.body.HostConfig.Binds, bind) {
			r.body.HostConfig.Binds = append(r.body.HostConfig.Binds, bind)
		}
	}
	return true
}

// setPorts takes -p [IPV4:][HOST:]CONTAINER[/PROTO] with single ports.
func (r *runRequest) setPorts() bool {
	for _, spec := range r.publish {
		parts := strings.Split(spec, ":")
		if len(parts) > 3 {
			return false
		}
		var p portBinding
		container, proto, has := strings.Cut(parts[len(parts)-1], "/")
		if !has {
			proto = "tcp"
		}
		if proto != "tcp" && proto != "udp" && proto != "sctp" || !port(&container) {
			return false
		}
		if len(parts) == 3 && parts[0] != "" {
			ip, err := netip.ParseAddr(parts[0])
			if err != nil || !ip.Is4() {
				return false
			}
			p.HostIP = ip.String()
		}
		if len(parts) > 1 && parts[len(parts)-2] != "" {
			p.HostPort = parts[len(parts)-2]
			if !port(&p.HostPort) {
				return false
			}
		}
		key := container + "/" + proto
		if r.body.ExposedPorts == nil {
			r.body.ExposedPorts = map[string]struct{}{}
			r.body.HostConfig.PortBindings = map[string][]portBinding{}
		}
		r.body.ExposedPorts[key] = struct{}{}
		r.body.HostConfig.PortBindings[key] = append(r.body.HostConfig.PortBindings[key], p)
	}
	return true
}

// port brings a decimal port number into its usual form.
func port(s *string) bool {
	n, err := strconv.ParseUint(*s, 10, 16)
	*s = strconv.FormatUint(n, 10)
	return err == nil
}

// setNetwork takes one network by name.
func (r *runRequest) setNetwork() bool {
	switch len(r.networks) {
	case 0:
		r.body.HostConfig.NetworkMode = "default"
		r.body.NetworkingConfig.EndpointsConfig = map[string]struct{}{"default": {}}
	case 1:
		n := r.networks[0]
		if strings.TrimSpace(n) == "" || strings.Contains(n, "=") {
			return false
		}
		r.body.HostConfig.NetworkMode = n
	default:
		return false
	}
	return true
}

// Values with a form of their own.

func boolFlagPtr(name string, to **bool) flag {
	return flag{name, 0, true, func(s string) bool {
		v, err := strconv.ParseBool(s)
		*to = &v
		return err == nil
	}}
}

func sizeFlag(name string, short byte, to *int64) flag {
	return valueFlag(name, short, func(s string) bool {
		v, err := units.RAMInBytes(s)
		*to = v
		return err == nil
	})
}

func oneOfFlag(name string, to *string, values ...string) flag {
	return valueFlag(name, 0, func(s string) bool { *to = s; return slices.Contains(values, s) })
}

func validLabel(s string) bool {
	key, _, _ := strings.Cut(s, "=")
	key = strings.TrimLeft(key, " \t")
	return key != "" && !strings.ContainsAny(key, " \t")
}

// plainSecurity: an option whose value is no file and that the engine reads.
func plainSecurity(s string) bool {
	switch s {
	case "no-new-privileges", "no-new-privileges=true", "no-new-privileges:true", "seccomp=unconfined", "seccomp=builtin", "apparmor=unconfined", "label=disable":
		return true
	}
	return false
}

// nanoCPUs takes plain decimal numbers of CPUs.
func nanoCPUs(s string) (int64, bool) {
	whole, frac, _ := strings.Cut(s, ".")
	if whole == "" || len(whole) > 6 || len(frac) > 9 {
		return 0, false
	}
	n, err := strconv.ParseUint(whole+frac+strings.Repeat("0", 9-len(frac)), 10, 63)
	return int64(n), err == nil
}

func parseRestart(s string) (restartPolicy, bool) {
	name, count, has := strings.Cut(s, ":")
	p := restartPolicy{Name: name}
	if count != "" {
		n, err := strconv.Atoi(count)
		if err != nil {
			return p, false
		}
		p.MaximumRetryCount = n
	}
	return p, name != "" || !has
}

// addHost takes NAME:IPV4 and NAME:host-gateway.
func addHost(to *[]string, s string) bool {
	name, ip, ok := strings.Cut(s, "=")
	if !ok {
		name, ip, ok = strings.Cut(s, ":")
	}
	if !ok || name == "" || strings.Contains(name, ":") {
		return false
	}
	if ip != "host-gateway" {
		a, err := netip.ParseAddr(ip)
		if err != nil || !a.Is4() {
			return false
		}
	}
	*to = append(*to, name+":"+ip)
	return true
}

// capabilities brings names into the form CAP_X, each once, sorted, as docker's
// client does.
func capabilities(names []string) []string {
	for i, n := range names {
		n = strings.ToUpper(n)
		if n != "ALL" && !strings.HasPrefix(n, "CAP_") {
			n = "CAP_" + n
		}
		names[i] = n
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// pairs is KEY=VALUE as a map; nil when there are none.
func pairs(list []string) map[string]string {
	if len(list) == 0 {
		return nil
	}
	m := make(map[string]string, len(list))
	for _, s := range list {
		k, v, _ := strings.Cut(s, "=")
		m[k] = v
	}
	return m
}

// absent tells whether nothing is at path.
func absent(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}
