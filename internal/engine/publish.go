package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"hull/internal/hull"
)

// Publish changes which ports a container publishes, of a running one at once, and
// returns what it publishes now. In remove, an empty host address or port means any.
func (e *creation) Publish(ctx context.Context, ref string, add, remove []hull.PortBinding) ([]hull.PublishedPort, error) {
	c, unlock, err := e.locked(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer unlock()
	next := c.Spec.Network
	if mode := next.Mode; mode == "host" || mode == "none" || next.Disabled || strings.HasPrefix(mode, "container:") {
		return nil, fmt.Errorf("container %s has no network of its own to publish ports from (its network mode is %s): %w", c.Name, mode, errdefs.ErrInvalidArgument)
	}
	next.Ports = slices.DeleteFunc(slices.Clone(next.Ports), func(p hull.PortBinding) bool {
		return slices.ContainsFunc(remove, func(r hull.PortBinding) bool { return means(r, p) })
	})
	live := e.runs.pod(c.PodID) != nil && c.Status.Phase.Live()
	if !live && len(c.Spec.Network.Ports)-len(next.Ports) < len(remove) {
		return nil, fmt.Errorf("container %s does not publish all ports that are to be removed: %w", c.Name, errdefs.ErrNotFound)
	}
	next.Ports = append(next.Ports, add...)
	if err := e.networks.Check(ctx, next); err != nil {
		return nil, err
	}
	var now []hull.PublishedPort
	if live {
		if now, err = e.networks.Publish(ctx, c.PodID, add, remove); err != nil {
			return nil, fmt.Errorf("change published ports of %s: %w", c.Name, err)
		}
	}
	if err := e.store.UpdateSpec(c.ID, func(s *hull.Spec) error { s.Network.Ports = next.Ports; return nil }); err != nil {
		return nil, err
	}
	e.publish("update", c, nil)
	return now, nil
}

// means says whether r, which may leave things open, means the binding p.
func means(r, p hull.PortBinding) bool {
	proto := func(b hull.PortBinding) string { return strings.ToLower(firstOf(b.Proto, "tcp")) }
	return r.ContainerPort == p.ContainerPort && proto(r) == proto(p) &&
		(r.HostIP == "" || r.HostIP == p.HostIP) && (r.HostPort == "" || r.HostPort == p.HostPort)
}

// TakeOver gives ref, a running container that was made to be held back, its names
// and published ports; those of the running container from go over in one step.
func (e *creation) TakeOver(ctx context.Context, ref, from string) ([]hull.PublishedPort, error) {
	c, err := e.store.Container(ref)
	if err != nil {
		return nil, err
	}
	old, err := e.store.Container(from)
	if err != nil {
		return nil, err
	}
	if c.PodID == old.PodID {
		return nil, fmt.Errorf("container %s cannot take over from itself: %w", c.Name, errdefs.ErrInvalidArgument)
	}
	for _, id := range slices.Sorted(slices.Values([]string{c.PodID, old.PodID})) {
		unlock, err := e.locks.Lock(ctx, id)
		if err != nil {
			return nil, err
		}
		defer unlock()
	}
	for _, x := range []hull.Container{c, old} {
		if e.runs.pod(x.PodID) == nil {
			return nil, fmt.Errorf("container %s is not running: %w", x.Name, errdefs.ErrConflict)
		}
	}
	now, err := e.networks.TakeOver(ctx, c.PodID, old.PodID)
	if err != nil {
		return nil, fmt.Errorf("container %s takes over from %s: %w", c.Name, old.Name, err)
	}
	e.publish("update", c, nil)
	e.publish("update", old, nil)
	return now, nil
}
