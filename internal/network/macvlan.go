package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"hull/internal/hull"
)

const (
	driverMacvlan = "macvlan"
	driverIPvlan  = "ipvlan"
)

func macvlanModes() map[string]netlink.MacvlanMode {
	return map[string]netlink.MacvlanMode{
		"bridge": netlink.MACVLAN_MODE_BRIDGE, "private": netlink.MACVLAN_MODE_PRIVATE,
		"vepa": netlink.MACVLAN_MODE_VEPA, "passthru": netlink.MACVLAN_MODE_PASSTHRU,
	}
}

func ipvlanModes() map[string]netlink.IPVlanMode {
	return map[string]netlink.IPVlanMode{"l2": netlink.IPVLAN_MODE_L2, "l3": netlink.IPVLAN_MODE_L3, "l3s": netlink.IPVLAN_MODE_L3S}
}

func ipvlanFlags() map[string]netlink.IPVlanFlag {
	return map[string]netlink.IPVlanFlag{"bridge": netlink.IPVLAN_FLAG_BRIDGE, "private": netlink.IPVLAN_FLAG_PRIVATE, "vepa": netlink.IPVLAN_FLAG_VEPA}
}

// checkParent reports a macvlan or ipvlan network that cannot be on this host.
func (h *host) checkParent(n hull.Network) error {
	if n.Driver != driverMacvlan && n.Driver != driverIPvlan {
		return nil
	}
	if err := h.probe(n.Driver); err != nil {
		return err
	}
	parent := n.Options[optParent]
	if parent == "" {
		if n.Internal {
			return nil
		}
		return nil // the network is its own: see ensureParent
	}
	switch kind := h.linkType(parent); {
	case parent == "lo":
		return invalid("loopback interface is not a valid %s parent link", n.Driver)
	case kind != "":
		return nil
	}
	base, tag, ok := strings.Cut(parent, ".")
	id, err := strconv.Atoi(tag)
	switch {
	case !ok:
		return invalid("parent interface %s does not exist on the host; say -o parent=INTERFACE", parent)
	case err != nil || id < 1 || id > 4094:
		return invalid("vlan id must be between 1-4094, received: %s", tag)
	case h.linkType(base) == "":
		return invalid("parent interface %s of VLAN %s does not exist on the host", base, parent)
	}
	return nil
}

// probe finds out whether the kernel knows a kind of interface.
func (h *host) probe(driver string) error {
	attrs := netlink.NewLinkAttrs()
	// The loopback takes no macvlan; asking for one shows whether the kernel knows
	// what that is, and makes nothing.
	attrs.Name, attrs.ParentIndex = "hp"+h.tag+newID()[:slotLen], 1
	var link netlink.Link = &netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}
	if driver == driverIPvlan {
		link = &netlink.IPVlan{LinkAttrs: attrs, Mode: netlink.IPVLAN_MODE_L2}
	}
	err := h.links.LinkAdd(link)
	switch {
	case errors.Is(err, syscall.EOPNOTSUPP):
		return fmt.Errorf("the host's kernel has no %s interfaces (CONFIG_%s); use a bridge network%s: %w",
			driver, strings.ToUpper(driver), map[bool]string{true: " or macvlan"}[driver == driverIPvlan], errdefs.ErrNotImplemented)
	case err == nil:
		return h.deleteLink(attrs.Name)
	}
	return nil
}

// ensureParent finds the interface that the network's pods share, and makes it: a
// VLAN of another one, or, where the user named none, a bridge with nobody on it.
// It needs n.mu and reports the interface's index.
func (n *network) ensureParent() (int, error) {
	name := n.parent
	if name == "" {
		name = n.host.bridgeName(n.rec.ID)
	}
	link, err := n.host.links.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		var made netlink.Link = &netlink.Bridge{LinkAttrs: attrs}
		if base, tag, ok := strings.Cut(n.parent, "."); ok {
			id, cerr := strconv.Atoi(tag)
			attrs.ParentIndex = n.host.linkIndex(base)
			if cerr != nil || attrs.ParentIndex == 0 {
				return 0, invalid("parent interface %s of network %s does not exist on the host", base, n.rec.Name)
			}
			made = &netlink.Vlan{LinkAttrs: attrs, VlanId: id}
		} else if n.parent != "" {
			return 0, invalid("parent interface %s of network %s does not exist on the host", n.parent, n.rec.Name)
		}
		if err := n.host.links.LinkAdd(made); err != nil && !errors.Is(err, os.ErrExist) {
			return 0, fmt.Errorf("add interface %s: %w", name, err)
		}
		link, err = n.host.links.LinkByName(name)
	}
	if err != nil {
		return 0, fmt.Errorf("look for interface %s: %w", name, err)
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := n.host.links.LinkSetUp(link); err != nil {
			return 0, fmt.Errorf("set %s up: %w", name, err)
		}
	}
	n.index = link.Attrs().Index
	return n.index, n.ensureAccess()
}

