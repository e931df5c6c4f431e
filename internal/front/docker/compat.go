package docker

import (
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/storage"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"

	"hull/internal/hull"
)

// This file is the only place that knows how API versions differ: pure
// functions over decoded requests and over responses about to be encoded. The
// differences are those of the API's own history (moby api/docs/CHANGELOG.md).

// checkCreate refuses what a request of version v must not say.
func checkCreate(v apiVersion, b createBody) error {
	if n := b.NetworkingConfig; v < 44 && n != nil && len(n.EndpointsConfig) > 1 {
		names := slices.Sorted(maps.Keys(n.EndpointsConfig))
		return invalid("Container cannot be created with multiple network endpoints: %s", strings.Join(names, ", "))
	}
	return nil
}

// createFor drops what a request of version v cannot say.
func createFor(v apiVersion, b createBody) createBody {
	if v >= 52 {
		b.MacAddress = nil
	}
	h := b.HostConfig
	if h == nil {
		return b
	}
	if v < 42 {
		h.ConsoleSize = [2]uint{}
	}
	if v < 41 {
		h.CgroupnsMode = ""
	}
	if v < 40 && h.IpcMode == "" {
		h.IpcMode = container.IPCModeShareable
	}
	if v < 43 {
		h.Annotations = nil
	}
	for i := range h.Mounts {
		if o := h.Mounts[i].BindOptions; o != nil {
			if v < 42 {
				o.CreateMountpoint = false
			}
			if v < 44 { // read-only binds were not recursive then
				o.ReadOnlyForceRecursive = false
				o.ReadOnlyNonRecursive = h.Mounts[i].ReadOnly
			}
		} else if v < 44 && h.Mounts[i].Type == mount.TypeBind && h.Mounts[i].ReadOnly {
			h.Mounts[i].BindOptions = &mount.BindOptions{ReadOnlyNonRecursive: true}
		}
	}
	if c := b.Config; c != nil && c.Healthcheck != nil && v < 44 {
		c.Healthcheck.StartInterval = 0
	}
	return b
}

// legacyInspect is the answer before 1.52.
type legacyInspect struct {
	*container.InspectResponse
	Config          *legacyConfig
	HostConfig      *legacyHostConfig
	NetworkSettings *legacyNetworkSettings
	GraphDriver     *storage.DriverData
	Storage         *struct{} `json:",omitempty"`
}

type legacyConfig struct {
	*container.Config
	MacAddress string `json:",omitempty"`
	OnBuild    []string
}

type legacyHostConfig struct {
	*container.HostConfig
	KernelMemory    *int64 `json:",omitempty"`
	KernelMemoryTCP *int64 `json:",omitempty"`
}

type legacyNetworkSettings struct {
	*container.NetworkSettings
	Bridge                 string
	HairpinMode            bool
	LinkLocalIPv6Address   string
	LinkLocalIPv6PrefixLen int
	SecondaryIPAddresses   []struct{}
	SecondaryIPv6Addresses []struct{}
	EndpointID             string
	Gateway                netip.Addr
	GlobalIPv6Address      netip.Addr
	GlobalIPv6PrefixLen    int
	IPAddress              netip.Addr
	IPPrefixLen            int
	IPv6Gateway            netip.Addr
	MacAddress             network.HardwareAddr
}

// inspectFor is a container as version v shows it.
func inspectFor(v apiVersion, c hull.Container, in container.InspectResponse) any {
	if v < 48 {
		in.ImageManifestDescriptor = nil
	}
	if v < 45 {
		in.NetworkSettings = withShortID(in.NetworkSettings, in.ID)
	}
	if v >= 52 {
		return in
	}
	out := legacyInspect{
		InspectResponse: &in,
		Config:          &legacyConfig{Config: in.Config, OnBuild: in.Config.OnBuild},
		HostConfig:      &legacyHostConfig{HostConfig: in.HostConfig},
		NetworkSettings: toLegacyNetwork(in.NetworkSettings),
		GraphDriver:     &storage.DriverData{Name: storageDriver, Data: map[string]string{}},
	}
	out.Config.MacAddress = c.Spec.Network.MacAddress
	if v < 44 && out.Config.MacAddress == "" {
		out.Config.MacAddress = out.NetworkSettings.MacAddress.String()
	}
	if v < 42 {
		out.HostConfig.KernelMemory, out.HostConfig.KernelMemoryTCP = new(int64), new(int64)
	}
	return out
}

// withShortID: before 1.45 the short id was among the aliases.
func withShortID(in *container.NetworkSettings, id string) *container.NetworkSettings {
	out := *in
	out.Networks = map[string]*network.EndpointSettings{}
	short := id[:min(12, len(id))]
	for name, e := range in.Networks {
		e = e.Copy()
		if len(e.Aliases) > 0 && !slices.Contains(e.Aliases, short) {
			e.Aliases = append(e.Aliases, short)
		}
		out.Networks[name] = e
	}
	return &out
}

