package logfile

import (
	"errors"
	"fmt"
	"hull/internal/hull"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// sendTimeout bounds how long a container may be held up by a log service that
// does not read. redialAfter is how long a broken one is left alone.
const (
	sendTimeout = time.Second
	redialAfter = time.Second
)

// message is a line for a log service.
type message struct {
	stream Stream
	at     time.Time
	line   []byte
	last   bool
	part   int32
}

// service formats messages and knows where they go.
type service interface {
	dial() (int, error)
	format(dst []byte, m message) []byte
	// packet: one message, one datagram. Else messages may be joined.
	packet() bool
}

// remote sends lines to a log service. While that cannot be reached, lines are
// dropped and counted.
type remote struct {
	svc service

	mu    sync.Mutex
	fd    int // -1 = not connected
	retry time.Time
	split [2]splitter
	buf   []byte
	lost  int // messages
}

func openRemote(t hull.LogTarget, s service) (Writer, error) {
	r := &remote{svc: s, fd: -1}
	if t.Path == "" {
		return r, nil
	}
	f, err := openFile(t, newLocalEncoder(), repairFrames)
	if err != nil {
		return nil, err
	}
	return tee{r, f}, nil
}

// tee writes to two logs.
type tee struct{ a, b Writer }

func (t tee) Write(s Stream, p []byte, now time.Time) error {
	return errors.Join(t.a.Write(s, p, now), t.b.Write(s, p, now))
}

func (t tee) Close() error { return errors.Join(t.a.Close(), t.b.Close()) }

func (r *remote) Write(s Stream, p []byte, now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.lost
	sp := &r.split[s-1]
	var first error
	for {
		line, n, last, ok := sp.next(p)
		p = p[n:]
		if !ok {
			break
		}
		at, part := sp.part(last, now)
		if err := r.send(message{s, at, line, last, part}); err != nil && first == nil {
			first = err
		}
	}
	if before > 0 {
		return nil // told already
	}
	return first
}

func (r *remote) send(m message) error {
	err := r.connect()
	if err == nil && r.lost > 0 {
		text := "hull: " + strconv.Itoa(r.lost) + " lines of log were lost"
		err = r.write(message{Stderr, m.at, []byte(text), true, 0})
	}
	if err == nil {
		r.lost = 0
		err = r.write(m)
	}
	if err != nil {
		r.lost++
	}
	return err
}

var errDown = errors.New("log service cannot be reached")

func (r *remote) connect() error {
	if r.fd >= 0 {
		return nil
	}
	now := time.Now()
	if now.Before(r.retry) {
		return errDown
	}
	r.retry = now.Add(redialAfter)
	fd, err := r.svc.dial()
	if err != nil {
		return fmt.Errorf("connect log service: %w", err)
	}
	tv := syscall.NsecToTimeval(int64(sendTimeout))
	if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_SNDTIMEO, &tv); err != nil {
		return errors.Join(err, syscall.Close(fd))
	}
	r.fd = fd
	return nil
}

func (r *remote) write(m message) error {
	r.buf = r.svc.format(r.buf[:0], m)
	for b := r.buf; len(b) > 0; {
		n, err := syscall.SendmsgN(r.fd, b, nil, nil, syscall.MSG_NOSIGNAL)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			err = errors.Join(fmt.Errorf("send to log service: %w", err), syscall.Close(r.fd))
			r.fd = -1
			return err
		}
		if r.svc.packet() {
			return nil
		}
		b = b[n:]
	}
	return nil
}

func (r *remote) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var err error
	for _, s := range []Stream{Stdout, Stderr} {
		sp := &r.split[s-1]
		if rest := sp.end(); len(rest) > 0 {
			at, part := sp.part(true, time.Now())
			err = errors.Join(err, r.send(message{s, at, rest, true, part}))
		}
		*sp = splitter{}
	}
	if r.fd >= 0 {
		err = errors.Join(err, syscall.Close(r.fd))
		r.fd = -1
	}
	return err
}

// dialSocket connects to network (udp, tcp, unix, unixgram) at address, an
// ip:port or a path. Names were resolved by the engine: there is no resolver
// here.
func dialSocket(network, address string) (fd int, err error) {
	kind := syscall.SOCK_DGRAM
	if network == "tcp" || network == "unix" {
		kind = syscall.SOCK_STREAM
	}
	var sa syscall.Sockaddr
	family := syscall.AF_UNIX
	if strings.HasPrefix(network, "unix") {
		sa = &syscall.SockaddrUnix{Name: address}
	} else {
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return -1, err
		}
		if a := ap.Addr().Unmap(); a.Is4() {
			family, sa = syscall.AF_INET, &syscall.SockaddrInet4{Addr: a.As4(), Port: int(ap.Port())}
		} else {
			family, sa = syscall.AF_INET6, &syscall.SockaddrInet6{Addr: a.As16(), Port: int(ap.Port())}
		}
	}
	fd, err = syscall.Socket(family, kind|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	tv := syscall.NsecToTimeval(int64(sendTimeout)) // connect(2) obeys it too
	err = os.NewSyscallError("setsockopt", syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_SNDTIMEO, &tv))
	if err == nil {
		err = os.NewSyscallError("connect", syscall.Connect(fd, sa))
	}
	if err != nil {
		return -1, errors.Join(err, syscall.Close(fd))
	}
	return fd, nil
}
