package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"hull/internal/network/firewall"
	"hull/internal/network/ipam"
)

// From linux/netlink.h and linux/rtnetlink.h.
const (
	netlinkRoute = 0
	ifaFNoDAD    = 0x02
)

// ensure makes the network's bridge and its rules, or what is missing of
// them. When nothing is missing it costs one look into /proc and one netlink
// message. It reports the bridge's interface index.
func (n *network) ensure() (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.shares() {
		return n.ensureParent()
	}
	if n.index != 0 && !n.host.linkThere(n.bridge) {
		n.host.log.Warn("bridge has vanished and is made again", "network", n.rec.Name, "bridge", n.bridge)
		n.index = 0
	}
	if n.index == 0 {
		if err := n.makeBridge(); err != nil {
			return 0, fmt.Errorf("make bridge %s: %w", n.bridge, err)
		}
	}
	repaired, err := n.host.fw.Apply(firewall.Change{AddNetworks: []firewall.Network{n.rules()}})
	if err != nil {
		return 0, err
	}
	if repaired {
		n.host.log.Warn("nftables table was damaged and is repaired", "instance", n.host.instance)
	}
	return n.index, nil
}

// inspect is the thorough look, for which the way of a start has no time:
// down, without its address, made again by somebody else.
func (n *network) inspect() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.index == 0 {
		return
	}
	if off, err := n.host.enableForwarding(n.v6 != nil); off || err != nil {
		n.host.log.Warn("forwarding was turned off and is on again", "error", err)
	}
	l, err := n.host.links.LinkByName(n.bridge)
	if err == nil && l.Attrs().Index == n.index && l.Attrs().Flags&net.FlagUp != 0 {
		if have, err := listAddrs(n.host.links, l); err == nil && len(missingAddrs(n, have)) == 0 {
			return
		}
	}
	n.host.log.Warn("bridge was changed and is repaired", "network", n.rec.Name, "bridge", n.bridge)
	if err := n.makeBridge(); err != nil {
		n.host.log.Error("bridge cannot be repaired", "network", n.rec.Name, "bridge", n.bridge, "error", err)
		n.index = 0
	}
}

// makeBridge needs n.mu. Every step may have been done before.
func (n *network) makeBridge() error {
	if n.settle != nil {
		if err := n.settle(n); err != nil {
			return err
		}
	}
	// The rules come first: no moment without them once the bridge is there.
	if _, err := n.host.fw.Apply(firewall.Change{AddNetworks: []firewall.Network{n.rules()}}); err != nil {
		return err
	}
	forwarded, err := n.host.enableForwarding(n.v6 != nil)
	if err != nil {
		return err
	}
	if forwarded {
		if err := n.host.guardUplinks(); err != nil {
			return err
		}
	}
	if n.mac == "" {
		n.mac = n.gatewayMAC()
	}
	link, err := n.host.links.LinkByName(n.bridge)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = n.bridge, n.linkMTU()
		attrs.HardwareAddr, _ = net.ParseMAC(n.mac) // ours
		if err := n.host.links.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("add interface: %w", err)
		}
		link, err = n.host.links.LinkByName(n.bridge)
	}
	if err != nil {
		return fmt.Errorf("look for interface: %w", err)
	}
	if link.Type() != "bridge" {
		return fmt.Errorf("interface %s exists and is a %s", n.bridge, link.Type())
	}
	conf6 := "ipv6/conf/" + n.bridge + "/"
	for _, c := range []struct {
		name, value string
	}{
		// For connections through 127.0.0.1; package firewall keeps it safe.
		{"ipv4/conf/" + n.bridge + "/route_localnet", "1"},
		// A container's router advertisements are nothing for the host.
		{conf6 + "accept_ra", "0"},
		{conf6 + "accept_dad", "0"},
	} {
		if err := n.host.sys.set(c.name, c.value); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if n.v6 != nil {
		if err := n.host.sys.set(conf6+"disable_ipv6", "0"); err != nil {
			return err
		}
	}
	have, err := listAddrs(n.host.links, link)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, p := range missingAddrs(n, have) {
		if err := n.host.links.AddrAdd(link, &netlink.Addr{IPNet: ipNet(p), Flags: ifaFNoDAD}); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("add address %s: %w", p, err)
		}
	}
	if err := n.host.links.LinkSetUp(link); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	if err := n.routeLoopback6(link); err != nil {
		return err
	}
	n.index = link.Attrs().Index
	return n.replug()
}

