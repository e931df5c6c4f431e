package network

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"hull/internal/hull"
	"hull/internal/network/firewall"
)

// binding is a parsed hull.PortBinding.
type binding struct {
	proto       string
	container   uint16
	host        netip.Addr // invalid = all addresses, v4 and v6
	first, last uint16     // 0, 0 = any free one
}

const ipprotoSCTP = 132

func parseBinding(p hull.PortBinding) (binding, error) {
	b := binding{proto: strings.ToLower(p.Proto), container: p.ContainerPort}
	if b.proto == "" {
		b.proto = "tcp"
	}
	if b.proto != "tcp" && b.proto != "udp" && b.proto != "sctp" {
		return b, invalid("invalid proto: %s", p.Proto)
	}
	if p.ContainerPort == 0 {
		return b, invalid("invalid port specification: container port 0")
	}
	if p.HostIP != "" {
		a, err := netip.ParseAddr(strings.Trim(p.HostIP, "[]"))
		if err != nil || a.Zone() != "" {
			return b, invalid("invalid IP address: %s", p.HostIP)
		}
		b.host = a.Unmap()
	}
	var err error
	if b.first, b.last, err = parseRange(p.HostPort); err != nil {
		return b, err
	}
	return b, nil
}

// parseRange reads "", "8080" or "8000-8010". "" and "0" are 0, 0.
func parseRange(s string) (first, last uint16, err error) {
	if s == "" {
		return 0, 0, nil
	}
	from, to, isRange := strings.Cut(s, "-")
	a, err := strconv.ParseUint(from, 10, 16)
	if err != nil {
		return 0, 0, invalid("invalid port range: %s", s)
	}
	b := a
	if isRange {
		if b, err = strconv.ParseUint(to, 10, 16); err != nil || b < a || a == 0 {
			return 0, 0, invalid("invalid port range: %s", s)
		}
	}
	return uint16(a), uint16(b), nil
}

// parseExposed reads "80", "80/udp" or "8000-8010/tcp".
func parseExposed(s string) ([]binding, error) {
	ports, proto, _ := strings.Cut(s, "/")
	first, last, err := parseRange(ports)
	if err != nil || first == 0 {
		return nil, invalid("invalid port range: %s", s)
	}
	var out []binding
	for p := int(first); p <= int(last); p++ {
		b, err := parseBinding(hull.PortBinding{ContainerPort: uint16(p), Proto: proto}) //nolint:gosec // up to last
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}

// claim is a port of the host that a pod has.
type claim struct {
	proto string
	addr  netip.Addr
	port  uint16
	pod   string // id
	name  string
	fd    int // bound socket, -1 = none
}

// maxSockets bounds the descriptors that keep ports reserved; a pod that
// publishes more ports keeps the rest unreserved.
const maxSockets = 256

// ports knows which pod has which port of the host.
type ports struct {
	mu          sync.Mutex
	claims      map[portKey][]*claim
	first, last uint16 // the host's range of ephemeral ports
	next        uint16
}

type portKey struct {
	proto string
	port  uint16
}

func newPorts() *ports {
	p := &ports{claims: map[portKey][]*claim{}, first: 32768, last: 60999}
	if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		var a, z uint16
		if _, err := fmt.Sscan(string(b), &a, &z); err == nil && a > 0 && z > a {
			p.first, p.last = a, z
		}
	}
	p.next = p.first
	return p
}

func (p *ports) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, list := range p.claims {
		for _, c := range list {
			c.closeSocket()
		}
	}
	clear(p.claims)
}

func (c *claim) closeSocket() {
	if c.fd >= 0 {
		_ = syscall.Close(c.fd) // nothing was written to it
		c.fd = -1
	}
}

