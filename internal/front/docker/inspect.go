package docker

import (
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/storage"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hull/internal/hull"
)

const (
	defaultRuntime = "runc"     // what tools expect to see where nothing else was asked for
	storageDriver  = "overlay2" // what tools know a stack of overlay layers by
)

// toInspect shows everything Docker shows of a container: what was asked for
// (Spec.Front), what the image added, and what became of it.
func toInspect(c hull.Container) container.InspectResponse {
	q := request(c)
	return container.InspectResponse{
		ID:             c.ID,
		Created:        timeText(c.Created),
		Path:           c.Resolved.Path,
		Args:           orEmpty(c.Resolved.Args),
		State:          toState(c.Status),
		Image:          c.Image.ID,
		ResolvConfPath: c.Status.Endpoint.ResolvConf,
		HostnamePath:   c.Status.Endpoint.HostnameFile,
		HostsPath:      c.Status.Endpoint.Hosts,
		LogPath:        c.Status.LogPath,
		Name:           "/" + c.Name,
		RestartCount:   c.Status.RestartCount,
		Driver:         storageDriver,
		Platform:       "linux",
		ExecIDs:        c.Execs,
		HostConfig:     hostConfig(c, q.HostConfig),
		Storage:        &storage.Storage{RootFS: &storage.RootFSStorage{Snapshot: &storage.RootFSStorageSnapshot{Name: storageDriver}}},
		Mounts:         toMountPoints(c.Mounts),
		Config:         config(c, q.Config),
		NetworkSettings: &container.NetworkSettings{
			SandboxID: sandboxID(c), SandboxKey: c.Status.Endpoint.NetNS,
			Ports:    toPortMap(c),
			Networks: toNetworks(c),
		},
		ImageManifestDescriptor: manifestOf(c.Image),
	}
}

// request is the create request kept in the record. A container made through
// another door has none: what the specification says has to do.
func request(c hull.Container) container.CreateRequest {
	var q container.CreateRequest
	if len(c.Spec.Front) > 0 {
		_ = json.Unmarshal(c.Spec.Front, &q) // we wrote it
	}
	if q.Config == nil {
		q.Config = &container.Config{Image: c.Image.Name, Tty: c.Spec.Process.TTY, OpenStdin: c.Spec.Process.OpenStdin}
	}
	if q.HostConfig == nil {
		q.HostConfig = &container.HostConfig{}
	}
	return q
}

func sandboxID(c hull.Container) string {
	if !c.Status.Phase.Live() {
		return ""
	}
	return c.PodID
}

func manifestOf(i hull.ImageRef) *ocispec.Descriptor {
	if i.Manifest == "" {
		return nil
	}
	return &ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.Digest(i.Manifest), Platform: parsePlatform(i.Platform)}
}

// config is the request's Config with what the image gave laid under it.
func config(c hull.Container, q *container.Config) *container.Config {
	out := *q
	r := c.Resolved
	out.Env, out.Cmd, out.Entrypoint = orEmpty(r.Env), r.Cmd, r.Entrypoint
	for _, e := range q.Env {
		if !strings.Contains(e, "=") { // unsets a variable of the image, and is shown
			out.Env = append(slices.Clip(out.Env), e)
		}
	}
	out.WorkingDir, out.User, out.Labels = r.WorkDir, r.User, orEmptyMap(r.Labels)
	out.Image = c.Spec.Image
	out.OnBuild, out.Shell = r.OnBuild, r.Shell
	if r.StopSignal != "" && (q.StopSignal != "" || r.StopSignal != "SIGTERM") {
		out.StopSignal = r.StopSignal
	}
	if out.WorkingDir == "/" && q.WorkingDir == "" {
		out.WorkingDir = ""
	}
	if r.Health != nil {
		out.Healthcheck = &container.HealthConfig{
			Test: r.Health.Test, Interval: r.Health.Interval, Timeout: r.Health.Timeout,
			StartPeriod: r.Health.StartPeriod, StartInterval: r.Health.StartInterval, Retries: r.Health.Retries,
		}
	}
	if out.Hostname == "" && !c.Spec.Network.Disabled {
		out.Hostname = hostname(c)
	}
	for _, p := range r.Exposed {
		if port, err := network.ParsePort(p); err == nil {
			if out.ExposedPorts == nil {
				out.ExposedPorts = network.PortSet{}
			}
			out.ExposedPorts[port] = struct{}{}
		}
	}
	for _, v := range r.Volumes {
		if out.Volumes == nil {
			out.Volumes = map[string]struct{}{}
		}
		out.Volumes[v] = struct{}{}
	}
	return &out
}

// hostname is what Docker shows where none was asked for.
func hostname(c hull.Container) string {
	if c.Spec.Hostname != "" {
		return c.Spec.Hostname
	}
	if c.Spec.Network.Mode == "host" || c.Spec.Namespaces.UTS == "host" {
		if h, err := os.Hostname(); err == nil {
			return h
		}
	}
	return c.ID[:min(12, len(c.ID))]
}

