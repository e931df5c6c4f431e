package network

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/dns/dnsmessage"

	"hull/internal/dns"
	"hull/internal/hull"
	"hull/internal/require"
)

// serveNames does what a pod's monitor does, until the test is over.
func (w *world) serveNames(b box) {
	w.t.Helper()
	must(w.t, w.startNames(context.Background(), b.dir))
}

func (w *world) startNames(_ context.Context, dir string) error {
	s, err := dns.Open(filepath.Join(dir, dns.ConfigName))
	if err != nil {
		return err
	}
	s.Start()
	w.t.Cleanup(s.Close)
	return nil
}

// resolve asks the name server of a pod as its programs do: "" = no such address.
func resolve(t testing.TB, ns, proto, name string) string {
	t.Helper()
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: 5, RecursionDesired: true})
	must(t, b.StartQuestions())
	n, err := dnsmessage.NewName(name + ".")
	must(t, err)
	must(t, b.Question(dnsmessage.Question{Name: n, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}))
	query, err := b.Finish()
	must(t, err)
	answer := make([]byte, 4096)
	in(t, ns, func() error {
		c, err := net.Dial(proto, "127.0.0.11:53")
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(60 * time.Second))
		if proto == "tcp" {
			query = append([]byte{byte(len(query) >> 8), byte(len(query))}, query...)
		}
		if _, err := c.Write(query); err != nil {
			return err
		}
		n, err := c.Read(answer)
		if proto == "tcp" && err == nil && n == 2 { // the length alone
			n, err = c.Read(answer)
		} else if proto == "tcp" {
			answer, n = answer[2:], n-2
		}
		answer = answer[:max(n, 0)]
		return err
	})
	var m dnsmessage.Message
	must(t, m.Unpack(answer))
	var out []string
	for _, r := range m.Answers {
		if a, ok := r.Body.(*dnsmessage.AResource); ok {
			out = append(out, netip.AddrFrom4(a.A).String())
		}
	}
	return strings.Join(out, " ")
}

func wantName(t testing.TB, b box, name, addr string) {
	t.Helper()
	if got := resolve(t, b.ns(), "udp", name); got != addr {
		t.Errorf("%s asks for %s: %q, want %q", b.pod.Name, name, got, addr)
	}
}