// take claims a port of the binding on each address, the same one on all.
func (p *ports) take(b binding, addrs []netip.Addr, pod, name string) ([]*claim, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b.first != 0 {
		var first error
		for port := int(b.first); port <= int(b.last); port++ {
			got, err := p.takeAll(b.proto, addrs, uint16(port), pod, name) //nolint:gosec // up to last
			if err == nil {
				return got, nil
			}
			if first == nil {
				first = err
			}
			if !errors.As(err, new(*takenError)) {
				return nil, err
			}
		}
		if b.first != b.last {
			return nil, fmt.Errorf("all ports of %d-%d are allocated: %w", b.first, b.last, first)
		}
		return nil, first
	}
	for range int(p.last) - int(p.first) + 1 {
		port := p.next
		if p.next++; p.next > p.last || p.next == 0 {
			p.next = p.first
		}
		got, err := p.takeAll(b.proto, addrs, port, pod, name)
		if err == nil {
			return got, nil
		}
		if !errors.As(err, new(*takenError)) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("all ports of the host's ephemeral range %d-%d are allocated", p.first, p.last)
}

// takenError says who has a port.
type takenError struct {
	proto string
	at    netip.AddrPort
	by    string // "" = somebody outside
}

func (e *takenError) Error() string {
	msg := fmt.Sprintf("Bind for %s failed: port is already allocated", e.at)
	if e.by != "" {
		return msg + " to " + e.by
	}
	return msg
}

// takeAll needs mu.
func (p *ports) takeAll(proto string, addrs []netip.Addr, port uint16, pod, name string) (_ []*claim, err error) {
	var got []*claim
	defer func() {
		if err != nil {
			p.drop(got)
		}
	}()
	for _, a := range addrs {
		c := &claim{proto: proto, addr: a, port: port, pod: pod, name: name, fd: -1}
		if err := p.conflict(c); err != nil {
			return nil, err
		}
		if c.fd, err = reserve(proto, a, port); err != nil {
			if errors.Is(err, syscall.EADDRINUSE) {
				err = &takenError{proto, netip.AddrPortFrom(a, port), "a program of the host" + holder(proto, port)}
			}
			return nil, err
		}
		key := portKey{proto, port}
		p.claims[key] = append(p.claims[key], c)
		got = append(got, c)
	}
	return got, nil
}

// conflict needs mu.
func (p *ports) conflict(c *claim) error {
	for _, o := range p.claims[portKey{c.proto, c.port}] {
		if o.addr.Is4() == c.addr.Is4() && (o.addr == c.addr || o.addr.IsUnspecified() || c.addr.IsUnspecified()) {
			return &takenError{c.proto, netip.AddrPortFrom(c.addr, c.port), fmt.Sprintf("container %s", o.who())}
		}
	}
	return nil
}

func (c *claim) who() string {
	if c.name != "" {
		return c.name
	}
	return c.pod[:min(12, len(c.pod))]
}

func (p *ports) release(claims []*claim) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(claims)
}

// drop needs mu.
func (p *ports) drop(claims []*claim) {
	for _, c := range claims {
		c.closeSocket()
		key := portKey{c.proto, c.port}
		p.claims[key] = slices.DeleteFunc(p.claims[key], func(o *claim) bool { return o == c })
		if len(p.claims[key]) == 0 {
			delete(p.claims, key)
		}
	}
}

// adopt takes what a pod has had since before a restart. The port is the pod's
// whatever happens; err says why it is not reserved on the host.
func (p *ports) adopt(proto string, a netip.Addr, port uint16, pod, name string) (*claim, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := &claim{proto: proto, addr: a, port: port, pod: pod, name: name}
	var err error
	if c.fd, err = reserve(proto, a, port); err != nil {
		c.fd = -1
	}
	key := portKey{proto, port}
	p.claims[key] = append(p.claims[key], c)
	return c, err
}

// reserve binds a socket to the port and listens on nothing: whoever else binds
// it fails, and a connection that is not translated is refused at once. -1: the
// kernel does not know the protocol, there is nothing to reserve.
func reserve(proto string, a netip.Addr, port uint16) (int, error) {
	fd, err := bound(proto, a, port, false)
	if !errors.Is(err, syscall.EADDRINUSE) || proto != "tcp" {
		return fd, err
	}
	// Connections of a server that was there before may linger in TIME_WAIT; only
	// a socket that listens is in the way.
	probe, err := bound(proto, a, port, true)
	if err != nil {
		return -1, err
	}
	err = syscall.Listen(probe, 1)
	_ = syscall.Close(probe)
	if err != nil {
		return -1, os.NewSyscallError("listen", err)
	}
	return bound(proto, a, port, true)
}

