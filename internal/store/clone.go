package store

import (
	"hull/internal/hull"
	"maps"
	"slices"
)

// Deep copies, written out because reflection is ten times slower and `ps` asks
// for all records. TestCloneSharesNothing fills every field and fails when one
// that is added to the domain is forgotten here.

func cloneContainer(c *hull.Container) hull.Container {
	n := *c
	n.Spec = cloneSpec(&c.Spec)
	n.Resolved = cloneResolved(&c.Resolved)
	n.Mounts = slices.Clone(c.Mounts)
	for i := range n.Mounts {
		n.Mounts[i].Spec = cloneMount(&n.Mounts[i].Spec)
	}
	n.Status = cloneStatus(&c.Status)
	n.Execs = slices.Clone(c.Execs)
	return n
}

func cloneSpec(s *hull.Spec) hull.Spec {
	n := *s
	n.Process = cloneProcess(&s.Process)
	n.Labels = maps.Clone(s.Labels)
	n.Annotations = maps.Clone(s.Annotations)
	n.Health = cloneHealthSpec(s.Health)
	n.Resources = cloneResources(&s.Resources)
	n.Mounts = slices.Clone(s.Mounts)
	for i := range n.Mounts {
		n.Mounts[i] = cloneMount(&n.Mounts[i])
	}
	n.VolumesFrom = slices.Clone(s.VolumesFrom)
	n.Network = cloneNetworkSpec(&s.Network)
	n.Security = cloneSecurity(&s.Security)
	n.Log.Options = maps.Clone(s.Log.Options)
	n.StorageOpt = maps.Clone(s.StorageOpt)
	n.Front = slices.Clone(s.Front)
	return n
}

func cloneProcess(p *hull.ProcessSpec) hull.ProcessSpec {
	n := *p
	n.Entrypoint = slices.Clone(p.Entrypoint)
	n.Cmd = slices.Clone(p.Cmd)
	n.Env = slices.Clone(p.Env)
	n.Groups = slices.Clone(p.Groups)
	n.StopTimeout = clonePtr(p.StopTimeout)
	n.Init = clonePtr(p.Init)
	return n
}

func cloneHealthSpec(h *hull.HealthSpec) *hull.HealthSpec {
	n := clonePtr(h)
	if n != nil {
		n.Test = slices.Clone(h.Test)
	}
	return n
}

func cloneResources(r *hull.Resources) hull.Resources {
	n := *r
	n.MemorySwappiness = clonePtr(r.MemorySwappiness)
	n.OomKillDisable = clonePtr(r.OomKillDisable)
	n.PidsLimit = clonePtr(r.PidsLimit)
	n.Blkio.WeightDevice = slices.Clone(r.Blkio.WeightDevice)
	n.Blkio.ReadBps = slices.Clone(r.Blkio.ReadBps)
	n.Blkio.WriteBps = slices.Clone(r.Blkio.WriteBps)
	n.Blkio.ReadIOps = slices.Clone(r.Blkio.ReadIOps)
	n.Blkio.WriteIOps = slices.Clone(r.Blkio.WriteIOps)
	n.Ulimits = slices.Clone(r.Ulimits)
	n.Devices = slices.Clone(r.Devices)
	n.DeviceRequests = slices.Clone(r.DeviceRequests)
	for i, d := range n.DeviceRequests {
		d.IDs = slices.Clone(d.IDs)
		d.Capabilities = slices.Clone(d.Capabilities)
		for j := range d.Capabilities {
			d.Capabilities[j] = slices.Clone(d.Capabilities[j])
		}
		d.Options = maps.Clone(d.Options)
		n.DeviceRequests[i] = d
	}
	n.DeviceCgroupRules = slices.Clone(r.DeviceCgroupRules)
	return n
}

func cloneMount(m *hull.Mount) hull.Mount {
	n := *m
	n.VolumeOptions = maps.Clone(m.VolumeOptions)
	n.VolumeLabels = maps.Clone(m.VolumeLabels)
	return n
}