func TestNames(t *testing.T) {
	require.Root(t)
	w := newWorld(t)
	w.cfg.Serve = w.startNames
	w.s.cfg.Serve = w.startNames
	ctx := context.Background()
	for _, name := range []string{"red", "blue"} {
		_, _, err := w.s.Create(ctx, hull.Network{Name: name, EnableIPv4: true, Internal: true})
		must(t, err)
	}
	a := w.attach("aa", hull.NetworkSpec{Mode: "red", Links: []string{"bb:store"}})
	w.serveNames(a)
	b := w.attach("bb", hull.NetworkSpec{Mode: "red", Endpoints: map[string]hull.EndpointSpec{"red": {Aliases: []string{"DB", "cache"}}}})
	w.serveNames(b)
	c := w.attach("cc", hull.NetworkSpec{Mode: "blue"})
	w.serveNames(c)
	resolv, err := os.ReadFile(a.ep.ResolvConf)
	must(t, err)
	if !strings.Contains(string(resolv), "\nnameserver 127.0.0.11\n") || !strings.Contains(string(resolv), "ndots:0") {
		t.Errorf("resolv.conf:\n%s", resolv)
	}

	addr := b.ip4("red")
	for _, name := range []string{"bb", "db", "cache", "store", "bb.red", "BB"} {
		wantName(t, a, name, addr)
	}
	if got := resolve(t, a.ns(), "tcp", "bb"); got != addr {
		t.Errorf("through TCP: %q", got)
	}
	wantName(t, c, "bb", "")
	wantName(t, b, "store", "") // aa's own word
	// Port 53 is the container's, for a server of its own, and that has its own clients.
	serve(t, a.ns(), "udp", ":53")
	serve(t, a.ns(), "tcp", ":53")
	wantSeen(t, a.ns(), "udp", "127.0.0.1:53", "127.0.0.1")
	wantSeen(t, b.ns(), "tcp", a.ip4("red")+":53", addr)
	wantName(t, a, "bb", addr)

	must(t, w.s.Rename(ctx, b.pod.ID, "dd"))
	wantName(t, a, "dd", addr)
	wantName(t, a, "bb", "")
	wantName(t, a, "db", addr)
	if p, _ := w.pod(b.pod.ID); p.Status.Endpoint.Networks["red"].DNSNames[0] != "dd" {
		t.Errorf("recorded: %v", p.Status.Endpoint.Networks["red"].DNSNames)
	}

	// One on the default bridge has names from its first network with names on.
	d := w.attach("ee", hull.NetworkSpec{})
	must(t, w.s.Connect(ctx, "red", d.pod.ID, hull.EndpointSpec{Aliases: []string{"late"}}))
	wantName(t, d, "dd", addr)
	p, err := w.pod(d.pod.ID)
	must(t, err)
	wantName(t, a, "late", p.Status.Endpoint.Networks["red"].IPv4)
	if resolv, err = os.ReadFile(d.ep.ResolvConf); err != nil || !strings.Contains(string(resolv), "nameserver 127.0.0.11") {
		t.Errorf("%v, resolv.conf:\n%s", err, resolv)
	}

	// While the engine is away, and when another has come.
	for _, x := range []*box{&a, &b, &c, &d} {
		x.pod, err = w.pod(x.pod.ID)
		must(t, err)
	}
	w.crash()
	wantName(t, a, "dd", addr)
	pods := []*box{&a, &b, &c, &d}
	keep := map[string]bool{}
	for _, x := range pods {
		x.release, err = w.s.Reattach(ctx, x.pod, x.dir)
		must(t, err)
		keep[x.pod.ID] = true
		wantName(t, a, "dd", addr)
	}
	stale := filepath.Join(w.run, "dns", strings.Repeat("0", 64)+".zone")
	must(t, os.WriteFile(stale, nil, 0o600))
	must(t, w.s.Sweep(ctx, func(id string) bool { return keep[id] }))
	if _, err := os.Stat(stale); err == nil {
		t.Error("the zone of a network that is no more is left")
	}
	wantName(t, a, "dd", addr)
	wantName(t, a, "late", p.Status.Endpoint.Networks["red"].IPv4)
	f := w.attach("ff", hull.NetworkSpec{Mode: "red"})
	wantName(t, a, "ff", f.ip4("red"))
	must(t, w.s.Disconnect(ctx, "red", d.pod.ID, false))
	wantName(t, a, "late", "")
	wantName(t, d, "dd", "")
	w.detach(b)
	wantName(t, a, "dd", "")
	for _, x := range []box{a, c, d, f} {
		w.detach(x)
	}
	for _, name := range []string{"red", "blue"} {
		must(t, w.s.Remove(ctx, name))
	}
	if left, err := os.ReadDir(filepath.Join(w.run, "dns")); err != nil || len(left) > 0 {
		t.Errorf("%v, left: %v", err, left)
	}
}

