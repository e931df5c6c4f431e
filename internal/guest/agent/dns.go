package agent

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/guest"
)

// Resolver is where containers send their queries.
const Resolver = "127.0.0.11:53"

const (
	maxQuery = 64 << 10
	dnsLimit = 15 * time.Second
	backlog  = 128 // connections that wait for an answer
)

// serveDNS answers at 127.0.0.11 with what the pod's resolver on the host
// answers: each query is a stream of the guest's, in the framing of DNS over TCP.
func (s *server) serveDNS() error {
	u, err := listen(unix.SOCK_DGRAM)
	if err != nil {
		return err
	}
	defer u.Close()
	t, err := listen(unix.SOCK_STREAM)
	if err != nil {
		return err
	}
	defer t.Close()
	udp, err := net.FilePacketConn(u)
	if err != nil {
		return err
	}
	tcp, err := net.FileListener(t)
	if err != nil {
		return errors.Join(err, udp.Close())
	}
	s.mu.Lock()
	s.dns = append(s.dns, udp, tcp)
	s.mu.Unlock()
	go s.serveUDP(udp)
	go s.serveTCP(tcp)
	return nil
}

// listen makes the socket of a kind at Resolver. Package net's way to one finds out what
// the machine has of IPv4 and IPv6, and what it lets wait, before.
func listen(kind int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "dns")
	a := netip.MustParseAddrPort(Resolver)
	err = unix.Bind(fd, &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())})
	if err == nil && kind == unix.SOCK_STREAM {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		return nil, errors.Join(os.NewSyscallError("listen", err), f.Close())
	}
	return f, nil
}

func (s *server) serveUDP(c net.PacketConn) {
	buf := make([]byte, maxQuery)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		q := append(binary.BigEndian.AppendUint16(nil, uint16(n)), buf[:n]...)
		go func() {
			if a := s.resolve(q); len(a) > 2 {
				_, _ = c.WriteTo(a[2:], from)
			}
		}()
	}
}

func (s *server) serveTCP(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			for {
				_ = c.SetDeadline(time.Now().Add(dnsLimit))
				q, err := readQuery(c)
				if err != nil {
					return
				}
				if _, err := c.Write(s.resolve(q)); err != nil {
					return
				}
			}
		}()
	}
}

// readQuery reads one message with its length in front.
func readQuery(r io.Reader) ([]byte, error) {
	var h [2]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, err
	}
	b := make([]byte, 2+int(binary.BigEndian.Uint16(h[:])))
	copy(b, h[:])
	_, err := io.ReadFull(r, b[2:])
	return b, err
}

// resolve asks the host; nil when there is no answer.
func (s *server) resolve(q []byte) []byte {
	s.mu.Lock()
	s.dnsNext++
	id := s.dnsNext&^guest.GuestsBit | guest.GuestsBit
	s.mu.Unlock()
	st, err := s.session.Open(id)
	if err != nil {
		return nil
	}
	defer func() { _ = st.Close() }() // only says that the other side closed first
	t := time.AfterFunc(dnsLimit, func() { _ = st.Close() })
	defer t.Stop()
	if s.session.Send(guest.KindOpen, id, []byte("dns")) != nil {
		return nil
	}
	if _, err := st.Write(q); err != nil {
		return nil
	}
	a, err := readQuery(st)
	if err != nil {
		return nil
	}
	return a
}
