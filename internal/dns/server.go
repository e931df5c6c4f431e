package dns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"hull/internal/linux"
)

// What one pod may have under way.
const (
	maxForwards = 64               // questions to upstream servers
	maxConns    = 16               // clients' connections
	batch       = 8                // datagrams that one system call takes
	connIdle    = 10 * time.Second // a connection that says nothing is closed
)

// Server is a pod's name server.
type Server struct {
	view     *view
	up       *forwarder
	udp, tcp []*os.File
	forwards chan struct{}
	conns    chan struct{}
	work     sync.WaitGroup

	mu     sync.Mutex
	open   map[*os.File]struct{} // clients' connections
	closed bool
}

// Open reads the configuration at path and binds its sockets: in the pod's
// network namespace, whichever the caller is in. fs.ErrNotExist: the pod has none.
func Open(path string) (*Server, error) {
	v, err := openView(path)
	if err != nil {
		return nil, err
	}
	s := &Server{
		view: v, up: newForwarder(v),
		forwards: make(chan struct{}, maxForwards), conns: make(chan struct{}, maxConns), open: map[*os.File]struct{}{},
	}
	err = linux.InNetNS(v.conf.NetNS, func() error { return s.bind(netip.AddrPortFrom(Address(), Port)) })
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Server) bind(at netip.AddrPort) error {
	for _, kind := range []int{unix.SOCK_DGRAM, unix.SOCK_STREAM} {
		fd, err := socket(at.Addr(), kind)
		if err != nil {
			return err
		}
		if kind == unix.SOCK_STREAM {
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		}
		if err == nil {
			err = unix.Bind(fd, sockaddr(at))
		}
		if err == nil && kind == unix.SOCK_STREAM {
			err = unix.Listen(fd, 2*maxConns)
		}
		if err != nil {
			_ = unix.Close(fd)
			return fmt.Errorf("bind name server to %s: %w", at, err)
		}
		if f := os.NewFile(uintptr(fd), "dns"); kind == unix.SOCK_STREAM {
			s.tcp = append(s.tcp, f)
		} else {
			s.udp = append(s.udp, f)
		}
	}
	return nil
}

// Start serves in the background, until Close.
func (s *Server) Start() {
	for _, f := range s.udp {
		s.work.Go(func() { s.serveUDP(f) })
	}
	for _, f := range s.tcp {
		s.work.Go(func() { s.serveTCP(f) })
	}
}

// Close ends it and waits until nothing of it runs.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	for f := range s.open {
		f.Close()
	}
	s.mu.Unlock()
	for _, f := range append(s.udp, s.tcp...) {
		f.Close()
	}
	s.up.close()
	s.work.Wait()
	s.view.close()
}

func (s *Server) serveUDP(f *os.File) {
	rc, err := f.SyscallConn()
	if err != nil {
		return
	}
	in, known := linux.NewDatagrams(batch, maxUDP+1), recent{}
	out := make([][]byte, batch)
	for {
		var n int
		if e := rc.Read(func(fd uintptr) bool {
			n, err = in.Receive(int(fd)) //nolint:gosec // a descriptor
			return !again(err)
		}); e != nil {
			return // closed
		}
		if err != nil {
			continue
		}
		known.startAt(s.view.version())
		answers := 0
		for i := range n {
			msg := in.Message(i)
			if len(msg) > maxUDP {
				continue
			}
			d, told := known.get(msg, out[answers])
			if !told {
				d = s.answer(msg, out[answers], false)
				known.put(msg, d)
			}
			switch {
			case d.forward:
				s.forward(rc, d.q, append([]byte(nil), msg...), in.Peer(i))
			case d.msg != nil:
				out[answers] = d.msg
				in.Answer(answers, i, d.msg)
				answers++
			}
		}
		_ = rc.Control(func(fd uintptr) { in.Send(int(fd), answers) }) //nolint:gosec // a descriptor
	}
}

// forward asks upstream in the background, and answers then.
func (s *Server) forward(rc syscall.RawConn, q question, msg []byte, from netip.AddrPort) {
	s.later(func() { reply(rc, s.ask(q, msg, false), from) }, func() {
		reply(rc, failure(nil, q.id, dnsmessage.RCodeServerFailure), from)
	})
}

// reply sends a datagram; one that cannot be sent is asked for again.
func reply(rc syscall.RawConn, msg []byte, to netip.AddrPort) {
	_ = rc.Control(func(fd uintptr) {
		_ = unix.Sendto(int(fd), msg, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, sockaddr(to))
	}) //nolint:gosec // a descriptor
}

