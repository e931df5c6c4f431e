package ipam

import (
	"net/netip"
	"testing"

	"github.com/containerd/errdefs"
)

func pfx(s string) netip.Prefix {
	if s == "" {
		return netip.Prefix{}
	}
	return netip.MustParsePrefix(s)
}

func TestNew(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		subnet, rng, gateway string
		want                 string // gateway, "" = error
	}{
		{"172.17.0.0/16", "", "", "172.17.0.1"},
		{"172.17.5.9/16", "", "", "172.17.0.1"},
		{"10.0.0.0/24", "10.0.0.128/25", "", "10.0.0.128"},
		{"10.0.0.0/24", "10.0.0.0/25", "", "10.0.0.1"},
		{"10.0.0.0/24", "", "10.0.0.254", "10.0.0.254"},
		{"10.0.0.0/30", "", "", "10.0.0.1"},
		{"fd00::/64", "", "", "fd00::1"},
		{"10.0.0.0/31", "", "", ""},
		{"10.0.0.0/32", "", "", ""},
		{"10.0.0.0/24", "10.0.1.0/24", "", ""},
		{"10.0.0.0/24", "10.0.0.0/16", "", ""},
		{"10.0.0.0/24", "fd00::/80", "", ""},
		{"10.0.0.0/24", "", "10.0.1.1", ""},
		{"10.0.0.0/24", "", "10.0.0.0", ""},
		{"10.0.0.0/24", "", "10.0.0.255", ""},
		{"10.0.0.0/24", "", "fd00::1", ""},
	} {
		var gw netip.Addr
		if c.gateway != "" {
			gw = netip.MustParseAddr(c.gateway)
		}
		p, err := New(pfx(c.subnet), pfx(c.rng), gw)
		switch {
		case c.want == "" && !errdefs.IsInvalidArgument(err):
			t.Errorf("%+v: %v, want an invalid argument", c, err)
		case c.want != "" && err != nil:
			t.Errorf("%+v: %v", c, err)
		case c.want != "" && p.Gateway().String() != c.want:
			t.Errorf("%+v: gateway %s", c, p.Gateway())
		}
	}
}

func TestNextGivesEachOnceAndThenNone(t *testing.T) {
	t.Parallel()
	for subnet, want := range map[string]int{"10.0.0.0/29": 5, "fd00::/125": 6} {
		p, err := New(pfx(subnet), netip.Prefix{}, netip.Addr{})
		if err != nil {
			t.Fatal(err)
		}
		seen := map[netip.Addr]bool{p.Gateway(): true}
		for range want {
			a, err := p.Next()
			if err != nil || seen[a] || !p.Subnet().Contains(a) || a == p.Subnet().Addr() {
				t.Fatalf("%s: %s, %v after %v", subnet, a, err, seen)
			}
			seen[a] = true
		}
		if a, err := p.Next(); !errdefs.IsResourceExhausted(err) {
			t.Errorf("%s: %s, %v from a full pool", subnet, a, err)
		}
		back := netip.MustParseAddr(map[string]string{"10.0.0.0/29": "10.0.0.4", "fd00::/125": "fd00::4"}[subnet])
		p.Release(back)
		p.Release(p.Gateway()) // never given away
		if a, err := p.Next(); err != nil || a != back {
			t.Errorf("%s: %s, %v, want the one that was given back", subnet, a, err)
		}
	}
}

// An address that was given back is not the next one handed out.
func TestNextTakesTurns(t *testing.T) {
	t.Parallel()
	p, err := New(pfx("10.0.0.0/24"), netip.Prefix{}, netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	a, _ := p.Next()
	p.Release(a)
	if b, _ := p.Next(); a == b {
		t.Errorf("%s twice in a row", a)
	}
}

func TestClaim(t *testing.T) {
	t.Parallel()
	p, err := New(pfx("10.0.0.0/24"), pfx("10.0.0.128/25"), netip.MustParseAddr("10.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		addr string
		kind func(error) bool
	}{
		{"10.0.0.7", nil}, // outside the range, but asked for
		{"10.0.0.7", errdefs.IsConflict},
		{"10.0.0.1", errdefs.IsConflict},
		{"10.0.1.7", errdefs.IsInvalidArgument},
		{"10.0.0.255", errdefs.IsInvalidArgument},
		{"::ffff:10.0.0.8", nil},
		{"10.0.0.8", errdefs.IsConflict},
	} {
		err := p.Claim(netip.MustParseAddr(c.addr))
		if c.kind == nil && err != nil || c.kind != nil && !c.kind(err) {
			t.Errorf("%s: %v", c.addr, err)
		}
	}
	if a, err := p.Next(); err != nil || !pfx("10.0.0.128/25").Contains(a) {
		t.Errorf("%s, %v is not of the range", a, err)
	}
}

func TestChoose(t *testing.T) {
	t.Parallel()
	taken := []netip.Prefix{pfx("0.0.0.0/0"), pfx("172.17.3.0/24"), pfx("172.18.0.0/15")}
	p, err := Choose(taken)
	if err != nil || p != pfx("172.20.0.0/16") {
		t.Errorf("%s, %v", p, err)
	}
	if p, err = Choose([]netip.Prefix{pfx("172.16.0.0/12")}); err != nil || p != pfx("192.168.0.0/20") {
		t.Errorf("%s, %v", p, err)
	}
	if p, err = Choose([]netip.Prefix{pfx("172.16.0.0/12"), pfx("192.168.0.0/16")}); !errdefs.IsResourceExhausted(err) {
		t.Errorf("%s, %v", p, err)
	}
	one, err1 := Choose6("x", nil)
	other, err2 := Choose6("x", []netip.Prefix{one})
	again, err3 := Choose6("x", nil)
	if err1 != nil || err2 != nil || err3 != nil || one != again || one.Overlaps(other) || !one.Addr().IsPrivate() || one.Bits() != 64 {
		t.Errorf("%s %s %s", one, other, again)
	}
}