func bound(proto string, a netip.Addr, port uint16, reuse bool) (_ int, err error) {
	domain, kind, number := syscall.AF_INET6, syscall.SOCK_STREAM, 0
	if a.Is4() {
		domain = syscall.AF_INET
	}
	switch proto {
	case "udp":
		kind = syscall.SOCK_DGRAM
	case "sctp":
		number = ipprotoSCTP
	}
	fd, err := syscall.Socket(domain, kind|syscall.SOCK_CLOEXEC, number)
	if errors.Is(err, syscall.EPROTONOSUPPORT) || errors.Is(err, syscall.EAFNOSUPPORT) {
		return -1, nil
	}
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	defer func() {
		if err != nil {
			_ = syscall.Close(fd)
		}
	}()
	var sa syscall.Sockaddr = &syscall.SockaddrInet4{Port: int(port), Addr: as4(a)}
	if !a.Is4() {
		sa = &syscall.SockaddrInet6{Port: int(port), Addr: a.As16()}
		if err := syscall.SetsockoptInt(fd, syscall.IPPROTO_IPV6, syscall.IPV6_V6ONLY, 1); err != nil {
			return -1, os.NewSyscallError("setsockopt", err)
		}
	}
	if reuse {
		if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
			return -1, os.NewSyscallError("setsockopt", err)
		}
	}
	if err := syscall.Bind(fd, sa); err != nil {
		return -1, fmt.Errorf("failed to bind host port %s/%s: %w", netip.AddrPortFrom(a, port), proto, err)
	}
	return fd, nil
}

func as4(a netip.Addr) [4]byte {
	if a.Is4() {
		return a.As4()
	}
	return [4]byte{}
}

// publishPorts claims the ports of a request and translates them, all or none.
func (s *Service) publishPorts(a *attachment, spec hull.NetworkSpec) ([]hull.PublishedPort, error) {
	if spec.Held || len(a.ends) == 0 || len(spec.Ports) == 0 && !spec.PublishAll || !a.ends[0].publishes() {
		return nil, nil
	}
	bindings, err := allBindings(spec)
	if err != nil {
		return nil, err
	}
	out, claims, err := s.claimPorts(a, bindings)
	if err != nil {
		return nil, err
	}
	next := forwards(out, a.ends[0])
	if _, err := s.host.fw.Apply(firewall.Change{AddForwards: next}); err != nil {
		s.ports.release(claims)
		return nil, fmt.Errorf("publish ports: %w", err)
	}
	a.claims, a.forwards, a.published = claims, next, out
	trimSockets(claims)
	s.host.forgetFlows(a)
	return out, nil
}

// unforward takes the translation of a pod's published ports away; the ports stay
// its own.
func (h *host) unforward(a *attachment) error {
	if len(a.forwards) == 0 {
		return nil
	}
	if _, err := h.fw.Apply(firewall.Change{DelForwards: a.forwards}); err != nil {
		return fmt.Errorf("unpublish ports: %w", err)
	}
	a.forwards = nil
	return nil
}

// publishes says whether ports can be published to e. As with Docker, nothing enters
// an internal network, and macvlan's and ipvlan's members have addresses that are
// known outside.
func (e *end) publishes() bool { return e.network.bridge != "" && !e.network.rec.Internal }

// claimPorts takes the host's ports for bindings, all or none. An address that is
// known outside needs none.
func (s *Service) claimPorts(a *attachment, bindings []binding) (out []hull.PublishedPort, claims []*claim, err error) {
	defer func() {
		if err != nil {
			s.ports.release(claims)
			claims = nil
		}
	}()
	e := a.ends[0]
	for _, b := range bindings {
		addrs, err := hostAddrs(b, e)
		if err != nil {
			return nil, claims, err
		}
		var taken []netip.Addr
		for _, addr := range addrs {
			if e.network.modeFor(addr) == modeRouted {
				out = append(out, hull.PublishedPort{ContainerPort: b.container, Proto: b.proto, HostIP: addr.String()})
				continue
			}
			taken = append(taken, addr)
		}
		if len(taken) == 0 {
			continue
		}
		got, err := s.ports.take(b, taken, a.podID, a.name)
		if err != nil {
			return nil, claims, err
		}
		claims = append(claims, got...)
		for _, c := range got {
			out = append(out, hull.PublishedPort{ContainerPort: b.container, Proto: b.proto, HostIP: c.addr.String(), HostPort: c.port})
		}
	}
	return out, claims, nil
}

