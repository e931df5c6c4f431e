package network

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"hull/internal/hull"
	"hull/internal/linux"
)

const slotLen = 9 // hexadecimal digits of an endpoint's id in names

// slot is a pinned network namespace.
type slot struct {
	dir string // nsDir/pool-<id>, then nsDir/<pod id>, then nsDir/dead-<id>
	id  string
	end *end         // of a ready one: its place on the default bridge
	ids hull.IDRange // of the user namespace that owns it; zero = the host's
}

func (n *slot) path() string { return filepath.Join(n.dir, n.id) }

// end is a pod's end on one network.
type end struct {
	network *network
	id      string // 64 hexadecimal digits
	veth    string // host end's interface name; "" for none and host
	ifname  string // in the pod
	sysctls string // optSysctls, checked
	mac     string
	v4, v6  netip.Addr
	names   []string // what others on the network call it; the first is the pod's
	named   bool     // they are in the network's zone

	priority int // GwPriority
}

// newSlot makes a network namespace with nothing but a loopback that is up, and
// returns it with a handle inside, which the caller closes. id names it: the
// first digits of its first endpoint's id. users are its owner.
func (h *host) newSlot(id string, users hull.PodUsers) (_ *slot, inside *netlink.Handle, err error) {
	n := &slot{dir: filepath.Join(h.dir, "pool-"+id), id: id, ids: users.IDs}
	if err := os.Mkdir(n.dir, 0o700); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.unpin())
		}
	}()
	if err := makeNetNS(n.path(), users); err != nil {
		return nil, nil, err
	}
	err = h.withSysctls(n.path(), func(sys sysctls) error {
		for _, c := range []struct{ name, value string }{
			// Any user of a container may listen on low ports and use ping, as with
			// Docker; the namespace is the container's own.
			{"ipv4/ip_unprivileged_port_start", "0"},
			{"ipv4/ping_group_range", "0 2147483647"},
			// Nobody on the bridge may reconfigure a container (CVE-2020-13401).
			{"ipv6/conf/default/accept_ra", "0"},
			{"ipv6/conf/all/accept_ra", "0"},
			// Addresses are ours to give; looking for duplicates would take a second.
			{"ipv6/conf/default/accept_dad", "0"},
		} {
			if err := sys.set(c.name, c.value); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		if inside, err = netlink.NewHandle(netlinkRoute); err != nil {
			return fmt.Errorf("open netlink: %w", err)
		}
		return nil
	})
	if err == nil {
		if err = inside.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1, Name: "lo"}}); err != nil {
			inside.Close()
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("prepare network namespace: %w", err)
	}
	return n, inside, nil
}

// makeNetNS makes and pins a namespace of the host's, of a new user namespace with
// users' ids, or of another pod's user namespace.
func makeNetNS(path string, users hull.PodUsers) error {
	switch {
	case users.Path != "":
		owner, err := linux.OpenUserNS(users.Path)
		if err != nil {
			return err
		}
		defer owner.Close()
		return linux.NewNetNSIn(path, owner)
	case users.IDs.Size > 0:
		return linux.NewOwnedNetNS(path,
			[]linux.IDMap{{Host: users.IDs.UID, Size: users.IDs.Size}}, []linux.IDMap{{Host: users.IDs.GID, Size: users.IDs.Size}})
	}
	return linux.NewNetNS(path)
}

// claim gives the slot to a pod.
func (h *host) claim(n *slot, podID string) error {
	dir := filepath.Join(h.dir, podID)
	err := os.Rename(n.dir, dir)
	if errors.Is(err, os.ErrExist) { // also ENOTEMPTY: what a crash has left
		if err := h.retire(dir); err != nil {
			return err
		}
		err = os.Rename(n.dir, dir)
	}
	if err != nil {
		return fmt.Errorf("name network namespace: %w", err)
	}
	n.dir = dir
	return nil
}

// unpin lets the namespace go when its last process is gone.
func (n *slot) unpin() error { return unpinDir(n.dir) }

// unpinDir removes a directory of pins; nothing else is ever in it.
func unpinDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		err = errors.Join(err, linux.Unpin(filepath.Join(dir, e.Name())))
	}
	// Whoever sweeps what an engine left may have renamed it meanwhile, to do the same.
	if gone := os.Remove(dir); !errors.Is(gone, os.ErrNotExist) {
		err = errors.Join(err, gone)
	}
	return err
}

