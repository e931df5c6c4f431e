package build

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"strings"

	"github.com/containerd/errdefs"
	dockerfile "github.com/moby/buildkit/frontend/dockerfile/builder"
	gateway "github.com/moby/buildkit/frontend/gateway/client"

	"hull/internal/driver"
	"hull/internal/hull"
)

// What a client says about the isolation of a build's steps to the Dockerfile
// frontend: the attribute, or the build argument where a client (buildx, compose)
// has no other words.
const (
	isolationAttr = "isolation"
	isolationArg  = "build-arg:HULL_ISOLATION"
)

// isolationMark goes in front of the cgroup parent of a step that is isolated
// otherwise than usual: the one word of a step's that BuildKit passes on as it is.
// It is part of the step's key in the cache: a step that ran as a container is
// not taken for one that was asked to run in a machine, also when both are built
// at the same time.
const isolationMark = "hull-isolation:"

// frontend is the Dockerfile frontend, which leaves the isolation to us.
func (e *executor) frontend(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
	opts := c.BuildOpts().Opts
	i, err := hull.ParseIsolation(cmp.Or(opts[isolationAttr], opts[isolationArg]))
	if err != nil {
		return nil, err
	}
	if i == "" || i == hull.IsolationContainer {
		return dockerfile.Build(ctx, c)
	}
	if _, _, err := e.driver(i); err != nil {
		return nil, err // before anything is fetched
	}
	return dockerfile.Build(ctx, isolated{c, i})
}

// isolated is a frontend's client that marks the steps.
type isolated struct {
	gateway.Client
	by hull.Isolation
}

// BuildOpts implements gateway.Client.
func (c isolated) BuildOpts() gateway.BuildOpts {
	o := c.Client.BuildOpts()
	o.Opts = maps.Clone(o.Opts)
	o.Opts["cgroup-parent"] = isolationMark + string(c.by) + ":" + o.Opts["cgroup-parent"]
	return o
}

// isolationOf takes the mark off a step's cgroup parent.
func isolationOf(cgroupParent string) (i hull.Isolation, parent string, err error) {
	text, ok := strings.CutPrefix(cgroupParent, isolationMark)
	if !ok {
		return hull.IsolationContainer, cgroupParent, nil
	}
	name, parent, _ := strings.Cut(text, ":")
	if i, err = hull.ParseIsolation(name); err != nil {
		return "", "", err
	}
	return cmp.Or(i, hull.IsolationContainer), parent, nil
}

// driver finds what isolates a step, and what it can do.
func (e *executor) driver(i hull.Isolation) (driver.Driver, driver.Info, error) {
	d := e.parts.Drivers[i]
	if d == nil {
		return nil, driver.Info{}, fmt.Errorf("isolation %q is not available on this host (see hull info): %w", i, errdefs.ErrInvalidArgument)
	}
	info := d.Info()
	if info.Unavailable != "" {
		return nil, info, fmt.Errorf("isolation %s is not available on this host: %s: %w", i, info.Unavailable, errdefs.ErrFailedPrecondition)
	}
	return d, info, nil
}
