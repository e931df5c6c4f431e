package network

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"hull/internal/hull"
	"hull/internal/linux"
	"hull/internal/require"
)

// world is a host with one uplink, a neighbour on that uplink, and an engine's
// network service.
type world struct {
	t      testing.TB
	s      *Service
	cfg    Config
	run    string
	store  *memoryStore
	mu     sync.Mutex
	pods   map[string]hull.Pod
	events []hull.Event
	lan    string // path of the neighbour's namespace
	log    *logBuffer
}

const (
	hostIP4, lanIP4 = "192.0.2.1", "192.0.2.9"
	hostIP6, lanIP6 = "2001:db8::1", "2001:db8::9"
)

// newWorld makes a fresh network namespace the whole process's: threads are
// moved by TestMain's clone, so what remains is to clean the one we are in.
func newWorld(t testing.TB) *world {
	t.Helper()
	require.Root(t)
	w := &world{t: t, run: t.TempDir(), store: &memoryStore{}, pods: map[string]hull.Pod{}, log: &logBuffer{}}
	// As in life: on a tmpfs. The mount namespace is the test's.
	must(t, syscall.Mount("tmpfs", w.run, "tmpfs", 0, ""))
	t.Cleanup(func() { must(t, syscall.Unmount(w.run, 0)) })
	w.cfg = Config{
		RunDir: w.run, Instance: "t1", Store: w.store, Pod: w.pod, Update: w.update,
		Events: func(e hull.Event) { w.mu.Lock(); w.events = append(w.events, e); w.mu.Unlock() },
		Log:    slog.New(slog.NewTextHandler(w.log, nil)),
	}
	must(t, netlink.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1, Name: "lo"}}))
	noDAD(t)
	setSysctl(t, "ipv4/ip_forward", "0")
	setSysctl(t, "ipv6/conf/all/forwarding", "0")
	w.lan = filepath.Join(w.run, "lan")
	must(t, linux.NewNetNS(w.lan))
	ns, err := netns.GetFromPath(w.lan)
	must(t, err)
	defer ns.Close()
	must(t, linux.InNetNS(w.lan, func() error { noDAD(t); return nil }))
	cable := netlink.NewVeth(netlink.LinkAttrs{Name: "uplink", MTU: 1500, TxQLen: -1})
	cable.PeerName, cable.PeerNamespace = "eth0", netlink.NsFd(ns)
	must(t, netlink.LinkAdd(cable))
	address(t, "uplink", hostIP4+"/24", hostIP6+"/64")
	must(t, linux.InNetNS(w.lan, func() error {
		address(t, "lo")
		address(t, "eth0", lanIP4+"/24", lanIP6+"/64")
		return nil
	}))
	t.Cleanup(w.end)
	w.start()
	// The neighbours find each other; the first look for one on a new interface is lost.
	serve(t, w.lan, "tcp", ":6")
	for range 20 {
		if _, err := askFor(t, "", "tcp", "["+lanIP6+"]:6", 200*time.Millisecond); err == nil {
			break
		}
	}
	return w
}

// end closes the engine, looks for what it has left, and takes the world down.
func (w *world) end() {
	t := w.t
	pods := len(w.s.pods)
	must(t, w.s.Close())
	if pods == 0 {
		left := w.leftovers()
		for range 6000 { // the kernel takes namespaces down when it finds the time
			if left == "" {
				break
			}
			time.Sleep(10 * time.Millisecond)
			left = w.leftovers()
		}
		if left != "" {
			t.Errorf("left behind:\n%s", left)
		}
	}
	entries, _ := os.ReadDir(filepath.Join(w.run, "netns"))
	for _, e := range entries {
		must(t, unpinDir(filepath.Join(w.run, "netns", e.Name())))
	}
	must(t, linux.Unpin(w.lan))
	links, err := list(netlink.LinkList)
	must(t, err)
	for _, l := range links {
		if l.Type() == "bridge" || l.Type() == "veth" {
			_ = netlink.LinkDel(l) // may have gone with its peer's namespace
		}
	}
	conn := &nftables.Conn{}
	conn.FlushRuleset()
	must(t, conn.Flush())
	if t.Failed() {
		t.Log(w.log.String())
	}
}