// retire takes a directory that nobody claims out of the way and gives its
// namespaces back, in the background.
func (h *host) retire(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	dead := filepath.Join(h.dir, "dead-"+newID()[:slotLen])
	if err := os.Rename(dir, dead); err != nil {
		return err
	}
	var ends []*end
	for _, e := range entries {
		ends = append(ends, &end{veth: h.vethPrefix() + e.Name()})
	}
	h.bury(dead, ends, false, nil)
	return nil
}

// burial is a namespace on its way out.
type burial struct {
	hurry chan struct{} // closed when somebody waits for its addresses
	asked sync.Once
	done  chan struct{}
}

func (b *burial) askHurry() { b.asked.Do(func() { close(b.hurry) }) }

// bury gives a namespace and its addresses back, off everybody's way: the
// kernel takes a namespace down slowly and in batches. The addresses are free
// again when the cables are really gone; now says not to wait for the kernel,
// because a pod that shared the namespace still holds it.
func (h *host) bury(dir string, ends []*end, now bool, then func()) {
	b := &burial{hurry: make(chan struct{}), done: make(chan struct{})}
	if now {
		b.askHurry()
	}
	h.mu.Lock()
	h.burials[b] = struct{}{}
	h.mu.Unlock()
	work := func() {
		defer func() {
			h.mu.Lock()
			delete(h.burials, b)
			h.mu.Unlock()
			close(b.done)
		}()
		if err := unpinDir(dir); err != nil {
			h.log.Warn("network namespace is not given back", "path", dir, "error", err)
		}
		for _, e := range ends {
			if e.veth != "" {
				h.awaitGone(e.veth, b.hurry)
			}
			e.release()
		}
		if then != nil {
			then()
		}
	}
	if !h.background(work) {
		work()
	}
}

// finishBurials gets the addresses back that only wait for the kernel: a
// container that starts again wants its own at once.
func (h *host) finishBurials() {
	const limit = 2 * time.Second
	h.mu.Lock()
	all := slices.Collect(maps.Keys(h.burials))
	h.mu.Unlock()
	t := time.NewTimer(limit)
	defer t.Stop()
	for _, b := range all {
		b.askHurry()
	}
	for _, b := range all {
		select {
		case <-b.done:
		case <-t.C:
			return
		}
	}
}

func (e *end) release() {
	if e.v4.IsValid() && e.network.v4 != nil {
		e.network.v4.Release(e.v4)
	}
	if e.v6.IsValid() && e.network.v6 != nil {
		e.network.v6.Release(e.v6)
	}
}

// awaitGone waits for the kernel to take a cable down with its namespace, and
// does it itself when somebody is in a hurry or something holds the namespace.
func (h *host) awaitGone(veth string, hurry <-chan struct{}) {
	const first, longest = 10 * time.Millisecond, 320 * time.Millisecond
	for wait := first; wait <= longest && h.linkThere(veth); wait *= 2 {
		t := time.NewTimer(wait)
		select {
		case <-t.C:
			continue
		case <-hurry:
			wait = longest
		case <-h.life.Done():
			t.Stop()
			return // nobody is going to have the address
		}
		t.Stop()
	}
	if err := h.deleteLink(veth); err != nil {
		h.log.Warn("interface is not removed", "interface", veth, "error", err)
	}
}

func (h *host) deleteLink(name string) error {
	if !h.linkThere(name) {
		return nil
	}
	l, err := h.links.LinkByName(name)
	if err == nil {
		err = h.links.LinkDel(l)
	}
	if err == nil || errors.As(err, new(netlink.LinkNotFoundError)) || !h.linkThere(name) {
		return nil
	}
	return fmt.Errorf("remove interface %s: %w", name, err)
}