func TestPublishLive(t *testing.T) {
	require.Root(t)
	w := newWorld(t)
	ctx := context.Background()
	a := w.attach("aa", publishing(port("8000-8002", 8000, "")))
	b := w.attach("bb", publishing(port("9000", 80, "")))
	for _, p := range []string{":80", ":8000"} {
		serve(t, a.ns(), "tcp", p)
	}
	add := func(p ...hull.PortBinding) []hull.PortBinding { return p }
	now, err := w.s.Publish(ctx, a.pod.ID, add(port("8080", 80, "")), nil)
	must(t, err)
	if len(now) != 4 { // two of them, for each family
		t.Errorf("published: %v", now)
	}
	wantSeen(t, w.lan, "tcp", hostIP4+":8080", lanIP4)
	wantSeen(t, w.lan, "tcp", hostIP4+":8000", lanIP4)
	for want, try := range map[string][]hull.PortBinding{
		"container bb":   add(port("8090", 80, ""), port("9000", 80, "")),
		"invalid":        add(port("x", 80, "")),
		"not publish":    nil,
		"already in use": nil,
	} {
		var err error
		switch want {
		case "not publish":
			_, err = w.s.Publish(ctx, a.pod.ID, nil, add(port("", 81, "")))
		case "already in use":
			continue
		default:
			_, err = w.s.Publish(ctx, a.pod.ID, try, nil)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", try, err)
		}
	}
	wantRefused(t, w.lan, "tcp", hostIP4+":8090") // all or nothing
	now, err = w.s.Publish(ctx, a.pod.ID, add(port("8081", 80, "")), add(port("8080", 80, "")))
	must(t, err)
	wantRefused(t, w.lan, "tcp", hostIP4+":8080")
	wantSeen(t, w.lan, "tcp", hostIP4+":8081", lanIP4)
	if p, _ := w.pod(a.pod.ID); len(p.Status.Endpoint.Ports) != len(now) {
		t.Errorf("recorded: %v", p.Status.Endpoint.Ports)
	}
	c := w.attach("cc", publishing(port("8080", 80, ""))) // free again
	w.detach(c)

	// Another engine goes on from there.
	a.pod, err = w.pod(a.pod.ID)
	must(t, err)
	w.crash()
	for _, x := range []*box{&a, &b} {
		x.release, err = w.s.Reattach(ctx, x.pod, x.dir)
		must(t, err)
	}
	must(t, w.s.Sweep(ctx, func(id string) bool { return id == a.pod.ID || id == b.pod.ID }))
	_, err = w.s.Publish(ctx, a.pod.ID, nil, add(port("", 80, "")))
	must(t, err)
	wantRefused(t, w.lan, "tcp", hostIP4+":8081")
	wantSeen(t, w.lan, "tcp", hostIP4+":8000", lanIP4)
	w.detach(a)
	w.detach(b)
}

// within waits for something that another goroutine does.
func within(t testing.TB, what string, is func() bool) {
	t.Helper()
	for limit := time.Now().Add(60 * time.Second); time.Now().Before(limit); time.Sleep(5 * time.Millisecond) {
		if is() {
			return
		}
	}
	t.Errorf("%s: not within a minute", what)
}

// What others take away comes back without anybody asking for it, and is logged.
func TestRepairAtOnce(t *testing.T) {
	require.Root(t)
	w := newWorld(t)
	ctx := context.Background()
	_, _, err := w.s.Create(ctx, hull.Network{Name: "red", EnableIPv4: true})
	must(t, err)
	a := w.attach("aa", hull.NetworkSpec{Mode: "red", Ports: []hull.PortBinding{port("8080", 80, "")}})
	serve(t, a.ns(), "tcp", ":80")
	b := w.attach("bb", hull.NetworkSpec{Mode: "red"})
	bridge := w.s.networks[a.ep.Networks["red"].NetworkID].bridge

	conn := &nftables.Conn{}
	conn.FlushRuleset()
	must(t, conn.Flush())
	within(t, "table", func() bool { return w.elements()["any4"] == 1 })
	wantSeen(t, w.lan, "tcp", hostIP4+":8080", lanIP4)

	for what, damage := range map[string]func(netlink.Link) error{
		"removed": netlink.LinkDel,
		"down":    netlink.LinkSetDown,
		"without its address": func(l netlink.Link) error {
			addrs, err := list(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_V4) })
			must(t, err)
			return netlink.AddrDel(l, &addrs[0])
		},
	} {
		link, err := netlink.LinkByName(bridge)
		must(t, err)
		must(t, damage(link))
		within(t, "bridge "+what, func() bool {
			l, err := netlink.LinkByName(bridge)
			if err != nil || l.Attrs().Flags&net.FlagUp == 0 {
				return false
			}
			addrs, err := list(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_V4) })
			return err == nil && len(addrs) == 1
		})
		within(t, "published port, bridge "+what, func() bool {
			_, err := askFor(t, w.lan, "tcp", hostIP4+":8080", time.Second)
			return err == nil
		})
		wantSeen(t, b.ns(), "tcp", a.ip4("red")+":80", b.ip4("red"))
	}
	for _, said := range []string{"nftables table was damaged", "bridge has vanished", "bridge was changed"} {
		if !strings.Contains(w.log.String(), said) {
			t.Errorf("the log does not say %q", said)
		}
	}
	w.detach(a)
	w.detach(b)
}

