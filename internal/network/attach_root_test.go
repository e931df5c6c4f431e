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
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"hull/internal/hull"
	"hull/internal/linux"
	"hull/internal/require"
)

func port(host string, container uint16, proto string) hull.PortBinding {
	b := hull.PortBinding{ContainerPort: container, Proto: proto, HostPort: host}
	if i := strings.LastIndex(host, ":"); i >= 0 {
		b.HostIP, b.HostPort = strings.Trim(host[:i], "[]"), host[i+1:]
	}
	return b
}

func publishing(p ...hull.PortBinding) hull.NetworkSpec { return hull.NetworkSpec{Ports: p} }

func TestBridge(t *testing.T) {
	require.Root(t)
	w := newWorld(t)
	a := w.attach("a", hull.NetworkSpec{})
	b := w.attach("b", publishing(port("8080", 80, ""), port("8081", 81, "udp")))
	serve(t, b.ns(), "tcp", ":80")
	serve(t, b.ns(), "udp", b.ip4("bridge")+":81")
	serve(t, w.lan, "tcp", ":7")
	serve(t, "", "tcp", ":7")

	t.Run("container to container", func(t *testing.T) {
		wantSeen(t, a.ns(), "tcp", b.ip4("bridge")+":80", a.ip4("bridge"))
		wantSeen(t, a.ns(), "tcp", "["+b.ip6("bridge")+"]:80", a.ip6("bridge"))
	})
	t.Run("out, behind the host's address", func(t *testing.T) {
		wantSeen(t, a.ns(), "tcp", lanIP4+":7", hostIP4)
		wantSeen(t, a.ns(), "tcp", "["+lanIP6+"]:7", hostIP6)
		wantSeen(t, a.ns(), "tcp", hostIP4+":7", a.ip4("bridge"))
	})
	t.Run("in, with the client's address", func(t *testing.T) {
		wantSeen(t, w.lan, "tcp", hostIP4+":8080", lanIP4)
		wantSeen(t, w.lan, "tcp", "["+hostIP6+"]:8080", lanIP6)
		wantSeen(t, w.lan, "udp", hostIP4+":8081", lanIP4)
	})
	t.Run("from the host", func(t *testing.T) {
		wantSeen(t, "", "tcp", "127.0.0.1:8080", b.ep.Networks["bridge"].Gateway4)
		wantSeen(t, "", "udp", "127.0.0.1:8081", "")
		wantSeen(t, "", "tcp", hostIP4+":8080", hostIP4)
		wantSeen(t, "", "tcp", "["+hostIP6+"]:8080", hostIP6)
	})
	t.Run("hairpin", func(t *testing.T) {
		wantSeen(t, a.ns(), "tcp", hostIP4+":8080", "")
		wantSeen(t, b.ns(), "tcp", hostIP4+":8080", "")
		wantSeen(t, a.ns(), "tcp", "["+hostIP6+"]:8080", "")
		wantSeen(t, b.ns(), "tcp", "["+hostIP6+"]:8080", "")
		wantSeen(t, b.ns(), "tcp", b.ep.Networks["bridge"].Gateway4+":8080", "")
	})
	w.detach(b)
	t.Run("gone", func(t *testing.T) {
		wantRefused(t, w.lan, "tcp", hostIP4+":8080")
		wantRefused(t, "", "tcp", "127.0.0.1:8080")
	})
	w.detach(a)
	must(t, a.release(context.Background())) // twice is fine
}

// The answers to ::1 come home only where bridged packets do not go through the
// firewall; where they do, the connection must be refused at once and not hang.
func TestLoopbackIPv6(t *testing.T) {
	require.Root(t)
	for _, filtered := range []bool{false, true} {
		t.Run(fmt.Sprintf("br_netfilter %v", filtered), func(t *testing.T) {
			const sysctl = "/proc/sys/net/bridge/bridge-nf-call-ip6tables"
			if _, err := os.Stat(sysctl); err != nil && filtered {
				t.Skip("no br_netfilter in this kernel")
			} else if err == nil {
				was, err := os.ReadFile(sysctl)
				must(t, err)
				setSysctl(t, "bridge/bridge-nf-call-ip6tables", map[bool]string{true: "1", false: "0"}[filtered])
				t.Cleanup(func() { setSysctl(t, "bridge/bridge-nf-call-ip6tables", strings.TrimSpace(string(was))) })
			}
			w := newWorld(t)
			b := w.attach("b", publishing(port("8080", 80, "")))
			serve(t, b.ns(), "tcp", ":80")
			start := time.Now()
			_, err := ask(t, "", "tcp", "[::1]:8080")
			switch {
			case !filtered && err != nil:
				t.Errorf("[::1]:8080: %v", err)
			case filtered && (err == nil || !strings.Contains(err.Error(), "refused")):
				t.Errorf("[::1]:8080 after %s: %v, want connection refused", time.Since(start), err)
			}
			w.detach(b)
		})
	}
}

