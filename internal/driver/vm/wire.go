package vm

import (
	"fmt"
	"net"
	"os"
	"strconv"

	"hull/internal/guest"
	"hull/internal/linux"
	"hull/internal/linux/rtnl"
	monitorvm "hull/internal/monitor/vm"
)

// files are closed together.
type files []*os.File

func (f files) close() { linux.CloseAll(f) }

// wire puts a tap beside each interface of the pod's network namespace, and leads
// everything that comes in at the one out of the other. The guest's interface has
// the addresses of the pod's, which keeps them: nothing that knows the pod by its
// network needs to know that a machine answers.
func wire(netns string) (nets []monitorvm.Net, taps files, err error) {
	err = linux.InNetNS(netns, func() error {
		all, err := net.Interfaces()
		if err != nil {
			return fmt.Errorf("list interfaces: %w", err)
		}
		for _, ifc := range all {
			if ifc.Flags&net.FlagLoopback != 0 || len(ifc.HardwareAddr) != 6 || ifc.Flags&net.FlagUp == 0 {
				continue
			}
			n, tap, err := wireOne(ifc, len(nets))
			if err != nil {
				return fmt.Errorf("connect the machine to %s: %w", ifc.Name, err)
			}
			nets, taps = append(nets, n), append(taps, tap)
		}
		return nil
	})
	if err != nil {
		taps.close()
		return nil, nil, err
	}
	return nets, taps, nil
}

func wireOne(ifc net.Interface, i int) (_ monitorvm.Net, tap *os.File, err error) {
	n := guest.Interface{Name: ifc.Name, Mac: ifc.HardwareAddr.String(), MTU: ifc.MTU}
	addrs, err := ifc.Addrs()
	if err != nil {
		return n, nil, err
	}
	for _, a := range addrs {
		// The guest makes its own link-local address, from the same MAC.
		if p, ok := a.(*net.IPNet); ok && !p.IP.IsLinkLocalUnicast() {
			n.Addrs = append(n.Addrs, p.String())
		}
	}
	routes, err := rtnl.Routes(ifc.Index)
	if err != nil {
		return n, nil, err
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
	name := "hulltap" + strconv.Itoa(i)
	if tap, err = rtnl.OpenTap(name); err != nil {
		return n, nil, err
	}
	defer func() {
		if err != nil {
			tap.Close()
		}
	}()
	t, err := net.InterfaceByName(name)
	if err != nil {
		return n, nil, err
	}
	if err := rtnl.SetLink(t.Index, rtnl.Link{MTU: ifc.MTU, Up: true}); err != nil {
		return n, nil, err
	}
	if err := rtnl.Redirect(ifc.Index, t.Index); err != nil {
		return n, nil, err
	}
	return n, tap, rtnl.Redirect(t.Index, ifc.Index)
}