// toLegacyNetwork repeats the default network's addresses at the top.
func toLegacyNetwork(in *container.NetworkSettings) *legacyNetworkSettings {
	out := &legacyNetworkSettings{NetworkSettings: in}
	e := in.Networks[network.NetworkBridge]
	if e == nil {
		return out
	}
	out.EndpointID, out.Gateway, out.IPAddress, out.IPPrefixLen = e.EndpointID, e.Gateway, e.IPAddress, e.IPPrefixLen
	out.GlobalIPv6Address, out.GlobalIPv6PrefixLen, out.IPv6Gateway = e.GlobalIPv6Address, e.GlobalIPv6PrefixLen, e.IPv6Gateway
	out.MacAddress = e.MacAddress
	return out
}

// summariesFor is a container list.
func summariesFor(v apiVersion, in []container.Summary) any {
	for i := range in {
		if v < 52 {
			in[i].Health = nil
		}
		if v < 48 {
			in[i].ImageManifestDescriptor = nil
		}
		if v < 46 {
			in[i].HostConfig.Annotations = nil
		}
	}
	return in
}

// legacyImage is an image's inspect before 1.52.
type legacyImage struct {
	*image.InspectResponse
	Parent          string
	Comment         string
	Author          string
	DockerVersion   string
	Config          any
	VirtualSize     int64  `json:",omitempty"`
	Container       string `json:",omitempty"`
	ContainerConfig any    `json:",omitempty"`
	Created         string
}

// imageInspectFor is an image as version v shows it.
func imageInspectFor(v apiVersion, i hull.Image, in image.InspectResponse) any {
	if v < 48 {
		in.Descriptor, in.Manifests = nil, nil
	}
	if v >= 52 {
		return in
	}
	out := legacyImage{
		InspectResponse: &in, Parent: i.Parent, Comment: in.Comment, Author: in.Author, Created: in.Created,
		Config: imageConfigFor(v, in),
	}
	if in.GraphDriver == nil {
		in.GraphDriver = &storage.DriverData{Name: storageDriver, Data: map[string]string{}}
	}
	if v < 44 {
		out.VirtualSize = in.Size
		out.Created = firstOf(in.Created, zeroTime)
	}
	if v < 45 {
		out.ContainerConfig = container.Config{}
	}
	return out
}

// imageConfigFor: before 1.52 unset fields were written out, before 1.50 with
// those of a container's configuration, always empty.
func imageConfigFor(v apiVersion, in image.InspectResponse) any {
	all := map[string]any{
		"Cmd": nil, "Entrypoint": nil, "Env": nil, "Labels": nil, "OnBuild": nil, "User": "", "Volumes": nil, "WorkingDir": "",
	}
	if v < 50 {
		for _, k := range []string{"Hostname", "Domainname", "Image"} {
			all[k] = ""
		}
		for _, k := range []string{"AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin", "StdinOnce"} {
			all[k] = false
		}
	}
	raw, err := json.Marshal(in.Config)
	if err == nil {
		err = json.Unmarshal(raw, &all) // set fields over the empty ones
	}
	if err != nil {
		return in.Config
	}
	return all
}

// legacySummary is an image's line before 1.44.
type legacySummary struct {
	image.Summary
	VirtualSize int64
}

func imageSummariesFor(v apiVersion, in []image.Summary) any {
	for i := range in {
		if v < 51 {
			in[i].Containers = -1
		}
		if v < 48 {
			in[i].Descriptor = nil
		}
		if v < 47 {
			in[i].Manifests = nil
		}
		if v < 43 && len(in[i].RepoTags) == 0 && len(in[i].RepoDigests) == 0 {
			in[i].RepoTags, in[i].RepoDigests = []string{"<none>:<none>"}, []string{"<none>@<none>"}
		}
	}
	if v >= 44 {
		return in
	}
	out := make([]legacySummary, 0, len(in))
	for _, s := range in {
		out = append(out, legacySummary{s, s.Size})
	}
	return out
}

// legacyNetworkInspect hides what came with 1.48.
type legacyNetworkInspect struct {
	network.Inspect
	EnableIPv4 *bool `json:",omitempty"`
}

func networkFor(v apiVersion, in network.Inspect) any {
	if v < 52 {
		in.Status = nil
	}
	if v < 48 {
		return legacyNetworkInspect{Inspect: in}
	}
	return in
}

func networksFor(v apiVersion, in []network.Inspect) any {
	out := make([]any, 0, len(in))
	for _, n := range in {
		out = append(out, networkFor(v, n))
	}
	return out
}

// legacyEvent repeats, before 1.52, what version 1.21 called things.
type legacyEvent struct {
	Status string `json:"status,omitempty"`
	ID     string `json:"id,omitempty"`
	From   string `json:"from,omitempty"`
	events.Message
}

