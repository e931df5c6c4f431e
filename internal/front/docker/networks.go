package docker

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"hull/internal/hull"
)

// networkAPI are the routes below /networks.
type networkAPI struct {
	networks Networks
	engine   Containers
	maxBody  int64
}

func (a *networkAPI) list(w http.ResponseWriter, r *http.Request) error {
	f, err := parseFilters(r.FormValue("filters"), networkFilters)
	if err != nil {
		return err
	}
	keep, err := networkFilter(f)
	if err != nil {
		return err
	}
	all, err := a.networks.List(r.Context())
	if err != nil {
		return fmt.Errorf("list networks: %w", err)
	}
	out := []network.Inspect{}
	for _, n := range all {
		if keep(n) {
			one := network.Inspect{Network: toNetworkRecord(n)}
			one.Containers = map[string]network.EndpointResource{} // the list never shows them
			out = append(out, one)
		}
	}
	return reply(w, networksFor(versionOf(r), out))
}

// builtin are the networks that every engine has.
func builtin(name string) bool { return name == "bridge" || name == "host" || name == "none" }

func networkFilter(f filters) (func(hull.Network) bool, error) {
	_, hasDangling := f["dangling"]
	dangling, err := f.flag("dangling", false)
	if err != nil {
		return nil, err
	}
	for _, t := range f.values("type") {
		if t != "builtin" && t != "custom" {
			return nil, invalid("invalid filter: 'type'='%s'", t)
		}
	}
	name, id := f.matcher("name"), f.matcher("id")
	return func(n hull.Network) bool {
		kind := "custom"
		if builtin(n.Name) {
			kind = "builtin"
		}
		return name(n.Name) && id(n.ID) && f.exact("driver", n.Driver) && f.exact("scope", firstOf(n.Scope, "local")) &&
			f.exact("type", kind) && f.labels(n.Labels) &&
			(!hasDangling || !builtin(n.Name) && dangling == (len(n.Containers) == 0))
	}, nil
}

func toNetworkRecord(n hull.Network) network.Network {
	return network.Network{
		Name: n.Name, ID: n.ID, Created: n.Created, Scope: firstOf(n.Scope, "local"), Driver: n.Driver,
		EnableIPv4: n.EnableIPv4, EnableIPv6: n.EnableIPv6, Internal: n.Internal, Attachable: n.Attachable, Ingress: n.Ingress,
		IPAM: toIPAM(n.IPAM), Options: orEmptyMap(n.Options), Labels: orEmptyMap(n.Labels),
	}
}

func toIPAM(in hull.IPAM) network.IPAM {
	out := network.IPAM{Driver: firstOf(in.Driver, "default"), Options: in.Options, Config: []network.IPAMConfig{}}
	for _, c := range in.Config {
		one := network.IPAMConfig{}
		one.Subnet, _ = netip.ParsePrefix(c.Subnet)
		one.IPRange, _ = netip.ParsePrefix(c.IPRange)
		one.Gateway, _ = netip.ParseAddr(c.Gateway)
		for k, v := range c.Reserved {
			if ip, err := netip.ParseAddr(v); err == nil {
				if one.AuxAddress == nil {
					one.AuxAddress = map[string]netip.Addr{}
				}
				one.AuxAddress[k] = ip
			}
		}
		out.Config = append(out.Config, one)
	}
	return out
}

func (a *networkAPI) inspect(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("id")
	n, err := a.networks.Get(r.Context(), name)
	if err != nil {
		return err //nolint:wrapcheck // the service names the object
	}
	if scope := r.FormValue("scope"); scope != "" && scope != firstOf(n.Scope, "local") {
		return notFound("network %s not found", name)
	}
	out := network.Inspect{Network: toNetworkRecord(n), Containers: map[string]network.EndpointResource{}}
	for id, m := range n.Containers {
		out.Containers[id] = toMember(m)
	}
	return reply(w, networkFor(versionOf(r), out))
}

func toMember(m hull.NetworkMember) network.EndpointResource {
	out := network.EndpointResource{Name: m.Name, EndpointID: m.EndpointID, MacAddress: macOf(m.MacAddress)}
	out.IPv4Address = prefixOf(m.IPv4)
	out.IPv6Address = prefixOf(m.IPv6)
	return out
}

// prefixOf reads an address with or without its prefix length.
func prefixOf(text string) netip.Prefix {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p
	}
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(a, a.BitLen())
	}
	return netip.Prefix{}
}

