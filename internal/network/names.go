package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"hull/internal/dns"
	"hull/internal/hull"
	"hull/internal/linux"
	"hull/internal/network/firewall"
)

// zones are the names on the users' networks, as the pods' name servers read
// them: package dns says how. The default bridge has none, as with Docker.
type zones struct {
	dir string

	mu    sync.Mutex
	byNet map[string]*zone // by network id
}

type zone struct {
	path string

	mu    sync.Mutex
	names dns.Zone
}

func newZones(dir string) *zones { return &zones{dir: dir, byNet: map[string]*zone{}} }

func (z *zones) path(n *network) string { return filepath.Join(z.dir, n.rec.ID+".zone") }

func (z *zones) of(n *network) *zone {
	z.mu.Lock()
	defer z.mu.Unlock()
	one := z.byNet[n.rec.ID]
	if one == nil {
		one = &zone{path: z.path(n)}
		z.byNet[n.rec.ID] = one
	}
	return one
}

// change takes names of e's addresses out and puts others in, as one.
func (z *zones) change(e *end, out, in []string) error {
	if !e.network.hasNames() {
		return nil
	}
	one := z.of(e.network)
	one.mu.Lock()
	defer one.mu.Unlock()
	one.names.Remove(out, e.v4, e.v6)
	one.names.Add(in, e.v4, e.v6)
	return one.write()
}

// adopt puts names in that are in the file already, or will be when Sweep writes
// it: none must be missing for a moment, while the engine finds its pods again.
func (z *zones) adopt(e *end) {
	if !e.network.hasNames() {
		return
	}
	one := z.of(e.network)
	one.mu.Lock()
	defer one.mu.Unlock()
	one.names.Add(e.names, e.v4, e.v6)
}

// write needs mu.
func (z *zone) write() error {
	err := linux.WriteFile(z.path, z.names.Bytes(), 0o600, false)
	if errors.Is(err, os.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(z.path), 0o700); err == nil {
			err = linux.WriteFile(z.path, z.names.Bytes(), 0o600, false)
		}
	}
	if err != nil {
		return fmt.Errorf("write names of network: %w", err)
	}
	return nil
}

