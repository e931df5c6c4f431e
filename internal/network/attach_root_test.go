package network

import (
	"testing"

	"hull/internal/hull"
	"hull/internal/require"
)

func TestBridge(t *testing.T) {
	require.Root(t)
	w := newWorld(t)
	a := w.attach("a", hull.NetworkSpec{})
	b := w.attach("b", hull.NetworkSpec{Mode: "bridge", Ports: []hull.PortBinding{{ContainerPort: 80, HostPort: "8080"}, {ContainerPort: 81, Proto: "udp", HostPort: "8081"}}})
	t.Logf("%+v", b.ep)
	serve(t, b.ns(), "tcp", ":80")
	serve(t, b.ns(), "udp", b.ip4("bridge")+":81")
	serve(t, w.lan, "tcp", ":7")
	serve(t, "", "tcp", ":7")

	wantSeen(t, a.ns(), "tcp", b.ip4("bridge")+":80", a.ip4("bridge"))
	wantSeen(t, a.ns(), "tcp", "["+b.ip6("bridge")+"]:80", a.ip6("bridge"))
	wantSeen(t, a.ns(), "tcp", lanIP4+":7", hostIP4)
	wantSeen(t, a.ns(), "tcp", "["+lanIP6+"]:7", hostIP6)
	wantSeen(t, a.ns(), "tcp", hostIP4+":7", a.ip4("bridge"))

	wantSeen(t, w.lan, "tcp", hostIP4+":8080", lanIP4)
	wantSeen(t, w.lan, "tcp", "["+hostIP6+"]:8080", lanIP6)
	wantSeen(t, w.lan, "udp", hostIP4+":8081", lanIP4)
	wantSeen(t, "", "tcp", "127.0.0.1:8080", "")
	wantSeen(t, "", "tcp", hostIP4+":8080", hostIP4)
	wantSeen(t, "", "tcp", "["+hostIP6+"]:8080", hostIP6)
	wantSeen(t, "", "tcp", "[::1]:8080", "")
	wantSeen(t, "", "udp", "127.0.0.1:8081", "")
	wantSeen(t, a.ns(), "tcp", hostIP4+":8080", "")
	wantSeen(t, b.ns(), "tcp", hostIP4+":8080", "")
	wantSeen(t, b.ns(), "tcp", "["+hostIP6+"]:8080", "")
	w.detach(b)
	wantRefused(t, w.lan, "tcp", hostIP4+":8080")
	w.detach(a)
	t.Log(w.log.String())
}
