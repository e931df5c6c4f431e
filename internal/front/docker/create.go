package docker

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/sys/signal"

	"hull/api"
	"hull/internal/hull"
)

// createBody is the body of POST /containers/create as clients of all versions
// send it: Cmd and the like may be one string, and before 1.52 the MAC address
// was the container's rather than the endpoint's.
type createBody struct {
	container.CreateRequest
	Cmd        words
	Entrypoint words
	Shell      words
	MacAddress network.HardwareAddr
}

// words is a list of strings, or one string, as the API has always taken it.
type words []string

func (w *words) UnmarshalJSON(raw []byte) error {
	if len(raw) > 0 && raw[0] == '"' {
		*w = words{""}
		return json.Unmarshal(raw, &(*w)[0]) //nolint:wrapcheck // the decoder's words
	}
	return json.Unmarshal(raw, (*[]string)(w)) //nolint:wrapcheck // the decoder's words
}

// request completes what the shadowing fields took away.
func (b createBody) request() (container.CreateRequest, error) {
	q := b.CreateRequest
	if q.Config == nil {
		return q, invalid("config cannot be empty in order to create a container")
	}
	if q.HostConfig == nil {
		q.HostConfig = &container.HostConfig{}
	}
	if q.NetworkingConfig == nil {
		q.NetworkingConfig = &network.NetworkingConfig{}
	}
	q.Config.Cmd, q.Config.Entrypoint, q.Config.Shell = b.Cmd, b.Entrypoint, b.Shell
	return q, nil
}