func (a *networkAPI) create(w http.ResponseWriter, r *http.Request) error {
	var body network.CreateRequest
	if err := readJSON(r, a.maxBody, false, &body); err != nil {
		return err
	}
	n, err := toNetworkRequest(body)
	if err != nil {
		return err
	}
	made, warnings, err := a.networks.Create(r.Context(), n)
	if errdefs.IsAlreadyExists(err) {
		return conflict("network with name %s already exists", n.Name)
	}
	if err != nil {
		return err //nolint:wrapcheck // the service names the object
	}
	writeJSON(w, http.StatusCreated, network.CreateResponse{ID: made.ID, Warning: strings.Join(warnings, "\n")})
	return nil
}

func toNetworkRequest(b network.CreateRequest) (hull.Network, error) {
	switch {
	case strings.TrimSpace(b.Name) == "":
		return hull.Network{}, invalid("invalid network name: name is empty")
	case builtin(b.Name) || b.Name == "default":
		return hull.Network{}, &statusError{http.StatusForbidden, "operation is not permitted on predefined " + b.Name + " network "}
	case b.ConfigOnly || b.ConfigFrom != nil && b.ConfigFrom.Network != "":
		return hull.Network{}, notImplemented("config-only networks are not supported")
	case b.Ingress || b.Driver == "overlay" || b.Scope == "swarm":
		return hull.Network{}, errNotManager()
	}
	n := hull.Network{
		Name: b.Name, Driver: firstOf(b.Driver, "bridge"), Scope: firstOf(b.Scope, "local"), EnableIPv4: true,
		Internal: b.Internal, Attachable: b.Attachable, Options: b.Options, Labels: b.Labels,
	}
	if b.EnableIPv4 != nil {
		n.EnableIPv4 = *b.EnableIPv4
	}
	if b.EnableIPv6 != nil {
		n.EnableIPv6 = *b.EnableIPv6
	}
	if b.IPAM != nil {
		n.IPAM = fromIPAM(*b.IPAM)
	}
	return n, nil
}

func fromIPAM(in network.IPAM) hull.IPAM {
	out := hull.IPAM{Driver: in.Driver, Options: in.Options}
	for _, c := range in.Config {
		one := hull.IPAMConfig{}
		if c.Subnet.IsValid() {
			one.Subnet = c.Subnet.String()
		}
		if c.IPRange.IsValid() {
			one.IPRange = c.IPRange.String()
		}
		if c.Gateway.IsValid() {
			one.Gateway = c.Gateway.String()
		}
		for k, v := range c.AuxAddress {
			if one.Reserved == nil {
				one.Reserved = map[string]string{}
			}
			one.Reserved[k] = v.String()
		}
		out.Config = append(out.Config, one)
	}
	return out
}

func (a *networkAPI) connect(w http.ResponseWriter, r *http.Request) error {
	var body network.ConnectRequest
	if err := readJSON(r, a.maxBody, false, &body); err != nil {
		return err
	}
	c, err := a.engine.Container(r.Context(), strings.TrimPrefix(body.Container, "/"))
	if err != nil {
		return err //nolint:wrapcheck // the engine names the object
	}
	if err := a.networks.Connect(r.Context(), r.PathValue("id"), c.ID, toEndpoint(body.EndpointConfig)); err != nil {
		return err //nolint:wrapcheck // the service names the object
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (a *networkAPI) disconnect(w http.ResponseWriter, r *http.Request) error {
	var body network.DisconnectRequest
	if err := readJSON(r, a.maxBody, false, &body); err != nil {
		return err
	}
	c, err := a.engine.Container(r.Context(), strings.TrimPrefix(body.Container, "/"))
	if err != nil && !body.Force {
		return err //nolint:wrapcheck // the engine names the object
	}
	if err := a.networks.Disconnect(r.Context(), r.PathValue("id"), firstOf(c.ID, body.Container), body.Force); err != nil {
		return err //nolint:wrapcheck // the service names the object
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (a *networkAPI) remove(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("id")
	if builtin(name) {
		return &statusError{http.StatusForbidden, name + " is a pre-defined network and cannot be removed"}
	}
	if err := a.networks.Remove(r.Context(), name); err != nil {
		return err //nolint:wrapcheck // the service names the object
	}
	return noContent(w)
}

func (a *networkAPI) prune(w http.ResponseWriter, r *http.Request) error {
	f, err := parseFilters(r.FormValue("filters"), pruneFilters)
	if err != nil {
		return err
	}
	until, err := f.until(time.Now())
	if err != nil {
		return err
	}
	gone, err := a.networks.Prune(r.Context(), func(n hull.Network) bool {
		return builtin(n.Name) || !until.IsZero() && !n.Created.Before(until) || !f.labels(n.Labels)
	})
	if err != nil {
		return fmt.Errorf("prune networks: %w", err)
	}
	slices.Sort(gone)
	return reply(w, network.PruneReport{NetworksDeleted: orEmpty(gone)})
}
