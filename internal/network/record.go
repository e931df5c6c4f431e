package network

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"hull/internal/hull"
	"hull/internal/network/ipam"
)

// Address management drivers of records: the user chose the subnet, or the
// engine did. The user sees only the first; an address can be asked for only
// where he knows the subnet.
const (
	ipamChosen = "default"
	ipamAuto   = "default/auto"
)

// network is a record and what runs of it.
type network struct {
	rec    hull.Network // immutable once in Service.networks, but for the default bridge's IPAM
	bridge string       // interface name; "" for all other drivers
	parent string       // interface that macvlan and ipvlan share
	v4, v6 *ipam.Pool   // nil = not enabled
	mtu    int          // 0 = the default route's

	host   *host
	settle func(*network) error    // makes the record last, before anything is made of it; nil = it does
	cables func(*network) []string // host ends of all that is on it

	mu    sync.Mutex // the bridge is made by one at a time
	index int        // of the bridge's interface, 0 = not known to be right
	mac   string
}

// load reads the records and adds the networks that always exist.
func (s *registry) load() error {
	for _, rec := range s.cfg.Store.Networks() {
		n, err := s.revive(rec)
		if err != nil {
			s.log.Error("network is unusable", "network", rec.Name, "error", err)
			continue
		}
		s.networks[rec.ID] = n
	}
	for _, p := range []struct{ name, driver string }{{Host, driverHost}, {None, driverNull}} {
		id := stableID(s.cfg.Instance, p.name)
		if s.networks[id] == nil {
			s.networks[id] = &network{rec: hull.Network{ID: id, Name: p.name, Driver: p.driver, Created: time.Now(), Scope: "local", EnableIPv4: true, IPAM: hull.IPAM{Driver: ipamChosen}}}
		}
	}
	if id := stableID(s.cfg.Instance, Bridge); s.networks[id] == nil {
		n, err := s.defaultBridge(id)
		if err != nil {
			return fmt.Errorf("default bridge: %w", err)
		}
		n.settle = s.settle
		s.networks[id] = n
	}
	return nil
}

// stableID is the same for an instance's network at every start.
func stableID(instance, name string) string {
	h := sha256.Sum256([]byte(instance + "/" + name))
	return hex.EncodeToString(h[:])
}

// defaultBridge describes it; its record is stored when it is first used, so that
// an engine that never uses it claims no addresses.
func (s *registry) defaultBridge(id string) (*network, error) {
	taken, err := s.host.takenPrefixes()
	if err != nil {
		return nil, err
	}
	sub4, sub6 := s.cfg.Subnet4, s.cfg.Subnet6
	if !sub4.IsValid() {
		if sub4, err = ipam.Choose(taken); err != nil {
			return nil, err
		}
	}
	v6 := haveIPv6()
	if v6 && !sub6.IsValid() {
		if sub6, err = ipam.Choose6(id, taken); err != nil {
			return nil, err
		}
	}
	name := s.cfg.Bridge
	if name == "" || s.host.linkIndex(name) != 0 {
		name = s.host.bridgeName(id)
	}
	rec := hull.Network{
		ID: id, Name: Bridge, Driver: driverBridge, Created: time.Now(), Scope: "local",
		EnableIPv4: true, EnableIPv6: v6,
		IPAM: hull.IPAM{Driver: ipamChosen, Config: []hull.IPAMConfig{{Subnet: sub4.String()}}},
		Options: map[string]string{
			optDefault: "true", optICC: "true", optMasq: "true", optHostIP: "0.0.0.0", optName: name,
			optMTU: strconv.Itoa(s.host.defaultMTU()),
		},
	}
	if v6 {
		rec.IPAM.Config = append(rec.IPAM.Config, hull.IPAMConfig{Subnet: sub6.String()})
	}
	return s.revive(rec)
}