func cloneNetworkSpec(s *hull.NetworkSpec) hull.NetworkSpec {
	n := *s
	n.Endpoints = maps.Clone(s.Endpoints)
	for k, e := range n.Endpoints {
		e.Aliases = slices.Clone(e.Aliases)
		e.LinkLocalIPs = slices.Clone(e.LinkLocalIPs)
		e.DriverOpts = maps.Clone(e.DriverOpts)
		e.Links = slices.Clone(e.Links)
		n.Endpoints[k] = e
	}
	n.Ports = slices.Clone(s.Ports)
	n.Exposed = slices.Clone(s.Exposed)
	n.DNS = slices.Clone(s.DNS)
	n.DNSSearch = slices.Clone(s.DNSSearch)
	n.DNSOptions = slices.Clone(s.DNSOptions)
	n.ExtraHosts = slices.Clone(s.ExtraHosts)
	n.Links = slices.Clone(s.Links)
	return n
}

func cloneSecurity(s *hull.Security) hull.Security {
	n := *s
	n.CapAdd = slices.Clone(s.CapAdd)
	n.CapDrop = slices.Clone(s.CapDrop)
	n.Options = slices.Clone(s.Options)
	n.MaskedPaths = slices.Clone(s.MaskedPaths)
	n.ReadonlyPaths = slices.Clone(s.ReadonlyPaths)
	n.Sysctls = maps.Clone(s.Sysctls)
	return n
}

func cloneResolved(r *hull.Resolved) hull.Resolved {
	n := *r
	n.Args = slices.Clone(r.Args)
	n.Entrypoint = slices.Clone(r.Entrypoint)
	n.Cmd = slices.Clone(r.Cmd)
	n.Env = slices.Clone(r.Env)
	n.Labels = maps.Clone(r.Labels)
	n.Exposed = slices.Clone(r.Exposed)
	n.Volumes = slices.Clone(r.Volumes)
	n.Health = cloneHealthSpec(r.Health)
	n.Shell = slices.Clone(r.Shell)
	n.OnBuild = slices.Clone(r.OnBuild)
	return n
}

func cloneStatus(s *hull.Status) hull.Status {
	n := *s
	n.Health = clonePtr(s.Health)
	if n.Health != nil {
		n.Health.Log = slices.Clone(s.Health.Log)
	}
	n.Endpoint = cloneEndpoint(&s.Endpoint)
	return n
}

func cloneEndpoint(e *hull.Endpoint) hull.Endpoint {
	n := *e
	n.Networks = maps.Clone(e.Networks)
	for k, ep := range n.Networks {
		ep.Aliases = slices.Clone(ep.Aliases)
		ep.DNSNames = slices.Clone(ep.DNSNames)
		n.Networks[k] = ep
	}
	n.Ports = slices.Clone(e.Ports)
	return n
}

func clonePod(p *hull.Pod) hull.Pod {
	n := *p
	n.Labels = maps.Clone(p.Labels)
	n.Network = cloneNetworkSpec(&p.Network)
	n.Resources = cloneResources(&p.Resources)
	n.Sysctls = maps.Clone(p.Sysctls)
	n.Status = clonePodStatus(&p.Status)
	return n
}

func clonePodStatus(s *hull.PodStatus) hull.PodStatus {
	n := *s
	n.Handle = slices.Clone(s.Handle)
	n.Endpoint = cloneEndpoint(&s.Endpoint)
	return n
}

func cloneVolume(v *hull.Volume) hull.Volume {
	n := *v
	n.Labels = maps.Clone(v.Labels)
	n.Options = maps.Clone(v.Options)
	return n
}

func cloneNetwork(v *hull.Network) hull.Network {
	n := *v
	n.IPAM.Options = maps.Clone(v.IPAM.Options)
	n.IPAM.Config = slices.Clone(v.IPAM.Config)
	for i := range n.IPAM.Config {
		n.IPAM.Config[i].Reserved = maps.Clone(n.IPAM.Config[i].Reserved)
	}
	n.Options = maps.Clone(v.Options)
	n.Labels = maps.Clone(v.Labels)
	n.Containers = maps.Clone(v.Containers)
	return n
}

func clonePtr[T any](p *T) *T {
	if p == nil {
		return nil
	}
	n := *p
	return &n
}
