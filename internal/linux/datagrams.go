package linux

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Datagrams is a batch of datagrams that one system call receives, or sends
// (recvmmsg(2), sendmmsg(2)). It allocates nothing after NewDatagrams.
type Datagrams struct {
	headers []mmsghdr
	parts   []unix.Iovec
	peers   []unix.RawSockaddrInet6 // an IPv4 address is shorter
	space   []byte
	size    int // of one
}

// mmsghdr is struct mmsghdr.
type mmsghdr struct {
	unix.Msghdr
	len uint32
}

// NewDatagrams makes room for n datagrams of at most size bytes.
func NewDatagrams(n, size int) *Datagrams {
	d := &Datagrams{
		headers: make([]mmsghdr, n), parts: make([]unix.Iovec, n), peers: make([]unix.RawSockaddrInet6, n),
		space: make([]byte, n*size), size: size,
	}
	for i := range d.headers {
		h := &d.headers[i]
		h.Iov = &d.parts[i]
		h.SetIovlen(1)
		h.Name = (*byte)(unsafe.Pointer(&d.peers[i]))
	}
	return d
}

// Receive takes what has arrived at a socket, without waiting, and returns how
// many. EAGAIN: none.
func (d *Datagrams) Receive(fd int) (int, error) {
	for i := range d.headers {
		d.parts[i].Base = &d.space[i*d.size]
		d.parts[i].SetLen(d.size)
		d.headers[i].Namelen = unix.SizeofSockaddrInet6
	}
	return d.call(unix.SYS_RECVMMSG, fd, d.headers, unix.MSG_DONTWAIT)
}

// Message is datagram i of those received, valid until the next Receive. A longer
// one is cut to the size of all.
func (d *Datagrams) Message(i int) []byte {
	at := i * d.size
	return d.space[at : at+min(int(d.headers[i].len), d.size)]
}

// Peer is who sent datagram i of those received; invalid where it is nobody on an
// IP network.
func (d *Datagrams) Peer(i int) netip.AddrPort {
	p := &d.peers[i]
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&p.Port))[:])
	switch p.Family {
	case unix.AF_INET:
		a := (*unix.RawSockaddrInet4)(unsafe.Pointer(p)).Addr
		return netip.AddrPortFrom(netip.AddrFrom4(a), port)
	case unix.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16(p.Addr), port)
	}
	return netip.AddrPort{}
}

// Answer puts msg into the batch of answers as number n: it goes to whom datagram
// i came from, and n <= i. msg must stay as it is until Send.
func (d *Datagrams) Answer(n, i int, msg []byte) {
	d.peers[n], d.headers[n].Namelen = d.peers[i], d.headers[i].Namelen
	d.parts[n].Base = unsafe.SliceData(msg)
	d.parts[n].SetLen(len(msg))
}

// Send sends the first n answers, without waiting. What a socket does not take is
// lost, as datagrams are.
func (d *Datagrams) Send(fd, n int) {
	for at := 0; at < n; {
		sent, err := d.call(unix.SYS_SENDMMSG, fd, d.headers[at:n], unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if err != nil {
			sent = 1 // the one that failed
		}
		at += sent
	}
}

// call's errors are bare numbers: EAGAIN is what it says most often.
func (d *Datagrams) call(trap uintptr, fd int, batch []mmsghdr, flags uintptr) (int, error) {
	n, _, e := unix.Syscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(batch))), uintptr(len(batch)), flags, 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}