// What is published on the host's loopback is for the host alone, and the host's
// loopback is not for containers (CVE-2025-54388 and others).
func TestLoopbackStaysOnTheHost(t *testing.T) {
	require.Root(t)
	w := newWorld(t)
	b := w.attach("b", publishing(port("127.0.0.1:8080", 80, ""), port("127.0.0.1:8081", 81, "udp")))
	serve(t, b.ns(), "tcp", ":80")
	serve(t, "", "tcp", "127.0.0.1:9")
	inside, onHost := newSink(t, b.ns(), ":81"), newSink(t, "", "127.0.0.1:10")
	wantSeen(t, "", "tcp", "127.0.0.1:8080", "")
	wantRefused(t, "", "tcp", hostIP4+":8080")
	wantRefused(t, w.lan, "tcp", hostIP4+":8080")

	attack := func(ns string, via string) {
		in(t, ns, func() error {
			// Whoever owns a machine on the segment can take 127.0.0.1 off its loopback.
			setSysctl(t, "ipv4/conf/all/route_localnet", "1")
			eth, err := netlink.LinkByName("eth0")
			must(t, err)
			routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: 255}, netlink.RT_FILTER_TABLE)
			must(t, err)
			for _, r := range routes {
				if r.Dst != nil && r.Dst.IP.IsLoopback() {
					_ = netlink.RouteDel(&r)
				}
			}
			return netlink.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("127.0.0.1/32")), Gw: net.ParseIP(via)})
		})
	}
	attack(w.lan, hostIP4)
	wantRefused(t, w.lan, "tcp", "127.0.0.1:8080")
	wantRefused(t, w.lan, "tcp", "127.0.0.1:9")
	send(t, w.lan, "127.0.0.1:8081", "from the neighbour")
	send(t, w.lan, "127.0.0.1:10", "from the neighbour")
	a := w.attach("a", hull.NetworkSpec{})
	attack(a.ns(), a.ep.Networks["bridge"].Gateway4)
	wantRefused(t, a.ns(), "tcp", "127.0.0.1:9")
	wantRefused(t, a.ns(), "tcp", "127.0.0.1:8080")
	send(t, a.ns(), "127.0.0.1:8081", "from a container")
	send(t, a.ns(), "127.0.0.1:10", "from a container")

	// A neighbour's own route to the containers.
	in(t, w.lan, func() error {
		eth, err := netlink.LinkByName("eth0")
		must(t, err)
		return netlink.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("172.16.0.0/12")), Gw: net.ParseIP(hostIP4)})
	})
	wantRefused(t, w.lan, "tcp", b.ip4("bridge")+":80")
	send(t, w.lan, b.ip4("bridge")+":81", "by a route of its own")
	inside.wantOnly("", "127.0.0.1:8081")
	onHost.wantOnly("", "127.0.0.1:10")
	w.detach(a)
	w.detach(b)
}

func TestPortRanges(t *testing.T) {
	require.Root(t)
	w := newWorld(t)
	var ports []hull.PortBinding
	for p := uint16(9000); p < 9100; p++ {
		ports = append(ports, port(fmt.Sprint(p), p, "tcp"))
	}
	ports = append(ports, port("9200", 80, ""), port("0.0.0.0:9300-9310", 81, ""), port("9200", 80, "sctp"))
	b := w.attach("b", publishing(ports...))
	serve(t, b.ns(), "tcp", ":9057")
	serve(t, b.ns(), "tcp", ":80")
	serve(t, b.ns(), "tcp", ":81")
	wantSeen(t, w.lan, "tcp", hostIP4+":9057", lanIP4)
	wantSeen(t, w.lan, "tcp", "["+hostIP6+"]:9057", lanIP6)
	wantSeen(t, w.lan, "tcp", hostIP4+":9200", lanIP4)
	wantSeen(t, w.lan, "tcp", hostIP4+":9300", lanIP4)
	wantRefused(t, w.lan, "tcp", "["+hostIP6+"]:9300")
	e := w.elements()
	if e["ranges4"] != 1 || e["ranges6"] != 1 || e["any4"] != 3 || e["any6"] != 2 {
		t.Errorf("elements %v, want one per range and family", e)
	}
	if n := len(b.ep.Ports); n != 2*102+1 {
		t.Errorf("%d ports are reported, want 205", n)
	}
	w.detach(b)
}

