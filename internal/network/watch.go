package network

import (
	"encoding/binary"
	"errors"
	"maps"
	"os"
	"slices"
	"syscall"
	"time"

	"hull/internal/linux"
)

// Groups and messages of netlink, from linux/rtnetlink.h and nfnetlink.h.
const (
	groupLink, groupAddr4, groupAddr6 = 1, 5, 9
	groupTables                       = 7 // nftables
	netlinkNetfilter                  = 12

	rtmNewLink, rtmDelLink, rtmDelAddr = 16, 17, 21
)

// watch repairs what somebody else takes away while the engine runs: the table, a
// bridge, a bridge's address. The kernel tells; nothing is looked at meanwhile. It
// starts with the first network that is made, and ends with the service.
func (s *registry) watch() {
	links, err := subscribe(netlinkRoute, groupLink, groupAddr4, groupAddr6)
	if err != nil {
		s.log.Warn("interfaces that others remove are repaired only by the next attach", "error", err)
		return
	}
	tables, err := subscribe(netlinkNetfilter, groupTables)
	if err != nil {
		links.Close()
		s.log.Warn("firewall rules that others remove are repaired only by the next attach", "error", err)
		return
	}
	changed := make(chan struct{}, 1)
	lost := make(chan int32, 64) // interfaces' indexes; 0 = any may be
	s.host.background(func() {
		listen(links, func(m syscall.NetlinkMessage) { tellLink(m, lost) }, func() { sendTo(lost, 0) })
	})
	s.host.background(func() {
		listen(tables, func(syscall.NetlinkMessage) { sendTo(changed, struct{}{}) }, func() { sendTo(changed, struct{}{}) })
	})
	s.host.background(func() {
		defer links.Close()
		defer tables.Close()
		s.repair(changed, lost)
	})
}

// sendTo sends, unless the receiver has enough to do.
func sendTo[T any](c chan<- T, v T) {
	select {
	case c <- v:
	default:
	}
}

// subscribe opens a socket that hears the kernel's notifications to groups.
func subscribe(protocol int, groups ...uint32) (*os.File, error) {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	at := &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}
	for _, g := range groups {
		at.Groups |= 1 << (g - 1)
	}
	if err := syscall.Bind(fd, at); err != nil {
		_ = syscall.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	return os.NewFile(uintptr(fd), "netlink"), nil
}

// listen receives until the socket is closed. missed: the kernel had more to tell
// than the socket holds.
func listen(f *os.File, each func(syscall.NetlinkMessage), missed func()) {
	const largest = 32 << 10 // that the kernel puts together for a notification
	buf := make([]byte, largest)
	for {
		n, err := f.Read(buf)
		switch {
		case errors.Is(err, syscall.ENOBUFS):
			missed()
			continue
		case err != nil:
			return
		}
		msgs, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			missed()
		}
		for _, m := range msgs {
			each(m)
		}
	}
}

// tellLink picks the messages out that can mean damage: an interface or an address
// that goes, an interface that is down.
func tellLink(m syscall.NetlinkMessage, lost chan<- int32) {
	const indexAt, flagsAt, size = 4, 8, 16 // of struct ifinfomsg
	switch m.Header.Type {
	case rtmDelAddr:
		if len(m.Data) >= 8 { // struct ifaddrmsg has the index at the same place
			sendTo(lost, int32(binary.NativeEndian.Uint32(m.Data[indexAt:]))) //nolint:gosec // an int in C
		}
	case rtmNewLink, rtmDelLink:
		if len(m.Data) < size {
			return
		}
		up := binary.NativeEndian.Uint32(m.Data[flagsAt:])&syscall.IFF_UP != 0
		if m.Header.Type == rtmDelLink || !up {
			sendTo(lost, int32(binary.NativeEndian.Uint32(m.Data[indexAt:]))) //nolint:gosec // an int in C
		}
	}
}

// repair works off what listen heard, a moment later: who takes one thing away
// mostly takes several.
func (s *registry) repair(changed <-chan struct{}, lost <-chan int32) {
	const moment = 20 * time.Millisecond
	for {
		indexes := map[int32]bool{}
		rules := false
		select {
		case <-s.host.life.Done():
			return
		case <-changed:
			rules = true
		case i := <-lost:
			if i != 0 && !s.isOurs(i) {
				continue
			}
			indexes[i] = true
		}
		if err := linux.Sleep(s.host.life, moment); err != nil {
			return
		}
		for more := true; more; {
			select {
			case <-changed:
				rules = true
			case i := <-lost:
				indexes[i] = true
			default:
				more = false
			}
		}
		s.repairLinks(indexes)
		if rules {
			s.repairRules()
		}
	}
}

func (s *registry) isOurs(index int32) bool {
	s.mu.Lock()
	all := slices.Collect(maps.Values(s.networks))
	s.mu.Unlock()
	return slices.ContainsFunc(all, func(n *network) bool { return n.made() == int(index) })
}

// made is the index of the network's interface on the host, 0 = it has none now.
func (n *network) made() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.index
}

func (s *registry) repairLinks(indexes map[int32]bool) {
	s.mu.Lock()
	all := slices.Collect(maps.Values(s.networks))
	s.mu.Unlock()
	for _, n := range all {
		index := n.made()
		if index == 0 || n.bridge == "" || !indexes[0] && !indexes[int32(index)] { //nolint:gosec // of an interface
			continue
		}
		if n.host.linkThere(n.bridge) {
			n.inspect()
			continue
		}
		if _, err := n.ensure(); err != nil {
			s.log.Error("bridge cannot be repaired", "network", n.rec.Name, "bridge", n.bridge, "error", err)
		}
	}
}

func (s *registry) repairRules() {
	repaired, err := s.host.fw.Check()
	switch {
	case err != nil:
		s.log.Error("nftables table cannot be repaired", "instance", s.cfg.Instance, "error", err)
	case repaired:
		s.log.Warn("nftables table was damaged and is repaired", "instance", s.cfg.Instance)
	}
}
