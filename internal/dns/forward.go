package dns

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"hull/internal/linux"
)

// How long upstream servers have. Clients give up after five seconds, so that
// they see our answer that there is none.
const (
	askLimit  = 4 * time.Second
	askAgain  = time.Second            // the same server, when a datagram was lost
	askNext   = 250 * time.Millisecond // the next one, beside the first
	nsThreads = 5 * time.Second        // the thread in the pod's namespace goes after that
)

// forwarder asks upstream servers.
type forwarder struct {
	view  *view
	cache cache
	pod   placer
	done  chan struct{}
	once  sync.Once
}

func newForwarder(v *view) *forwarder { return &forwarder{view: v, done: make(chan struct{})} }

func (f *forwarder) close() { f.once.Do(func() { close(f.done) }) }

// ask is upstream's answer to msg, which is q.
func (f *forwarder) ask(q question, msg []byte, tcp bool) []byte {
	servers, dotsOnly, netns := f.view.upstreams()
	if dotsOnly && !strings.Contains(q.name, ".") && (q.q.Type == dnsmessage.TypeA || q.q.Type == dnsmessage.TypeAAAA) {
		return q.reply(nil, dnsmessage.RCodeNameError, true, false, nil)
	}
	if len(servers) == 0 {
		return q.reply(nil, dnsmessage.RCodeServerFailure, true, false, nil)
	}
	if out := f.cache.get(q, msg, time.Now()); out != nil {
		return out
	}
	got := f.race(servers, netns, q, msg, tcp)
	if got == nil {
		return q.reply(nil, dnsmessage.RCodeServerFailure, true, false, nil)
	}
	f.cache.put(msg, got, time.Now())
	binary.BigEndian.PutUint16(got, q.id)
	if len(got) > q.limit {
		// More than the client takes in one piece, from a server that does not care.
		out := q.reply(nil, dnsmessage.RCode(got[3]&0x0f), true, false, nil)
		setTruncated(out)
		return out
	}
	return got
}

// race asks the servers, the next one when the one before it has failed or is
// slow, and returns the first answer that says something; else what the last one
// said, or nil.
func (f *forwarder) race(servers []Upstream, netns string, q question, msg []byte, tcp bool) []byte {
	r := &race{end: time.Now().Add(askLimit), q: q, msg: msg, tcp: tcp}
	defer r.over()
	answers := make(chan []byte, len(servers)) // nil = none
	next := time.NewTimer(0)
	defer next.Stop()
	asked, running := 0, 0
	var last []byte
	for asked < len(servers) || running > 0 {
		select {
		case <-next.C:
			if asked == len(servers) {
				continue
			}
			u := servers[asked]
			asked++
			running++
			go func() { answers <- f.exchange(r, u, netns) }()
			next.Reset(askNext)
		case a := <-answers:
			running--
			if a != nil {
				if code := dnsmessage.RCode(a[3] & 0x0f); code == dnsmessage.RCodeSuccess || code == dnsmessage.RCodeNameError {
					return a
				}
				last = a
			}
			next.Reset(0)
		case <-f.done:
			return nil
		}
	}
	return last
}

// race is one question on its way.
type race struct {
	end time.Time
	q   question
	msg []byte
	tcp bool

	mu    sync.Mutex
	socks []*os.File
	ended bool
}

// join registers a socket; false when the race is over.
func (r *race) join(f *os.File) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return false
	}
	r.socks = append(r.socks, f)
	return true
}

// over wakes the losers.
func (r *race) over() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	for _, s := range r.socks {
		_ = s.SetDeadline(time.Unix(1, 0))
	}
}

// exchange asks one server. nil = no answer. A panic on what a server sent must
// not end the monitor.
func (f *forwarder) exchange(r *race, u Upstream, netns string) (answer []byte) {
	defer func() {
		if recover() != nil {
			answer = nil
		}
	}()
	// A socket of its own for each question: an answer that somebody makes up must
	// guess the port besides the id.
	s, err := f.dial(r, u, netns)
	if err != nil {
		return nil
	}
	defer s.Close()
	if !r.join(s) {
		return nil
	}
	id := uint16(rand.Uint32()) //nolint:gosec // ChaCha8, seeded by the kernel; cut on purpose
	msg := append([]byte(nil), r.msg...)
	binary.BigEndian.PutUint16(msg, id)
	if r.tcp {
		answer, err = exchangeTCP(s, r, msg)
	} else {
		answer, err = exchangeUDP(s, r, msg)
	}
	if err != nil {
		return nil
	}
	return answer
}