// routeLoopback6 lets the answers to connections that the host makes to a
// published port through ::1 come home. IPv6 has no route_localnet: the kernel
// looks for the way to ::1 only on the interface a packet came from, so the bridge
// gets a local route of its own, behind that of the loopback. (A container cannot
// use it: the kernel drops what says ::1 on any wire, before the translation.)
//
// Where bridged packets go through the firewall (br_netfilter), the translation
// comes before that check and its answers are dropped; then ::1 is left alone. A
// connection is refused at once, and clients that mean "localhost" go on to
// 127.0.0.1.
func (n *network) routeLoopback6(link netlink.Link) error {
	if n.v6 == nil {
		return nil
	}
	const rtnLocal, tableLocal, behindLo = 2, 255, 4096
	able := !n.host.sys.bridgedFiltered("ip6tables")
	err := n.host.links.RouteReplace(&netlink.Route{
		LinkIndex: link.Attrs().Index, Dst: ipNet(netip.PrefixFrom(netip.IPv6Loopback(), 128)),
		Type: rtnLocal, Table: tableLocal, Priority: behindLo,
	})
	if err != nil {
		n.host.log.Info("ports are not published on ::1", "bridge", n.bridge, "error", err)
		able = false
	}
	_, err = n.host.fw.Apply(firewall.Change{Loopback6: &able})
	return err
}

func missingAddrs(n *network, have []netlink.Addr) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range []*ipam.Pool{n.v4, n.v6} {
		if p == nil || !n.hostHas(p.Gateway()) {
			continue
		}
		want := netip.PrefixFrom(p.Gateway(), p.Subnet().Bits())
		if !slices.ContainsFunc(have, func(a netlink.Addr) bool { return a.IPNet.String() == want.String() }) {
			out = append(out, want)
		}
	}
	return out
}

// replug puts the cables of pods and of the pool back into a bridge that was made
// again.
func (n *network) replug() error {
	for _, name := range n.cables(n) {
		l, err := n.host.links.LinkByName(name)
		if err != nil {
			continue // its namespace is gone, or going
		}
		if l.Attrs().MasterIndex == n.index {
			continue
		}
		if err := n.host.links.LinkSetMasterByIndex(l, n.index); err != nil {
			return fmt.Errorf("put %s back: %w", name, err)
		}
	}
	return nil
}

// unmake removes what makeBridge made.
func (n *network) unmake() error {
	if n.shares() {
		return n.unmakeParent()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	_, err := n.host.fw.Apply(firewall.Change{DelNetworks: []string{n.bridge}})
	if link, lerr := n.host.links.LinkByName(n.bridge); lerr == nil && link.Type() == "bridge" {
		err = errors.Join(err, n.host.links.LinkDel(link))
	}
	n.index = 0
	return err
}

// gatewayMAC is stable, so that neighbours' caches survive a repair.
func (n *network) gatewayMAC() string {
	if n.v4 != nil {
		return macOf(n.v4.Gateway())
	}
	return macOf(n.v6.Gateway())
}

// macOf derives a locally administered address: 02:42 and the IPv4 address, as
// Docker did, or the last four bytes of the IPv6 address.
func macOf(a netip.Addr) string {
	b := a.AsSlice()
	b = b[len(b)-4:]
	return net.HardwareAddr{0x02, 0x42, b[0], b[1], b[2], b[3]}.String()
}

func (n *network) linkMTU() int {
	if n.mtu != 0 {
		return n.mtu
	}
	return n.host.defaultMTU()
}

// defaultMTU is that of the interface with the default route, at most 1500:
// larger packets than it carries would be lost where ICMP is filtered.
func (h *host) defaultMTU() int {
	const ethernet = 1500
	routes, err := list(func() ([]netlink.Route, error) {
		return h.links.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: nil}, netlink.RT_FILTER_DST)
	})
	if err != nil || len(routes) == 0 {
		return ethernet
	}
	link, err := h.links.LinkByIndex(routes[0].LinkIndex)
	if err != nil || link.Attrs().MTU < 576 {
		return ethernet
	}
	return min(ethernet, link.Attrs().MTU)
}

