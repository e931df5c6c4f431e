package cgroup

import (
	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // lets fs and fs2 set device rules
	dev "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/cgroups/fs"
	"github.com/opencontainers/cgroups/fs2"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Stats is a sample. Bytes and nanoseconds.
type Stats = cgroups.Stats

func (g *Group) manager(r *cgroups.Resources) (cgroups.Manager, error) {
	if r == nil {
		r = &cgroups.Resources{SkipDevices: true}
	}
	cg := &cgroups.Cgroup{Path: g.path, Resources: r}
	if g.sys.V2 {
		return fs2.NewManager(cg, g.dirs[0].Path)
	}
	paths := map[string]string{}
	for i, h := range g.sys.hiers {
		for _, c := range h.controllers {
			paths[c] = g.dirs[i].Path
		}
	}
	return fs.NewManager(cg, paths)
}

func (g *Group) stats() (*Stats, error) {
	m, err := g.manager(nil)
	if err != nil {
		return nil, err
	}
	return m.GetStats()
}

func (g *Group) set(r *specs.LinuxResources) ([]string, error) { return g.apply(r, false) }

func (g *Group) apply(r *specs.LinuxResources, fresh bool) ([]string, error) {
	_ = dev.Rule{}
	return nil, nil
}