func exchangeUDP(s *os.File, r *race, msg []byte) ([]byte, error) {
	id := binary.BigEndian.Uint16(msg)
	in := make([]byte, maxUDP+1)
	for time.Now().Before(r.end) {
		wait := time.Now().Add(askAgain)
		if wait.After(r.end) {
			wait = r.end
		}
		if err := r.deadline(s, wait); err != nil {
			return nil, err
		}
		if _, err := s.Write(msg); err != nil {
			return nil, err
		}
		for {
			n, err := s.Read(in)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return nil, err
			}
			if !answers(in[:n], id, r.q) {
				continue
			}
			if n > maxUDP { // cut by us: as one that was cut by the server
				out := r.q.reply(nil, dnsmessage.RCodeSuccess, true, false, nil)
				setTruncated(out)
				return out, nil
			}
			return in[:n:n], nil
		}
	}
	return nil, os.ErrDeadlineExceeded
}

func exchangeTCP(s *os.File, r *race, msg []byte) ([]byte, error) {
	if err := r.deadline(s, r.end); err != nil {
		return nil, err
	}
	if err := connected(s); err != nil {
		return nil, err
	}
	if err := writeFrame(s, msg); err != nil {
		return nil, err
	}
	got, err := readFrame(s)
	if err == nil && !answers(got, binary.BigEndian.Uint16(msg), r.q) {
		err = errors.New("not an answer to the question")
	}
	return got, err
}

// deadline sets a socket's, unless the race is over.
func (r *race) deadline(s *os.File, t time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return os.ErrDeadlineExceeded
	}
	return s.SetDeadline(t)
}

// answers says whether msg is an answer to q that was asked as id.
func answers(msg []byte, id uint16, q question) bool {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil || !h.Response || h.ID != id || h.OpCode != q.header.OpCode {
		return false
	}
	got, err := p.Question()
	if err == dnsmessage.ErrSectionDone { //nolint:errorlint // never wrapped
		// Some servers refuse without repeating the question.
		return h.RCode != dnsmessage.RCodeSuccess && h.RCode != dnsmessage.RCodeNameError
	}
	return err == nil && got.Type == q.q.Type && got.Class == q.q.Class && strings.EqualFold(got.Name.String(), q.q.Name.String())
}

// dial makes a socket to a server, where the user's packets would come from.
func (f *forwarder) dial(r *race, u Upstream, netns string) (*os.File, error) {
	kind := unix.SOCK_DGRAM
	if r.tcp {
		kind = unix.SOCK_STREAM
	}
	var s *os.File
	open := func() error {
		fd, err := socket(u.Addr.Addr(), kind)
		if err != nil {
			return err
		}
		if err := hearErrors(fd, u.Addr.Addr()); err != nil {
			_ = unix.Close(fd)
			return err
		}
		if err := unix.Connect(fd, sockaddr(u.Addr)); err != nil && err != unix.EINPROGRESS { //nolint:errorlint // a system call's own
			_ = unix.Close(fd)
			return os.NewSyscallError("connect", err)
		}
		s = os.NewFile(uintptr(fd), "dns upstream")
		return nil
	}
	if u.Host {
		err := open()
		return s, err
	}
	err := f.pod.do(netns, open)
	return s, err
}

// hearErrors has the kernel tell of a network or host that cannot be reached, which
// it otherwise keeps from a datagram's sender: no need to wait for the deadline.
func hearErrors(fd int, a netip.Addr) error {
	level, opt := unix.IPPROTO_IPV6, unix.IPV6_RECVERR
	if a.Is4() {
		level, opt = unix.IPPROTO_IP, unix.IP_RECVERR
	}
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, level, opt, 1))
}

// connected waits for a connection to be made.
func connected(s *os.File) error {
	rc, err := s.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := rc.Write(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}} //nolint:gosec // a descriptor
		if n, _ := unix.Poll(p, 0); n == 0 {
			return false
		}
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR) //nolint:gosec // a descriptor
		if failed = err; err == nil && code != 0 {
			failed = unix.Errno(code) //nolint:gosec // the kernel's
		}
		return true
	}); err != nil {
		return err
	}
	return failed
}

// placer runs short functions in a network namespace, on one thread that stays
// for a while: many questions come together.
type placer struct {
	mu   sync.Mutex
	jobs chan job // nil = no thread
}

type job struct {
	fn   func() error
	done chan error
}

func (p *placer) do(path string, fn func() error) error {
	j := job{fn, make(chan error, 1)}
	p.mu.Lock()
	if p.jobs == nil {
		jobs := make(chan job, maxForwards)
		p.jobs = jobs
		linux.GoOnThread(func() { p.run(path, jobs) })
	}
	p.jobs <- j
	p.mu.Unlock()
	return <-j.done
}

func (p *placer) run(path string, jobs chan job) {
	err := linux.JoinPath(path, unix.CLONE_NEWNET)
	idle := time.NewTimer(nsThreads)
	defer idle.Stop()
	for {
		select {
		case j := <-jobs:
			if err != nil {
				j.done <- err
				continue
			}
			j.done <- j.fn()
			idle.Reset(nsThreads)
		case <-idle.C:
			p.mu.Lock()
			if len(jobs) == 0 {
				p.jobs = nil
				p.mu.Unlock()
				return
			}
			p.mu.Unlock()
			idle.Reset(nsThreads)
		}
	}
}