func TestPortConflicts(t *testing.T) {
	require.Root(t)
	w := newWorld(t)
	first := w.attach("first", publishing(port("8080", 80, ""), port("127.0.0.1:7000", 70, ""), port("5000-5001", 50, "")))
	l, err := net.Listen("tcp4", ":8090")
	must(t, err)
	defer l.Close()

	for _, c := range []struct {
		host, proto, want string
	}{
		{"8080", "tcp", "Bind for 0.0.0.0:8080 failed: port is already allocated to container first"},
		{"127.0.0.1:8080", "tcp", "Bind for 127.0.0.1:8080 failed: port is already allocated to container first"},
		{"0.0.0.0:7000", "tcp", "port is already allocated to container first"},
		{"8090", "tcp", fmt.Sprintf(", pid %d)", os.Getpid())},
		{"5000", "tcp", "port is already allocated to container first"},
		{"8080", "udp", ""},
		{hostIP4 + ":7000", "tcp", ""},
		{"5000-5001", "tcp", ""},
		{"", "tcp", ""},
	} {
		b, err := w.tryAttach("second", publishing(port(c.host, 80, c.proto)))
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s/%s: %v", c.host, c.proto, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s/%s: %v, want %q", c.host, c.proto, err, c.want)
		}
		if err == nil {
			w.detach(b)
		}
	}

	t.Run("random ports differ", func(t *testing.T) {
		b := w.attach("random", publishing(port("", 1, ""), port("0", 2, ""), port("", 2, "udp")))
		seen := map[string]bool{}
		for _, p := range b.ep.Ports {
			key := fmt.Sprint(p.Proto, p.HostIP, p.HostPort)
			if seen[key] || p.HostPort < 32768 {
				t.Errorf("%+v of %+v", p, b.ep.Ports)
			}
			seen[key] = true
		}
		w.detach(b)
	})
	t.Run("a program of the host cannot take it", func(t *testing.T) {
		if l, err := net.Listen("tcp4", ":8080"); err == nil {
			l.Close()
			t.Error("the port is free for others")
		}
	})
	t.Run("nor another engine", func(t *testing.T) {
		other := &world{t: t, run: w.run, pods: map[string]hull.Pod{}, log: w.log, cfg: w.cfg}
		other.cfg.Instance, other.cfg.RunDir, other.cfg.Store = "t2", t.TempDir(), &memoryStore{}
		other.start()
		defer func() { must(t, other.s.Close()) }()
		if _, err := other.tryAttach("foreign", publishing(port("8080", 80, ""))); err == nil || !strings.Contains(err.Error(), "8080 failed: port is already allocated") {
			t.Errorf("%v, want a conflict", err)
		}
		b := other.attach("own", hull.NetworkSpec{})
		if mine, theirs := netip.MustParseAddr(first.ip4("bridge")), netip.MustParsePrefix(b.ip4("bridge")+"/16"); theirs.Contains(mine) {
			t.Errorf("engines share a subnet: %s, %s", mine, theirs)
		}
		other.detach(b)
		must(t, other.s.host.fw.Delete())
	})
	w.detach(first)
	if l, err := net.Listen("tcp4", ":8080"); err != nil {
		t.Errorf("the port is not free again: %v", err)
	} else {
		l.Close()
	}
}

// Traffic from one source port goes where its first packet went, unless the
// kernel is told to forget.
func TestUDPFlowsAreForgotten(t *testing.T) {
	require.Root(t)
	w := newWorld(t)
	var client net.Conn
	in(t, w.lan, func() (err error) {
		client, err = net.Dial("udp", hostIP4+":5353")
		return err
	})
	defer client.Close()
	answered := func() bool {
		_ = client.SetDeadline(time.Now().Add(300 * time.Millisecond))
		_, _ = client.Write([]byte("?"))
		_, err := client.Read(make([]byte, 64))
		return err == nil
	}
	if answered() {
		t.Fatal("somebody answers already")
	}
	for _, name := range []string{"one", "two"} {
		b := w.attach(name, publishing(port("5353", 53, "udp")))
		serve(t, b.ns(), "udp", b.ip4("bridge")+":53")
		ok := false
		for range 100 { // a flow that was not forgotten would be kept alive by each
			if ok = answered(); ok {
				break
			}
		}
		if !ok {
			t.Errorf("%s does not answer", name)
		}
		w.detach(b)
	}
}