// hostConfig fills in what a real engine shows for unset fields.
func hostConfig(c hull.Container, q *container.HostConfig) *container.HostConfig {
	out := *q
	s := c.Spec
	out.NetworkMode = networkMode(c)
	out.RestartPolicy = container.RestartPolicy{Name: container.RestartPolicyMode(firstOf(s.Restart.Name, "no")), MaximumRetryCount: s.Restart.MaxRetries}
	out.LogConfig = container.LogConfig{Type: firstOf(s.Log.Driver, q.LogConfig.Type, "json-file"), Config: orEmptyMap(s.Log.Options)}
	out.IpcMode = container.IpcMode(firstOf(s.Namespaces.IPC, "private"))
	out.CgroupnsMode = container.CgroupnsMode(firstOf(s.Namespaces.Cgroup, "private"))
	out.Runtime = firstOf(s.Runtime, defaultRuntime)
	if asked := string(q.Isolation); asked != "default" { // that is shown as asked
		out.Isolation = container.Isolation(s.Isolation)
	}
	if len(c.Links) > 0 || len(s.Network.Links) == 0 {
		out.Links = c.Links
	}
	out.ShmSize = s.Resources.ShmSize
	if out.ShmSize == 0 {
		out.ShmSize = 64 << 20
	}
	if was, err := toPorts(out.PortBindings); err != nil || !slices.Equal(was, s.Network.Ports) {
		out.PortBindings = askedPorts(s.Network.Ports) // changed since the create
	}
	if out.PortBindings == nil {
		out.PortBindings = network.PortMap{}
	}
	out.DNSOptions, out.DNSSearch = orEmpty(out.DNSOptions), orEmpty(out.DNSSearch)
	if out.DNS == nil {
		out.DNS = []netip.Addr{}
	}
	updatable(&out.Resources, s.Resources)
	out.MaskedPaths, out.ReadonlyPaths = protectedPaths(out)
	return &out
}

// updatable overlays the limits that update may have changed, and those the
// engine worked out.
func updatable(out *container.Resources, r hull.Resources) {
	out.CPUShares, out.NanoCPUs = r.CPUShares, r.NanoCPUs
	out.CPUPeriod, out.CPUQuota = r.CPUPeriod, r.CPUQuota
	out.CPURealtimePeriod, out.CPURealtimeRuntime = r.CPURealtimePeriod, r.CPURealtimeRun
	out.CpusetCpus, out.CpusetMems = r.CpusetCpus, r.CpusetMems
	out.Memory, out.MemoryReservation, out.MemorySwap = r.Memory, r.MemoryReservation, r.MemorySwap
	out.PidsLimit, out.BlkioWeight = r.PidsLimit, r.Blkio.Weight
	out.BlkioDeviceReadBps, out.BlkioDeviceWriteBps = fromRates(r.Blkio.ReadBps), fromRates(r.Blkio.WriteBps)
	out.BlkioDeviceReadIOps, out.BlkioDeviceWriteIOps = fromRates(r.Blkio.ReadIOps), fromRates(r.Blkio.WriteIOps)
	if out.Devices == nil {
		out.Devices = []container.DeviceMapping{}
	}
	if out.Ulimits == nil {
		out.Ulimits = []*container.Ulimit{}
	}
}

// protectedPaths are Docker's defaults (moby daemon/pkg/oci/defaults.go), none
// when privileged.
func protectedPaths(h container.HostConfig) (masked, readonly []string) {
	if h.Privileged || slices.Contains(h.SecurityOpt, "systempaths=unconfined") {
		return h.MaskedPaths, h.ReadonlyPaths
	}
	return hull.Security{MaskedPaths: h.MaskedPaths, ReadonlyPaths: h.ReadonlyPaths}.ProtectedPaths()
}

// toMountPoints shows mounts. Docker leaves --tmpfs out (but not --mount
// type=tmpfs).
func toMountPoints(in []hull.MountPoint) []container.MountPoint {
	out := make([]container.MountPoint, 0, len(in))
	for _, m := range in {
		if m.Type == hull.MountTmpfs && m.Spec.ViaBind {
			continue
		}
		p := container.MountPoint{
			Type: mount.Type(m.Type), Name: m.Name, Source: m.Source, Destination: m.Target,
			Driver: m.Driver, Mode: m.Mode, RW: m.RW, Propagation: mount.Propagation(m.Propagation),
		}
		if m.Type == hull.MountBind && p.Propagation == "" {
			p.Propagation = mount.PropagationRPrivate
		}
		if m.Type == hull.MountVolume {
			p.Propagation = ""
			if p.Driver == "" {
				p.Driver = "local"
			}
			if p.Mode == "" && !m.Spec.FromImage && (!m.Spec.ViaBind || m.Spec.Source != "") {
				p.Mode = "z" // what moby shows for volumes that the image did not ask for
			}
		}
		out = append(out, p)
	}
	return out
}