// plug connects the namespace at path to e's network. inside is a handle in it.
// defaultRoute: traffic to everywhere else goes there.
func (e *end) plug(inside *netlink.Handle, path string, defaultRoute bool) (err error) {
	host := e.network.host
	index, err := e.network.ensure()
	if err != nil {
		return err
	}
	mac, err := net.ParseMAC(e.mac)
	if err != nil {
		return fmt.Errorf("invalid MAC address %q: %w", e.mac, err)
	}
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer ns.Close()

	mtu := e.network.linkMTU()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex = e.veth, mtu, index
	cable := netlink.NewVeth(attrs)
	cable.PeerName, cable.PeerMTU, cable.PeerHardwareAddr = e.ifname, uint32(mtu), mac //nolint:gosec // checked
	cable.PeerNamespace = netlink.NsFd(ns)
	if err := host.links.LinkAdd(cable); err != nil {
		return fmt.Errorf("add interface pair %s: %w", e.veth, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, host.deleteLink(e.veth))
		}
	}()
	// A bridge port needs no address of its own.
	if err := host.sys.set("ipv6/conf/"+e.veth+"/disable_ipv6", "1"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	// Where bridged packets go through the firewall, one that comes back to the
	// port it came from never leaves the bridge.
	if host.sys.bridgedFiltered("iptables") {
		if err := host.links.LinkSetHairpin(cable, true); err != nil {
			return fmt.Errorf("set hairpin mode: %w", err)
		}
	}
	if e.network.rules().Isolated {
		if err := host.links.LinkSetIsolated(cable, true); err != nil {
			return fmt.Errorf("isolate port: %w", err)
		}
	}
	if err := host.links.LinkSetUp(cable); err != nil {
		return fmt.Errorf("set %s up: %w", e.veth, err)
	}
	return configure(inside, path, e, defaultRoute && !e.network.rec.Internal)
}

// configure gives the pod's interface its addresses and routes. h is a handle
// inside the namespace.
func configure(h *netlink.Handle, path string, e *end, defaultRoute bool) error {
	link, err := h.LinkByName(e.ifname)
	if err != nil {
		return fmt.Errorf("look for %s: %w", e.ifname, err)
	}
	if !e.v6.IsValid() {
		// No IPv6 where the user has none, not even link-local (CVE-2024-32473).
		err := e.network.host.withSysctls(path, func(sys sysctls) error { return sys.set("ipv6/conf/"+e.ifname+"/disable_ipv6", "1") })
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := e.setSysctls(path); err != nil {
		return err
	}
	for _, p := range e.prefixes() {
		if err := h.AddrAdd(link, &netlink.Addr{IPNet: ipNet(p), Flags: ifaFNoDAD}); err != nil {
			return fmt.Errorf("add address %s: %w", p, err)
		}
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", e.ifname, err)
	}
	if !defaultRoute {
		return nil
	}
	return setDefaultRoute(h, link.Attrs().Index, e)
}

// setSysctls sets what was asked for e's interface in the namespace at path.
func (e *end) setSysctls(path string) error {
	if e.sysctls == "" {
		return nil
	}
	settings, err := parseSysctls(e.sysctls)
	if err != nil {
		return err
	}
	return e.network.host.withSysctls(path, func(sys sysctls) error {
		for _, s := range settings {
			if err := sys.set(s.family+"/"+s.group+"/"+e.ifname+"/"+s.name, s.value); err != nil {
				return fmt.Errorf("sysctl of interface %s: %w", e.ifname, errors.Join(errdefs.ErrInvalidArgument, err))
			}
		}
		return nil
	})
}

func setDefaultRoute(h *netlink.Handle, index int, e *end) error {
	for _, gw := range e.gateways() {
		all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if gw.Is6() {
			all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		if err := h.RouteReplace(&netlink.Route{LinkIndex: index, Dst: ipNet(all), Gw: gw.AsSlice()}); err != nil {
			return fmt.Errorf("add default route by %s: %w", gw, err)
		}
	}
	return nil
}

func (e *end) prefixes() []netip.Prefix {
	var out []netip.Prefix
	if e.v4.IsValid() {
		out = append(out, netip.PrefixFrom(e.v4, e.network.v4.Subnet().Bits()))
	}
	if e.v6.IsValid() {
		out = append(out, netip.PrefixFrom(e.v6, e.network.v6.Subnet().Bits()))
	}
	return out
}

func (e *end) gateways() []netip.Addr {
	var out []netip.Addr
	if e.v4.IsValid() && e.network.mode(optMode4) != modeIsolated {
		out = append(out, e.network.v4.Gateway())
	}
	if e.v6.IsValid() && e.network.mode(optMode6) != modeIsolated {
		out = append(out, e.network.v6.Gateway())
	}
	return out
}

// handleAt opens netlink inside the namespace at path. No thread stays there.
func handleAt(path string) (*netlink.Handle, error) {
	var h *netlink.Handle
	err := linux.InNetNS(path, func() (err error) {
		h, err = netlink.NewHandle(netlinkRoute)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open netlink in %s: %w", path, err)
	}
	return h, nil
}