func TestIsolation(t *testing.T) {
	require.Root(t)
	w := newWorld(t)
	ctx := context.Background()
	for _, n := range []hull.Network{
		{Name: "red", EnableIPv4: true, EnableIPv6: true, IPAM: hull.IPAM{Config: []hull.IPAMConfig{{Subnet: "10.9.0.0/24", IPRange: "10.9.0.128/25", Gateway: "10.9.0.77"}}}},
		{Name: "blue", EnableIPv4: true},
		{Name: "inner", EnableIPv4: true, Internal: true},
		{Name: "tiny", EnableIPv4: true, IPAM: hull.IPAM{Config: []hull.IPAMConfig{{Subnet: "10.8.0.0/30"}}}},
		{Name: "loners", EnableIPv4: true, Options: map[string]string{optICC: "false"}},
	} {
		_, _, err := w.s.Create(ctx, n)
		must(t, err)
	}
	on := func(name, network string, e hull.EndpointSpec) box {
		b := w.attach(name, hull.NetworkSpec{Mode: network, Endpoints: map[string]hull.EndpointSpec{network: e}})
		serve(t, b.ns(), "tcp", ":80")
		return b
	}
	red, red2 := on("red1", "red", hull.EndpointSpec{IPv4: "10.9.0.5", MacAddress: "02:00:00:00:00:05"}), on("red2", "red", hull.EndpointSpec{})
	blue, inner, inner2 := on("blue1", "blue", hull.EndpointSpec{}), on("inner1", "inner", hull.EndpointSpec{}), on("inner2", "inner", hull.EndpointSpec{})
	lone, lone2 := on("lone1", "loners", hull.EndpointSpec{}), on("lone2", "loners", hull.EndpointSpec{})
	def := w.attach("def", publishing(port("8080", 80, "")))
	serve(t, def.ns(), "tcp", ":80")
	serve(t, w.lan, "tcp", ":7")

	if got := red.ep.Networks["red"]; got.IPv4 != "10.9.0.5" || got.MacAddress != "02:00:00:00:00:05" || got.Gateway4 != "10.9.0.77" {
		t.Errorf("fixed addresses: %+v", got)
	}
	if got := red2.ip4("red"); got != "10.9.0.128" && got != "10.9.0.129" {
		t.Errorf("address %s is not of the range", got)
	}
	wantSeen(t, red.ns(), "tcp", red2.ip4("red")+":80", "10.9.0.5")
	wantSeen(t, red.ns(), "tcp", "["+red2.ip6("red")+"]:80", red.ip6("red"))
	wantSeen(t, inner.ns(), "tcp", inner2.ip4("inner")+":80", inner.ip4("inner"))
	wantRefused(t, red.ns(), "tcp", blue.ip4("blue")+":80")
	wantRefused(t, red.ns(), "tcp", inner.ip4("inner")+":80")
	wantRefused(t, red.ns(), "tcp", def.ip4("bridge")+":80")
	wantRefused(t, red.ns(), "tcp", "["+def.ip6("bridge")+"]:80")
	outside := newSink(t, w.lan, lanIP4+":10")
	wantRefused(t, inner.ns(), "tcp", lanIP4+":7")
	in(t, inner.ns(), func() error { // a privileged one finds the way
		eth, err := netlink.LinkByName("eth0")
		must(t, err)
		return netlink.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0")), Gw: net.ParseIP(inner.ep.Networks["inner"].Gateway4)})
	})
	send(t, inner.ns(), lanIP4+":10", "from an internal network")
	outside.wantOnly(blue.ns(), lanIP4+":10")
	wantRefused(t, lone.ns(), "tcp", lone2.ip4("loners")+":80")
	wantSeen(t, lone.ns(), "tcp", lanIP4+":7", hostIP4)
	wantSeen(t, blue.ns(), "tcp", lanIP4+":7", hostIP4)
	// Through the published port, with its own address.
	wantSeen(t, red.ns(), "tcp", hostIP4+":8080", "10.9.0.5")

	in(t, blue.ns(), func() error {
		links, err := netlink.LinkByName("eth0")
		must(t, err)
		addrs, err := netlink.AddrList(links, netlink.FAMILY_V6)
		must(t, err)
		if len(addrs) > 0 {
			t.Errorf("a network without IPv6 has %v", addrs)
		}
		return nil
	})

	n, err := w.s.Get(ctx, "red")
	must(t, err)
	if m := n.Containers[red.pod.ID]; m.Name != "red1" || m.IPv4 != "10.9.0.5/24" || len(n.Containers) != 2 {
		t.Errorf("members of red: %+v", n.Containers)
	}
	if err := w.s.Remove(ctx, "red"); !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "has active endpoints") {
		t.Errorf("remove of a network in use: %v", err)
	}
	if _, err := w.tryAttach("clash", hull.NetworkSpec{Mode: "red", Endpoints: map[string]hull.EndpointSpec{"red": {IPv4: "10.9.0.5"}}}); !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "red1") {
		t.Errorf("an address given twice: %v", err)
	}
	// A container that starts again gets its address at once, whatever the kernel
	// has still to do.
	w.detach(red)
	red = on("red1", "red", hull.EndpointSpec{IPv4: "10.9.0.5"})
	wantSeen(t, red.ns(), "tcp", red2.ip4("red")+":80", "10.9.0.5")
	for _, b := range []box{red, red2, blue, inner, inner2, lone, lone2, def} {
		w.detach(b)
	}
	for range 3 { // one address for containers
		w.detach(w.attach("only", hull.NetworkSpec{Mode: "tiny"}))
	}
	gone, err := w.s.Prune(ctx, func(n hull.Network) bool { return n.Name == "blue" })
	must(t, err)
	if fmt.Sprint(gone) != "[inner loners red tiny]" {
		t.Errorf("pruned %v", gone)
	}
	must(t, w.s.Remove(ctx, "blue"))
	links, err := list(netlink.LinkList)
	must(t, err)
	for _, l := range links {
		if l.Type() == "bridge" && l.Attrs().Name != w.s.networks[stableID("t1", Bridge)].bridge {
			t.Errorf("bridge %s is left", l.Attrs().Name)
		}
	}
}

