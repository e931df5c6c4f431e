package rtnl

import (
	"bytes"
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"hull/internal/linux"
	"hull/internal/require"
)

// port is a tap device: what is written to it comes in at its interface.
type port struct {
	*os.File
	index int
}

func openPort(t *testing.T, name string) port {
	t.Helper()
	f, err := OpenTap(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	// The kernel speaks on every interface that has IPv6.
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	ifc, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := SetLink(ifc.Index, Link{Up: true}); err != nil {
		t.Fatal(err)
	}
	return port{f, ifc.Index}
}

const vnetHeader = 10

// frame is one with a payload, and a tag where proto is one's.
func frame(proto, tag uint16, payload string) []byte {
	b := append(bytes.Repeat([]byte{2}, 6), 6, 6, 6, 6, 6, 6)
	if proto != 0 {
		b = append(b, byte(proto>>8), byte(proto), byte(tag>>8), byte(tag))
	}
	b = append(b, 0x88, 0xb5) // for experiments
	return append(b, payload...)
}

func (p port) send(t *testing.T, f []byte) {
	t.Helper()
	if _, err := p.Write(append(make([]byte, vnetHeader), f...)); err != nil {
		t.Fatal(err)
	}
}

// wants asserts what comes next.
func (p port) wants(t *testing.T, what string, f []byte) {
	t.Helper()
	if err := p.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 2048)
	n, err := p.Read(b)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if got := b[vnetHeader:n]; !bytes.Equal(got, f) {
		t.Errorf("%s: got frame % x, want % x", what, got, f)
	}
}

// TestSteerRoot: frames of three networks go through one trunk by their tags, and one
// with a tag that is not a network's goes nowhere.
func TestSteerRoot(t *testing.T) {
	require.Root(t)
	err := linux.InNetNS(newNS(t), func() error {
		trunk, a, b, c := openPort(t, "trunk"), openPort(t, "a"), openPort(t, "b"), openPort(t, "c")
		// In place of what was there.
		for _, ways := range []map[uint16]int{{}, {0: c.index, 5: a.index}, {0: a.index, 5: b.index, MaxTag: c.index}} {
			if err := Distribute(trunk.index, ways); err != nil {
				return err
			}
		}
		for _, x := range []struct {
			from int
			tag  uint16
		}{{a.index, 0}, {b.index, 5}, {c.index, MaxTag}} {
			if err := Lead(x.from, trunk.index, x.tag); err != nil {
				return err
			}
		}
		const q, ad = 0x8100, 0x88a8
		for _, f := range [][]byte{
			frame(q, 6, "no such network"), frame(ad, 5, "another kind of tag"), frame(q, 0, "a priority"), frame(q, 0xe000, "a priority"),
			frame(q, 5, "two"), frame(0, 0, "one"), frame(q, 0xe000|MaxTag, "three"),
		} {
			trunk.send(t, f)
		}
		a.wants(t, "the untagged network", frame(0, 0, "one"))
		b.wants(t, "network 5", frame(0, 0, "two"))
		c.wants(t, "the last network", frame(0, 0, "three"))
		// What is in another network's name comes from nobody but that.
		for _, f := range [][]byte{frame(q, 5, "as if it were of network 5"), frame(ad, 5, "the same"), frame(0, 0, "one")} {
			a.send(t, f)
		}
		trunk.wants(t, "from the untagged network", frame(0, 0, "one"))
		b.send(t, frame(0, 0, "two"))
		trunk.wants(t, "from network 5", frame(q, 5, "two"))
		b.send(t, frame(q, 7, "in a tag"))
		trunk.wants(t, "a tag in a tag", append(frame(q, 5, "")[:16], frame(q, 7, "in a tag")[12:]...))
		// One that has gone.
		if err := Distribute(trunk.index, map[uint16]int{5: b.index}); err != nil {
			return err
		}
		trunk.send(t, frame(0, 0, "to nobody"))
		trunk.send(t, frame(q, 5, "two again"))
		b.wants(t, "network 5", frame(0, 0, "two again"))
		if err := Distribute(trunk.index, map[uint16]int{0: a.index}); err != nil {
			return err
		}
		trunk.send(t, frame(0, 0, "one again"))
		a.wants(t, "the untagged network", frame(0, 0, "one again"))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
