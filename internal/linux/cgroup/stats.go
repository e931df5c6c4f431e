package cgroup

import (
	"fmt"
	"os"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs"
	"github.com/opencontainers/cgroups/fs2"
)

// Stats is a sample. Bytes and nanoseconds.
type Stats = cgroups.Stats

func (g *Group) stats() (*Stats, error) {
	if !g.Exists() {
		return nil, notFound(fmt.Errorf("cgroup %s: %w", g.path, os.ErrNotExist))
	}
	cg := &cgroups.Cgroup{Path: g.path, Resources: &cgroups.Resources{SkipDevices: true}}
	if g.sys.V2 {
		m, err := fs2.NewManager(cg, g.dirs[0].Path)
		if err != nil {
			return nil, err
		}
		return m.GetStats()
	}
	paths := map[string]string{}
	for i, h := range g.sys.hiers {
		for _, c := range h.controllers {
			paths[c] = g.dirs[i].Path
		}
	}
	m, err := fs.NewManager(cg, paths)
	if err != nil {
		return nil, err
	}
	return m.GetStats()
}
