package rtnl

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// OpenTap makes a tap device in the calling thread's network namespace. It goes
// when its descriptor, and those of whoever inherited it, are closed.
func OpenTap(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
	}
	r, err := unix.NewIfreq(name)
	if err == nil {
		r.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, r)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("make tap device %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Routes are the routes of the main table through an interface that somebody
// added, in both families.
func Routes(index int) ([]Route, error) {
	b, err := syscall.NetlinkRIB(syscall.RTM_GETROUTE, syscall.AF_UNSPEC)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	msgs, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var out []Route
	for _, m := range msgs {
		if m.Header.Type != unix.RTM_NEWROUTE || len(m.Data) < unix.SizeofRtMsg {
			continue
		}
		if r, ok := parseRoute(&m); ok && r.Index == index {
			out = append(out, r)
		}
	}
	return out, nil
}

// parseRoute leaves out what the kernel makes by itself of addresses.
func parseRoute(m *syscall.NetlinkMessage) (Route, bool) {
	d := m.Data
	if d[4] != unix.RT_TABLE_MAIN || d[5] == unix.RTPROT_KERNEL || d[7] != unix.RTN_UNICAST {
		return Route{}, false
	}
	attrs, err := syscall.ParseNetlinkRouteAttr(m)
	if err != nil {
		return Route{}, false
	}
	r := Route{OnLink: binary.NativeEndian.Uint32(d[8:])&unix.RTNH_F_ONLINK != 0}
	for _, a := range attrs {
		switch a.Attr.Type {
		case unix.RTA_DST:
			if ip, ok := netip.AddrFromSlice(a.Value); ok {
				r.Dst = netip.PrefixFrom(ip, int(d[1]))
			}
		case unix.RTA_GATEWAY:
			r.Gateway, _ = netip.AddrFromSlice(a.Value)
		case unix.RTA_OIF:
			if len(a.Value) == 4 {
				r.Index = int(binary.NativeEndian.Uint32(a.Value))
			}
		}
	}
	return r, r.Dst.IsValid() || r.Gateway.IsValid()
}
