package network

import (
	"context"
	"strings"
	"testing"

	"hull/internal/hull"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	def, red, auto := testNetwork(t), testNetwork(t), testNetwork(t)
	def.bridge, red.bridge, auto.bridge = "br0", "br1", "br2"
	red.rec.Name, auto.rec.Name = "red", "auto"
	auto.rec.IPAM.Driver = ipamAuto
	s := &Service{registry: &registry{networks: map[string]*network{
		"11": def, "22": red, "55": auto,
		"33": {rec: hull.Network{Name: Host}}, "44": {rec: hull.Network{Name: None}},
	}}}
	on := func(name string, e hull.EndpointSpec) hull.NetworkSpec {
		return hull.NetworkSpec{Mode: name, Endpoints: map[string]hull.EndpointSpec{name: e}}
	}
	for _, c := range []struct {
		spec hull.NetworkSpec
		want string // "" = fine
	}{
		{hull.NetworkSpec{}, ""},
		{hull.NetworkSpec{Mode: "default", Ports: []hull.PortBinding{{ContainerPort: 80, HostPort: "80"}}}, ""},
		{hull.NetworkSpec{Disabled: true, Mode: "nonsense"}, ""},
		{on("red", hull.EndpointSpec{IPv4: "172.17.0.9", IPv6: "fd00::9", Aliases: []string{"x"}}), ""},
		{hull.NetworkSpec{Mode: "container:" + strings.Repeat("a", 64)}, ""},
		{hull.NetworkSpec{Mode: "green"}, "network green not found"},
		{on("bridge", hull.EndpointSpec{IPv4: "172.17.0.9"}), "user specified IP address is supported on user defined networks only"},
		{on("auto", hull.EndpointSpec{IPv4: "172.17.0.9"}), ""}, // as Docker since 29
		{on("red", hull.EndpointSpec{IPv4: "10.0.0.9"}), "no configured subnet or ip-range contain the IP address 10.0.0.9"},
		{on("red", hull.EndpointSpec{IPv4: "fd00::9"}), "invalid IPv4 address: fd00::9"},
		{on("red", hull.EndpointSpec{IPv4: "x"}), "invalid IPv4 address: x"},
		{on("bridge", hull.EndpointSpec{Aliases: []string{"x"}}), "network-scoped aliases are only supported for user-defined networks"},
		{on("red", hull.EndpointSpec{MacAddress: "xyz"}), "invalid MAC address: xyz"},
		{hull.NetworkSpec{MacAddress: "00:00:00:00:00:00:00:01"}, "invalid MAC address"},
		{hull.NetworkSpec{Mode: "host", Endpoints: map[string]hull.EndpointSpec{"red": {}}}, "container cannot be connected to network endpoints: host, red"},
		{hull.NetworkSpec{Mode: "host", Links: []string{"a"}}, "host type networking can't be used with links"},
		{hull.NetworkSpec{Mode: "container:x", Links: []string{"a"}}, "container type network can't be used with links"},
		{hull.NetworkSpec{Mode: "container:x", DNS: []string{"1.1.1.1"}}, "conflicting options: dns and the network mode"},
		{hull.NetworkSpec{Mode: "container:x", ExtraHosts: []string{"a:1.1.1.1"}}, "conflicting options: custom host-to-IP mapping and the network mode"},
		{hull.NetworkSpec{Mode: "container:x", Ports: []hull.PortBinding{{ContainerPort: 1}}}, "conflicting options: port publishing and the container type network mode"},
		{hull.NetworkSpec{Mode: "container:x", MacAddress: "02:00:00:00:00:01"}, "conflicting options: mac-address and the network mode"},
		{hull.NetworkSpec{Mode: "container:"}, "invalid container format container:<name|id>"},
		{hull.NetworkSpec{DNS: []string{"dns.example.org"}}, `invalid IP address: "dns.example.org"`},
		{hull.NetworkSpec{DNS: []string{"fe80::1%x\nsearch evil"}}, "invalid IP address: "},
		{hull.NetworkSpec{DNSSearch: []string{"a\nnameserver 6.6.6.6"}}, "invalid DNS search domain or option"},
		{hull.NetworkSpec{DNSOptions: []string{"ndots:1 # x"}}, "invalid DNS search domain or option"},
		{hull.NetworkSpec{ExtraHosts: []string{"a:fe80::1%x\n1.2.3.4 evil"}}, "invalid IP address in add-host"},
		{hull.NetworkSpec{DNS: []string{"fe80::1%eth0"}, DNSSearch: []string{"."}, DNSOptions: []string{"ndots:1"}}, ""},
		{hull.NetworkSpec{Ports: []hull.PortBinding{{ContainerPort: 80, HostPort: "9-8"}}}, "invalid port range: 9-8"},
		{hull.NetworkSpec{Exposed: []string{"80/foo"}}, "invalid proto: foo"},
	} {
		err := s.Check(context.Background(), c.spec)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v, want %q", c.spec, err, c.want)
		}
	}
}
