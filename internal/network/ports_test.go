package network

import (
	"fmt"
	"net/netip"
	"reflect"
	"testing"

	"hull/internal/hull"
	"hull/internal/network/firewall"
)

func TestParseBinding(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   hull.PortBinding
		want string // "" = refused
	}{
		{hull.PortBinding{ContainerPort: 80}, "tcp 80 all 0-0"},
		{hull.PortBinding{ContainerPort: 80, Proto: "UDP", HostPort: "0"}, "udp 80 all 0-0"},
		{hull.PortBinding{ContainerPort: 80, Proto: "sctp", HostPort: "8000-8010"}, "sctp 80 all 8000-8010"},
		{hull.PortBinding{ContainerPort: 80, HostIP: "::ffff:10.0.0.1", HostPort: "65535"}, "tcp 80 10.0.0.1 65535-65535"},
		{hull.PortBinding{ContainerPort: 80, HostIP: "[::1]", HostPort: "1"}, "tcp 80 ::1 1-1"},
		{hull.PortBinding{ContainerPort: 0}, ""},
		{hull.PortBinding{ContainerPort: 80, Proto: "icmp"}, ""},
		{hull.PortBinding{ContainerPort: 80, HostIP: "localhost"}, ""},
		{hull.PortBinding{ContainerPort: 80, HostIP: "fe80::1%eth0"}, ""},
		{hull.PortBinding{ContainerPort: 80, HostPort: "65536"}, ""},
		{hull.PortBinding{ContainerPort: 80, HostPort: "-1"}, ""},
		{hull.PortBinding{ContainerPort: 80, HostPort: "8010-8000"}, ""},
		{hull.PortBinding{ContainerPort: 80, HostPort: "0-8000"}, ""},
		{hull.PortBinding{ContainerPort: 80, HostPort: "80-"}, ""},
		{hull.PortBinding{ContainerPort: 80, HostPort: " 80"}, ""},
	} {
		b, err := parseBinding(c.in)
		got := ""
		if err == nil {
			host := "all"
			if b.host.IsValid() {
				host = b.host.String()
			}
			got = fmt.Sprintf("%s %d %s %d-%d", b.proto, b.container, host, b.first, b.last)
		}
		if got != c.want {
			t.Errorf("%+v: %q (%v), want %q", c.in, got, err, c.want)
		}
	}
}

func TestParseExposed(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]int{"80": 1, "80/udp": 1, "8000-8009/tcp": 10, "0": 0, "": 0, "80/icmp": 0, "9-8": 0, "1-65535": 65535} {
		got, err := parseExposed(in)
		if len(got) != want || (err != nil) != (want == 0) {
			t.Errorf("%q: %d ports, %v", in, len(got), err)
		}
	}
}

func TestForwardsJoinWhatKeepsItsNumber(t *testing.T) {
	t.Parallel()
	e := &end{network: &network{bridge: "b"}, v4: netip.MustParseAddr("172.17.0.2"), v6: netip.MustParseAddr("fd00::2")}
	var in []hull.PublishedPort
	for _, p := range []uint16{8002, 8000, 8001, 8003} {
		in = append(in, hull.PublishedPort{ContainerPort: p, Proto: "tcp", HostIP: "0.0.0.0", HostPort: p}, hull.PublishedPort{ContainerPort: p, Proto: "tcp", HostIP: "::", HostPort: p})
	}
	in = append(in,
		hull.PublishedPort{ContainerPort: 80, Proto: "tcp", HostIP: "0.0.0.0", HostPort: 8004},
		hull.PublishedPort{ContainerPort: 8005, Proto: "udp", HostIP: "0.0.0.0", HostPort: 8005},
		hull.PublishedPort{ContainerPort: 8005, Proto: "tcp", HostIP: "10.0.0.1", HostPort: 8005},
		hull.PublishedPort{ContainerPort: 65535, Proto: "udp", HostIP: "0.0.0.0", HostPort: 65535},
	)
	all4, all6 := netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")
	want := []firewall.Forward{
		{Proto: "tcp", Host: all4, First: 8000, Last: 8003, To: e.v4, ToPort: 8000},
		{Proto: "tcp", Host: all4, First: 8004, Last: 8004, To: e.v4, ToPort: 80},
		{Proto: "tcp", Host: netip.MustParsePrefix("10.0.0.1/32"), First: 8005, Last: 8005, To: e.v4, ToPort: 8005},
		{Proto: "tcp", Host: all6, First: 8000, Last: 8003, To: e.v6, ToPort: 8000},
		{Proto: "udp", Host: all4, First: 8005, Last: 8005, To: e.v4, ToPort: 8005},
		{Proto: "udp", Host: all4, First: 65535, Last: 65535, To: e.v4, ToPort: 65535},
	}
	if got := forwards(in, e); !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

func FuzzPorts(f *testing.F) {
	for _, s := range []string{"80", "8000-8010/tcp", "0", "-", "1-2-3", "65535-65536", "+1", "80/"} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, ports, addr string) {
		if b, err := parseBinding(hull.PortBinding{ContainerPort: 1, HostPort: ports, HostIP: addr}); err == nil && (b.last < b.first || b.first == 0 && b.last != 0) {
			t.Errorf("%q: %+v", ports, b)
		}
		if bs, err := parseExposed(ports); err == nil && (len(bs) == 0 || bs[0].container == 0) {
			t.Errorf("%q: %+v", ports, bs)
		}
	})
}
