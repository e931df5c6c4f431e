package rtnl

import (
	"net"
	"net/netip"
	"path/filepath"
	"testing"

	"hull/internal/linux"
	"hull/internal/require"
)

// newNS is a network namespace of the test's own.
func newNS(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "ns")
	if err := linux.NewNetNS(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := linux.Unpin(path); err != nil {
			t.Error(err)
		}
	})
	return path
}

// TestLinkRoot moves an interface into a namespace, names it, and gives it an
// address and a route, as a microVM's process 1 does.
func TestLinkRoot(t *testing.T) {
	require.Root(t)
	ns := newNS(t)
	err := linux.InNetNS(ns, func() error {
		tap, err := OpenTap("tap0")
		if err != nil {
			return err
		}
		defer tap.Close()
		other, err := OpenTap("tap1")
		if err != nil {
			return err
		}
		defer other.Close()
		a, err := net.InterfaceByName("tap0")
		if err != nil {
			return err
		}
		b, err := net.InterfaceByName("tap1")
		if err != nil {
			return err
		}
		mac := net.HardwareAddr{2, 0, 0, 0, 0, 9}
		if err := SetLink(a.Index, Link{Name: "eth0", Mac: mac, MTU: 1400}); err != nil {
			return err
		}
		for _, x := range []int{a.Index, b.Index} {
			if err := SetLink(x, Link{Up: true}); err != nil {
				return err
			}
		}
		for _, p := range []string{"10.9.0.2/24", "fd00:9::2/64"} {
			if err := AddAddr(a.Index, netip.MustParsePrefix(p)); err != nil {
				return err
			}
		}
		for _, r := range []Route{
			{Index: a.Index, Gateway: netip.MustParseAddr("10.9.0.1")},
			{Index: a.Index, Gateway: netip.MustParseAddr("fd00:9::1")},
			{Index: a.Index, Dst: netip.MustParsePrefix("10.8.0.0/16"), Gateway: netip.MustParseAddr("192.168.77.1"), OnLink: true},
			{Index: a.Index, Dst: netip.MustParsePrefix("10.7.0.0/16")},
		} {
			if err := AddRoute(r); err != nil {
				return err
			}
		}
		got, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		if got.MTU != 1400 || got.HardwareAddr.String() != mac.String() || got.Flags&net.FlagUp == 0 {
			t.Errorf("interface is %+v", got)
		}
		routes, err := Routes(got.Index)
		if err != nil {
			return err
		}
		want := map[string]bool{"|10.9.0.1|false": false, "|fd00:9::1|false": false, "10.8.0.0/16|192.168.77.1|true": false, "10.7.0.0/16||false": false}
		for _, r := range routes {
			key := ""
			if r.Dst.IsValid() {
				key = r.Dst.String()
			}
			key += "|"
			if r.Gateway.IsValid() {
				key += r.Gateway.String()
			}
			if r.OnLink {
				key += "|true"
			} else {
				key += "|false"
			}
			if _, ok := want[key]; ok {
				want[key] = true
			}
		}
		for k, seen := range want {
			if !seen {
				t.Errorf("route %q not listed in %+v", k, routes)
			}
		}
		if err := SetLink(9999, Link{Up: true}); err == nil {
			t.Error("an interface that does not exist was set up")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
