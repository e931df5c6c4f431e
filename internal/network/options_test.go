package network

import (
	"slices"
	"strings"
	"testing"

	"hull/internal/hull"
)

func TestCheckOptions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		opt, value string
		internal   bool
		want       string // "" = fine
	}{
		{optICC, "true", false, ""},
		{optICC, "", false, ""},
		{optICC, "maybe", false, "failed to parse " + optICC + " value: maybe"},
		{optMasq, "2", false, optMasq},
		{optInhibit, "x", false, optInhibit},
		{optMTU, "9000", false, ""},
		{optMTU, "big", false, optMTU},
		{optMTU, "67", false, optMTU},
		{optMTU, "70000", false, optMTU},
		{optHostIP, "127.0.0.1", false, ""},
		{optHostIP, "::1", false, optHostIP},
		{optHostIP, "here", false, optHostIP},
		{optMode4, "routed", false, ""},
		{optMode4, "nat-unprotected", false, ""},
		{optMode6, "tunnel", false, "unknown gateway mode tunnel"},
		{optMode6, "isolated", false, "internal network"},
		{optMode6, "isolated", true, ""},
		{optName, "br-lan", false, ""},
		{optName, "", false, "invalid interface name"},
		{optName, "../../etc", false, "invalid interface name"},
		{optName, "sixteen-letters-", false, "invalid interface name"},
		{optParent, "eth0.7", false, ""},
		{optParent, "eth0\n", false, "invalid interface name"},
		{optMacvlanMode, "passthru", false, ""},
		{optMacvlanMode, "bridged", false, "requested macvlan mode 'bridged' is not valid"},
		{optIPvlanMode, "l3s", false, ""},
		{optIPvlanMode, "l4", false, "requested ipvlan mode 'l4' is not valid"},
		{optIPvlanFlag, "vepa", false, ""},
		{optIPvlanFlag, "open", false, "requested ipvlan flag 'open' is not valid"},
		{"com.example.anything", "at all", false, ""},
	} {
		err := checkOptions(hull.Network{Internal: c.internal, Options: map[string]string{c.opt: c.value}})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s=%q: %v, want %q", c.opt, c.value, err, c.want)
		}
	}
}

func TestEndpointOptions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ opt, value, want string }{
		{optIfname, "lan0", ""},
		{optIfname, "", "invalid interface name"},
		{optIfname, "lo", "invalid interface name"},
		{optIfname, "a/b", "invalid interface name"},
		{optIfname, "sixteen-letters-", "invalid interface name"},
		{optSysctls, "net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.ifname.accept_ra=0", ""},
		{optSysctls, "net.ipv4.conf.eth0.log_martians=1", "represent 'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V'"},
		{optSysctls, "kernel.conf.IFNAME.x.y=1", "unrecognised network interface sysctl"},
		{optSysctls, "net.ipv4.conf/../x.IFNAME.y=1", "unrecognised network interface sysctl"},
		{optSysctls, "net.ipv4.conf.IFNAME.log_martians", "expected NAME=VALUE"},
		{"com.example.anything", "at all", ""},
	} {
		err := checkEndpointOptions(map[string]string{c.opt: c.value})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s=%q: %v, want %q", c.opt, c.value, err, c.want)
		}
	}
}

func TestInterfaceNames(t *testing.T) {
	t.Parallel()
	plain := &network{}
	ends := func(names ...string) (out []wantedEnd) {
		for _, name := range names {
			w := wantedEnd{network: plain}
			if name != "" {
				w.spec.DriverOpts = map[string]string{optIfname: name}
			}
			out = append(out, w)
		}
		return out
	}
	for _, c := range []struct{ asked, want []string }{
		{[]string{"", ""}, []string{"eth0", "eth1"}},
		{[]string{"lan", ""}, []string{"lan", "eth1"}},
		{[]string{"", "eth0"}, []string{"eth1", "eth0"}},
		{[]string{"eth1", "", ""}, []string{"eth1", "eth2", "eth3"}},
	} {
		got, err := interfaceNames(ends(c.asked...))
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%q: %q, %v, want %q", c.asked, got, err, c.want)
		}
	}
	if _, err := interfaceNames(ends("lan", "lan")); err == nil || !strings.Contains(err.Error(), "called lan") {
		t.Error(err)
	}
}