// containerName is what moby accepts as a name.
//
//nolint:gochecknoglobals // compiled once
var containerName = regexp.MustCompile(`^/?[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

// checkName refuses a name that Docker would. "" asks for a generated one.
func checkName(name string) (string, error) {
	if name != "" && !containerName.MatchString(name) {
		return "", invalid("Invalid container name (%s), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", name)
	}
	return strings.TrimPrefix(name, "/"), nil
}

// toSpec translates a create request. It applies no defaults; warnings are for
// the user. The request itself rides along in Spec.Front for inspect.
func toSpec(b createBody, platform string) (hull.Spec, []string, error) {
	q, err := b.request()
	if err != nil {
		return hull.Spec{}, nil, err
	}
	c, h := q.Config, q.HostConfig
	if err := checkModes(c, h); err != nil {
		return hull.Spec{}, nil, err
	}
	isolation, err := hull.ParseIsolation(string(h.Isolation))
	if err != nil {
		return hull.Spec{}, nil, err
	}
	mounts, warnings, err := toMounts(c, h)
	if err != nil {
		return hull.Spec{}, nil, err
	}
	net, err := toNetwork(q, b.MacAddress)
	if err != nil {
		return hull.Spec{}, nil, err
	}
	front, err := json.Marshal(q)
	if err != nil {
		return hull.Spec{}, nil, fmt.Errorf("keep create request: %w", err)
	}
	return hull.Spec{
		Image: c.Image, Platform: platform,
		Isolation: isolation, Runtime: toRuntime(h.Runtime),
		Process:  toProcess(c, h),
		Hostname: c.Hostname, Domainname: c.Domainname,
		Labels: c.Labels, Annotations: h.Annotations,
		Health:     toHealth(c.Healthcheck),
		Restart:    hull.RestartPolicy{Name: string(h.RestartPolicy.Name), MaxRetries: h.RestartPolicy.MaximumRetryCount},
		AutoRemove: h.AutoRemove,
		Resources:  toResources(h.Resources, h.OomScoreAdj, h.ShmSize),
		Mounts:     mounts, VolumesFrom: h.VolumesFrom,
		Network: net,
		Security: hull.Security{
			Privileged: h.Privileged, CapAdd: h.CapAdd, CapDrop: h.CapDrop, Options: h.SecurityOpt,
			ReadOnlyRootfs: h.ReadonlyRootfs, MaskedPaths: h.MaskedPaths, ReadonlyPaths: h.ReadonlyPaths, Sysctls: h.Sysctls,
		},
		Namespaces: hull.Namespaces{
			PID: string(h.PidMode), IPC: string(h.IpcMode), UTS: string(h.UTSMode),
			User: string(h.UsernsMode), Cgroup: string(h.CgroupnsMode),
		},
		Log:        hull.LogSpec{Driver: h.LogConfig.Type, Options: h.LogConfig.Config},
		StorageOpt: h.StorageOpt,
		Front:      front,
	}, warnings, nil
}

func toProcess(c *container.Config, h *container.HostConfig) hull.ProcessSpec {
	return hull.ProcessSpec{
		Entrypoint: c.Entrypoint, Cmd: c.Cmd, Env: c.Env, WorkDir: c.WorkingDir, User: c.User, Groups: h.GroupAdd,
		TTY: c.Tty, OpenStdin: c.OpenStdin, StdinOnce: c.StdinOnce,
		StopSignal: c.StopSignal, StopTimeout: c.StopTimeout, Init: h.Init, ConsoleSize: h.ConsoleSize,
	}
}

// toRuntime: the names that mean "the usual one" stand for none in particular.
func toRuntime(name string) string {
	switch name {
	case defaultRuntime, "io.containerd.runc.v2":
		return ""
	}
	return name
}

// checkModes refuses namespace modes and combinations as Docker does.
func checkModes(c *container.Config, h *container.HostConfig) error {
	switch {
	case !validIPC(h.IpcMode):
		return invalid("invalid IPC mode: %v", h.IpcMode)
	case !h.PidMode.Valid():
		return invalid("invalid PID mode: %v", h.PidMode)
	case !h.UTSMode.Valid():
		return invalid("invalid UTS mode: %v", h.UTSMode)
	case !h.UsernsMode.Valid() && h.UsernsMode != "private":
		return invalid("invalid USER mode: %v", h.UsernsMode)
	case !h.CgroupnsMode.Valid():
		return invalid("invalid cgroup namespace mode: %v", h.CgroupnsMode)
	case h.CPUShares < 0:
		return invalid("invalid CPU shares (%d): value must be a positive integer", h.CPUShares)
	case !h.Cgroup.Valid():
		return invalid("invalid cgroup: %v", h.Cgroup)
	case h.UTSMode.IsHost() && c.Hostname != "":
		return invalid("conflicting options: hostname and the UTS mode")
	}
	if c.StopSignal != "" {
		if _, err := signal.ParseSignal(c.StopSignal); err != nil {
			return invalid("%v", err)
		}
	}
	if _, ok := h.Annotations[""]; ok {
		return invalid("invalid Annotations: the empty string is not permitted as an annotation key")
	}
	for _, e := range c.Env {
		if e == "" || e[0] == '=' {
			return invalid("invalid environment variable: %s", e)
		}
	}
	if err := checkHealth(c.Healthcheck); err != nil {
		return err
	}
	return checkNetworkMode(h)
}

func validIPC(m container.IpcMode) bool {
	return m.Valid() && (!m.IsContainer() || m.Container() != "")
}

// checkNetworkMode refuses links where there is no network of one's own; the
// engine checks the rest.
func checkNetworkMode(h *container.HostConfig) error {
	if len(h.Links) > 0 && (h.NetworkMode.IsHost() || h.NetworkMode.IsContainer()) {
		kind := "host type networking"
		if h.NetworkMode.IsContainer() {
			kind = "container type network"
		}
		return invalid("conflicting options: %s can't be used with links. This would result in undefined behavior", kind)
	}
	if h.NetworkMode.IsContainer() && h.NetworkMode.ConnectedContainer() == "" {
		return invalid("invalid container format container:<name|id>")
	}
	return nil
}

func checkHealth(h *container.HealthConfig) error {
	if h == nil {
		return nil
	}
	for _, d := range []struct {
		name  string
		value int64
	}{
		{"Interval", int64(h.Interval)}, {"Timeout", int64(h.Timeout)},
		{"StartPeriod", int64(h.StartPeriod)}, {"StartInterval", int64(h.StartInterval)},
	} {
		if d.value != 0 && d.value < int64(container.MinimumDuration) {
			return invalid("%s in Healthcheck cannot be less than %s", d.name, container.MinimumDuration)
		}
	}
	if h.Retries < 0 {
		return invalid("Retries in Healthcheck cannot be negative")
	}
	return nil
}

func toHealth(h *container.HealthConfig) *hull.HealthSpec {
	if h == nil {
		return nil
	}
	return &hull.HealthSpec{
		Test: h.Test, Interval: h.Interval, Timeout: h.Timeout,
		StartPeriod: h.StartPeriod, StartInterval: h.StartInterval, Retries: h.Retries,
	}
}

// toResources translates limits; update uses it too.
func toResources(r container.Resources, oomScoreAdj int, shmSize int64) hull.Resources {
	out := hull.Resources{
		NanoCPUs: r.NanoCPUs, CPUShares: r.CPUShares, CPUPeriod: r.CPUPeriod, CPUQuota: r.CPUQuota,
		CPURealtimePeriod: r.CPURealtimePeriod, CPURealtimeRun: r.CPURealtimeRuntime,
		CpusetCpus: r.CpusetCpus, CpusetMems: r.CpusetMems,
		Memory: r.Memory, MemoryReservation: r.MemoryReservation, MemorySwap: r.MemorySwap,
		MemorySwappiness: r.MemorySwappiness, OomKillDisable: r.OomKillDisable, OomScoreAdj: oomScoreAdj,
		PidsLimit: r.PidsLimit,
		Blkio: hull.Blkio{
			Weight: r.BlkioWeight, WeightDevice: toWeights(r.BlkioWeightDevice),
			ReadBps: toRates(r.BlkioDeviceReadBps), WriteBps: toRates(r.BlkioDeviceWriteBps),
			ReadIOps: toRates(r.BlkioDeviceReadIOps), WriteIOps: toRates(r.BlkioDeviceWriteIOps),
		},
		DeviceCgroupRules: r.DeviceCgroupRules,
		ShmSize:           shmSize, CgroupParent: r.CgroupParent,
	}
	// Docker: -1 swappiness is "not said".
	if out.MemorySwappiness != nil && *out.MemorySwappiness == -1 {
		out.MemorySwappiness = nil
	}
	for _, u := range r.Ulimits {
		if u != nil {
			out.Ulimits = append(out.Ulimits, hull.Ulimit{Name: strings.ToLower(u.Name), Soft: u.Soft, Hard: u.Hard})
		}
	}
	for _, d := range r.Devices {
		out.Devices = append(out.Devices, hull.Device{HostPath: d.PathOnHost, Path: d.PathInContainer, Permissions: d.CgroupPermissions})
	}
	for _, d := range r.DeviceRequests {
		out.DeviceRequests = append(out.DeviceRequests, hull.DeviceRequest{
			Driver: d.Driver, Count: d.Count, IDs: d.DeviceIDs, Capabilities: d.Capabilities, Options: d.Options,
		})
	}
	return out
}

func toWeights(in []*blkiodev.WeightDevice) []hull.DeviceWeight {
	var out []hull.DeviceWeight
	for _, d := range in {
		if d != nil {
			out = append(out, hull.DeviceWeight{Path: d.Path, Weight: d.Weight})
		}
	}
	return out
}

func toRates(in []*blkiodev.ThrottleDevice) []hull.DeviceRate {
	var out []hull.DeviceRate
	for _, d := range in {
		if d != nil {
			out = append(out, hull.DeviceRate{Path: d.Path, Rate: d.Rate})
		}
	}
	return out
}

// fromRates is the reverse of toRates; nil stays nil.
func fromRates(in []hull.DeviceRate) []*blkiodev.ThrottleDevice {
	var out []*blkiodev.ThrottleDevice
	for _, d := range in {
		out = append(out, &blkiodev.ThrottleDevice{Path: d.Path, Rate: d.Rate})
	}
	return out
}

// toNetwork gathers what is said about networks in three places of the request.
func toNetwork(q container.CreateRequest, mac network.HardwareAddr) (hull.NetworkSpec, error) {
	c, h := q.Config, q.HostConfig
	ports, err := toPorts(h.PortBindings)
	if err != nil {
		return hull.NetworkSpec{}, err
	}
	n := hull.NetworkSpec{
		Mode: string(h.NetworkMode), Disabled: c.NetworkDisabled,
		Ports: ports, PublishAll: h.PublishAllPorts, MacAddress: mac.String(),
		DNSSearch: h.DNSSearch, DNSOptions: h.DNSOptions, ExtraHosts: h.ExtraHosts, Links: h.Links,
		Held: c.Labels[api.HeldLabel] == "true",
	}
	for _, a := range h.DNS {
		n.DNS = append(n.DNS, a.String())
	}
	for p := range c.ExposedPorts {
		if p.IsValid() {
			n.Exposed = append(n.Exposed, p.String())
		}
	}
	slices.Sort(n.Exposed)
	for name, e := range q.NetworkingConfig.EndpointsConfig {
		if name == network.NetworkDefault {
			name = network.NetworkBridge
		}
		if n.Endpoints == nil {
			n.Endpoints = map[string]hull.EndpointSpec{}
		}
		n.Endpoints[name] = toEndpoint(e)
	}
	return n, nil
}

func toEndpoint(e *network.EndpointSettings) hull.EndpointSpec {
	if e == nil {
		return hull.EndpointSpec{}
	}
	out := hull.EndpointSpec{
		Aliases: e.Aliases, MacAddress: e.MacAddress.String(), DriverOpts: e.DriverOpts,
		GwPriority: e.GwPriority, Links: e.Links,
	}
	if i := e.IPAMConfig; i != nil {
		if i.IPv4Address.IsValid() {
			out.IPv4 = i.IPv4Address.String()
		}
		if i.IPv6Address.IsValid() {
			out.IPv6 = i.IPv6Address.String()
		}
		for _, a := range i.LinkLocalIPs {
			out.LinkLocalIPs = append(out.LinkLocalIPs, a.String())
		}
	}
	return out
}

// toPorts lists bindings in a stable order. A port with an empty list is
// published on a free one, as Docker still does.
func toPorts(m network.PortMap) ([]hull.PortBinding, error) {
	var out []hull.PortBinding
	for _, p := range slices.SortedFunc(maps.Keys(m), comparePorts) {
		switch p.Proto() {
		case network.TCP, network.UDP, network.SCTP:
		default:
			return nil, invalid("invalid port specification: %q", p)
		}
		binds := m[p]
		if len(binds) == 0 {
			binds = []network.PortBinding{{}}
		}
		for _, b := range binds {
			if err := checkHostPort(b.HostPort); err != nil {
				return nil, err
			}
			one := hull.PortBinding{ContainerPort: p.Num(), Proto: string(p.Proto()), HostPort: b.HostPort}
			if b.HostIP.IsValid() {
				one.HostIP = b.HostIP.String()
			}
			out = append(out, one)
		}
	}
	return out, nil
}

func comparePorts(a, b network.Port) int {
	if a.Num() != b.Num() {
		return int(a.Num()) - int(b.Num())
	}
	return strings.Compare(string(a.Proto()), string(b.Proto()))
}

// checkHostPort accepts "", a port, or a range of them.
func checkHostPort(text string) error {
	if text == "" {
		return nil
	}
	lo, hi, isRange := strings.Cut(text, "-")
	if !isRange {
		hi = lo
	}
	a, err1 := strconv.ParseUint(lo, 10, 16)
	b, err2 := strconv.ParseUint(hi, 10, 16)
	if err1 != nil || err2 != nil || a > b {
		return invalid("invalid port specification: %q", text)
	}
	return nil
}