// settle makes the default bridge's description a record, before anything is made
// of it. What was free when the engine started may have been taken since.
func (s *registry) settle(n *network) error {
	fresh, err := s.defaultBridge(n.rec.ID)
	if err != nil {
		return err
	}
	if err := s.cfg.Store.PutNetwork(fresh.rec); err != nil {
		return fmt.Errorf("record network %s: %w", n.rec.Name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n.rec, n.bridge, n.v4, n.v6, n.mtu, n.settle = fresh.rec, fresh.bridge, fresh.v4, fresh.v6, fresh.mtu, nil
	return nil
}

// revive makes what runs of a record.
func (s *registry) revive(rec hull.Network) (*network, error) {
	n := &network{rec: rec, host: s.host, cables: s.cables}
	switch rec.Driver {
	case driverBridge:
		n.bridge = rec.Options[optName]
		if n.bridge == "" {
			n.bridge = s.host.bridgeName(rec.ID)
		}
	case driverMacvlan, driverIPvlan:
		n.parent = rec.Options[optParent]
	default:
		return n, nil
	}
	n.mtu, _ = strconv.Atoi(rec.Options[optMTU]) // checked when it was created
	for i, c := range rec.IPAM.Config {
		p, err := poolOf(c)
		if err != nil {
			return nil, err
		}
		if p.Subnet().Addr().Is4() && n.v4 == nil {
			n.v4 = p
		} else if p.Subnet().Addr().Is6() && n.v6 == nil {
			n.v6 = p
		}
		if n.rec.IPAM.Config[i].Gateway == "" {
			n.rec.IPAM.Config[i].Gateway = p.Gateway().String()
		}
	}
	return n, nil
}

func poolOf(c hull.IPAMConfig) (*ipam.Pool, error) {
	sub, err := netip.ParsePrefix(c.Subnet)
	if err != nil {
		return nil, fmt.Errorf("invalid subnet %s: %w", c.Subnet, errdefs.ErrInvalidArgument)
	}
	var rng netip.Prefix
	if c.IPRange != "" {
		if rng, err = netip.ParsePrefix(c.IPRange); err != nil {
			return nil, fmt.Errorf("invalid ip-range %s: %w", c.IPRange, errdefs.ErrInvalidArgument)
		}
	}
	var gw netip.Addr
	if c.Gateway != "" {
		if gw, err = parseAddr(c.Gateway); err != nil {
			return nil, fmt.Errorf("invalid gateway %s: %w", c.Gateway, errdefs.ErrInvalidArgument)
		}
	}
	p, err := ipam.New(sub, rng, gw)
	if err != nil {
		return nil, err
	}
	for name, a := range c.Reserved {
		ip, err := parseAddr(a)
		if err != nil {
			return nil, fmt.Errorf("invalid auxiliary address %s=%s: %w", name, a, errdefs.ErrInvalidArgument)
		}
		if err := p.Claim(ip); err != nil {
			return nil, fmt.Errorf("auxiliary address %s: %w", name, err)
		}
	}
	return p, nil
}

// parseAddr reads an address; Docker's clients give gateways with and without a
// prefix length.
func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(strings.TrimSpace(strings.SplitN(s, "/", 2)[0]))
	return a.Unmap(), err
}

var nameForm = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`) //nolint:gochecknoglobals // constant

// cables names the host ends of everything on a network.
func (s *registry) cables(n *network) []string {
	var out []string
	s.mu.Lock()
	for _, a := range s.pods {
		for _, e := range a.ends {
			if e.network == n && e.veth != "" {
				out = append(out, e.veth)
			}
		}
	}
	s.mu.Unlock()
	out = append(out, s.pool.cables(n)...)
	if s.owned != s.pool {
		out = append(out, s.owned.cables(n)...)
	}
	return out
}

// Create makes a user's network. Its bridge is made when it is first used.
func (s *registry) Create(_ context.Context, n hull.Network) (hull.Network, []string, error) {
	switch {
	case n.Name == Bridge || n.Name == Host || n.Name == None || n.Name == "default":
		return hull.Network{}, nil, fmt.Errorf("operation is not permitted on predefined %s network: %w", n.Name, errdefs.ErrPermissionDenied)
	case !nameForm.MatchString(n.Name):
		return hull.Network{}, nil, fmt.Errorf("invalid network name %q: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed: %w", n.Name, errdefs.ErrInvalidArgument)
	case n.Driver == driverHost || n.Driver == driverNull:
		return hull.Network{}, nil, fmt.Errorf("only one instance of %q network is allowed: %w", n.Driver, errdefs.ErrPermissionDenied)
	case n.Driver != "" && n.Driver != driverBridge && n.Driver != driverMacvlan && n.Driver != driverIPvlan:
		return hull.Network{}, nil, fmt.Errorf("could not find plugin %s in v1 plugin registry: plugin %q not found: %w", n.Driver, n.Driver, errdefs.ErrNotFound)
	case n.Ingress || n.Scope == "swarm":
		return hull.Network{}, nil, fmt.Errorf("this node is not a swarm manager, swarm networks cannot be made: %w", errdefs.ErrPermissionDenied)
	case n.IPAM.Driver != "" && n.IPAM.Driver != ipamChosen:
		return hull.Network{}, nil, fmt.Errorf("could not find plugin %s in v1 plugin registry: %w", n.IPAM.Driver, errdefs.ErrNotFound)
	}
	if n.Driver == "" {
		n.Driver = driverBridge
	}
	n.ID, n.Scope, n.Created = newID(), "local", time.Now()
	if n.EnableIPv6 && !haveIPv6() {
		return hull.Network{}, nil, fmt.Errorf("the host's kernel has no IPv6: %w", errdefs.ErrFailedPrecondition)
	}
	n.IPAM.Driver = ipamAuto
	if slices.ContainsFunc(n.IPAM.Config, func(c hull.IPAMConfig) bool { return c.Subnet != "" }) {
		n.IPAM.Driver = ipamChosen
	}
	n.Options, n.Labels = maps.Clone(n.Options), maps.Clone(n.Labels)
	if n.Options == nil {
		n.Options = map[string]string{}
	}
	if err := checkOptions(n); err != nil {
		return hull.Network{}, nil, err
	}
	if err := s.host.checkParent(n); err != nil {
		return hull.Network{}, nil, err
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.networks {
		if o.rec.Name == n.Name {
			return hull.Network{}, nil, fmt.Errorf("network with name %s already exists: %w", n.Name, errdefs.ErrConflict)
		}
		if br := n.Options[optName]; br != "" && o.bridge == br {
			return hull.Network{}, nil, fmt.Errorf("bridge name %s is already used by network %s: %w", br, o.rec.Name, errdefs.ErrConflict)
		}
		if p := n.Options[optParent]; p != "" && o.parent == p {
			return hull.Network{}, nil, fmt.Errorf("network %s is already using parent interface %s: %w", o.rec.Name, p, errdefs.ErrPermissionDenied)
		}
	}
	var own []netip.Prefix
	for _, o := range s.networks {
		own = append(own, o.subnets()...)
	}
	if err := s.host.assignSubnets(&n, own); err != nil {
		return hull.Network{}, nil, err
	}
	run, err := s.revive(n)
	if err != nil {
		return hull.Network{}, nil, err
	}
	if br := n.Options[optName]; br != "" && s.host.linkType(br) != "" && s.host.linkType(br) != "bridge" {
		return hull.Network{}, nil, fmt.Errorf("interface %s exists already and is no bridge: %w", br, errdefs.ErrConflict)
	}
	if err := s.cfg.Store.PutNetwork(run.rec); err != nil {
		return hull.Network{}, nil, fmt.Errorf("record network %s: %w", n.Name, err)
	}
	s.networks[n.ID] = run
	s.publish(run, "create")
	return s.show(run), nil, nil
}

// assignSubnets checks the user's subnets and chooses those that were not given.
// own are the engine's other subnets.
func (h *host) assignSubnets(n *hull.Network, own []netip.Prefix) error {
	taken, err := h.takenPrefixes()
	if err != nil {
		return err
	}
	var have4, have6 bool
	n.IPAM.Config = slices.Clone(n.IPAM.Config)
	for _, c := range n.IPAM.Config {
		if c.Subnet == "" {
			if c.Gateway != "" || c.IPRange != "" {
				return fmt.Errorf("a gateway or an ip-range needs a subnet: %w", errdefs.ErrInvalidArgument)
			}
			continue
		}
		p, err := poolOf(c)
		if err != nil {
			return err
		}
		v4 := p.Subnet().Addr().Is4()
		if v4 && have4 || !v4 && have6 {
			return fmt.Errorf("bridge driver doesn't support multiple subnets: %s is a second one of its family: %w", c.Subnet, errdefs.ErrInvalidArgument)
		}
		have4, have6 = have4 || v4, have6 || !v4
		// A route of the host is not in the way: the user has asked for this subnet.
		if !ipam.Free(p.Subnet(), own) {
			return fmt.Errorf("invalid pool request: Pool overlaps with other one on this address space: %w", errdefs.ErrPermissionDenied)
		}
	}
	n.IPAM.Config = slices.DeleteFunc(n.IPAM.Config, func(c hull.IPAMConfig) bool { return c.Subnet == "" })
	if have6 && !n.EnableIPv6 {
		n.IPAM.Config = slices.DeleteFunc(n.IPAM.Config, func(c hull.IPAMConfig) bool { return strings.Contains(c.Subnet, ":") })
	}
	taken = append(taken, own...)
	if n.EnableIPv4 && !have4 {
		p, err := ipam.Choose(taken)
		if err != nil {
			return err
		}
		n.IPAM.Config = append([]hull.IPAMConfig{{Subnet: p.String()}}, n.IPAM.Config...)
	}
	if n.EnableIPv6 && !have6 {
		p, err := ipam.Choose6(n.ID, taken)
		if err != nil {
			return err
		}
		n.IPAM.Config = append(n.IPAM.Config, hull.IPAMConfig{Subnet: p.String()})
	}
	if len(n.IPAM.Config) == 0 {
		return fmt.Errorf("IPv4 or IPv6 must be enabled: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

func (n *network) subnets() []netip.Prefix {
	var out []netip.Prefix
	for _, p := range []*ipam.Pool{n.v4, n.v6} {
		if p != nil {
			out = append(out, p.Subnet())
		}
	}
	return out
}

// Get finds a network by id, name or unambiguous id prefix.
func (s *registry) Get(_ context.Context, ref string) (hull.Network, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.find(ref)
	if err != nil {
		return hull.Network{}, err
	}
	return s.show(n), nil
}

// List returns every network, oldest first.
func (s *registry) List(context.Context) ([]hull.Network, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]hull.Network, 0, len(s.networks))
	for _, n := range s.networks {
		out = append(out, s.show(n))
	}
	slices.SortFunc(out, func(a, b hull.Network) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return out, nil
}

// find needs mu.
func (s *registry) find(ref string) (*network, error) {
	if n := s.networks[ref]; n != nil {
		return n, nil
	}
	if ref == "default" {
		ref = Bridge
	}
	var found []*network
	for id, n := range s.networks {
		if n.rec.Name == ref {
			return n, nil
		}
		if ref != "" && strings.HasPrefix(id, ref) {
			found = append(found, n)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, fmt.Errorf("network %s not found: %w", ref, errdefs.ErrNotFound)
	}
	return nil, fmt.Errorf("network %s is ambiguous (%d matches found based on ID prefix): %w", ref, len(found), errdefs.ErrInvalidArgument)
}

// show is a copy with its members. It needs mu.
func (s *registry) show(n *network) hull.Network {
	out := n.rec
	out.IPAM.Driver = ipamChosen
	out.IPAM.Config = slices.Clone(out.IPAM.Config)
	out.Options, out.Labels = maps.Clone(out.Options), maps.Clone(out.Labels)
	out.Containers = map[string]hull.NetworkMember{}
	for id, a := range s.pods {
		for _, e := range a.ends {
			if e.network != n {
				continue
			}
			m := hull.NetworkMember{Name: a.name, EndpointID: e.id, MacAddress: e.mac}
			if e.v4.IsValid() {
				m.IPv4 = netip.PrefixFrom(e.v4, n.v4.Subnet().Bits()).String()
			}
			if e.v6.IsValid() {
				m.IPv6 = netip.PrefixFrom(e.v6, n.v6.Subnet().Bits()).String()
			}
			out.Containers[id] = m
		}
	}
	return out
}

// Remove deletes a user's network that no pod is on.
func (s *registry) Remove(_ context.Context, ref string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.find(ref)
	if err != nil {
		return err
	}
	return s.remove(n)
}

// remove needs mu.
func (s *registry) remove(n *network) error {
	if predefined(n.rec.Name) {
		return fmt.Errorf("%s is a pre-defined network and cannot be removed: %w", n.rec.Name, errdefs.ErrPermissionDenied)
	}
	for id, a := range s.pods {
		if a.uses(n) {
			return fmt.Errorf("error while removing network: network %s has active endpoints (name:%q id:%q): %w", n.rec.Name, a.name, id[:min(12, len(id))], errdefs.ErrPermissionDenied)
		}
	}
	if err := s.cfg.Store.DeleteNetwork(n.rec.ID); err != nil {
		return fmt.Errorf("forget network %s: %w", n.rec.Name, err)
	}
	delete(s.networks, n.rec.ID)
	if err := errors.Join(n.unmake(), s.zones.forget(n)); err != nil {
		s.log.Warn("network is removed, but not all of it from the host", "network", n.rec.Name, "error", err)
	}
	s.publish(n, "destroy")
	return nil
}

// Prune removes the user's networks that no pod is on and keep does not want,
// and returns their names.
func (s *registry) Prune(_ context.Context, keep func(hull.Network) bool) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var gone []string
	for _, n := range s.networks {
		if predefined(n.rec.Name) || keep(s.show(n)) || slices.ContainsFunc(slices.Collect(maps.Values(s.pods)), func(a *attachment) bool { return a.uses(n) }) {
			continue
		}
		if err := s.remove(n); err != nil {
			return gone, err
		}
		gone = append(gone, n.rec.Name)
	}
	slices.Sort(gone)
	return gone, nil
}

func predefined(name string) bool { return name == Bridge || name == Host || name == None }