// accessName is the host's own interface on the network, with optHostAccess.
func (n *network) accessName() string { return "hm" + n.host.tag + n.rec.ID[:8] }

// ensureAccess makes the host a neighbour of the pods.
func (n *network) ensureAccess() error {
	if !n.on(optHostAccess, false) || n.rec.Internal || n.host.linkThere(n.accessName()) {
		return nil
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = n.accessName(), n.index
	if err := n.host.links.LinkAdd(n.sharing(attrs)); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("add the host's interface on network %s: %w", n.rec.Name, err)
	}
	link, err := n.host.links.LinkByName(attrs.Name)
	if err == nil {
		err = n.host.links.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("set the host's interface on network %s up: %w", n.rec.Name, err)
	}
	return nil
}

// sharing is an interface of the network's kind.
func (n *network) sharing(attrs netlink.LinkAttrs) netlink.Link {
	if n.rec.Driver == driverIPvlan {
		return &netlink.IPVlan{LinkAttrs: attrs, Mode: ipvlanModes()[n.rec.Options[optIPvlanMode]], Flag: ipvlanFlags()[n.rec.Options[optIPvlanFlag]]}
	}
	mode, ok := macvlanModes()[n.rec.Options[optMacvlanMode]]
	if !ok {
		mode = netlink.MACVLAN_MODE_BRIDGE
	}
	return &netlink.Macvlan{LinkAttrs: attrs, Mode: mode}
}

// share gives the namespace at path an interface on the network's parent.
func (e *end) share(inside *netlink.Handle, path string, defaultRoute bool) (err error) {
	n := e.network
	index, err := n.ensure()
	if err != nil {
		return err
	}
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer ns.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex, attrs.Namespace, attrs.MTU = e.ifname, index, netlink.NsFd(ns), n.mtu
	if n.rec.Driver == driverMacvlan {
		if attrs.HardwareAddr, err = net.ParseMAC(e.mac); err != nil {
			return fmt.Errorf("invalid MAC address %q: %w", e.mac, err)
		}
	}
	if err := n.host.links.LinkAdd(n.sharing(attrs)); err != nil {
		return fmt.Errorf("add %s interface: %w", n.rec.Driver, err)
	}
	if err := configure(inside, path, e, defaultRoute && !n.rec.Internal && n.parent != ""); err != nil {
		return errors.Join(err, e.unshare(inside))
	}
	return n.routeMember(e, true)
}

// unshare removes the interface again. The namespace's end does it as well.
func (e *end) unshare(inside *netlink.Handle) error {
	link, err := interfaceOf(inside, e)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err == nil {
		err = inside.LinkDel(link)
	}
	return errors.Join(err, e.network.routeMember(e, false))
}

// routeMember has the host find a member through its own interface on the network,
// or forget it.
func (n *network) routeMember(e *end, there bool) error {
	if !n.on(optHostAccess, false) || n.rec.Internal {
		return nil
	}
	index := n.host.linkIndex(n.accessName())
	if index == 0 {
		return nil
	}
	for _, a := range []netip.Addr{e.v4, e.v6} {
		if !a.IsValid() {
			continue
		}
		r := &netlink.Route{LinkIndex: index, Dst: ipNet(netip.PrefixFrom(a, a.BitLen())), Scope: netlink.SCOPE_LINK}
		if a.Is6() {
			r.Scope = netlink.SCOPE_UNIVERSE
		}
		if there {
			if err := n.host.links.RouteReplace(r); err != nil {
				return fmt.Errorf("add the host's route to %s: %w", a, err)
			}
		} else if err := n.host.links.RouteDel(r); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("remove the host's route to %s: %w", a, err)
		}
	}
	return nil
}

// unmakeParent removes what the engine made of a network without a bridge.
func (n *network) unmakeParent() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.index = 0
	err := n.host.deleteLink(n.accessName())
	if n.parent == "" {
		err = errors.Join(err, n.host.deleteLink(n.host.bridgeName(n.rec.ID)))
	}
	return err
}

// linkType is an interface's kind, "" when there is none of that name.
func (h *host) linkType(name string) string {
	l, err := h.links.LinkByName(name)
	if err != nil {
		return ""
	}
	return l.Type()
}