func eventFor(v apiVersion, in events.Message) any {
	if v >= 52 {
		return in
	}
	out := legacyEvent{Message: in}
	switch in.Type {
	case events.ContainerEventType:
		out.Status, out.ID, out.From = string(in.Action), in.Actor.ID, in.Actor.Attributes["image"]
	case events.ImageEventType:
		out.Status, out.ID = string(in.Action), in.Actor.ID
	default:
	}
	return out
}

func statsFor(v apiVersion, in container.StatsResponse) container.StatsResponse {
	if v < 52 {
		in.OSType = ""
	}
	return in
}

// legacyCommit had the commit that was expected beside the one found.
type legacyCommit struct {
	ID       string
	Expected *string `json:",omitempty"`
}

type legacyInfo struct {
	system.Info
	KernelMemory       *bool         `json:",omitempty"`
	KernelMemoryTCP    *bool         `json:",omitempty"`
	BridgeNfIptables   *bool         `json:",omitempty"`
	BridgeNfIP6tables  *bool         `json:"BridgeNfIp6tables,omitempty"`
	ContainerdCommit   *legacyCommit `json:",omitempty"`
	RuncCommit         *legacyCommit `json:",omitempty"`
	InitCommit         *legacyCommit `json:",omitempty"`
	CgroupVersion      string        `json:",omitempty"`
	CDISpecDirs        []string      `json:",omitempty"`
	DefaultAddressPool []struct{}    `json:"DefaultAddressPools,omitempty"`
}

func infoFor(v apiVersion, in system.Info) any {
	if v < 53 {
		in.NRI = nil
	}
	if v < 50 {
		in.DiscoveredDevices = nil
	}
	if v < 49 {
		in.FirewallBackend = nil
	}
	if v >= 50 {
		return in
	}
	no := func() *bool { return new(bool) }
	out := legacyInfo{Info: in, CgroupVersion: in.CgroupVersion, CDISpecDirs: in.CDISpecDirs, BridgeNfIptables: no(), BridgeNfIP6tables: no()}
	commit := func() *legacyCommit { return &legacyCommit{} }
	if v < 49 {
		commit = func() *legacyCommit { return &legacyCommit{Expected: new(string)} }
	}
	out.ContainerdCommit, out.RuncCommit, out.InitCommit = commit(), commit(), commit()
	if v < 44 {
		out.CDISpecDirs = nil
	}
	if v < 42 {
		out.KernelMemory, out.KernelMemoryTCP = no(), no()
	}
	if v < 41 {
		out.CgroupVersion = ""
	}
	return out
}

// legacyDiskUsage is the answer up to 1.51; 1.52 gave both.
type legacyDiskUsage struct {
	*system.DiskUsage
	LayersSize  int64
	Images      any
	Containers  any
	Volumes     any
	BuildCache  any
	BuilderSize *int64 `json:",omitempty"`
}

// diskUsageFor: since 1.52 items are only there when verbose; who does not ask for
// that may be an older client that names no version, and gets the older fields, too.
func diskUsageFor(v apiVersion, in system.DiskUsage, layers int64, verbose bool) any {
	if v >= 52 && verbose {
		return in
	}
	out := legacyDiskUsage{LayersSize: layers}
	if in.ImageUsage != nil {
		out.Images = imageSummariesFor(v, slices.Clone(in.ImageUsage.Items))
	}
	if in.ContainerUsage != nil {
		out.Containers = summariesFor(v, slices.Clone(in.ContainerUsage.Items))
	}
	if in.VolumeUsage != nil {
		out.Volumes = in.VolumeUsage.Items
	}
	if in.BuildCacheUsage != nil {
		out.BuildCache = in.BuildCacheUsage.Items
	}
	if v < 42 {
		out.BuilderSize = new(int64)
	}
	if v >= 52 {
		b := brief(in)
		out.DiskUsage = &b
	}
	return out
}

// brief leaves the items out.
func brief(in system.DiskUsage) system.DiskUsage {
	var out system.DiskUsage
	if u := in.ImageUsage; u != nil {
		out.ImageUsage = &image.DiskUsage{ActiveCount: u.ActiveCount, Reclaimable: u.Reclaimable, TotalCount: u.TotalCount, TotalSize: u.TotalSize}
	}
	if u := in.ContainerUsage; u != nil {
		out.ContainerUsage = &container.DiskUsage{ActiveCount: u.ActiveCount, Reclaimable: u.Reclaimable, TotalCount: u.TotalCount, TotalSize: u.TotalSize}
	}
	if u := in.VolumeUsage; u != nil {
		out.VolumeUsage = &volume.DiskUsage{ActiveCount: u.ActiveCount, Reclaimable: u.Reclaimable, TotalCount: u.TotalCount, TotalSize: u.TotalSize}
	}
	if u := in.BuildCacheUsage; u != nil {
		out.BuildCacheUsage = &build.DiskUsage{ActiveCount: u.ActiveCount, Reclaimable: u.Reclaimable, TotalCount: u.TotalCount, TotalSize: u.TotalSize}
	}
	return out
}