// later runs fn in the background, or busy where too much is under way.
func (s *Server) later(fn, busy func()) {
	select {
	case s.forwards <- struct{}{}:
		s.work.Go(func() {
			defer func() { <-s.forwards }()
			fn()
		})
	default:
		busy()
	}
}

func (s *Server) serveTCP(f *os.File) {
	rc, err := f.SyscallConn()
	if err != nil {
		return
	}
	for {
		fd := -1
		if e := rc.Read(func(l uintptr) bool {
			fd, _, err = unix.Accept4(int(l), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK) //nolint:gosec // a descriptor
			return !again(err)
		}); e != nil {
			return // closed
		}
		if err != nil { // out of descriptors, most likely: others must go first
			const pause = 100 * time.Millisecond
			time.Sleep(pause)
			continue
		}
		s.connected(os.NewFile(uintptr(fd), "dns client"))
	}
}

func (s *Server) connected(c *os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		c.Close()
		return
	}
	select {
	case s.conns <- struct{}{}:
	default:
		c.Close()
		return
	}
	s.open[c] = struct{}{}
	s.work.Go(func() {
		defer func() {
			s.mu.Lock()
			delete(s.open, c)
			s.mu.Unlock()
			c.Close()
			<-s.conns
		}()
		_ = s.converse(c) // whatever ends it, the client sees its end
	})
}

// converse answers one question after the other of a connection.
func (s *Server) converse(c *os.File) error {
	for {
		if err := c.SetDeadline(time.Now().Add(connIdle)); err != nil {
			return err
		}
		msg, err := readFrame(c)
		if err != nil {
			return err
		}
		answer := s.answer(msg, nil, true)
		out := answer.msg
		if answer.forward {
			out = s.ask(answer.q, msg, true)
		}
		if out == nil {
			return errors.New("no question")
		}
		if err := writeFrame(c, out); err != nil {
			return err
		}
	}
}

// readFrame reads a message with its length before it, as TCP has them.
func readFrame(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(r, msg)
	return msg, err
}

func writeFrame(w io.Writer, msg []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(msg)), uint16(len(msg))), msg...)) //nolint:gosec // at most 65535
	return err
}

// decision is what becomes of a message: an answer, a question for upstream, or
// nothing.
type decision struct {
	msg     []byte
	q       question
	forward bool
	same    bool // the same question has this answer again, as long as the files say the same
}

// answer decides about a client's message; buf may be used for the answer. A
// panic on what a container sent must not end the monitor.
func (s *Server) answer(msg, buf []byte, tcp bool) (d decision) {
	defer func() {
		if recover() != nil {
			d = decision{}
		}
	}()
	q, code, drop := parseQuestion(msg, tcp)
	switch {
	case drop:
		return decision{}
	case code != dnsmessage.RCodeSuccess:
		return decision{msg: failure(buf, q.id, code)}
	case q.q.Class != dnsmessage.ClassINET || q.name == "":
		return decision{q: q, forward: true}
	}
	if q.q.Type == dnsmessage.TypePTR {
		if a, ok := parseReverse(q.name); ok {
			if name := s.view.reverse(a); name != "" {
				return decision{msg: q.pointer(buf, name)}
			}
		}
		return decision{q: q, forward: true}
	}
	found := s.view.lookup(q.name)
	switch {
	case !found.known:
		return decision{q: q, forward: true}
	case q.q.Type == dnsmessage.TypeA || q.q.Type == dnsmessage.TypeAAAA || q.q.Type == dnsmessage.TypeALL:
		return decision{msg: q.addresses(buf, found.addrs), same: len(found.addrs) < 2}
	}
	// The name is there, and has no such record.
	return decision{msg: q.reply(buf, dnsmessage.RCodeSuccess, true, true, nil)}
}

// ask gets an answer from upstream, and an error's where there is none in time.
func (s *Server) ask(q question, msg []byte, tcp bool) (out []byte) {
	defer func() {
		if recover() != nil {
			out = failure(nil, q.id, dnsmessage.RCodeServerFailure)
		}
	}()
	return s.up.ask(q, msg, tcp)
}

func socket(a netip.Addr, kind int) (int, error) {
	domain := unix.AF_INET6
	if a.Is4() {
		domain = unix.AF_INET
	}
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	return fd, os.NewSyscallError("socket", err)
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

func again(err error) bool {
	return err == unix.EAGAIN || err == unix.EINTR || err == unix.ECONNABORTED //nolint:errorlint // a system call's own
}
