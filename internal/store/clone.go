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
	ownContainer(&n)
	return n
}

func cloneSpec(s *hull.Spec) hull.Spec {
	n := *s
	ownSpec(&n)
	return n
}

func cloneStatus(s *hull.Status) hull.Status {
	n := *s
	ownStatus(&n)
	return n
}

func clonePod(p *hull.Pod) hull.Pod {
	n := *p
	n.Labels = maps.Clone(p.Labels)
	ownNetworkSpec(&n.Network)
	ownResources(&n.Resources)
	n.Sysctls = maps.Clone(p.Sysctls)
	n.Status = clonePodStatus(&p.Status)
	return n
}

func clonePodStatus(s *hull.PodStatus) hull.PodStatus {
	n := *s
	n.Handle = slices.Clone(s.Handle)
	ownEndpoint(&n.Endpoint)
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

// The own functions make a shallow copy deep, in place: the structs are large.

func ownContainer(c *hull.Container) {
	ownSpec(&c.Spec)
	ownResolved(&c.Resolved)
	c.Mounts = slices.Clone(c.Mounts)
	for i := range c.Mounts {
		ownMount(&c.Mounts[i].Spec)
	}
	ownStatus(&c.Status)
	c.Execs, c.Links, c.Linked = slices.Clone(c.Execs), slices.Clone(c.Links), slices.Clone(c.Linked)
}

func ownSpec(s *hull.Spec) {
	ownProcess(&s.Process)
	s.Labels = maps.Clone(s.Labels)
	s.Annotations = maps.Clone(s.Annotations)
	s.Health = cloneHealthSpec(s.Health)
	ownResources(&s.Resources)
	s.Mounts = slices.Clone(s.Mounts)
	for i := range s.Mounts {
		ownMount(&s.Mounts[i])
	}
	s.VolumesFrom = slices.Clone(s.VolumesFrom)
	ownNetworkSpec(&s.Network)
	ownSecurity(&s.Security)
	s.Log.Options = maps.Clone(s.Log.Options)
	s.StorageOpt = maps.Clone(s.StorageOpt)
	s.Front = slices.Clone(s.Front)
}

func ownProcess(p *hull.ProcessSpec) {
	p.Entrypoint = slices.Clone(p.Entrypoint)
	p.Cmd = slices.Clone(p.Cmd)
	p.Env = slices.Clone(p.Env)
	p.Groups = slices.Clone(p.Groups)
	p.StopTimeout = clonePtr(p.StopTimeout)
	p.Init = clonePtr(p.Init)
}

func ownResources(r *hull.Resources) {
	r.MemorySwappiness = clonePtr(r.MemorySwappiness)
	r.OomKillDisable = clonePtr(r.OomKillDisable)
	r.PidsLimit = clonePtr(r.PidsLimit)
	r.Blkio.WeightDevice = slices.Clone(r.Blkio.WeightDevice)
	r.Blkio.ReadBps = slices.Clone(r.Blkio.ReadBps)
	r.Blkio.WriteBps = slices.Clone(r.Blkio.WriteBps)
	r.Blkio.ReadIOps = slices.Clone(r.Blkio.ReadIOps)
	r.Blkio.WriteIOps = slices.Clone(r.Blkio.WriteIOps)
	r.Ulimits = slices.Clone(r.Ulimits)
	r.Devices = slices.Clone(r.Devices)
	r.DeviceRequests = slices.Clone(r.DeviceRequests)
	for i, d := range r.DeviceRequests {
		d.IDs = slices.Clone(d.IDs)
		d.Capabilities = slices.Clone(d.Capabilities)
		for j := range d.Capabilities {
			d.Capabilities[j] = slices.Clone(d.Capabilities[j])
		}
		d.Options = maps.Clone(d.Options)
		r.DeviceRequests[i] = d
	}
	r.DeviceCgroupRules = slices.Clone(r.DeviceCgroupRules)
}

func ownMount(m *hull.Mount) {
	m.VolumeOptions = maps.Clone(m.VolumeOptions)
	m.VolumeLabels = maps.Clone(m.VolumeLabels)
}

func ownNetworkSpec(s *hull.NetworkSpec) {
	s.Endpoints = maps.Clone(s.Endpoints)
	for k, e := range s.Endpoints {
		e.Aliases = slices.Clone(e.Aliases)
		e.LinkLocalIPs = slices.Clone(e.LinkLocalIPs)
		e.DriverOpts = maps.Clone(e.DriverOpts)
		e.Links = slices.Clone(e.Links)
		s.Endpoints[k] = e
	}
	s.Ports = slices.Clone(s.Ports)
	s.Exposed = slices.Clone(s.Exposed)
	s.DNS = slices.Clone(s.DNS)
	s.DNSSearch = slices.Clone(s.DNSSearch)
	s.DNSOptions = slices.Clone(s.DNSOptions)
	s.ExtraHosts = slices.Clone(s.ExtraHosts)
	s.Links = slices.Clone(s.Links)
}

func ownSecurity(s *hull.Security) {
	s.CapAdd = slices.Clone(s.CapAdd)
	s.CapDrop = slices.Clone(s.CapDrop)
	s.Options = slices.Clone(s.Options)
	s.MaskedPaths = slices.Clone(s.MaskedPaths)
	s.ReadonlyPaths = slices.Clone(s.ReadonlyPaths)
	s.Sysctls = maps.Clone(s.Sysctls)
}

func ownResolved(r *hull.Resolved) {
	r.Args = slices.Clone(r.Args)
	r.Entrypoint = slices.Clone(r.Entrypoint)
	r.Cmd = slices.Clone(r.Cmd)
	r.Env = slices.Clone(r.Env)
	r.Labels = maps.Clone(r.Labels)
	r.Exposed = slices.Clone(r.Exposed)
	r.Volumes = slices.Clone(r.Volumes)
	r.Health = cloneHealthSpec(r.Health)
	r.Shell = slices.Clone(r.Shell)
	r.OnBuild = slices.Clone(r.OnBuild)
}

func ownStatus(s *hull.Status) {
	s.Health = clonePtr(s.Health)
	if s.Health != nil {
		s.Health.Log = slices.Clone(s.Health.Log)
	}
	ownEndpoint(&s.Endpoint)
}

func ownEndpoint(e *hull.Endpoint) {
	e.Networks = maps.Clone(e.Networks)
	for k, ep := range e.Networks {
		ep.Aliases = slices.Clone(ep.Aliases)
		ep.DNSNames = slices.Clone(ep.DNSNames)
		e.Networks[k] = ep
	}
	e.Ports = slices.Clone(e.Ports)
}

func cloneHealthSpec(h *hull.HealthSpec) *hull.HealthSpec {
	n := clonePtr(h)
	if n != nil {
		n.Test = slices.Clone(h.Test)
	}
	return n
}

func clonePtr[T any](p *T) *T {
	if p == nil {
		return nil
	}
	n := *p
	return &n
}
