package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"hull/internal/linux"
)

// Move hands the interface name to the network namespace at path, where it is
// called as, and sets it up there. A %d in as becomes the first number that is
// free. The kernel takes an interface's addresses when it moves: those that
// somebody gave it for good and for everywhere are given again. It is
// os.ErrExist when there is one called as already.
func Move(name, path, as string) error {
	it, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	addrs, err := lasting(it.Index)
	if err != nil {
		return err
	}
	ns, err := os.Open(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	var before []net.Interface
	if err := linux.InNetNS(path, func() (err error) { before, err = net.Interfaces(); return err }); err != nil {
		return err
	}
	// The kernel would say so only after the move.
	if slices.ContainsFunc(before, func(i net.Interface) bool { return i.Name == as }) {
		return fmt.Errorf("interface %s: %w", as, os.ErrExist)
	}
	if err := SetLink(it.Index, Link{Name: as, NS: ns}); err != nil {
		return err
	}
	return linux.InNetNS(path, func() error {
		index, err := arrival(before)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if err := a.give(index); err != nil {
				return err
			}
		}
		return SetLink(index, Link{Up: true})
	})
}

// arrival is the interface that was not there before: its number and, from a
// template, its name are the kernel's choice.
func arrival(before []net.Interface) (int, error) {
	now, err := net.Interfaces()
	if err != nil {
		return 0, err
	}
	for _, i := range now {
		if !slices.ContainsFunc(before, func(b net.Interface) bool { return b.Index == i.Index }) {
			return i.Index, nil
		}
	}
	return 0, errors.New("the interface is gone after its move")
}

// address is what the kernel said of one.
type address struct {
	head  []byte // struct ifaddrmsg
	attrs []syscall.NetlinkRouteAttr
}

// lasting lists the addresses of an interface that do not expire and are not for
// the link or the host only.
func lasting(index int) ([]address, error) {
	b, err := syscall.NetlinkRIB(syscall.RTM_GETADDR, syscall.AF_UNSPEC)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	msgs, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var out []address
	for _, m := range msgs {
		if m.Header.Type != unix.RTM_NEWADDR || len(m.Data) < unix.SizeofIfAddrmsg {
			continue
		}
		a := address{head: m.Data[:unix.SizeofIfAddrmsg]}
		if int(binary.NativeEndian.Uint32(a.head[4:])) != index || a.head[3] != unix.RT_SCOPE_UNIVERSE || a.head[2]&unix.IFA_F_PERMANENT == 0 {
			continue
		}
		if a.attrs, err = syscall.ParseNetlinkRouteAttr(&m); err != nil {
			return nil, fmt.Errorf("list addresses: %w", err)
		}
		out = append(out, a)
	}
	return out, nil
}

// give adds the address to another interface: all of it but its label, which is
// the old name, and its times.
func (a address) give(index int) error {
	head := slices.Clone(a.head)
	binary.NativeEndian.PutUint32(head[4:], uint32(index))
	r := newRequest(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, head...)
	var ip netip.Addr
	for _, x := range a.attrs {
		switch x.Attr.Type {
		case unix.IFA_LOCAL, unix.IFA_ADDRESS:
			ip, _ = netip.AddrFromSlice(x.Value)
			fallthrough
		case unix.IFA_BROADCAST, unix.IFA_FLAGS, unix.IFA_RT_PRIORITY:
			r.attr(x.Attr.Type, x.Value)
		}
	}
	if err := r.do(); err != nil {
		return fmt.Errorf("add address %s: %w", ip, err)
	}
	return nil
}