// dropping makes a table of the host's own firewall that drops everything in one hook.
func dropping(t testing.TB, hook *nftables.ChainHook) (remove func()) {
	t.Helper()
	conn := &nftables.Conn{}
	accept := nftables.ChainPolicyAccept
	table := conn.AddTable(&nftables.Table{Name: "host", Family: nftables.TableFamilyINet})
	chain := conn.AddChain(&nftables.Chain{Name: "c", Table: table, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityFilter, Policy: &accept})
	uplink := make([]byte, 16)
	copy(uplink, "uplink")
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: uplink},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	must(t, conn.Flush())
	return func() {
		conn.DelTable(table)
		must(t, conn.Flush())
	}
}

// A published port opens nothing that the host's own firewall closes.
func TestHostFirewallStaysInCharge(t *testing.T) {
	require.Root(t)
	w := newWorld(t)
	_, _, err := w.s.Create(context.Background(), hull.Network{Name: "red", EnableIPv4: true})
	must(t, err)
	a := w.attach("aa", hull.NetworkSpec{Mode: "red", Ports: []hull.PortBinding{port("8080", 80, "")}})
	serve(t, a.ns(), "tcp", ":80")
	wantSeen(t, w.lan, "tcp", hostIP4+":8080", lanIP4)
	open := dropping(t, nftables.ChainHookForward)
	wantRefused(t, w.lan, "tcp", hostIP4+":8080")
	w.detach(w.attach("bb", hull.NetworkSpec{Mode: "red", Ports: []hull.PortBinding{port("8081", 80, "")}}))
	wantRefused(t, w.lan, "tcp", hostIP4+":8080")
	open()
	wantSeen(t, w.lan, "tcp", hostIP4+":8080", lanIP4)
	w.detach(a)
}

// A chain of the host's that drops what is forwarded is found.
func TestExamine(t *testing.T) {
	require.Root(t)
	newWorld(t)
	find := func() hull.Finding {
		t.Helper()
		var found hull.Finding
		for _, f := range Examine() {
			if (f.Verdict == hull.Fine) != (f.Means == "" && f.Next == "") || f.Says == "" {
				t.Errorf("%+v", f)
			}
			if f.Subject == "host's firewall" {
				found = f
			} else if f.Verdict == hull.Broken {
				t.Errorf("%+v", f)
			}
		}
		return found
	}
	if f := find(); f.Verdict != hull.Fine {
		t.Errorf("%+v", f)
	}
	conn, drop := &nftables.Conn{}, nftables.ChainPolicyDrop
	table := conn.AddTable(&nftables.Table{Name: "ufw", Family: nftables.TableFamilyINet})
	conn.AddChain(&nftables.Chain{Name: "fwd", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &drop})
	must(t, conn.Flush())
	if f := find(); f.Verdict != hull.Limited || f.Says != "drops forwarded packets in inet ufw fwd" {
		t.Errorf("%+v", f)
	}
	conn.DelTable(table)
	must(t, conn.Flush())
	if f := find(); f.Verdict != hull.Fine {
		t.Errorf("%+v", f)
	}
}

