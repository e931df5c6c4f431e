package agent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hull/internal/guest"
	"hull/internal/linux/rtnl"
)

// device is what the machine's network device is called as long as no network has
// it for itself.
const device = "hull0"

// loopback is the index of "lo", the first device of each network namespace.
const loopback = 1

// firstName is what the kernel calls it.
const firstName = "eth0"

// nameDevice finds the machine's network device, which keeps its index for as long as the
// machine lives, and sets up loopback. Its index is asked for by its name: to list all
// devices is slow where it is emulated for the first time.
func nameDevice() (index int, err error) {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer func() { _ = unix.Close(s) }()
	r, err := unix.NewIfreq(firstName)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(s, unix.SIOCGIFINDEX, r); err != nil {
		return 0, fmt.Errorf("the machine has no network device (does the kernel have virtio_net?): %w", err)
	}
	index = int(r.Uint32())
	if err := rtnl.SetLink(index, rtnl.Link{Name: device}); err != nil {
		return 0, err
	}
	return index, rtnl.SetLink(loopback, rtnl.Link{Up: true})
}

// relink makes the interfaces of the machine's device, by its index, want, which were
// have, and says what they are, as far as it came.
func relink(dev int, have, want []guest.Interface) (now []guest.Interface, err error) {
	now = slices.Clone(have)
	if len(have)+len(want) == 0 {
		return now, nil
	}
	for _, n := range have {
		if slices.ContainsFunc(want, func(w guest.Interface) bool { return same(n, w) }) {
			continue
		}
		if err := remove(n); err != nil {
			return now, fmt.Errorf("remove interface %s: %w", n.Name, err)
		}
		now = slices.DeleteFunc(now, func(o guest.Interface) bool { return same(n, o) })
	}
	for _, n := range want {
		i := slices.IndexFunc(now, func(o guest.Interface) bool { return same(n, o) })
		if i < 0 {
			if err := add(dev, n); err != nil {
				return now, fmt.Errorf("add interface %s: %w", n.Name, errors.Join(err, remove(n)))
			}
			now = append(now, n)
			continue
		}
		if err := change(now[i], n); err != nil {
			return now, fmt.Errorf("change interface %s: %w", n.Name, err)
		}
		now[i] = n
	}
	if len(now) > 0 {
		return now, nil
	}
	return now, rtnl.SetLink(dev, rtnl.Link{Down: true})
}

// same says whether two are one interface, with other routes perhaps.
func same(a, b guest.Interface) bool {
	return a.Name == b.Name && a.Mac == b.Mac && a.MTU == b.MTU && a.Tag == b.Tag && slices.Equal(a.Addrs, b.Addrs)
}

// add makes an interface: the device itself, or what has its tag on it.
func add(dev int, n guest.Interface) error {
	mac, err := net.ParseMAC(n.Mac)
	if err != nil {
		return err
	}
	link := rtnl.Link{Name: n.Name, Mac: mac, MTU: n.MTU}
	index := dev
	if n.Tag == 0 {
		err = rtnl.SetLink(index, link)
	} else {
		index, err = addTagged(dev, n.Tag, link)
	}
	if err != nil {
		return err
	}
	// Without it an IPv6 address could not be used for a second.
	_ = writeFile("/proc/sys/net/ipv6/conf/"+n.Name+"/accept_dad", "0")
	if err := rtnl.SetLink(index, rtnl.Link{Up: true}); err != nil {
		return err
	}
	for _, a := range n.Addrs {
		p, err := netip.ParsePrefix(a)
		if err != nil {
			return err
		}
		if err := rtnl.AddAddr(index, p); err != nil {
			return err
		}
	}
	return reroute(index, nil, n.Routes)
}

func addTagged(dev int, tag uint16, l rtnl.Link) (index int, err error) {
	if err := loadModules(guest.VLANModules); err != nil {
		return 0, err
	}
	parent, err := net.InterfaceByIndex(dev)
	if err != nil {
		return 0, err
	}
	// Its own MTU is that of a network.
	if err := rtnl.SetLink(parent.Index, rtnl.Link{MTU: max(parent.MTU, l.MTU), Up: true}); err != nil {
		return 0, err
	}
	err = rtnl.AddVLAN(parent.Index, tag, l)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return 0, fmt.Errorf("the guest's kernel lacks VLANs (8021q), which a second network needs; 'hull vm kernel install' installs one that has them: %w", errdefs.ErrNotImplemented)
	}
	if err != nil {
		return 0, err
	}
	ifc, err := net.InterfaceByName(l.Name)
	if err != nil {
		return 0, err
	}
	return ifc.Index, nil
}

// remove is the reverse of add, of as much as there is: the container may have been
// there before.
func remove(n guest.Interface) error {
	ifc, err := net.InterfaceByName(n.Name)
	if err != nil {
		return nil //nolint:nilerr // it is not there
	}
	if n.Tag != 0 {
		return rtnl.DelLink(ifc.Index)
	}
	// The others are on it: it stays up.
	if err := reroute(ifc.Index, n.Routes, nil); err != nil {
		return err
	}
	for _, a := range n.Addrs {
		p, err := netip.ParsePrefix(a)
		if err == nil {
			err = rtnl.DelAddr(ifc.Index, p)
		}
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return err
		}
	}
	return rtnl.SetLink(ifc.Index, rtnl.Link{Name: device})
}

// change gives an interface that stays other routes.
func change(from, to guest.Interface) error {
	if slices.Equal(from.Routes, to.Routes) {
		return nil
	}
	ifc, err := net.InterfaceByName(to.Name)
	if err != nil {
		return err
	}
	return reroute(ifc.Index, from.Routes, to.Routes)
}

// reroute gives an interface the routes to instead of from.
func reroute(index int, from, to []guest.Route) error {
	each := func(routes, except []guest.Route, do func(rtnl.Route) error) error {
		for _, r := range routes {
			if slices.Contains(except, r) {
				continue
			}
			t, err := route(index, r)
			if err == nil {
				err = do(t)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	// One that has gone by itself, with an address, is as good as removed.
	drop := func(t rtnl.Route) error {
		if err := rtnl.DelRoute(t); !errors.Is(err, unix.ESRCH) {
			return err
		}
		return nil
	}
	if err := each(from, to, drop); err != nil {
		return err
	}
	return each(to, from, rtnl.AddRoute)
}

func route(index int, r guest.Route) (t rtnl.Route, err error) {
	t = rtnl.Route{Index: index, OnLink: r.OnLink}
	if r.Dst != "" {
		if t.Dst, err = netip.ParsePrefix(r.Dst); err != nil {
			return t, err
		}
	}
	if r.Gateway != "" {
		t.Gateway, err = netip.ParseAddr(r.Gateway)
	}
	return t, err
}
