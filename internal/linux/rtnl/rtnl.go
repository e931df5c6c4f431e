// Package rtnl speaks the few words of rtnetlink that are needed where a whole
// library is too much: in a microVM's process 1 and in monitors. Every call
// opens a socket of its own, in the calling thread's network namespace.
package rtnl

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// request is one message being built.
type request struct{ b []byte }

func newRequest(kind, flags uint16, body ...byte) *request {
	r := &request{make([]byte, unix.SizeofNlMsghdr, 256)}
	binary.NativeEndian.PutUint16(r.b[4:], kind)
	binary.NativeEndian.PutUint16(r.b[6:], flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	r.b = append(r.b, body...)
	return r
}

func (r *request) attr(kind uint16, data []byte) {
	r.b = binary.NativeEndian.AppendUint16(r.b, uint16(4+len(data)))
	r.b = binary.NativeEndian.AppendUint16(r.b, kind)
	r.b = append(r.b, data...)
	for len(r.b)%4 != 0 {
		r.b = append(r.b, 0)
	}
}

func (r *request) u32(kind uint16, v uint32) { r.attr(kind, binary.NativeEndian.AppendUint32(nil, v)) }
func (r *request) str(kind uint16, v string) { r.attr(kind, append([]byte(v), 0)) }

// nest adds attributes inside another.
func (r *request) nest(kind uint16, fill func()) {
	at := len(r.b)
	r.attr(kind, nil)
	fill()
	binary.NativeEndian.PutUint16(r.b[at:], uint16(len(r.b)-at))
}

// do sends the message and waits for the kernel's verdict.
func (r *request) do() error {
	binary.NativeEndian.PutUint32(r.b, uint32(len(r.b)))
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, r.b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	var buf [8192]byte
	for {
		n, _, err := unix.Recvfrom(fd, buf[:], 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		if n < unix.SizeofNlMsghdr+4 {
			return unix.EBADMSG
		}
		if binary.NativeEndian.Uint16(buf[4:]) != unix.NLMSG_ERROR {
			continue
		}
		if e := int32(binary.NativeEndian.Uint32(buf[unix.SizeofNlMsghdr:])); e != 0 {
			return syscall.Errno(-e)
		}
		return nil
	}
}

func link(index int, flags, change uint32) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	b[0] = unix.AF_UNSPEC
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint32(b[8:], flags)
	binary.NativeEndian.PutUint32(b[12:], change)
	return b
}

// Link is what to change of an interface; zero values stay as they are.
type Link struct {
	Name string
	Mac  []byte
	MTU  int
	NS   *os.File // network namespace to move to
	Up   bool
	Down bool // instead of Up
}

// SetLink changes an interface.
func SetLink(index int, l Link) error {
	var flags, change uint32
	if l.Up || l.Down {
		change = unix.IFF_UP
	}
	if l.Up {
		flags = unix.IFF_UP
	}
	r := newRequest(unix.RTM_NEWLINK, 0, link(index, flags, change)...)
	if l.Name != "" {
		r.str(unix.IFLA_IFNAME, l.Name)
	}
	if l.Mac != nil {
		r.attr(unix.IFLA_ADDRESS, l.Mac)
	}
	if l.MTU > 0 {
		r.u32(unix.IFLA_MTU, uint32(l.MTU))
	}
	if l.NS != nil {
		r.u32(unix.IFLA_NET_NS_FD, uint32(l.NS.Fd()))
	}
	if err := r.do(); err != nil {
		return fmt.Errorf("set interface %d: %w", index, err)
	}
	return nil
}

// AddVLAN makes an interface of the frames with a tag that come in at another one. It
// gets the name, the address and the MTU of l.
func AddVLAN(parent int, tag uint16, l Link) error {
	r := newRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, link(0, 0, 0)...)
	r.str(unix.IFLA_IFNAME, l.Name)
	r.attr(unix.IFLA_ADDRESS, l.Mac)
	r.u32(unix.IFLA_MTU, uint32(l.MTU))
	r.u32(unix.IFLA_LINK, uint32(parent))
	r.nest(unix.IFLA_LINKINFO, func() {
		r.str(unix.IFLA_INFO_KIND, "vlan")
		r.nest(unix.IFLA_INFO_DATA, func() { r.attr(unix.IFLA_VLAN_ID, binary.NativeEndian.AppendUint16(nil, tag)) })
	})
	if err := r.do(); err != nil {
		return fmt.Errorf("add interface %s: %w", l.Name, err)
	}
	return nil
}

