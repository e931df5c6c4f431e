package network

import (
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