func TestNoneHostAndShared(t *testing.T) {
	require.Root(t)
	w := newWorld(t)
	none := w.attach("none", hull.NetworkSpec{Mode: "none"})
	in(t, none.ns(), func() error {
		links, err := list(netlink.LinkList)
		must(t, err)
		for _, l := range links {
			if a := l.Attrs(); a.Flags&net.FlagUp != 0 && a.Name != "lo" {
				t.Errorf("none has %s", a.Name)
			} else if a.Name == "lo" && a.Flags&net.FlagUp == 0 {
				t.Error("loopback is down")
			}
		}
		return nil
	})
	host := w.attach("host", hull.NetworkSpec{Mode: "host"})
	if host.ns() != "" || host.ep.Hosts == "" || host.ep.Networks["host"].NetworkID == "" {
		t.Errorf("host: %+v", host.ep)
	}
	owner := w.attach("owner", publishing(port("8080", 80, "")))
	guest := w.attach("guest", hull.NetworkSpec{Mode: "container:" + owner.pod.ID})
	if guest.ns() != owner.ns() || guest.ep.Hosts != owner.ep.Hosts || guest.ep.ResolvConf != owner.ep.ResolvConf {
		t.Errorf("shared: %+v", guest.ep)
	}
	if _, err := w.tryAttach("orphan", hull.NetworkSpec{Mode: "container:nobody"}); !errdefs.IsNotFound(err) {
		t.Errorf("share with nobody: %v", err)
	}
	// A process of the guest keeps the namespace. The address must be free all the
	// same, without two owners.
	f, err := os.Open(owner.ns())
	must(t, err)
	defer f.Close()
	veth := w.s.host.vethName(owner.ep.Networks["bridge"].EndpointID)
	w.detach(owner)
	for i := 0; w.s.host.linkThere(veth); i++ {
		if i == 100 {
			t.Fatal("the cable of a namespace that is still held is not removed")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := w.tryAttach("late", hull.NetworkSpec{Mode: "container:" + owner.pod.ID}); err == nil {
		t.Error("joined a container that does not run")
	}
	for _, b := range []box{guest, host, none} {
		w.detach(b)
	}
}

func TestRepair(t *testing.T) {
	require.Root(t)
	w := newWorld(t)
	a := w.attach("a", publishing(port("8080", 80, "")))
	serve(t, a.ns(), "tcp", ":80")
	wantSeen(t, w.lan, "tcp", hostIP4+":8080", lanIP4)

	conn := &nftables.Conn{}
	conn.FlushRuleset()
	must(t, conn.Flush())
	w.detach(w.attach("b", hull.NetworkSpec{}))
	wantSeen(t, w.lan, "tcp", hostIP4+":8080", lanIP4)

	br, err := netlink.LinkByName(w.s.networks[stableID("t1", Bridge)].bridge)
	must(t, err)
	must(t, netlink.LinkDel(br))
	b := w.attach("b", hull.NetworkSpec{})
	serve(t, b.ns(), "tcp", ":80")
	wantSeen(t, w.lan, "tcp", hostIP4+":8080", lanIP4)
	wantSeen(t, a.ns(), "tcp", b.ip4("bridge")+":80", a.ip4("bridge"))
	said := w.log.String()
	if !strings.Contains(said, "nftables table was damaged") || !strings.Contains(said, "bridge has vanished") && !strings.Contains(said, "bridge was changed") {
		t.Error("the log does not say that something was repaired")
	}
	w.detach(a)
	w.detach(b)
}

// A killed engine's successor finds everything as it is, touches nothing of what
// runs, and removes what nobody claims.
func TestReattachAndSweep(t *testing.T) {
	require.Root(t)
	w := newWorld(t)
	ctx := context.Background()
	_, _, err := w.s.Create(ctx, hull.Network{Name: "red", EnableIPv4: true})
	must(t, err)
	stay := w.attach("stay", publishing(port("8080", 80, ""), port("9000", 9000, ""), port("9001", 9001, "")))
	serve(t, stay.ns(), "tcp", ":80")
	both := w.attach("both", hull.NetworkSpec{Mode: "red", Endpoints: map[string]hull.EndpointSpec{"red": {}, "bridge": {}}})
	serve(t, both.ns(), "tcp", ":80")
	lost := w.attach("lost", publishing(port("8081", 80, "")))
	_ = lost

	w.crash()
	for _, b := range []*box{&stay, &both} {
		b.release, err = w.s.Reattach(ctx, b.pod, b.dir)
		must(t, err)
	}
	keep := func(id string) bool { return id == stay.pod.ID || id == both.pod.ID }
	must(t, w.s.Sweep(ctx, keep))
	wantSeen(t, w.lan, "tcp", hostIP4+":8080", lanIP4)
	wantSeen(t, stay.ns(), "tcp", both.ip4("bridge")+":80", stay.ip4("bridge"))
	if e := w.elements(); e["any4"] != 1 || e["ranges4"] != 1 {
		t.Errorf("elements after sweep: %v", e)
	}
	var pins, cables int
	for range 200 {
		entries, err := os.ReadDir(filepath.Join(w.run, "netns"))
		must(t, err)
		links, err := list(netlink.LinkList)
		must(t, err)
		pins, cables = len(entries), 0
		for _, l := range links {
			if strings.HasPrefix(l.Attrs().Name, w.s.host.vethPrefix()) {
				cables++
			}
		}
		if pins == 2 && cables == 3 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if pins != 2 || cables != 3 {
		t.Errorf("%d namespaces and %d cables after sweep, want 2 and 3", pins, cables)
	}
	if strings.Contains(w.log.String(), "damaged") {
		t.Error("a sound table was repaired")
	}

	if _, err := w.tryAttach("thief", publishing(port("8080", 80, ""))); err == nil || !strings.Contains(err.Error(), "container stay") {
		t.Errorf("the port of a pod from before: %v", err)
	}
	more := w.attach("more", publishing(port("8081", 80, "")))
	for _, b := range []box{stay, both} {
		for name := range b.ep.Networks {
			if more.ip4("bridge") == b.ip4(name) {
				t.Errorf("%s has the address of %s", more.pod.Name, b.pod.Name)
			}
		}
	}
	for _, b := range []box{stay, both, more} {
		w.detach(b)
	}
}

func TestConnect(t *testing.T) {
	require.Root(t)
	w := newWorld(t)
	ctx := context.Background()
	_, _, err := w.s.Create(ctx, hull.Network{Name: "red", EnableIPv4: true})
	must(t, err)
	a := w.attach("a", publishing(port("8080", 80, "")))
	serve(t, a.ns(), "tcp", ":80")
	r := w.attach("r", hull.NetworkSpec{Mode: "red"})
	serve(t, r.ns(), "tcp", ":80")
	wantRefused(t, a.ns(), "tcp", r.ip4("red")+":80")
	must(t, w.s.Connect(ctx, "red", a.pod.ID, hull.EndpointSpec{Aliases: []string{"api"}}))
	p, err := w.pod(a.pod.ID)
	must(t, err)
	got := p.Status.Endpoint.Networks["red"]
	if got.IPv4 == "" || fmt.Sprint(got.Aliases) != "[api]" {
		t.Fatalf("recorded: %+v", p.Status.Endpoint)
	}
	wantSeen(t, a.ns(), "tcp", r.ip4("red")+":80", got.IPv4)
	if err := w.s.Connect(ctx, "red", a.pod.ID, hull.EndpointSpec{}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("connected twice: %v", err)
	}
	hosts, err := os.ReadFile(a.ep.Hosts)
	must(t, err)
	if !strings.Contains(string(hosts), got.IPv4+"\ta\n") {
		t.Errorf("hosts:\n%s", hosts)
	}
	stats, err := w.s.Stats(ctx, a.ns())
	must(t, err)
	if stats["eth1"].TxPackets == 0 || len(stats) < 2 {
		t.Errorf("stats: %+v", stats)
	}
	// The published port and the way out move to what is left.
	must(t, w.s.Disconnect(ctx, "bridge", a.pod.ID, false))
	wantSeen(t, w.lan, "tcp", hostIP4+":8080", lanIP4)
	serve(t, w.lan, "tcp", ":7")
	wantSeen(t, a.ns(), "tcp", lanIP4+":7", hostIP4)
	if err := w.s.Disconnect(ctx, "bridge", a.pod.ID, false); err == nil {
		t.Error("disconnected twice")
	}
	if err := w.s.Disconnect(ctx, "bridge", a.pod.ID, true); !errdefs.IsPermissionDenied(err) {
		t.Errorf("disconnected twice by force: %v", err)
	}
	must(t, w.s.Disconnect(ctx, "bridge", "nobody", true))
	must(t, w.s.Disconnect(ctx, "red", a.pod.ID, false))
	wantRefused(t, w.lan, "tcp", hostIP4+":8080")
	// They come back with the next network that can have them.
	must(t, w.s.Connect(ctx, "red", a.pod.ID, hull.EndpointSpec{}))
	wantSeen(t, w.lan, "tcp", hostIP4+":8080", lanIP4)
	w.detach(a)
	w.detach(r)
}

// TestConnectPublishes: ports that an internal network does not publish are published
// once the container is on another one, and no sooner; a connection that fails leaves
// them with nobody.
func TestConnectPublishes(t *testing.T) {
	require.Root(t)
	w := newWorld(t)
	ctx := context.Background()
	for _, n := range []hull.Network{
		{Name: "inside", EnableIPv4: true, Internal: true}, {Name: "deep", EnableIPv4: true, Internal: true}, {Name: "red", EnableIPv4: true},
	} {
		_, _, err := w.s.Create(ctx, n)
		must(t, err)
	}
	spec := publishing(port("8080", 80, ""))
	spec.Mode = "inside"
	a := w.attach("a", spec)
	serve(t, a.ns(), "tcp", ":80")
	wantRefused(t, w.lan, "tcp", hostIP4+":8080")
	other := w.attach("b", publishing(port("8080", 80, "")))
	if err := w.s.Connect(ctx, "red", a.pod.ID, hull.EndpointSpec{}); err == nil {
		t.Error("a port that another container has was published")
	}
	w.detach(other)
	must(t, w.s.Connect(ctx, "red", a.pod.ID, hull.EndpointSpec{}))
	wantSeen(t, w.lan, "tcp", hostIP4+":8080", lanIP4)
	p, err := w.pod(a.pod.ID)
	must(t, err)
	if got := p.Status.Endpoint.Ports; len(got) == 0 || got[0].HostPort != 8080 {
		t.Errorf("recorded ports: %+v", got)
	}
	// An internal network leads nowhere, whatever its priority.
	must(t, w.s.Connect(ctx, "deep", a.pod.ID, hull.EndpointSpec{GwPriority: 1}))
	wantSeen(t, w.lan, "tcp", hostIP4+":8080", lanIP4)
	must(t, w.s.Disconnect(ctx, "red", a.pod.ID, false))
	wantRefused(t, w.lan, "tcp", hostIP4+":8080")
	// Nor do the next engine's repairs publish anything there.
	p, err = w.pod(a.pod.ID)
	must(t, err)
	w.crash()
	w.findAgain(&a, p)
	if e := w.elements(); e["any4"] != 0 {
		t.Errorf("elements: %v", e)
	}
	must(t, w.s.Connect(ctx, "red", a.pod.ID, hull.EndpointSpec{}))
	wantSeen(t, w.lan, "tcp", hostIP4+":8080", lanIP4)
	w.detach(a)
}

// TestConnectCutShort: of a connection that a killed engine had not recorded yet
// nothing stays, and it can be made again.
func TestConnectCutShort(t *testing.T) {
	require.Root(t)
	w := newWorld(t)
	ctx := context.Background()
	_, _, err := w.s.Create(ctx, hull.Network{Name: "red", EnableIPv4: true})
	must(t, err)
	a := w.attach("a", hull.NetworkSpec{Mode: "bridge"})
	before, err := w.pod(a.pod.ID)
	must(t, err)
	must(t, w.s.Connect(ctx, "red", a.pod.ID, hull.EndpointSpec{}))
	interfaces := func() (names []string) {
		t.Helper()
		stats, err := w.s.Stats(ctx, a.ns())
		must(t, err)
		for name := range stats {
			if strings.HasPrefix(name, "eth") {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		return names
	}
	if got := interfaces(); !slices.Equal(got, []string{"eth0", "eth1"}) {
		t.Fatalf("connected: %q", got)
	}

	w.crash()
	must(t, w.update(a.pod.ID, func(st *hull.PodStatus) error { *st = before.Status; return nil }))
	w.findAgain(&a, before)
	if got := interfaces(); !slices.Equal(got, []string{"eth0"}) {
		t.Errorf("after the next engine's start: %q", got)
	}
	must(t, w.s.Connect(ctx, "red", a.pod.ID, hull.EndpointSpec{}))
	if got := interfaces(); !slices.Equal(got, []string{"eth0", "eth1"}) {
		t.Errorf("connected again: %q", got)
	}
	w.detach(a)
}

// TestLeadAfterRestart: which network leads outside, and has the ports, is what it was
// before a restart, whatever the order of connections.
func TestLeadAfterRestart(t *testing.T) {
	require.Root(t)
	w := newWorld(t)
	ctx := context.Background()
	colours := []string{"red", "blue", "green", "black"}
	for _, name := range colours {
		_, _, err := w.s.Create(ctx, hull.Network{Name: name, EnableIPv4: true})
		must(t, err)
	}
	a := w.attach("a", publishing(port("8080", 80, "")))
	serve(t, a.ns(), "tcp", ":80")
	serve(t, w.lan, "tcp", ":7")
	for _, name := range colours {
		must(t, w.s.Connect(ctx, name, a.pod.ID, hull.EndpointSpec{}))
	}
	for _, name := range append([]string{"bridge"}, colours[:3]...) {
		// The kernel says which one leads; it must not be left without.
		must(t, w.s.Disconnect(ctx, name, a.pod.ID, false))
		wantSeen(t, a.ns(), "tcp", lanIP4+":7", hostIP4)
		wantSeen(t, w.lan, "tcp", hostIP4+":8080", lanIP4)
		p, err := w.pod(a.pod.ID)
		must(t, err)
		w.crash()
		w.findAgain(&a, p)
		wantSeen(t, w.lan, "tcp", hostIP4+":8080", lanIP4)
	}
	w.detach(a)
}

// What a container is connected to outlives its run, and one that does not run
// can be connected too.
func TestConnectStopped(t *testing.T) {
	require.Root(t)
	w := newWorld(t)
	must(t, w.s.Close())
	spec := hull.NetworkSpec{Mode: "bridge"}
	w.cfg.Change = func(id string, fn func(*hull.NetworkSpec) error) error {
		if id == "nobody" {
			return errdefs.ErrNotFound
		}
		return fn(&spec)
	}
	w.start()
	ctx := context.Background()
	_, _, err := w.s.Create(ctx, hull.Network{Name: "red", EnableIPv4: true})
	must(t, err)
	if err := w.s.Connect(ctx, "red", "nobody", hull.EndpointSpec{}); !errdefs.IsNotFound(err) {
		t.Errorf("nobody connected: %v", err)
	}
	if err := w.s.Connect(ctx, "host", "a", hull.EndpointSpec{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("connected to host: %v", err)
	}
	must(t, w.s.Connect(ctx, "red", "a", hull.EndpointSpec{Aliases: []string{"api"}}))
	if fmt.Sprint(spec.Endpoints["red"].Aliases) != "[api]" {
		t.Fatalf("asks for %+v", spec)
	}
	a := w.attach("a", spec)
	if a.ip4("red") == "" || a.ip4("bridge") == "" {
		t.Errorf("endpoint %+v", a.ep)
	}
	must(t, w.s.Disconnect(ctx, "red", a.pod.ID, false))
	if len(spec.Endpoints) != 0 {
		t.Errorf("asks for %+v after disconnecting", spec)
	}
	must(t, w.s.Connect(ctx, "red", a.pod.ID, hull.EndpointSpec{}))
	w.detach(a)
	must(t, w.s.Disconnect(ctx, "red", "a", false))
	if err := w.s.Disconnect(ctx, "red", "a", false); !errdefs.IsPermissionDenied(err) {
		t.Errorf("disconnected twice: %v", err)
	}
}

// Attaching and detaching at once from many sides, with and without the pool.
func TestManyAtOnce(t *testing.T) {
	require.Root(t)
	for _, pool := range []int{0, -1} {
		t.Run(fmt.Sprintf("pool %d", pool), func(t *testing.T) {
			w := newWorld(t)
			must(t, w.s.Close())
			w.cfg.Pool = pool
			w.start()
			errs := make(chan error)
			const workers, each = 6, 5
			for i := range workers {
				go func() {
					var err error
					for j := range each {
						var b box
						if b, err = w.tryAttach(fmt.Sprintf("p%d-%d", i, j), publishing(port("", 80, ""))); err != nil {
							break
						}
						if err = b.release(context.Background()); err != nil {
							break
						}
					}
					errs <- err
				}()
			}
			for range workers {
				must(t, <-errs)
			}
		})
	}
}

func TestPodSysctls(t *testing.T) {
	require.Root(t)
	w := newWorld(t)
	dir := t.TempDir()
	id := strings.Repeat("ab", 32)
	attach := func(values map[string]string) (hull.Endpoint, hull.Release, error) {
		return w.s.Attach(context.Background(), hull.Pod{ID: id, Sysctls: values}, dir)
	}
	if _, _, err := attach(map[string]string{"net.ipv4.../../../kernel/hostname": "x"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a path in a name: %v", err)
	}
	ep, release, err := attach(map[string]string{"net.ipv4.tcp_keepalive_time": "77", "kernel.shm_rmid_forced": "1"})
	must(t, err)
	must(t, linux.InNetNS(ep.NetNS, func() error {
		b, err := os.ReadFile("/proc/sys/net/ipv4/tcp_keepalive_time")
		if got := strings.TrimSpace(string(b)); got != "77" {
			t.Errorf("sysctl is %s", got)
		}
		return err
	}))
	must(t, release(context.Background()))
}

// An interface has the name and the settings that were asked for, at the start and
// when it comes later.
func TestInterfaceOptions(t *testing.T) {
	require.Root(t)
	w := newWorld(t)
	ctx := context.Background()
	for _, name := range []string{"red", "blue"} {
		_, _, err := w.s.Create(ctx, hull.Network{Name: name, EnableIPv4: true})
		must(t, err)
	}
	opts := func(name string) hull.EndpointSpec {
		return hull.EndpointSpec{DriverOpts: map[string]string{optIfname: name, optSysctls: "net.ipv4.conf.IFNAME.log_martians=1"}}
	}
	check := func(b box, name string) {
		t.Helper()
		must(t, linux.InNetNS(b.ns(), func() error {
			got, err := os.ReadFile("/proc/sys/net/ipv4/conf/" + name + "/log_martians")
			if strings.TrimSpace(string(got)) != "1" {
				t.Errorf("%s: log_martians is %q", name, got)
			}
			return err
		}))
	}
	a := w.attach("a", hull.NetworkSpec{Mode: "red", Endpoints: map[string]hull.EndpointSpec{"red": opts("front")}})
	check(a, "front")
	must(t, w.s.Connect(ctx, "blue", a.pod.ID, opts("back")))
	check(a, "back")
	b := w.attach("b", hull.NetworkSpec{Mode: "bridge", Endpoints: map[string]hull.EndpointSpec{"bridge": opts("lan")}})
	check(b, "lan")
	if err := w.s.Connect(ctx, "red", b.pod.ID, opts("lan")); !errdefs.IsConflict(err) {
		t.Errorf("a name that is taken: %v", err)
	}
	bad := opts("x")
	bad.DriverOpts[optSysctls] = "net.ipv4.conf.IFNAME.no_such=1"
	if err := w.s.Connect(ctx, "red", b.pod.ID, bad); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a setting that is not there: %v", err)
	}
	w.detach(a)
	w.detach(b)
}

// Forwarding is for containers: a host between two networks does not become
// their router.
func TestHostIsNoRouter(t *testing.T) {
	require.Root(t)
	w := newWorld(t)
	office := filepath.Join(w.run, "office")
	must(t, linux.NewNetNS(office))
	t.Cleanup(func() { must(t, linux.Unpin(office)) })
	ns, err := netns.GetFromPath(office)
	must(t, err)
	defer ns.Close()
	cable := netlink.NewVeth(netlink.LinkAttrs{Name: "uplink2", MTU: 1500, TxQLen: -1})
	cable.PeerName, cable.PeerNamespace = "eth0", netlink.NsFd(ns)
	must(t, netlink.LinkAdd(cable))
	address(t, "uplink2", "198.51.100.1/24")
	route := func(ns, to, via string) {
		in(t, ns, func() error {
			eth, err := netlink.LinkByName("eth0")
			must(t, err)
			return netlink.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Dst: ipNet(netip.MustParsePrefix(to)), Gw: net.ParseIP(via)})
		})
	}
	in(t, office, func() error { address(t, "eth0", "198.51.100.9/24"); return nil })
	route(w.lan, "198.51.100.0/24", hostIP4)
	route(office, "192.0.2.0/24", "198.51.100.1")
	desk := newSink(t, office, "198.51.100.9:10")

	a := w.attach("a", hull.NetworkSpec{}) // turns forwarding on
	send(t, w.lan, "198.51.100.9:10", "through the host")
	desk.wantOnly(a.ns(), "198.51.100.9:10")

	w.detach(a)
	w.crash()
	must(t, w.s.Sweep(context.Background(), func(string) bool { return false }))
	a = w.attach("a", hull.NetworkSpec{})
	send(t, w.lan, "198.51.100.9:10", "through the host, later")
	desk.wantOnly(a.ns(), "198.51.100.9:10")
	w.detach(a)
}