// toPortMap lists exposed ports and what they are published as.
func toPortMap(c hull.Container) network.PortMap {
	out := network.PortMap{}
	if !c.Status.Phase.Live() {
		return out
	}
	for _, e := range c.Resolved.Exposed {
		if p, err := network.ParsePort(e); err == nil {
			out[p] = nil
		}
	}
	for _, b := range published(c.Status.Endpoint.Ports) {
		p, ok := network.PortFrom(b.ContainerPort, network.IPProtocol(b.Proto))
		if !ok {
			continue
		}
		addr, _ := netip.ParseAddr(b.HostIP)
		out[p] = append(out[p], network.PortBinding{HostIP: addr, HostPort: portText(b.HostPort)})
	}
	return out
}

// askedPorts are bindings as a create has them.
func askedPorts(list []hull.PortBinding) network.PortMap {
	out := network.PortMap{}
	for _, b := range list {
		if p, ok := network.PortFrom(b.ContainerPort, network.IPProtocol(b.Proto)); ok {
			addr, _ := netip.ParseAddr(b.HostIP)
			out[p] = append(out[p], network.PortBinding{HostIP: addr, HostPort: b.HostPort})
		}
	}
	return out
}

// published writes "all addresses" out as Docker does: one line for IPv4, one
// for IPv6.
func published(in []hull.PublishedPort) []hull.PublishedPort {
	var out []hull.PublishedPort
	for _, p := range in {
		if p.HostIP != "" {
			out = append(out, p)
			continue
		}
		for _, ip := range []string{"0.0.0.0", "::"} {
			p.HostIP = ip
			out = append(out, p)
		}
	}
	return out
}

// toNetworks shows the endpoints a container has, or will have.
func toNetworks(c hull.Container) map[string]*network.EndpointSettings {
	out := map[string]*network.EndpointSettings{}
	n := c.Spec.Network
	mode := networkMode(c)
	if mode.IsContainer() {
		return out
	}
	now := c.Status.Endpoint.Networks
	live := c.Status.Phase.Live() && now != nil // what was asked for may be disconnected
	if !live {
		out[string(mode)] = asked(n.Endpoints[string(mode)])
	}
	for name, e := range n.Endpoints {
		if _, on := now[name]; on || !live {
			out[name] = asked(e)
		}
	}
	for name, e := range now {
		switch {
		case live && out[name] == nil:
			out[name] = asked(hull.EndpointSpec{})
		case out[name] == nil:
			continue // disconnected since
		}
		if live {
			resolved(out[name], e)
		}
		out[name].NetworkID = e.NetworkID
	}
	return out
}

// networkMode is the mode under the name that clients see.
func networkMode(c hull.Container) container.NetworkMode {
	if m := container.NetworkMode(c.Spec.Network.Mode); m != "" && !m.IsDefault() {
		return m
	}
	return network.NetworkBridge
}

func asked(e hull.EndpointSpec) *network.EndpointSettings {
	out := &network.EndpointSettings{
		Links: e.Links, Aliases: e.Aliases, DriverOpts: e.DriverOpts, GwPriority: e.GwPriority,
		MacAddress: macOf(e.MacAddress),
	}
	v4, _ := netip.ParseAddr(e.IPv4)
	v6, _ := netip.ParseAddr(e.IPv6)
	if v4.IsValid() || v6.IsValid() || len(e.LinkLocalIPs) > 0 {
		out.IPAMConfig = &network.EndpointIPAMConfig{IPv4Address: v4, IPv6Address: v6}
		for _, a := range e.LinkLocalIPs {
			if ip, err := netip.ParseAddr(a); err == nil {
				out.IPAMConfig.LinkLocalIPs = append(out.IPAMConfig.LinkLocalIPs, ip)
			}
		}
	}
	return out
}

func resolved(out *network.EndpointSettings, e hull.NetworkEndpoint) {
	out.EndpointID, out.MacAddress, out.DNSNames = e.EndpointID, macOf(e.MacAddress), e.DNSNames
	out.IPAddress, _ = netip.ParseAddr(e.IPv4)
	out.Gateway, _ = netip.ParseAddr(e.Gateway4)
	out.IPPrefixLen = e.PrefixLen4
	out.GlobalIPv6Address, _ = netip.ParseAddr(e.IPv6)
	out.IPv6Gateway, _ = netip.ParseAddr(e.Gateway6)
	out.GlobalIPv6PrefixLen = e.PrefixLen6
	if len(out.Aliases) == 0 {
		out.Aliases = e.Aliases
	}
}

func macOf(text string) network.HardwareAddr {
	m, err := net.ParseMAC(text)
	if err != nil {
		return nil
	}
	return network.HardwareAddr(m)
}
