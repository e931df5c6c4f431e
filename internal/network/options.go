package network

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"hull/internal/hull"
	"hull/internal/network/firewall"
)

// Options of networks, as Docker names them.
const (
	optName    = "com.docker.network.bridge.name"
	optICC     = "com.docker.network.bridge.enable_icc"
	optMasq    = "com.docker.network.bridge.enable_ip_masquerade"
	optHostIP  = "com.docker.network.bridge.host_binding_ipv4"
	optDefault = "com.docker.network.bridge.default_bridge"
	optInhibit = "com.docker.network.bridge.inhibit_ipv4"
	optMode4   = "com.docker.network.bridge.gateway_mode_ipv4"
	optMode6   = "com.docker.network.bridge.gateway_mode_ipv6"
	optMTU     = "com.docker.network.driver.mtu"
	optPrefix  = "com.docker.network.container_iface_prefix"

	optParent      = "parent" // of macvlan and ipvlan
	optMacvlanMode = "macvlan_mode"
	optIPvlanMode  = "ipvlan_mode"
	optIPvlanFlag  = "ipvlan_flag"
	// optHostAccess is hull's own: the host and the containers of a macvlan or ipvlan
	// network reach each other, which the kernel keeps from them otherwise.
	optHostAccess = "hull.host_access"
)

// Options of endpoints, as Docker names them.
const (
	optIfname  = "com.docker.network.endpoint.ifname"
	optSysctls = "com.docker.network.endpoint.sysctls" // net.ipv4.conf.IFNAME.NAME=VALUE,...
)

// ifSysctl is a kernel parameter of an interface: net.FAMILY.GROUP.<interface>.NAME.
type ifSysctl struct{ family, group, name, value string }

// parseSysctls reads optSysctls.
func parseSysctls(text string) ([]ifSysctl, error) {
	var out []ifSysctl
	for item := range strings.SplitSeq(text, ",") {
		key, value, ok := strings.Cut(strings.TrimSpace(item), "=")
		if !ok {
			return nil, invalid("invalid network interface sysctl %q: expected NAME=VALUE", item)
		}
		f := strings.Split(key, ".")
		if len(f) != 5 || f[0] != "net" || !strings.EqualFold(f[3], "IFNAME") || !slices.Contains([]string{"ipv4", "ipv6", "mpls"}, f[1]) ||
			strings.Contains(f[2]+f[4], "/") || f[2] == "" || f[4] == "" {
			return nil, invalid("unrecognised network interface sysctl %q; represent 'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'", key)
		}
		out = append(out, ifSysctl{f[1], f[2], f[4], value})
	}
	return out, nil
}

// interfaceName says whether an interface can have the name.
func interfaceName(v string) bool {
	return v != "" && len(v) <= 15 && !strings.ContainsAny(v, "/: \t\n\x00") && v != "." && v != ".." && v != "lo"
}

// checkEndpointOptions reports a value that an endpoint's option cannot have.
func checkEndpointOptions(opts map[string]string) error {
	if v, ok := opts[optIfname]; ok && !interfaceName(v) {
		return invalid("invalid interface name %q in %s: 1 to 15 characters without spaces and slashes", v, optIfname)
	}
	if v := opts[optSysctls]; v != "" {
		if _, err := parseSysctls(v); err != nil {
			return err
		}
	}
	return nil
}

// Gateway modes, as Docker names them.
const (
	modeNAT         = "nat"
	modeUnprotected = "nat-unprotected"
	modeRouted      = "routed"
	modeIsolated    = "isolated"
)