// DelLink removes an interface.
func DelLink(index int) error {
	if err := newRequest(unix.RTM_DELLINK, 0, link(index, 0, 0)...).do(); err != nil {
		return fmt.Errorf("remove interface %d: %w", index, err)
	}
	return nil
}

// AddAddr gives an interface an address. IPv6 ones are used at once, without
// looking for a duplicate.
func AddAddr(index int, p netip.Prefix) error {
	if err := changeAddr(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, index, p); err != nil {
		return fmt.Errorf("add address %s: %w", p, err)
	}
	return nil
}

// DelAddr takes an address from an interface.
func DelAddr(index int, p netip.Prefix) error {
	if err := changeAddr(unix.RTM_DELADDR, 0, index, p); err != nil {
		return fmt.Errorf("remove address %s: %w", p, err)
	}
	return nil
}

func changeAddr(kind, flags uint16, index int, p netip.Prefix) error {
	b := make([]byte, unix.SizeofIfAddrmsg)
	b[0] = family(p.Addr())
	b[1] = byte(p.Bits())
	if p.Addr().Is6() {
		b[2] = unix.IFA_F_NODAD
		if p.Addr().IsLinkLocalUnicast() {
			b[3] = unix.RT_SCOPE_LINK
		}
	}
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	r := newRequest(kind, flags, b...)
	r.attr(unix.IFA_LOCAL, p.Addr().AsSlice())
	r.attr(unix.IFA_ADDRESS, p.Addr().AsSlice())
	return r.do()
}

// Route leads to Dst (the zero prefix = everything) through Gateway, or without
// one to who is on the link.
type Route struct {
	Index   int
	Dst     netip.Prefix
	Gateway netip.Addr
	OnLink  bool
}

// AddRoute adds a route to the main table.
func AddRoute(t Route) error {
	if err := changeRoute(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, t); err != nil {
		return fmt.Errorf("add route to %s through %s: %w", t.Dst, t.Gateway, err)
	}
	return nil
}

// DelRoute removes a route from the main table.
func DelRoute(t Route) error {
	if err := changeRoute(unix.RTM_DELROUTE, 0, t); err != nil {
		return fmt.Errorf("remove route to %s through %s: %w", t.Dst, t.Gateway, err)
	}
	return nil
}

func changeRoute(kind, flags uint16, t Route) error {
	b := make([]byte, unix.SizeofRtMsg)
	b[0] = family(t.Gateway)
	if !t.Gateway.IsValid() {
		b[0] = family(t.Dst.Addr())
		b[6] = unix.RT_SCOPE_LINK
	}
	b[4], b[5], b[7] = unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RTN_UNICAST
	if t.OnLink {
		binary.NativeEndian.PutUint32(b[8:], unix.RTNH_F_ONLINK)
	}
	if t.Dst.IsValid() {
		b[1] = byte(t.Dst.Bits())
	}
	r := newRequest(kind, flags, b...)
	if t.Dst.IsValid() && t.Dst.Bits() > 0 {
		r.attr(unix.RTA_DST, t.Dst.Addr().AsSlice())
	}
	if t.Gateway.IsValid() {
		r.attr(unix.RTA_GATEWAY, t.Gateway.AsSlice())
	}
	r.u32(unix.RTA_OIF, uint32(t.Index))
	return r.do()
}

func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
