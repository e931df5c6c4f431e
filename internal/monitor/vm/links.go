package vm

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	"hull/internal/guest"
	"hull/internal/linux"
	"hull/internal/linux/rtnl"
)

// tapName is what the machine's end is called in the pod's network namespace.
const tapName = "hulltap0"

// links join the pod's network namespace with its machine. Everything that comes in
// at an interface of the namespace goes out of the one tap, with a VLAN tag that
// says which interface it was, and the reverse: one of the interfaces goes without a
// tag. The guest's interfaces have the addresses of the namespace's, which keeps
// them: nothing that knows the pod by its network needs to know that a machine
// answers. What the guest sends in the name of no network is dropped.
type links struct {
	netns string
	tap   *os.File // nil = there was no network yet
	nets  []Net    // as of the last update
}

// update looks what the namespace has now, and joins that with the machine.
func (l *links) update() error {
	return linux.InNetNS(l.netns, func() error {
		all, err := net.Interfaces()
		if err != nil {
			return fmt.Errorf("list interfaces: %w", err)
		}
		all = slices.DeleteFunc(all, func(i net.Interface) bool {
			return i.Name == tapName || i.Flags&net.FlagLoopback != 0 || len(i.HardwareAddr) != 6 || i.Flags&net.FlagUp == 0
		})
		var nets []Net
		for _, ifc := range all {
			n, err := describe(ifc)
			if err != nil {
				return fmt.Errorf("interface %s: %w", ifc.Name, err)
			}
			nets = append(nets, n)
		}
		if err := number(nets, l.nets); err != nil {
			return err
		}
		l.nets = nets
		if len(nets) == 0 && l.tap == nil {
			return nil
		}
		return l.join(all)
	})
}

// join leads the interfaces, which are l.nets, to the tap, and back.
func (l *links) join(all []net.Interface) (err error) {
	if l.tap == nil {
		if l.tap, err = rtnl.OpenTap(tapName); err != nil {
			return err
		}
	}
	tap, err := net.InterfaceByName(tapName)
	if err != nil {
		return err
	}
	ways, mtu := map[uint16]int{}, tap.MTU
	for i, ifc := range all {
		ways[l.nets[i].Tag] = ifc.Index
		mtu = max(mtu, ifc.MTU)
	}
	// The way out first: the tap must not be up without it.
	if err := rtnl.Distribute(tap.Index, ways); err != nil {
		return err
	}
	if err := rtnl.SetLink(tap.Index, rtnl.Link{MTU: mtu, Up: true}); err != nil {
		return err
	}
	for i, ifc := range all {
		if err := rtnl.Lead(ifc.Index, tap.Index, l.nets[i].Tag); err != nil {
			return fmt.Errorf("interface %s: %w", ifc.Name, err)
		}
	}
	return nil
}

// close gives the tap back.
func (l *links) close() {
	if l.tap != nil {
		l.tap.Close()
	}
	l.tap, l.nets = nil, nil
}

// number gives each network a tag that no other one has: that which it had before,
// else the lowest that is free.
func number(nets, before []Net) error {
	taken := map[uint16]bool{}
	known := make([]bool, len(nets))
	for i := range nets {
		if j := slices.IndexFunc(before, func(b Net) bool { return b.Mac == nets[i].Mac }); j >= 0 && !taken[before[j].Tag] {
			nets[i].Tag, known[i] = before[j].Tag, true
			taken[nets[i].Tag] = true
		}
	}
	free := uint16(0)
	for i := range nets {
		if known[i] {
			continue
		}
		for taken[free] {
			free++
		}
		if free > rtnl.MaxTag {
			return errors.New("a machine has no more than 4095 networks")
		}
		nets[i].Tag, taken[free] = free, true
	}
	return nil
}

// describe says what the guest's interface is to be.
func describe(ifc net.Interface) (Net, error) {
	n := Net{Name: ifc.Name, Mac: ifc.HardwareAddr.String(), MTU: ifc.MTU}
	addrs, err := ifc.Addrs()
	if err != nil {
		return n, err
	}
	for _, a := range addrs {
		// The guest makes its own link-local address, from the same MAC.
		if p, ok := a.(*net.IPNet); ok && !p.IP.IsLinkLocalUnicast() {
			n.Addrs = append(n.Addrs, p.String())
		}
	}
	routes, err := rtnl.Routes(ifc.Index)
	if err != nil {
		return n, err
	}
	for _, r := range routes {
		x := guest.Route{OnLink: r.OnLink}
		if r.Dst.IsValid() {
			x.Dst = r.Dst.String()
		}
		if r.Gateway.IsValid() {
			x.Gateway = r.Gateway.String()
		}
		n.Routes = append(n.Routes, x)
	}
	return n, nil
}