// takenPrefixes are the subnets of the host's addresses and routes.
func (h *host) takenPrefixes() ([]netip.Prefix, error) {
	var out []netip.Prefix
	add := func(n *net.IPNet) {
		if n == nil {
			return
		}
		a, ok := netip.AddrFromSlice(n.IP)
		ones, _ := n.Mask.Size()
		if ok && !a.IsLoopback() && !a.IsLinkLocalUnicast() && !a.IsMulticast() {
			if a.Is4In6() {
				a = a.Unmap()
			}
			out = append(out, netip.PrefixFrom(a, ones).Masked())
		}
	}
	addrs, err := listAddrs(h.links, nil)
	if err != nil {
		return nil, fmt.Errorf("list the host's addresses: %w", err)
	}
	for _, a := range addrs {
		add(a.IPNet)
	}
	routes, err := list(func() ([]netlink.Route, error) { return h.links.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list the host's routes: %w", err)
	}
	for _, r := range routes {
		add(r.Dst)
	}
	return out, nil
}

func (h *host) linkIndex(name string) int {
	l, err := h.links.LinkByName(name)
	if err != nil {
		return 0
	}
	return l.Attrs().Index
}

// linkThere looks for an interface without the lock that all of rtnetlink shares,
// which the kernel may hold for long while it takes namespaces down.
func (h *host) linkThere(name string) bool { return h.sys.has("ipv4/conf/" + name) }

// haveIPv6 says whether the kernel has IPv6 at all (ipv6.disable=1 takes it away).
func haveIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6/conf/all")
	return err == nil
}

// enableForwarding reports whether IPv4 forwarding was off.
func (h *host) enableForwarding(v6 bool) (was bool, err error) {
	const v4 = "ipv4/ip_forward"
	on, err := h.sys.get(v4)
	if err != nil {
		return false, err
	}
	if was = on == "0"; was {
		if err := h.sys.set(v4, "1"); err != nil {
			return false, err
		}
	}
	if !v6 {
		return was, nil
	}
	const all = "ipv6/conf/all/forwarding"
	if on, err = h.sys.get(all); errors.Is(err, os.ErrNotExist) || on == "1" {
		return was, nil
	}
	// A router ignores router advertisements, unless it is told to take them (2):
	// without that a host that lives by them would lose its default route.
	dirs, err := os.ReadDir("/proc/sys/net/ipv6/conf")
	if err != nil {
		return false, err
	}
	for _, d := range dirs {
		ra := "ipv6/conf/" + d.Name() + "/accept_ra"
		if takes, err := h.sys.get(ra); err == nil && takes == "1" && d.Name() != "all" {
			if err := h.sys.set(ra, "2"); err != nil {
				return false, err
			}
		}
	}
	return was, h.sys.set(all, "1")
}

// guardUplinks keeps the host from becoming a router between the networks it was
// in before forwarding was turned on.
func (h *host) guardUplinks() error {
	links, err := list(h.links.LinkList)
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	var names []string
	for _, l := range links {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback == 0 && a.MasterIndex == 0 && l.Type() != "bridge" && !strings.HasPrefix(a.Name, h.vethPrefix()) {
			names = append(names, a.Name)
		}
	}
	_, err = h.fw.Apply(firewall.Change{AddUplinks: names})
	return err
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