// leftovers lists cables, pins, mounts and published ports.
func (w *world) leftovers() string {
	var out []string
	links, err := list(netlink.LinkList)
	must(w.t, err)
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, "hv") {
			out = append(out, "interface "+l.Attrs().Name)
		}
	}
	entries, _ := os.ReadDir(filepath.Join(w.run, "netns"))
	for _, e := range entries {
		out = append(out, "pin "+e.Name())
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must(w.t, err)
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, w.run+"/netns") {
			out = append(out, "mount "+strings.TrimSpace(line))
		}
	}
	for set, n := range w.elements() {
		if n > 0 && (strings.HasPrefix(set, "ports") || strings.HasPrefix(set, "ranges")) {
			out = append(out, fmt.Sprintf("%d elements in %s", n, set))
		}
	}
	return strings.Join(out, "\n")
}

// elements counts the elements of the instance's sets.
func (w *world) elements() map[string]int {
	out := map[string]int{}
	conn := &nftables.Conn{}
	table := &nftables.Table{Name: "hull-" + w.cfg.Instance, Family: nftables.TableFamilyINet}
	sets, err := conn.GetSets(table)
	if err != nil {
		return out // no table
	}
	for _, s := range sets {
		e, err := conn.GetSetElements(s)
		must(w.t, err)
		out[s.Name] = len(e)
	}
	return out
}

// crash leaves everything as a killed engine would, and starts another one.
func (w *world) crash() {
	w.t.Helper()
	w.s.ports.close() // the kernel does that
	must(w.t, w.s.host.close())
	w.start()
}

// findAgain is what the next engine does with the one pod that there is, recorded as p.
func (w *world) findAgain(a *box, p hull.Pod) {
	w.t.Helper()
	var err error
	a.release, err = w.s.Reattach(context.Background(), p, a.dir)
	must(w.t, err)
	must(w.t, w.s.Sweep(context.Background(), func(id string) bool { return id == p.ID }))
}

func (w *world) start() {
	w.t.Helper()
	s, err := New(w.cfg)
	must(w.t, err)
	w.s = s
}

// noDAD: the link-local addresses of the test's own interfaces are usable at once.
func noDAD(t testing.TB) {
	t.Helper()
	setSysctl(t, "ipv6/conf/default/accept_dad", "0")
}

func address(t testing.TB, name string, addrs ...string) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	for _, a := range addrs {
		p, err := netlink.ParseAddr(a)
		must(t, err)
		p.Flags = ifaFNoDAD
		must(t, netlink.AddrAdd(l, p))
	}
	must(t, netlink.LinkSetUp(l))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// box is an attached pod.
type box struct {
	pod     hull.Pod
	ep      hull.Endpoint
	dir     string
	release hull.Release
}

func (b box) ns() string { return b.ep.NetNS }

func (b box) ip4(network string) string { return b.ep.Networks[network].IPv4 }

func (b box) ip6(network string) string { return b.ep.Networks[network].IPv6 }

// attach fails the test when it cannot.
func (w *world) attach(name string, spec hull.NetworkSpec) box {
	w.t.Helper()
	b, err := w.tryAttach(name, spec)
	must(w.t, err)
	return b
}

func (w *world) tryAttach(name string, spec hull.NetworkSpec) (box, error) {
	w.t.Helper()
	p := hull.Pod{ID: fmt.Sprintf("%064x", []byte(name)), Name: name, Hostname: name, Network: spec}
	b := box{dir: filepath.Join(w.run, "pods", p.ID)}
	must(w.t, os.MkdirAll(b.dir, 0o700))
	ep, release, err := w.s.Attach(context.Background(), p, b.dir)
	if err != nil {
		return b, err
	}
	p.Status = hull.PodStatus{Running: true, Endpoint: ep}
	b.pod, b.ep, b.release = p, ep, release
	w.mu.Lock()
	w.pods[p.ID] = p
	w.mu.Unlock()
	return b, nil
}

func (w *world) detach(b box) {
	w.t.Helper()
	must(w.t, b.release(context.Background()))
	w.mu.Lock()
	delete(w.pods, b.pod.ID)
	w.mu.Unlock()
}

func (w *world) pod(ref string) (hull.Pod, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.pods {
		if p.ID == ref || p.Name == ref {
			return p, nil
		}
	}
	return hull.Pod{}, fmt.Errorf("no such container: %s: %w", ref, errdefs.ErrNotFound)
}

func (w *world) update(id string, fn func(*hull.PodStatus) error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.pods[id]
	if err := fn(&p.Status); err != nil {
		return err
	}
	w.pods[id] = p
	return nil
}

