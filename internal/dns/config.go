package dns

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Config is what one pod's server answers from.
type Config struct {
	NetNS string // path of the pod's network namespace
	// Networks are asked in this order; the first that knows a name answers.
	Networks []Network
	// Links are names that only this pod has for others (--link).
	Links []Link
	// Upstreams are asked for what no network knows, in this order. None: such a
	// question fails at once, as it does on internal networks.
	Upstreams []Upstream
	// DotsOnly keeps names without a dot from the upstreams: the user has set ndots,
	// and his resolver is going to append a search domain.
	DotsOnly bool
}

// Network is a network the pod is on.
type Network struct{ Name, Zone string }

// Link is a name for another name on one network.
type Link struct{ Alias, Name, Network string }

// Upstream is a server for all other names.
type Upstream struct {
	Addr netip.AddrPort
	Host bool // asked from the host's namespace: its own loopback
}

const configHeader = "hull-dns 1\n"

// Encode is the configuration as its file has it.
func (c Config) Encode() ([]byte, error) {
	b := []byte(configHeader)
	var err error
	line := func(words ...string) {
		for _, w := range words {
			if w == "" || strings.ContainsAny(w, "\t\r\n") {
				err = fmt.Errorf("name server's configuration: %q cannot be written", w)
			}
		}
		b = append(b, strings.Join(words, "\t")...)
		b = append(b, '\n')
	}
	line("netns", c.NetNS)
	for _, n := range c.Networks {
		line("network", n.Name, n.Zone)
	}
	for _, l := range c.Links {
		line("link", l.Alias, l.Name, l.Network)
	}
	for _, u := range c.Upstreams {
		from := "pod"
		if u.Host {
			from = "host"
		}
		line("upstream", from, u.Addr.String())
	}
	if c.DotsOnly {
		line("dots-only")
	}
	return b, err
}

var errConfig = errors.New("malformed name server configuration")

// parseConfig reads what Encode wrote. Words it does not know, of a later build,
// are passed over.
func parseConfig(text []byte) (Config, error) {
	var c Config
	if !bytes.HasPrefix(text, []byte(configHeader)) {
		return c, errConfig
	}
	for l := range strings.Lines(string(text[len(configHeader):])) {
		w := strings.Split(strings.TrimSuffix(l, "\n"), "\t")
		var err error
		switch {
		case w[0] == "netns" && len(w) == 2:
			c.NetNS = w[1]
		case w[0] == "network" && len(w) == 3:
			c.Networks = append(c.Networks, Network{w[1], w[2]})
		case w[0] == "link" && len(w) == 4:
			c.Links = append(c.Links, Link{canonical(w[1]), canonical(w[2]), w[3]})
		case w[0] == "upstream" && len(w) == 3:
			var a netip.AddrPort
			a, err = netip.ParseAddrPort(w[2])
			c.Upstreams = append(c.Upstreams, Upstream{a, w[1] == "host"})
		case w[0] == "dots-only":
			c.DotsOnly = true
		}
		if err != nil {
			return c, fmt.Errorf("%w: %w", errConfig, err)
		}
	}
	return c, nil
}