// forget removes a network's zone.
func (z *zones) forget(n *network) error {
	z.mu.Lock()
	delete(z.byNet, n.rec.ID)
	z.mu.Unlock()
	if err := os.Remove(z.path(n)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// sweep writes every zone and removes the files of networks that are no more.
func (z *zones) sweep() error {
	z.mu.Lock()
	defer z.mu.Unlock()
	files, err := os.ReadDir(z.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("list names of networks: %w", err)
	}
	err = nil
	for _, f := range files {
		if id, ok := strings.CutSuffix(f.Name(), ".zone"); !ok || z.byNet[id] == nil {
			err = errors.Join(err, os.Remove(filepath.Join(z.dir, f.Name())))
		}
	}
	for _, one := range z.byNet {
		one.mu.Lock()
		err = errors.Join(err, one.write())
		one.mu.Unlock()
	}
	return err
}

// hasNames says whether the members of n find each other by name.
func (n *network) hasNames() bool { return n.linked() && !predefined(n.rec.Name) }

// hasNames says whether the pod has a name server of its own.
func (a *attachment) hasNames() bool {
	return slices.ContainsFunc(a.ends, func(e *end) bool { return e.network.hasNames() })
}

// nameEnds makes the pod's ends known by their names, and lays down what its name
// server works from. The server itself is the monitor's.
func (s *Service) nameEnds(a *attachment) error {
	if !a.hasNames() {
		return nil
	}
	for _, e := range a.ends {
		if err := s.zones.change(e, nil, e.names); err != nil {
			return err
		}
		e.named = true
	}
	if err := firewall.LeadResolver(a.netns, dns.Address(), dns.Port); err != nil {
		return err
	}
	return s.writeNames(a)
}

// unname takes an end's names away.
func (s *Service) unname(e *end) error {
	if !e.named {
		return nil
	}
	e.named = false
	return s.zones.change(e, e.names, nil)
}

// writeNames writes the configuration of the pod's name server.
func (s *Service) writeNames(a *attachment) error {
	c := dns.Config{NetNS: a.netns}
	forward := false
	for _, e := range a.ends {
		forward = forward || e.network.linked() && !e.network.rec.Internal
		if e.network.hasNames() {
			c.Networks = append(c.Networks, dns.Network{Name: e.network.rec.Name, Zone: s.zones.path(e.network)})
			c.Links = append(c.Links, linksOn(a, e)...)
		}
	}
	own, _, err := s.files.readResolvConf(true)
	if err != nil {
		return err
	}
	if forward {
		c.Upstreams = upstreams(a.asked, own)
	}
	_, _, options := splitResolvConf(own)
	if len(a.asked.DNSOptions) > 0 {
		options = a.asked.DNSOptions
	}
	c.DotsOnly = slices.ContainsFunc(options, func(o string) bool { return strings.HasPrefix(o, "ndots:") && o != "ndots:0" })
	text, err := c.Encode()
	if err != nil {
		return err
	}
	return linux.WriteFile(filepath.Join(a.runDir, dns.ConfigName), text, 0o600, false)
}

// linksOn are the names a pod has for others on one network.
func linksOn(a *attachment, e *end) []dns.Link {
	list := a.asked.Endpoints[e.network.rec.Name].Links
	if e.network.rec.Name == modeOf(a.asked) {
		list = append(slices.Clone(list), a.asked.Links...)
	}
	var out []dns.Link
	for _, l := range list {
		ref, alias, ok := splitLink(l)
		if !ok {
			continue
		}
		if len(ref) == idLen {
			ref = ref[:shortID]
		}
		if link := (dns.Link{Alias: alias, Name: ref, Network: e.network.rec.Name}); !slices.Contains(out, link) {
			out = append(out, link)
		}
	}
	return out
}

// Lengths of a container's id.
const idLen, shortID = 64, 12

// splitLink splits "name[:alias]" of --link, in which clients may have put slashes.
func splitLink(l string) (ref, alias string, ok bool) {
	ref, alias, ok = strings.Cut(strings.TrimPrefix(l, "/"), ":")
	if !ok {
		alias = ref
	}
	alias = alias[strings.LastIndex(alias, "/")+1:]
	return ref, alias, ref != "" && alias != "" && !strings.ContainsAny(ref+alias, notInWords)
}

// upstreams are where a pod's name server asks on: as the user said, or as the
// host does. A server on the host's loopback is asked from the host.
func upstreams(asked hull.NetworkSpec, hostConf string) []dns.Upstream {
	const port = 53
	var out []dns.Upstream
	add := func(text string, host bool) {
		if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
			out = append(out, dns.Upstream{Addr: netip.AddrPortFrom(addr.Unmap(), port), Host: host})
		}
	}
	for _, d := range asked.DNS {
		add(d, false)
	}
	if len(asked.DNS) == 0 {
		servers, _, _ := splitResolvConf(hostConf)
		for _, d := range servers {
			addr, err := netip.ParseAddr(d)
			add(d, err == nil && addr.IsLoopback())
		}
		if len(out) == 0 {
			for _, d := range publicServers() {
				add(d, false)
			}
		}
	}
	return out
}

// Rename makes a running pod known by another name.
func (s *Service) Rename(_ context.Context, podID, name string) error {
	s.mu.Lock()
	a := s.pods[podID]
	s.mu.Unlock()
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	s.mu.Lock()
	old := a.name
	a.name = name
	ends := slices.Clone(a.ends)
	s.mu.Unlock()
	var errs error
	for _, e := range ends {
		names := slices.Clone(e.names)
		if i := slices.Index(names, old); i >= 0 {
			names[i] = name
		}
		if e.named {
			errs = errors.Join(errs, s.zones.change(e, e.names, names))
		}
		e.names = names
	}
	if s.cfg.Update == nil || errs != nil {
		return errs
	}
	return s.cfg.Update(podID, func(st *hull.PodStatus) error {
		st.Endpoint.Networks = cloneEndpoints(st.Endpoint.Networks)
		for _, e := range ends {
			if r, ok := st.Endpoint.Networks[e.network.rec.Name]; ok && len(r.DNSNames) > 0 {
				r.DNSNames = e.names
				st.Endpoint.Networks[e.network.rec.Name] = r
			}
		}
		return nil
	})
}