func TestRoutedAndIsolatedGateways(t *testing.T) {
	require.Root(t)
	w := newWorld(t)
	ctx := context.Background()
	for _, n := range []hull.Network{
		{Name: "known", EnableIPv4: true, IPAM: hull.IPAM{Config: []hull.IPAMConfig{{Subnet: "10.7.0.0/24"}}}, Options: map[string]string{optMode4: modeRouted}},
		{Name: "open", EnableIPv4: true, IPAM: hull.IPAM{Config: []hull.IPAMConfig{{Subnet: "10.6.0.0/24"}}}, Options: map[string]string{optMode4: modeUnprotected}},
		{Name: "alone", EnableIPv4: true, Internal: true, Options: map[string]string{optMode4: modeIsolated}},
		{Name: "bare", EnableIPv4: true, Options: map[string]string{optInhibit: "true", optPrefix: "net"}},
	} {
		_, _, err := w.s.Create(ctx, n)
		must(t, err)
	}
	in(t, w.lan, func() error {
		for _, subnet := range []string{"10.7.0.0/24", "10.6.0.0/24"} {
			must(t, netlink.RouteAdd(&netlink.Route{Dst: ipNet(netip.MustParsePrefix(subnet)), Gw: net.ParseIP(hostIP4)}))
		}
		return nil
	})
	a := w.attach("aa", hull.NetworkSpec{Mode: "known", Ports: []hull.PortBinding{port("8080", 80, "")}})
	o := w.attach("oo", hull.NetworkSpec{Mode: "open"})
	for _, b := range []box{a, o} {
		serve(t, b.ns(), "tcp", ":80")
		serve(t, b.ns(), "tcp", ":81")
	}
	serve(t, w.lan, "tcp", ":7")
	wantSeen(t, w.lan, "tcp", a.ip4("known")+":80", lanIP4)
	wantRefused(t, w.lan, "tcp", a.ip4("known")+":81")
	wantRefused(t, w.lan, "tcp", hostIP4+":8080")
	wantSeen(t, a.ns(), "tcp", lanIP4+":7", a.ip4("known")) // its own address
	wantSeen(t, w.lan, "tcp", o.ip4("open")+":81", lanIP4)
	wantSeen(t, o.ns(), "tcp", lanIP4+":7", hostIP4)
	if fmt.Sprint(a.ep.Ports) != "[{80 tcp 0.0.0.0 0}]" {
		t.Errorf("ports: %v", a.ep.Ports)
	}

	c, d := w.attach("cc", hull.NetworkSpec{Mode: "alone"}), w.attach("dd", hull.NetworkSpec{Mode: "bare"})
	for name, b := range map[string]box{"alone": c, "bare": d} {
		link, err := netlink.LinkByName(w.s.networks[b.ep.Networks[name].NetworkID].bridge)
		must(t, err)
		if addrs, err := list(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_V4) }); err != nil || len(addrs) > 0 {
			t.Errorf("the host on %s: %v, %v", name, addrs, err)
		}
	}
	if c.ep.Networks["alone"].Gateway4 != "" || d.ep.Networks["bare"].Gateway4 == "" {
		t.Errorf("gateways: %+v %+v", c.ep.Networks, d.ep.Networks)
	}
	in(t, d.ns(), func() error { _, err := netlink.LinkByName("net0"); return err })

	w.crash()
	for _, b := range []*box{&a, &o, &c, &d} {
		var err error
		b.release, err = w.s.Reattach(ctx, b.pod, b.dir)
		must(t, err)
	}
	must(t, w.s.Sweep(ctx, func(string) bool { return true }))
	wantSeen(t, w.lan, "tcp", a.ip4("known")+":80", lanIP4)
	for _, b := range []box{a, o, c, d} {
		w.detach(b)
	}
	wantRefused(t, w.lan, "tcp", a.ip4("known")+":80")
}

