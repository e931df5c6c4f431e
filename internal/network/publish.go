package network

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"

	"hull/internal/hull"
	"hull/internal/network/firewall"
)

// Publish changes the published ports of a running pod, all of it or nothing, and
// returns all it publishes then. In remove, what is not said (host address, host
// port) means any. Connections that are under way go on.
func (s *Service) Publish(_ context.Context, podID string, add, remove []hull.PortBinding) ([]hull.PublishedPort, error) {
	s.mu.Lock()
	a := s.pods[podID]
	s.mu.Unlock()
	if a == nil {
		return nil, fmt.Errorf("pod %s is not on any network: %w", podID, errdefs.ErrNotFound)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.ends) == 0 || !a.ends[0].publishes() {
		return nil, invalid("container %s publishes no ports: it is on no network that ports can be published from", a.name)
	}
	keep, gone, err := without(a.published, remove, a.name)
	if err != nil {
		return nil, err
	}
	bindings, err := allBindings(hull.NetworkSpec{Ports: add})
	if err != nil {
		return nil, err
	}
	more, claims, err := s.claimPorts(a, bindings)
	if err != nil {
		return nil, err
	}
	published := append(keep, more...)
	next := forwards(published, a.ends[0])
	change := firewall.Change{DelForwards: notAmong(a.forwards, next), AddForwards: notAmong(next, a.forwards)}
	if _, err := s.host.fw.Apply(change); err != nil {
		s.ports.release(claims)
		return nil, fmt.Errorf("publish ports: %w", err)
	}
	dropped := slices.DeleteFunc(slices.Clone(a.claims), func(c *claim) bool {
		return !slices.ContainsFunc(gone, c.is)
	})
	s.host.forgetFlows(&attachment{podID: a.podID, claims: slices.Concat(claims, dropped)})
	s.ports.release(dropped)
	a.claims = append(notAmong(a.claims, dropped), claims...)
	a.forwards, a.published = next, published
	trimSockets(a.claims)
	if s.cfg.Update == nil {
		return published, nil
	}
	return published, s.cfg.Update(podID, func(st *hull.PodStatus) error {
		st.Endpoint.Ports = published
		return nil
	})
}

// is says whether the claim is the port's.
func (c *claim) is(p hull.PublishedPort) bool {
	addr, err := netip.ParseAddr(p.HostIP)
	return err == nil && c.proto == p.Proto && c.port == p.HostPort && c.addr == addr
}

// without divides published ports into those that stay and those that remove means.
func without(published []hull.PublishedPort, remove []hull.PortBinding, who string) (keep, gone []hull.PublishedPort, err error) {
	keep = slices.Clone(published)
	for _, r := range remove {
		b, err := parseBinding(r)
		if err != nil {
			return nil, nil, err
		}
		found := false
		keep = slices.DeleteFunc(keep, func(p hull.PublishedPort) bool {
			host, err := netip.ParseAddr(p.HostIP)
			is := err == nil && p.ContainerPort == b.container && p.Proto == b.proto &&
				(!b.host.IsValid() || b.host == host) && (b.first == 0 || b.first <= p.HostPort && p.HostPort <= b.last)
			if is {
				gone, found = append(gone, p), true
			}
			return is
		})
		if !found {
			return nil, nil, fmt.Errorf("container %s does not publish port %d/%s%s: %w", who, b.container, b.proto, hostPart(r), errdefs.ErrNotFound)
		}
	}
	return keep, gone, nil
}

func hostPart(r hull.PortBinding) string {
	if r.HostIP == "" && r.HostPort == "" {
		return ""
	}
	return " at " + r.HostIP + ":" + r.HostPort
}

// notAmong are the members of list that others lacks.
func notAmong[T comparable](list, others []T) []T {
	return slices.DeleteFunc(slices.Clone(list), func(f T) bool { return slices.Contains(others, f) })
}
