package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// CreateSpare makes the group's v1 directories, for a thread to wait in until
// the group gets its name with CreateFrom. It takes the making of directories
// and the entering of cgroups off the path of a container's start.
func (g *Group) CreateSpare() (err error) {
	var made []string
	defer func() {
		if err != nil {
			for _, d := range made {
				err = errors.Join(err, os.Remove(d))
			}
		}
	}()
	for i, h := range g.sys.hiers {
		if h.v2 {
			continue
		}
		if err := g.mkdir(h, g.dirs[i].Path); err != nil {
			return err
		}
		made = append(made, g.dirs[i].Path)
	}
	return nil
}

// CreateFrom is Create out of a spare group beside g: its v1 directories are
// renamed, with what is in them; the v2 one is made. When it fails, both are
// gone as far as nothing is in them.
func (g *Group) CreateFrom(spare *Group, r *specs.LinuxResources) (warnings []string, err error) {
	if filepath.Dir(spare.path) != filepath.Dir(g.path) {
		return nil, fmt.Errorf("spare cgroup %s is not beside %s: %w", spare.path, g.path, errdefs.ErrInvalidArgument)
	}
	var made []string
	defer func() {
		if err != nil {
			for _, d := range made {
				err = errors.Join(err, os.Remove(d))
			}
		}
	}()
	for i, h := range g.sys.hiers {
		path := g.dirs[i].Path
		if h.v2 {
			err = g.mkdir(h, path)
		} else if err = unix.Rename(spare.dirs[i].Path, path); errors.Is(err, os.ErrExist) { // not os.Rename: it looks first
			err = fmt.Errorf("cgroup %s: %w", path, errdefs.ErrAlreadyExists)
		} else if err != nil {
			err = fmt.Errorf("rename cgroup %s to %s: %w", spare.dirs[i].Path, path, err)
		}
		if err != nil {
			return nil, err
		}
		made = append(made, path)
	}
	if r == nil {
		return nil, nil
	}
	return g.apply(r, true)
}

// Children lists the groups directly below parent.
func (s *System) Children(parent string) []*Group {
	parent = filepath.Clean("/" + parent)
	seen := map[string]bool{}
	var out []*Group
	for _, h := range s.hiers {
		entries, err := os.ReadDir(h.mount + parent)
		if err != nil {
			continue // not made there yet
		}
		for _, e := range entries {
			if e.IsDir() && !seen[e.Name()] {
				seen[e.Name()] = true
				out = append(out, s.Group(filepath.Join(parent, e.Name())))
			}
		}
	}
	return out
}
