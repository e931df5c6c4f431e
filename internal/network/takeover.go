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

// TakeOver gives a running pod that was attached held its names, and its published
// ports: those that pod from has go over in one step, so that each new connection
// finds the one or the other. Connections under way stay with from, which keeps its
// own name and address.
func (s *Service) TakeOver(_ context.Context, podID, from string) ([]hull.PublishedPort, error) {
	a, old, unlock, err := s.both(podID, from)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if !a.asked.Held {
		return nil, fmt.Errorf("container %s is not held back: it has its names and ports: %w", a.name, errdefs.ErrFailedPrecondition)
	}
	// Both have the names for a moment: nobody must find neither.
	if err := s.fullNames(a); err != nil {
		return nil, err
	}
	if err := s.takePorts(a, old); err != nil {
		return nil, err
	}
	a.asked.Held = false
	for _, e := range old.ends {
		own := intersect(e.names, []string{old.name, old.podID[:min(12, len(old.podID))]})
		if err := s.zones.change(e, notAmong(e.names, own), nil); err != nil {
			return nil, err
		}
		e.names = own
	}
	for _, p := range []*attachment{a, old} {
		if err := s.recordTaken(p); err != nil {
			return nil, err
		}
	}
	return a.published, s.wishes().change(podID, func(w *hull.NetworkSpec) error { w.Held = false; return nil })
}

// both locks two attachments, in an order that all keep.
func (s *registry) both(podID, from string) (a, old *attachment, unlock func(), err error) {
	s.mu.Lock()
	a, old = s.pods[podID], s.pods[from]
	s.mu.Unlock()
	for id, x := range map[string]*attachment{podID: a, from: old} {
		if x == nil {
			return nil, nil, nil, fmt.Errorf("pod %s is not on any network: %w", id, errdefs.ErrNotFound)
		}
	}
	if a == old {
		return nil, nil, nil, invalid("container %s cannot take over from itself", a.name)
	}
	first, second := a, old
	if first.podID > second.podID {
		first, second = second, first
	}
	first.mu.Lock()
	second.mu.Lock()
	return a, old, func() { second.mu.Unlock(); first.mu.Unlock() }, nil
}

// fullNames makes a's ends known by all their names.
func (s *registry) fullNames(a *attachment) error {
	p, err := s.cfg.Pod(a.podID)
	if err != nil {
		return err
	}
	for _, e := range a.ends {
		if !e.network.hasNames() {
			continue
		}
		all := dnsNames(a.asked.Endpoints[e.network.rec.Name], p)
		if err := s.zones.change(e, nil, notAmong(all, e.names)); err != nil {
			return err
		}
		e.names = all
	}
	return nil
}

// takePorts publishes what a asks for: ports that old has are moved, others taken.
func (s *Service) takePorts(a, old *attachment) error {
	if len(a.ends) == 0 || !a.ends[0].publishes() {
		return nil
	}
	wanted, err := allBindings(a.asked)
	if err != nil {
		return err
	}
	var rest []binding
	var moved []hull.PublishedPort
	for _, b := range wanted {
		same := 0
		for _, p := range old.published {
			if b.admits(p) && !slices.Contains(moved, p) && a.familyOf(p) {
				moved = append(moved, p)
				same++
			}
		}
		if same == 0 {
			rest = append(rest, b)
		}
	}
	more, claims, err := s.claimPorts(a, rest)
	if err != nil {
		return err
	}
	published, left := append(moved, more...), notAmong(old.published, moved)
	next := forwards(published, a.ends[0])
	var remain []firewall.Forward
	if len(old.ends) > 0 {
		remain = forwards(left, old.ends[0])
	}
	change := firewall.Change{DelForwards: notAmong(old.forwards, remain), AddForwards: append(notAmong(remain, old.forwards), next...)}
	if _, err := s.host.fw.Apply(change); err != nil {
		s.ports.release(claims)
		return fmt.Errorf("move published ports: %w", err)
	}
	taken := slices.DeleteFunc(slices.Clone(old.claims), func(c *claim) bool { return !slices.ContainsFunc(moved, c.is) })
	s.ports.give(taken, a.podID, a.name)
	s.host.forgetFlows(&attachment{podID: a.podID, claims: taken})
	old.claims, a.claims = notAmong(old.claims, taken), append(taken, claims...)
	old.forwards, a.forwards = remain, next
	old.published, a.published = left, published
	return nil
}

// admits says whether b asks for what is published as p.
func (b binding) admits(p hull.PublishedPort) bool {
	if b.container != p.ContainerPort || b.proto != p.Proto || p.HostPort == 0 {
		return false
	}
	if b.first != 0 && (p.HostPort < b.first || p.HostPort > b.last) {
		return false
	}
	host, err := netip.ParseAddr(p.HostIP)
	return err == nil && (!b.host.IsValid() && host.IsUnspecified() || b.host == host)
}

// familyOf says whether a has an address to which p can lead.
func (a *attachment) familyOf(p hull.PublishedPort) bool {
	host, err := netip.ParseAddr(p.HostIP)
	return err == nil && (host.Is4() && a.ends[0].v4.IsValid() || !host.Is4() && a.ends[0].v6.IsValid())
}

// give makes ports another pod's.
func (p *ports) give(claims []*claim, pod, name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range claims {
		c.pod, c.name = pod, name
	}
}

// recordTaken stores what a has, for an engine that finds it again.
func (s *registry) recordTaken(a *attachment) error {
	if s.cfg.Update == nil {
		return nil
	}
	return s.cfg.Update(a.podID, func(st *hull.PodStatus) error {
		st.Endpoint.Ports = a.published
		st.Endpoint.Networks = cloneEndpoints(st.Endpoint.Networks)
		for _, e := range a.ends {
			r := st.Endpoint.Networks[e.network.rec.Name]
			if e.network.hasNames() {
				r.DNSNames = e.names
			}
			st.Endpoint.Networks[e.network.rec.Name] = r
		}
		return nil
	})
}

// intersect is what is in both, in the order of the first.
func intersect(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return !slices.Contains(b, s) })
}
