package docker

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"hull/internal/hull"
)

// selector turns the filters of a container list into a function that picks
// from all containers, newest first.
func (a *containerAPI) selector(ctx context.Context, f filters, every []hull.Container, all bool, limit *int) (func([]hull.Container) []*hull.Container, error) {
	if limit != nil && *limit <= 0 {
		limit = nil
	}
	if len(f["status"]) > 0 || limit != nil {
		all = true
	}
	keep, err := containerFilter(f)
	if err != nil {
		return nil, err
	}
	from, err := a.ancestors(ctx, f)
	if err != nil {
		return nil, err
	}
	newer, older, err := between(f, every)
	if err != nil {
		return nil, err
	}
	return func(in []hull.Container) []*hull.Container { // records are large: not copied
		var out []*hull.Container
		for i := range in {
			c := &in[i]
			if limit != nil && len(out) == *limit {
				break
			}
			live := c.Status.Phase.Live() || c.Status.Restarting
			if (all || live) && keep(*c) && from(*c) && newer(*c) && older(*c) {
				out = append(out, c)
			}
		}
		return out
	}, nil
}

// between makes "before" and "since": the container named by each must exist.
func between(f filters, every []hull.Container) (newer, older func(hull.Container) bool, err error) {
	yes := func(hull.Container) bool { return true }
	newer, older = yes, yes
	find := func(term string) (*hull.Container, error) {
		id, err := f.single(term)
		if err != nil || id == "" {
			return nil, err
		}
		id = strings.TrimPrefix(id, "/")
		i := slices.IndexFunc(every, func(c hull.Container) bool { return c.ID == id || c.Name == id })
		if i < 0 {
			i = slices.IndexFunc(every, func(c hull.Container) bool { return strings.HasPrefix(c.ID, id) })
		}
		if i < 0 {
			return nil, notFound("No such container: %s", id)
		}
		return &every[i], nil
	}
	before, err := find("before")
	if err != nil {
		return nil, nil, err
	}
	since, err := find("since")
	if err != nil {
		return nil, nil, err
	}
	if before != nil {
		older = func(c hull.Container) bool { return c.Created.Before(before.Created) }
	}
	if since != nil {
		newer = func(c hull.Container) bool { return c.Created.After(since.Created) }
	}
	return newer, older, nil
}

// ancestors makes "ancestor": containers of an image or of one built on it.
func (a *containerAPI) ancestors(ctx context.Context, f filters) (func(hull.Container) bool, error) {
	names := f.values("ancestor")
	if len(names) == 0 {
		return func(hull.Container) bool { return true }, nil
	}
	images, err := a.images.List(ctx, true)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	ids := map[string]bool{}
	for _, n := range names {
		base, err := a.images.Resolve(ctx, n, "")
		if errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("resolve ancestor %s: %w", n, err)
		}
		ids[base.ID] = true
		for _, i := range images {
			if len(base.Layers) > 0 && len(i.Layers) > len(base.Layers) && slices.Equal(i.Layers[:len(base.Layers)], base.Layers) {
				ids[i.ID] = true
			}
		}
	}
	return func(c hull.Container) bool {
		return ids[c.Image.ID] || slices.Contains(names, c.Spec.Image) || slices.Contains(names, c.Image.ID)
	}, nil
}

// containerFilter makes the terms that need nothing but the record.
func containerFilter(f filters) (func(hull.Container) bool, error) {
	for _, s := range f.values("status") {
		if err := container.ValidateContainerState(container.ContainerState(s)); err != nil {
			return nil, invalid("%v", err)
		}
	}
	for _, s := range f.values("health") {
		if err := container.ValidateHealthStatus(container.HealthStatus(s)); err != nil {
			return nil, invalid("%v", err)
		}
	}
	exited := map[int]bool{}
	for _, s := range f.values("exited") {
		n, err := strconv.Atoi(s)
		if err != nil {
			return nil, invalid("%v", err)
		}
		exited[n] = true
	}
	task, err := f.flag("is-task", false)
	if err != nil {
		return nil, err
	}
	publish, err := portFilter(f, "publish")
	if err != nil {
		return nil, err
	}
	expose, err := portFilter(f, "expose")
	if err != nil {
		return nil, err
	}
	name, id := f.matcher("name"), f.matcher("id")
	return func(c hull.Container) bool {
		switch {
		case task,
			!name(c.Name) && !name("/"+c.Name),
			!id(c.ID),
			!f.labels(c.Resolved.Labels),
			!f.annotations(c.Spec.Annotations),
			!f.exact("status", string(stateOf(c.Status))),
			!f.exact("health", string(healthSummary(c.Status.Health).Status)),
			!f.isolation(c.Spec.Isolation),
			len(exited) > 0 && (stateOf(c.Status) != container.StateExited || !exited[c.Status.ExitCode]),
			!f.volume(c.Mounts), !f.network(c),
			(publish != nil || expose != nil) && !slices.ContainsFunc(toPortSummaries(c), func(p container.PortSummary) bool {
				return publish != nil && publish(p.PublicPort, p.Type) || expose != nil && expose(p.PrivatePort, p.Type)
			}):
			return false
		}
		return true
	}, nil
}

func (f filters) annotations(have map[string]string) bool {
	for _, kv := range f.values("annotation") {
		if !hasLabel(have, kv) {
			return false
		}
	}
	return true
}

func (f filters) isolation(i hull.Isolation) bool {
	values := f.values("isolation")
	if len(values) == 0 {
		return true
	}
	return slices.ContainsFunc(values, func(v string) bool {
		want, err := hull.ParseIsolation(v)
		return err == nil && (want == i || want == "") // "default" is whatever this engine chose
	})
}

func (f filters) volume(mounts []hull.MountPoint) bool {
	values := f.values("volume")
	return len(values) == 0 || slices.ContainsFunc(mounts, func(m hull.MountPoint) bool {
		return slices.Contains(values, m.Target) || m.Name != "" && slices.Contains(values, m.Name) ||
			m.Source != "" && slices.Contains(values, m.Source)
	})
}

func (f filters) network(c hull.Container) bool {
	values := f.values("network")
	if len(values) == 0 {
		return true
	}
	for name, e := range toNetworks(c) {
		if slices.Contains(values, name) || e.NetworkID != "" && slices.ContainsFunc(values, func(v string) bool { return strings.HasPrefix(e.NetworkID, v) }) {
			return true
		}
	}
	return false
}

// portFilter reads "80", "80/udp", "8000-8010/tcp". nil when the term is absent.
func portFilter(f filters, term string) (func(port uint16, proto string) bool, error) {
	var ranges []network.PortRange
	for _, v := range f.values(term) {
		r, err := network.ParsePortRange(v)
		if err != nil {
			return nil, invalid("error while looking up for %s %s: %v", term, v, err)
		}
		ranges = append(ranges, r)
	}
	if ranges == nil {
		return nil, nil //nolint:nilnil // absent is an answer
	}
	return func(port uint16, proto string) bool {
		return port != 0 && slices.ContainsFunc(ranges, func(r network.PortRange) bool {
			return string(r.Proto()) == proto && r.Start() <= port && port <= r.End()
		})
	}, nil
}
