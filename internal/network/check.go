package network

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"

	"hull/internal/hull"
	"hull/internal/network/ipam"
)

// Check reports a request that cannot be met, in Docker's words where it has them.
func (s *Service) Check(_ context.Context, n hull.NetworkSpec) error {
	mode := modeOf(n)
	if strings.HasPrefix(mode, "container:") {
		return checkJoin(n)
	}
	if mode == Host && len(n.Links) > 0 {
		return invalid("conflicting options: host type networking can't be used with links. This would result in undefined behavior")
	}
	if n.MacAddress != "" {
		if mac, err := net.ParseMAC(n.MacAddress); err != nil || len(mac) != 6 {
			return invalid("invalid MAC address: %s", n.MacAddress)
		}
	}
	for _, d := range n.DNS {
		if !plainAddr(d) {
			return invalid("invalid IP address: %q", d)
		}
	}
	for _, w := range append(append([]string(nil), n.DNSSearch...), n.DNSOptions...) {
		if strings.ContainsAny(w, notInWords) {
			return invalid("invalid DNS search domain or option: %q", w)
		}
	}
	for _, h := range n.ExtraHosts {
		if _, _, err := extraHost(h); err != nil {
			return err
		}
	}
	for _, p := range n.Ports {
		if _, err := parseBinding(p); err != nil {
			return err
		}
	}
	for _, e := range n.Exposed {
		if _, err := parseExposed(e); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	net, err := s.find(mode)
	if err != nil {
		return err
	}
	for name, e := range n.Endpoints {
		on, err := s.find(name)
		if err != nil {
			return err
		}
		if err := checkEndpoint(on, e); err != nil {
			return err
		}
		if on != net && !(on.linked() && net.linked()) {
			return invalid("container cannot be connected to network endpoints: %s, %s", net.rec.Name, on.rec.Name)
		}
	}
	return nil
}

// notInWords are the characters that end a word, a line or the text of one in
// hosts and resolv.conf.
const notInWords = " \t\r\n\v\f\x00#;"

// plainAddr says whether s is an address. Its zone, which may be any text, must
// be one word.
func plainAddr(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && !strings.ContainsAny(a.Zone(), notInWords)
}

func checkJoin(n hull.NetworkSpec) error {
	switch {
	case len(n.Links) > 0:
		return invalid("conflicting options: container type network can't be used with links. This would result in undefined behavior")
	case len(n.DNS) > 0 || len(n.DNSSearch) > 0 || len(n.DNSOptions) > 0:
		return invalid("conflicting options: dns and the network mode")
	case len(n.ExtraHosts) > 0:
		return invalid("conflicting options: custom host-to-IP mapping and the network mode")
	case n.MacAddress != "":
		return invalid("conflicting options: mac-address and the network mode")
	case len(n.Ports) > 0 || n.PublishAll:
		return invalid("conflicting options: port publishing and the container type network mode")
	case strings.TrimPrefix(n.Mode, "container:") == "":
		return invalid("invalid network mode: invalid container format container:<name|id>")
	}
	return nil
}

// checkEndpoint checks what was asked for on one network.
func checkEndpoint(n *network, e hull.EndpointSpec) error {
	if err := checkEndpointOptions(e.DriverOpts); err != nil {
		return err
	}
	if e.MacAddress != "" {
		if mac, err := net.ParseMAC(e.MacAddress); err != nil || len(mac) != 6 {
			return invalid("invalid MAC address: %s", e.MacAddress)
		}
	}
	user := n.linked() && !predefined(n.rec.Name)
	if len(e.Aliases) > 0 && !user {
		return invalid("network-scoped aliases are only supported for user-defined networks")
	}
	for _, want := range []struct {
		addr   string
		pool   *ipam.Pool
		family string
	}{{e.IPv4, n.v4, "IPv4"}, {e.IPv6, n.v6, "IPv6"}} {
		if want.addr == "" {
			continue
		}
		a, err := netip.ParseAddr(want.addr)
		if err != nil || a.Unmap().Is4() != (want.family == "IPv4") {
			return invalid("invalid %s address: %s", want.family, want.addr)
		}
		switch {
		case !user:
			return invalid("user specified IP address is supported on user defined networks only")
		case want.pool == nil || !want.pool.Subnet().Contains(a.Unmap()):
			return invalid("invalid endpoint settings: no configured subnet or ip-range contain the IP address %s", want.addr)
		}
	}
	return nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}
