package linux

import (
	"bytes"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A batch is taken with its senders and answered to them; a long datagram is cut.
func TestDatagrams(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"127.0.0.1", "[::1]"} {
		server, err := net.ListenPacket("udp", host+":0")
		if err != nil && host == "[::1]" {
			t.Log("no IPv6 here:", err)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		rc, err := server.(*net.UDPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		d := NewDatagrams(2, 10)
		if err := rc.Control(func(fd uintptr) {
			if n, err := d.Receive(int(fd)); err != unix.EAGAIN { //nolint:errorlint // a bare number
				t.Errorf("with nothing there: %d, %v", n, err)
			}
		}); err != nil {
			t.Fatal(err)
		}
		var clients []net.Conn
		for range 3 {
			c, err := net.Dial("udp", server.LocalAddr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			clients = append(clients, c)
		}
		// The second one sends what gets no answer.
		for i, msg := range []string{"one", "none", strings.Repeat("x", 20)} {
			if _, err := clients[i].Write([]byte(msg)); err != nil {
				t.Fatal(err)
			}
		}
		for taken := 0; taken < len(clients); {
			if err := rc.Read(func(fd uintptr) bool {
				n, err := d.Receive(int(fd))
				if err == unix.EAGAIN { //nolint:errorlint // a bare number
					return false
				}
				answers := 0
				for i := range n {
					from := clients[taken+i].LocalAddr().(*net.UDPAddr).AddrPort()
					if got := d.Peer(i); netip.AddrPortFrom(got.Addr().Unmap(), got.Port()) != from {
						t.Errorf("%s: from %v, want %v", host, got, from)
					}
					if msg := d.Message(i); string(msg) != "none" {
						d.Answer(answers, i, append([]byte("re "), msg...))
						answers++
					}
				}
				d.Send(int(fd), answers)
				taken += n
				return true
			}); err != nil {
				t.Fatal(err)
			}
		}
		for i, want := range map[int]string{0: "re one", 2: "re " + strings.Repeat("x", 10)} {
			buf := make([]byte, 100)
			n, err := clients[i].Read(buf)
			if err != nil || !bytes.Equal(buf[:n], []byte(want)) {
				t.Errorf("%s: client %d: %q, %v; want %q", host, i, buf[:n], err, want)
			}
		}
	}
}