// checkOptions reports a value that its option cannot have. Options that nobody
// knows are kept and mean nothing, as with Docker.
func checkOptions(n hull.Network) error {
	bad := func(opt, why string) error {
		return invalid("failed to parse %s value: %s (%s)", opt, n.Options[opt], why)
	}
	for opt, v := range n.Options {
		switch opt {
		case optICC, optMasq, optInhibit, optDefault, optHostAccess:
			if _, err := strconv.ParseBool(v); err != nil && v != "" {
				return bad(opt, err.Error())
			}
		case optMTU:
			if mtu, err := strconv.Atoi(v); err != nil {
				return bad(opt, err.Error())
			} else if mtu < 68 || mtu > 65535 {
				return bad(opt, "an MTU is 68 to 65535")
			}
		case optHostIP:
			if a, err := netip.ParseAddr(v); err != nil || !a.Is4() {
				return bad(opt, "no IPv4 address")
			}
		case optMode4, optMode6:
			if v != "" && v != modeNAT && v != modeUnprotected && v != modeRouted && v != modeIsolated {
				return bad(opt, "unknown gateway mode "+v)
			}
			if v == modeIsolated && !n.Internal {
				return invalid("gateway mode 'isolated' can only be used for an internal network")
			}
		case optName, optPrefix, optParent:
			if !interfaceName(v) && (v != "" || opt == optName) {
				return invalid("invalid interface name %q in %s: 1 to 15 characters without spaces and slashes", v, opt)
			}
		case optMacvlanMode:
			if _, ok := macvlanModes()[v]; !ok && v != "" {
				return invalid("requested macvlan mode '%s' is not valid, 'bridge' mode is the macvlan driver default", v)
			}
		case optIPvlanMode:
			if _, ok := ipvlanModes()[v]; !ok && v != "" {
				return invalid("requested ipvlan mode '%s' is not valid, 'l2' mode is the ipvlan driver default", v)
			}
		case optIPvlanFlag:
			if _, ok := ipvlanFlags()[v]; !ok && v != "" {
				return invalid("requested ipvlan flag '%s' is not valid, 'bridge' is the ipvlan driver default", v)
			}
		}
	}
	return nil
}

// on says what a boolean option is, usual when it is not given.
func (n *network) on(opt string, usual bool) bool {
	v, ok := n.rec.Options[opt]
	if !ok || v == "" {
		return usual
	}
	b, err := strconv.ParseBool(v)
	return err == nil && b
}

// mode is the gateway mode of one address family.
func (n *network) mode(opt string) string {
	if m := n.rec.Options[opt]; m != "" {
		return m
	}
	return modeNAT
}

func (n *network) modeFor(a netip.Addr) string {
	if a.Is4() {
		return n.mode(optMode4)
	}
	return n.mode(optMode6)
}

// linked says whether pods have an interface of their own on n.
func (n *network) linked() bool { return n.bridge != "" || n.shares() }

// shares says whether pods share an interface of the host: macvlan and ipvlan.
func (n *network) shares() bool { return n.rec.Driver == driverMacvlan || n.rec.Driver == driverIPvlan }

// rules is what the firewall has to know of a bridge.
func (n *network) rules() firewall.Network {
	hide := func(opt string) bool {
		m := n.mode(opt)
		return n.on(optMasq, true) && !n.rec.Internal && (m == modeNAT || m == modeUnprotected)
	}
	f := firewall.Network{
		Bridge: n.bridge, Internal: n.rec.Internal, Isolated: !n.on(optICC, true),
		Open: n.mode(optMode4) == modeUnprotected || n.mode(optMode6) == modeUnprotected,
	}
	if n.v4 != nil {
		f.Subnet4, f.Hidden4, f.Routed4 = n.v4.Subnet(), hide(optMode4), n.mode(optMode4) == modeRouted
	}
	if n.v6 != nil {
		f.Subnet6, f.Hidden6, f.Routed6 = n.v6.Subnet(), hide(optMode6), n.mode(optMode6) == modeRouted
	}
	return f
}

// hostHas says whether the host has the network's gateway address.
func (n *network) hostHas(a netip.Addr) bool {
	switch {
	case n.shares(), n.modeFor(a) == modeIsolated, a.Is4() && n.on(optInhibit, false):
		return false
	}
	return true
}

// ifPrefix is what a pod's interfaces on n are called, before their number.
func (n *network) ifPrefix() string {
	if p := n.rec.Options[optPrefix]; p != "" {
		return p
	}
	return "eth"
}
