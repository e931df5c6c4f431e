package security

import (
	"fmt"
	"net"
	"strings"
	"testing"
)

// What a container may reach at the edges of its network.
func TestEdges(t *testing.T) {
	t.Parallel()
	f := newField(t)
	t.Run("AbstractSockets", f.abstractSockets)
	t.Run("RouterAdvertisements", f.routerAdvertisements)
	t.Run("InternalNames", f.internalNames)
}

// CVE-2020-15257: an abstract socket belongs to a network namespace and has no mode,
// so that a container with the host's network can talk to whoever listens there.
func (f *field) abstractSockets(t *testing.T) {
	const control = "control-of-abstract-sockets"
	var l net.Listener
	if err := f.e.Inside(func() (err error) { l, err = net.Listen("unix", "@"+control); return err }); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f.hull.For(t).Run("run", "-d", "--name", "plain", "busybox", "sleep", "10000") // with a monitor
	defer f.hull.For(t).Run("rm", "-f", "plain")
	out := f.hull.For(t).Run("run", "--rm", "--network", "host", "busybox", "cat", "/proc/net/unix")
	seen := false
	for line := range strings.Lines(out) {
		switch fields := strings.Fields(line); {
		case len(fields) < 8 || !strings.HasPrefix(fields[7], "@"):
		case strings.Contains(fields[7], control):
			seen = true
		default:
			t.Errorf("somebody of the engine listens on an abstract socket: %s", fields[7])
		}
	}
	if !seen {
		t.Errorf("the control's socket is not seen either: %s", out)
	}
}

// CVE-2020-13401, CVE-2024-32473: a container on a network without IPv6 has none, so
// that no neighbour can make itself its router.
func (f *field) routerAdvertisements(t *testing.T) {
	script := "cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6 /proc/sys/net/ipv6/conf/eth0/accept_ra; grep eth0 /proc/net/if_inet6 || echo none"
	f.hull.For(t).Run("network", "create", "--ipv6=false", "without-six")
	defer f.hull.For(t).Run("network", "rm", "without-six")
	got := strings.Fields(f.hull.For(t).Run("run", "--rm", "--network", "without-six", "busybox", "sh", "-c", script))
	if len(got) != 3 || got[2] != "none" || got[0] != "1" && got[1] != "0" {
		t.Errorf("IPv6 on a network without it: disable_ipv6, accept_ra, addresses: %q", got)
	}
	f.hull.For(t).Run("network", "create", "--ipv6", "with-six")
	defer f.hull.For(t).Run("network", "rm", "with-six")
	got = strings.Fields(f.hull.For(t).Run("run", "--rm", "--network", "with-six", "busybox", "sh", "-c", script))
	if len(got) < 3 || got[1] != "0" || got[2] == "none" {
		t.Errorf("with IPv6: disable_ipv6, accept_ra, addresses: %q", got)
	}
}

// CVE-2024-29018: what is asked on an internal network does not leave it by way of the
// resolver, which would carry data out in names.
func (f *field) internalNames(t *testing.T) {
	c := f.hull.For(t)
	c.Run("network", "create", "--internal", "walled")
	c.Run("network", "create", "open")
	// A server on the host, which every network but the internal one reaches.
	c.Run("run", "-d", "--name", "sink", "--network", "host", "busybox", "sh", "-c", "nc -u -l -p 53 > /got")
	sink := c.Run("network", "inspect", "-f", "{{range .IPAM.Config}}{{.Gateway}} {{end}}", "bridge")
	sink, _, _ = strings.Cut(sink, " ")
	defer c.Run("network", "rm", "walled", "open")
	defer c.Run("rm", "-f", "sink")
	ask := func(network, name string) {
		_ = c.Try("run", "--rm", "--network", network, "--dns", sink, "busybox", "timeout", "3", "nslookup", name)
	}
	got := func() string { return c.Run("exec", "sink", "cat", "/got") }
	ask("walled", "secret-of-walled.example")
	if s := got(); strings.Contains(s, "secret-of-walled") {
		t.Errorf("a question left the internal network: %q", s)
	}
	f.e.Eventually("a question of the open network arrives", func() error {
		ask("open", "word-of-open.example")
		if s := got(); !strings.Contains(s, "word-of-open") {
			return fmt.Errorf("%q", s)
		}
		return nil
	})
}