func TestMacvlan(t *testing.T) {
	require.Root(t)
	w := newWorld(t)
	ctx := context.Background()
	lan := hull.Network{
		Name: "lan", Driver: driverMacvlan, EnableIPv4: true, EnableIPv6: true, Options: map[string]string{optParent: "uplink"},
		IPAM: hull.IPAM{Config: []hull.IPAMConfig{
			{Subnet: "192.0.2.0/24", Gateway: lanIP4, IPRange: "192.0.2.128/25"}, {Subnet: "2001:db8::/64", Gateway: lanIP6},
		}},
	}
	_, _, err := w.s.Create(ctx, lan)
	must(t, err)
	if _, _, err := w.s.Create(ctx, hull.Network{Name: "twice", Driver: driverMacvlan, EnableIPv4: true, Options: map[string]string{optParent: "uplink"}}); err == nil || !strings.Contains(err.Error(), "network lan is already using parent interface uplink") {
		t.Errorf("a second one on the parent: %v", err)
	}
	if _, _, err := w.s.Create(ctx, hull.Network{Name: "nowhere", Driver: driverMacvlan, EnableIPv4: true, Options: map[string]string{optParent: "nope0"}}); err == nil || !strings.Contains(err.Error(), "nope0") {
		t.Errorf("no parent: %v", err)
	}
	serve(t, w.lan, "tcp", ":7")
	serve(t, "", "tcp", ":9")
	on := func(name string, e hull.EndpointSpec) box {
		b := w.attach(name, hull.NetworkSpec{Mode: "lan", Endpoints: map[string]hull.EndpointSpec{"lan": e}})
		serve(t, b.ns(), "tcp", ":80")
		return b
	}
	a, b := on("aa", hull.EndpointSpec{}), on("bb", hull.EndpointSpec{IPv4: "192.0.2.77", MacAddress: "02:00:00:00:00:77"})
	w.serveNames(a)
	wantName(t, a, "bb", "192.0.2.77")
	wantSeen(t, a.ns(), "tcp", lanIP4+":7", a.ip4("lan"))
	wantSeen(t, a.ns(), "tcp", "["+lanIP6+"]:7", a.ip6("lan"))
	wantSeen(t, w.lan, "tcp", "192.0.2.77:80", lanIP4)
	wantSeen(t, a.ns(), "tcp", "192.0.2.77:80", a.ip4("lan"))
	wantRefused(t, a.ns(), "tcp", hostIP4+":9") // as the kernel has it
	if _, err := w.tryAttach("cc", hull.NetworkSpec{Mode: "lan", Endpoints: map[string]hull.EndpointSpec{"lan": {IPv4: "192.0.2.77"}}}); err == nil || !strings.Contains(err.Error(), "bb") {
		t.Errorf("a taken address: %v", err)
	}
	d := w.attach("dd", hull.NetworkSpec{})
	must(t, w.s.Connect(ctx, "lan", d.pod.ID, hull.EndpointSpec{IPv4: "192.0.2.88"}))
	serve(t, d.ns(), "tcp", ":80")
	wantSeen(t, w.lan, "tcp", "192.0.2.88:80", "")
	must(t, w.s.Disconnect(ctx, "lan", d.pod.ID, false))
	wantRefused(t, w.lan, "tcp", "192.0.2.88:80")
	for _, x := range []box{a, b, d} {
		w.detach(x)
	}
	must(t, w.s.Remove(ctx, "lan"))

	lan.Options = map[string]string{optParent: "uplink", optHostAccess: "true"}
	_, _, err = w.s.Create(ctx, lan)
	must(t, err)
	c := on("cc", hull.EndpointSpec{})
	wantSeen(t, "", "tcp", c.ip4("lan")+":80", hostIP4)
	wantSeen(t, c.ns(), "tcp", hostIP4+":9", c.ip4("lan"))
	w.detach(c)
	must(t, w.s.Remove(ctx, "lan"))

	alone := hull.Network{Name: "alone", Driver: driverMacvlan, EnableIPv4: true}
	_, _, err = w.s.Create(ctx, alone)
	must(t, err)
	e := w.attach("ee", hull.NetworkSpec{Mode: "alone"})
	f := w.attach("ff", hull.NetworkSpec{Mode: "alone"})
	serve(t, e.ns(), "tcp", ":80")
	wantSeen(t, f.ns(), "tcp", e.ip4("alone")+":80", f.ip4("alone"))
	w.detach(e)
	w.detach(f)
	must(t, w.s.Remove(ctx, "alone"))
	links, err := list(netlink.LinkList)
	must(t, err)
	for _, l := range links {
		if n := l.Attrs().Name; strings.HasPrefix(n, "hm") || strings.HasPrefix(n, "hb"+w.s.host.tag) && l.Type() != "bridge" {
			t.Errorf("left: %s", n)
		}
	}
}