func trimSockets(claims []*claim) {
	for i, c := range claims {
		if i >= maxSockets {
			c.closeSocket()
		}
	}
}

// allBindings are the ports asked for and, with PublishAll, every exposed one
// that was not.
func allBindings(spec hull.NetworkSpec) ([]binding, error) {
	var out []binding
	have := map[portKey]bool{}
	for _, p := range spec.Ports {
		b, err := parseBinding(p)
		if err != nil {
			return nil, err
		}
		have[portKey{b.proto, b.container}] = true
		out = append(out, b)
	}
	// Fixed ports first, or a random one could take them.
	slices.SortStableFunc(out, func(a, b binding) int { return freedom(a) - freedom(b) })
	if !spec.PublishAll {
		return out, nil
	}
	for _, e := range spec.Exposed {
		bs, err := parseExposed(e)
		if err != nil {
			return nil, err
		}
		for _, b := range bs {
			if key := (portKey{b.proto, b.container}); !have[key] {
				have[key] = true
				out = append(out, b)
			}
		}
	}
	return out, nil
}

func freedom(b binding) int {
	switch {
	case b.first == 0:
		return 2
	case b.first != b.last:
		return 1
	}
	return 0
}

// hostAddrs are the host's addresses a binding means, of the families the
// container has.
func hostAddrs(b binding, e *end) ([]netip.Addr, error) {
	host := b.host
	if !host.IsValid() {
		if opt, err := netip.ParseAddr(e.network.rec.Options[optHostIP]); err == nil && !opt.IsUnspecified() {
			host = opt.Unmap()
		}
	}
	if host.IsValid() {
		if host.Is4() && !e.v4.IsValid() || host.Is6() && !e.v6.IsValid() {
			return nil, invalid("cannot publish port %d on %s: the container has no address of that family on network %s", b.container, host, e.network.rec.Name)
		}
		return []netip.Addr{host}, nil
	}
	var out []netip.Addr
	if e.v4.IsValid() {
		out = append(out, netip.IPv4Unspecified())
	}
	if e.v6.IsValid() {
		out = append(out, netip.IPv6Unspecified())
	}
	return out, nil
}

// forwards are the translations of published ports to e, none where e publishes none.
// What lies side by side and keeps its numbers is joined into ranges.
func forwards(published []hull.PublishedPort, e *end) []firewall.Forward {
	if !e.publishes() { // a pod has left the network that they were published on
		return nil
	}
	var out []firewall.Forward
	for _, p := range published {
		host, err := netip.ParseAddr(p.HostIP)
		if err != nil {
			continue // a record of another version; nothing to be had from it
		}
		if p.HostPort == 0 {
			f := firewall.Forward{Proto: p.Proto, First: p.ContainerPort, Last: p.ContainerPort, To: e.v6, Routed: true}
			if host.Is4() {
				f.To = e.v4
			}
			if f.To.IsValid() {
				out = append(out, f)
			}
			continue
		}
		f := firewall.Forward{Proto: p.Proto, Host: netip.PrefixFrom(host, host.BitLen()), First: p.HostPort, Last: p.HostPort, To: e.v6, ToPort: p.ContainerPort}
		if host.Is4() {
			f.To = e.v4
		}
		if host.IsUnspecified() {
			f.Host = netip.PrefixFrom(host, 0)
		}
		if f.To.IsValid() {
			out = append(out, f)
		}
	}
	slices.SortFunc(out, func(a, b firewall.Forward) int {
		if c := strings.Compare(a.Proto, b.Proto); c != 0 {
			return c
		}
		if c := a.Host.Addr().Compare(b.Host.Addr()); c != 0 {
			return c
		}
		return int(a.First) - int(b.First)
	})
	joined := out[:0]
	for _, f := range out {
		if n := len(joined); n > 0 {
			l := &joined[n-1]
			if !f.Routed && !l.Routed && f.Proto == l.Proto && f.Host == l.Host && f.First == f.ToPort && l.First == l.ToPort && int(f.First) == int(l.Last)+1 {
				l.Last = f.Last
				continue
			}
		}
		joined = append(joined, f)
	}
	return joined
}
