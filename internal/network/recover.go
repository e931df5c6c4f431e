package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"

	"hull/internal/hull"
	"hull/internal/network/firewall"
)

// Reattach rebuilds what the service knows of a pod that has its network since
// before a restart. It touches nothing in the kernel; what is missing there is
// found and repaired by the next attach or Sweep. It succeeds for a pod whose
// namespace is gone as well, because its release must still be had.
func (s *Service) Reattach(_ context.Context, p hull.Pod, runDir string) (hull.Release, error) {
	if !podIDForm.MatchString(p.ID) {
		return nil, fmt.Errorf("invalid pod id %q: %w", p.ID, errdefs.ErrInvalidArgument)
	}
	ep := p.Status.Endpoint
	a := &attachment{podID: p.ID, name: p.Name, runDir: runDir, asked: p.Network, links: linksToFollow(p.Network), netns: ep.NetNS}
	if err := s.enter(a); err != nil {
		return nil, err
	}
	a.ids = ep.IDs
	s.host.claimIDs(a.ids)
	if mode := modeOf(p.Network); strings.HasPrefix(mode, "container:") {
		s.rejoin(a, ep.NetNS)
		return func(context.Context) error { return s.release(a) }, nil
	}
	s.mu.Lock()
	if dir := filepath.Join(s.host.dir, p.ID); ep.NetNS != "" && isDir(dir) {
		a.dir = dir
	}
	var networks []firewall.Network
	for name, r := range ep.Networks {
		n := s.networks[r.NetworkID]
		if n == nil {
			s.log.Warn("a running container is on a network that has no record", "pod", p.ID, "network", name)
			continue
		}
		e := n.revivedEnd(r)
		a.ends = append(a.ends, e)
		e.priority = p.Network.Endpoints[name].GwPriority
		if s.zones.adopt(e); n.hasNames() {
			e.named = true
		}
		if n.bridge != "" {
			networks = append(networks, n.rules())
		}
	}
	s.mu.Unlock()
	if len(a.ends) > 1 {
		byPriority(a.ends)
		lead, err := leading(ep.NetNS, a.ends)
		if err != nil {
			s.log.Warn("which of a pod's networks leads outside is not known", "pod", p.ID, "error", err)
		}
		a.ends[0], a.ends[lead] = a.ends[lead], a.ends[0]
	}
	if len(networks) > 0 {
		s.watching.Do(s.watch)
	}
	if len(a.ends) > 0 {
		s.ports.readopt(a, ep.Ports, s.log)
	}
	s.host.fw.Adopt(networks, a.forwards)
	return func(context.Context) error { return s.release(a) }, nil
}