// A kernel without a driver is named, not half used.
func TestMissingDriverIsNamed(t *testing.T) {
	require.Root(t)
	w := newWorld(t)
	_, _, err := w.s.Create(context.Background(), hull.Network{Name: "iv", Driver: driverIPvlan, EnableIPv4: true, Options: map[string]string{optParent: "uplink"}})
	if probed := w.s.host.probe(driverIPvlan); probed == nil {
		must(t, err) // this kernel has it
		must(t, w.s.Remove(context.Background(), "iv"))
	} else if err == nil || !strings.Contains(err.Error(), "CONFIG_IPVLAN") {
		t.Errorf("%v", err)
	}
}

// A held pod is known by its own name alone and publishes nothing, until it takes
// over: then what is new goes there, and what is under way stays.
func TestTakeOver(t *testing.T) {
	require.Root(t)
	w := newWorld(t)
	ctx := context.Background()
	_, _, err := w.s.Create(ctx, hull.Network{Name: "red", EnableIPv4: true})
	must(t, err)
	spec := func(held bool) hull.NetworkSpec {
		return hull.NetworkSpec{
			Mode: "red", Held: held, Ports: []hull.PortBinding{port("8080", 80, ""), {HostIP: "127.0.0.1", HostPort: "8081-8082", ContainerPort: 81}},
			Endpoints: map[string]hull.EndpointSpec{"red": {Aliases: []string{"web"}}},
		}
	}
	asker := w.attach("asker", hull.NetworkSpec{Mode: "red"})
	w.serveNames(asker)
	old := w.attach("old", spec(false))
	held := w.attach("new", spec(true))
	names := func() string {
		p, err := w.pod(old.pod.ID)
		must(t, err)
		q, err := w.pod(held.pod.ID)
		must(t, err)
		return fmt.Sprint(p.Status.Endpoint.Networks["red"].DNSNames[0], slices.Contains(p.Status.Endpoint.Networks["red"].DNSNames, "web"),
			len(p.Status.Endpoint.Ports), " ", q.Status.Endpoint.Networks["red"].DNSNames[0], slices.Contains(q.Status.Endpoint.Networks["red"].DNSNames, "web"), len(q.Status.Endpoint.Ports))
	}
	if got := names(); got != "oldtrue 2 newfalse 0" {
		t.Errorf("before: %s", got)
	}
	serve(t, old.ns(), "tcp", ":80")
	wantSeen(t, w.lan, "tcp", hostIP4+":8080", lanIP4)
	if _, err := w.s.TakeOver(ctx, old.pod.ID, held.pod.ID); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("one that is not held: %v", err)
	}
	if _, err := w.s.TakeOver(ctx, held.pod.ID, "nobody"); !errdefs.IsNotFound(err) {
		t.Errorf("from nobody: %v", err)
	}
	now, err := w.s.TakeOver(ctx, held.pod.ID, old.pod.ID)
	must(t, err)
	if len(now) != 2 || now[0].HostPort != 8080 {
		t.Errorf("took over %+v", now)
	}
	if got := names(); got != "oldfalse 0 newtrue 2" {
		t.Errorf("after: %s", got)
	}
	// Nobody listens in the new one yet, and the old one is out of reach.
	wantRefused(t, w.lan, "tcp", hostIP4+":8080")
	serve(t, held.ns(), "tcp", ":80")
	wantSeen(t, w.lan, "tcp", hostIP4+":8080", lanIP4)
	if _, err := w.s.TakeOver(ctx, held.pod.ID, old.pod.ID); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("twice: %v", err)
	}
	// The ports are the new one's, whoever ends first.
	w.detach(old)
	wantSeen(t, w.lan, "tcp", hostIP4+":8080", lanIP4)
	if _, err := w.tryAttach("third", spec(false)); err == nil || !strings.Contains(err.Error(), "container new") {
		t.Errorf("the port is free: %v", err)
	}
	w.detach(held)
	w.detach(asker)
}
