package network

import (
	"net/netip"

	"github.com/vishvananda/netlink"
)

// forgetFlows makes the kernel forget the tracked UDP and SCTP "connections" of
// a pod's published ports. Only the first packet of a connection meets the
// translation: a client that keeps sending from one port would for ever go where
// its first packet went, to a container that is gone or to nobody.
func (h *host) forgetFlows(a *attachment) {
	f := flowFilter{ports: map[portKey]bool{}, addrs: map[netip.Addr]bool{}}
	for _, c := range a.claims {
		if c.proto != "tcp" {
			f.ports[portKey{c.proto, c.port}] = true
		}
	}
	if len(f.ports) == 0 {
		return
	}
	for _, e := range a.ends {
		for _, p := range e.prefixes() {
			f.addrs[p.Addr()] = true
		}
	}
	for _, fam := range []netlink.InetFamily{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		if _, err := h.links.ConntrackDeleteFilters(netlink.ConntrackTable, fam, f); err != nil {
			h.log.Warn("stale UDP connections may remain", "pod", a.podID, "error", err)
		}
	}
}

// flowFilter matches flows to published ports, and those translated to the pod.
type flowFilter struct {
	ports map[portKey]bool
	addrs map[netip.Addr]bool
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (f flowFilter) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	proto := "udp"
	switch flow.Forward.Protocol {
	case 17:
	case ipprotoSCTP:
		proto = "sctp"
	default:
		return false
	}
	if f.ports[portKey{proto, flow.Forward.DstPort}] {
		return true
	}
	src, ok := netip.AddrFromSlice(flow.Reverse.SrcIP)
	return ok && f.addrs[src.Unmap()]
}