// serve answers every TCP connection or UDP packet with the client's address, in
// namespace ns ("" = the host), until the test ends.
func serve(t testing.TB, ns, proto, addr string) {
	t.Helper()
	in(t, ns, func() error {
		if proto == "udp" {
			c, err := net.ListenPacket("udp", addr)
			if err != nil {
				return err
			}
			t.Cleanup(func() { c.Close() })
			go func() {
				b := make([]byte, 64)
				for {
					_, from, err := c.ReadFrom(b)
					if err != nil {
						return
					}
					_, _ = c.WriteTo([]byte(from.String()+"\n"), from)
				}
			}()
			return nil
		}
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprintf(c, "%s\n", c.RemoteAddr())
				c.Close()
			}
		}()
		return nil
	})
}

// sink collects UDP packets in a namespace.
type sink struct {
	t    testing.TB
	c    net.PacketConn
	addr string
}

func newSink(t testing.TB, ns, addr string) *sink {
	t.Helper()
	s := &sink{t: t, addr: addr}
	in(t, ns, func() (err error) {
		s.c, err = net.ListenPacket("udp", addr)
		return err
	})
	t.Cleanup(func() { s.c.Close() })
	return s
}

// send sends one packet from ns, which may well be lost.
func send(t testing.TB, ns, to, text string) {
	t.Helper()
	in(t, ns, func() error {
		c, err := net.Dial("udp", to)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte(text))
		return err
	})
}

// wantOnly sends a packet on the right way and checks that it is all there is:
// what was sent before on a forbidden way has not come. (An answer would not do
// for that: it may be lost where the question was not.)
func (s *sink) wantOnly(ns, to string) {
	s.t.Helper()
	time.Sleep(50 * time.Millisecond)
	send(s.t, ns, to, "allowed")
	_ = s.c.SetReadDeadline(time.Now().Add(time.Minute))
	b := make([]byte, 64)
	n, from, err := s.c.ReadFrom(b)
	if err != nil || string(b[:n]) != "allowed" {
		s.t.Errorf("%s got %q from %v, %v", s.addr, b[:n], from, err)
	}
}

// in runs fn in a namespace, "" = the host's.
func in(t testing.TB, ns string, fn func() error) {
	t.Helper()
	if ns == "" {
		must(t, fn())
		return
	}
	must(t, linux.InNetNS(ns, fn))
}

// ask connects from ns and returns what address the server saw.
func ask(t testing.TB, ns, proto, addr string) (netip.Addr, error) {
	t.Helper()
	return askFor(t, ns, proto, addr, time.Minute)
}

func askFor(t testing.TB, ns, proto, addr string, limit time.Duration) (netip.Addr, error) {
	t.Helper()
	var seen netip.Addr
	var fail error
	in(t, ns, func() error {
		c, err := net.DialTimeout(proto, addr, limit)
		if err != nil {
			fail = err
			return nil
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(limit))
		if proto == "udp" {
			_, _ = c.Write([]byte("?"))
		}
		line, err := bufio.NewReader(c).ReadString('\n')
		if err != nil {
			fail = err
			return nil
		}
		ap, err := netip.ParseAddrPort(strings.TrimSpace(line))
		if err != nil {
			return err
		}
		seen = ap.Addr().Unmap()
		return nil
	})
	return seen, fail
}

func wantSeen(t testing.TB, ns, proto, addr, seen string) {
	t.Helper()
	got, err := ask(t, ns, proto, addr)
	if err != nil {
		t.Errorf("%s %s: %v", proto, addr, err)
		return
	}
	if seen != "" && got.String() != seen {
		t.Errorf("%s %s: server saw %s, want %s", proto, addr, got, seen)
	}
}

func wantRefused(t testing.TB, ns, proto, addr string) {
	t.Helper()
	if seen, err := askFor(t, ns, proto, addr, 400*time.Millisecond); err == nil {
		t.Errorf("%s %s must not be reachable, server saw %s", proto, addr, seen)
	}
}

// memoryStore is a Store that forgets.
type memoryStore struct {
	mu   sync.Mutex
	recs []hull.Network
}

func (m *memoryStore) PutNetwork(n hull.Network) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.recs = append(m.recs, n)
	return nil
}

func (m *memoryStore) DeleteNetwork(id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var kept []hull.Network
	for _, n := range m.recs {
		if n.ID != id {
			kept = append(kept, n)
		}
	}
	m.recs = kept
	return nil
}

func (m *memoryStore) Networks() []hull.Network {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]hull.Network(nil), m.recs...)
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// setSysctl sets one of the thread's namespace.
func setSysctl(t testing.TB, name, value string) {
	t.Helper()
	s, err := openOwnSysctls()
	must(t, err)
	defer s.close()
	must(t, s.set(name, value))
}