// leading is the number of the end with the default route, which is the ports' end,
// too; the first one where none has it.
func leading(path string, ends []*end) (int, error) {
	h, err := handleAt(path)
	if err != nil {
		return 0, err
	}
	defer h.Close()
	routes, err := list(func() ([]netlink.Route, error) { return h.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return 0, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst != nil && !r.Dst.IP.IsUnspecified() {
			continue
		}
		link, err := h.LinkByIndex(r.LinkIndex)
		if err != nil {
			continue // unreachable by design, as IPv6's own is
		}
		if i := slices.IndexFunc(ends, func(e *end) bool { return e.mac == link.Attrs().HardwareAddr.String() }); i >= 0 {
			return i, nil
		}
	}
	return 0, nil
}

func (n *network) revivedEnd(r hull.NetworkEndpoint) *end {
	e := &end{network: n, id: r.EndpointID, mac: r.MacAddress, names: r.DNSNames}
	if n.bridge != "" && len(e.id) > slotLen {
		e.veth = n.host.vethName(e.id)
	}
	e.v4, _ = netip.ParseAddr(r.IPv4) // ours, or empty
	e.v6, _ = netip.ParseAddr(r.IPv6)
	for _, c := range []struct {
		addr netip.Addr
		pool addrPool
		has  bool
	}{{e.v4, n.v4, n.v4 != nil}, {e.v6, n.v6, n.v6 != nil}} {
		if c.has && c.addr.IsValid() {
			if err := c.pool.Claim(c.addr); err != nil {
				n.host.log.Warn("address of a running container", "network", n.rec.Name, "address", c.addr, "error", err)
			}
		}
	}
	return e
}

// readopt takes the ports a pod has had since before a restart.
func (p *ports) readopt(a *attachment, published []hull.PublishedPort, log *slog.Logger) {
	for _, was := range published {
		addr, err := netip.ParseAddr(was.HostIP)
		if err != nil || was.HostPort == 0 {
			continue
		}
		c, err := p.adopt(was.Proto, addr, was.HostPort, a.podID, a.name)
		if err != nil {
			log.Warn("published port is also bound by a program of the host", "pod", a.podID, "port", was.HostPort, "error", err)
		}
		a.claims = append(a.claims, c)
	}
	trimSockets(a.claims)
	a.published = published
	a.forwards = forwards(published, a.ends[0])
}

// rejoin finds the owner of a shared namespace by its path.
func (s *Service) rejoin(a *attachment, path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if owner := s.pods[filepath.Base(filepath.Dir(path))]; owner != nil && owner != a {
		owner.joined++
		a.owner = owner
	}
}

// Sweep removes every host object of this instance whose pod keep denies: what a
// crash has left. It is called once, when all pods that run are reattached. It
// does not wait for the kernel to take namespaces and their interfaces down.
func (s *Service) Sweep(_ context.Context, keep func(podID string) bool) error {
	links, err := list(s.host.links.LinkList)
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	dirs, err := os.ReadDir(s.host.dir)
	if err != nil {
		return fmt.Errorf("list network namespaces: %w", err)
	}
	var errs error
	swept := 0
	kept := map[string]bool{} // interfaces that stay
	s.mu.Lock()
	for _, n := range s.networks {
		kept[n.bridge] = true
		if n.shares() {
			kept[n.host.bridgeName(n.rec.ID)] = true
		}
	}
	s.mu.Unlock()
	for _, d := range dirs {
		dir := filepath.Join(s.host.dir, d.Name())
		if s.stays(d.Name(), keep) {
			slots, _ := os.ReadDir(dir) // gone in the meantime: nothing to keep
			s.mu.Lock()
			a := s.pods[d.Name()]
			s.mu.Unlock()
			for _, sl := range slots {
				cable := s.host.vethPrefix() + sl.Name()
				if a.cutShort(sl.Name()) {
					errs = errors.Join(errs, s.host.deleteLink(cable), os.Remove(filepath.Join(dir, sl.Name())))
					continue
				}
				kept[cable] = true
			}
			continue
		}
		swept++
		errs = errors.Join(errs, s.host.retire(dir))
	}
	for _, l := range links {
		name := l.Attrs().Name
		switch {
		case strings.HasPrefix(name, s.host.vethPrefix()) && !kept[name] && !s.knows(strings.TrimPrefix(name, s.host.vethPrefix())):
			// Mostly it is going already, with a namespace of above.
			if !s.host.background(func() { s.host.awaitGone(name, nil) }) {
				errs = errors.Join(errs, s.host.deleteLink(name))
			}
		case l.Type() == "bridge" && strings.HasPrefix(name, "hb"+s.host.tag) && !kept[name]:
			errs = errors.Join(errs, s.host.deleteLink(name))
		}
	}
	if swept > 0 {
		s.log.Info("network namespaces that nobody claims are removed", "count", swept)
	}
	repaired, err := s.host.fw.Sweep()
	if repaired {
		s.log.Warn("nftables table was damaged and is repaired", "instance", s.cfg.Instance)
	}
	return errors.Join(errs, err, s.zones.sweep())
}

// cutShort says whether an end that is noted at the pod's pins is of no network that
// the pod is on: the engine was killed while it connected the pod, or the pod has been
// disconnected since. Nothing changes ends before Sweep is over.
func (a *attachment) cutShort(id string) bool {
	if a == nil || a.dir == "" || id == filepath.Base(a.netns) {
		return false
	}
	return !slices.ContainsFunc(a.ends, func(e *end) bool { return strings.HasPrefix(e.id, id) })
}

// knows says whether a pool has the slot.
func (s *Service) knows(id string) bool { return s.pool.knows(id) || s.owned.knows(id) }

// stays says whether a directory of pins has an owner.
func (s *Service) stays(name string, keep func(podID string) bool) bool {
	if id, ok := strings.CutPrefix(name, "pool-"); ok {
		return s.knows(id)
	}
	if strings.HasPrefix(name, "dead-") {
		return false
	}
	s.mu.Lock()
	a := s.pods[name]
	s.mu.Unlock()
	return a != nil || keep(name)
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

// renameGone renames; a missing source is no error.
func renameGone(from, to string) error {
	if err := os.Rename(from, to); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
