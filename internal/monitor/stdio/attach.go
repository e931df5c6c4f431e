package stdio

import (
	"encoding/binary"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hull/internal/hull"
)

const (
	// backlogSize is what a client may be behind (on top of its socket's buffer)
	// before the workload waits for it.
	backlogSize = 1 << 20
	// stallLimit cuts a client off that only looks on (it attached to a running
	// main process) and takes nothing while the workload waits for it.
	stallLimit = 30 * time.Second
	// lingerLimit cuts a client off that takes nothing after the process has ended.
	lingerLimit = 10 * time.Minute
	// goodbye is how long a client may take to close its side after ours.
	goodbye = 5 * time.Second
	// flushStep is how much of a backlog is written before it counts as progress.
	flushStep = 64 << 10
)

// attachment is one client's socket.
//
//	serving --process ended, detach keys, end of stdin--> finishing
//	finishing --backlog written--> write side shut; reads until the peer closes
//	any --socket error, stalled--> cut
type attachment struct {
	s        *Streams
	f        *os.File
	rc       syscall.RawConn
	in       *reader
	opt      hull.Attach
	owner    bool // attached before the start, or to an exec: nothing may be kept from it
	keys     keys
	moved    chan struct{} // has an element after progress
	order    sync.Mutex    // one chunk at a time
	closeOne sync.Once

	mu        sync.Mutex
	backlog   []byte // not yet written; sent is how much of it is
	sent      int
	flushing  bool
	finishing bool
	readDone  bool
	gone      bool
}

// Attach connects a client. It takes f over in any case.
func (s *Streams) Attach(f *os.File, a hull.Attach, exec bool) error {
	c := &attachment{s: s, f: f, opt: a, moved: make(chan struct{}, 1)}
	c.opt.Conn = nil
	if s.tty {
		c.keys.seq = a.DetachKeys
		if a.DetachKeys == nil {
			c.keys.seq = []byte{'P' & 0x1f, 'Q' & 0x1f}
		}
	}
	rc, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return err
	}
	c.rc = rc
	if c.in, err = newReader(f, s.pool); err != nil {
		f.Close()
		return err
	}
	s.mu.Lock()
	if s.ended.Load() != 0 {
		s.mu.Unlock()
		f.Close()
		return ErrEnded
	}
	c.owner = exec || !s.started
	s.clients = append(slices.Clone(s.clients), c)
	s.serving.Add(1)
	s.mu.Unlock()
	go c.input()
	return nil
}

// ErrEnded says that a process is not there any more.
var ErrEnded error = endedError{}

type endedError struct{}

func (endedError) Error() string { return "process has ended" }
func (endedError) Unwrap() error { return errdefs.ErrNotFound }

// input copies from the client until it ends, leaves or half-closes.
func (c *attachment) input() {
	defer c.readEnded()
	defer c.in.drop()
	stdin := c.opt.Stdin && c.s.hasStdin()
	pre := c.opt.Prelude
	c.opt.Prelude = nil
	for {
		p := pre
		if pre = nil; len(p) == 0 {
			var err error
			if p, err = c.in.next(); err != nil {
				break
			}
		}
		if !stdin {
			continue
		}
		p, detach := c.keys.scan(p)
		if len(p) > 0 && c.s.writeIn(p) != nil {
			stdin = false // it reads no more; go on to notice that the client leaves
		}
		if detach {
			c.s.leave(c)
			c.finish()
			return
		}
	}
	switch {
	case stdin && c.s.once && !c.s.tty:
		c.s.CloseStdin()
	case stdin: // as Docker: the end of the input is the end of the attachment
		c.s.leave(c)
		c.finish()
		return
	}
	if c.hungUp() {
		c.cut()
	}
}

// unread says whether something lies in the client's socket that it has not read, or
// over TCP not received.
func (c *attachment) unread() bool {
	n := 0
	_ = c.rc.Control(func(fd uintptr) {
		n, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) // 0 of what has no such queue
	})
	return n > 0
}

// hungUp tells a peer that has gone from one that only closed its write side.
// TCP cannot say; there the next write finds out.
func (c *attachment) hungUp() (yes bool) {
	_ = c.rc.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd)}}
		n, err := unix.Poll(p, 0)
		yes = err == nil && n == 1 && p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
	})
	return yes
}

// send gives the client a chunk: into the socket when it takes it, else into the
// backlog. With a full backlog the caller, and so the workload, waits, as on any
// pipe whose reader is slow. That may last for ever only for an owner: who runs
// a program in the foreground gets every byte of it. A client that looked in on
// a running service must not stop it, and is cut off after stallLimit.
func (c *attachment) send(stream byte, p []byte) {
	if stream == Stdout && !c.opt.Stdout || stream == Stderr && !c.opt.Stderr {
		return
	}
	c.order.Lock()
	defer c.order.Unlock()
	c.mu.Lock()
	for len(c.backlog)-c.sent >= backlogSize && !c.gone && c.s.ended.Load() == 0 {
		c.mu.Unlock()
		if !c.waitMoved() {
			c.cut()
		}
		c.mu.Lock()
	}
	defer c.mu.Unlock()
	if c.gone {
		return
	}
	var head [8]byte
	parts := [][]byte{p}
	if c.opt.Mux {
		head[0] = stream
		binary.BigEndian.PutUint32(head[4:], uint32(len(p)))
		parts = [][]byte{head[:], p}
	}
	n := 0
	if !c.flushing {
		var ok bool
		if n, ok = c.writeNow(parts); !ok {
			c.mu.Unlock()
			c.cut()
			c.mu.Lock()
			return
		}
	}
	for _, q := range parts {
		k := min(n, len(q))
		c.backlog = append(c.backlog, q[k:]...)
		n -= k
	}
	if len(c.backlog) > 0 && !c.flushing {
		c.flushing = true
		go c.flush()
	}
}

// waitMoved waits for progress of the flusher; false when the client's time is up.
func (c *attachment) waitMoved() bool {
	if c.owner {
		<-c.moved
		return true
	}
	t := time.NewTimer(stallLimit)
	defer t.Stop()
	select {
	case <-c.moved:
		return true
	case <-t.C:
		return false
	}
}

func (c *attachment) wake() {
	select {
	case c.moved <- struct{}{}:
	default:
	}
}

// writeNow writes without waiting; false when the client is gone.
func (c *attachment) writeNow(parts [][]byte) (n int, ok bool) {
	var err error
	e := c.rc.Control(func(fd uintptr) {
		n, err = unix.SendmsgBuffers(int(fd), parts, nil, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
	})
	if e != nil {
		return 0, false
	}
	if err == unix.EAGAIN || err == unix.EINTR {
		return 0, true
	}
	return n, err == nil
}

// flush writes the backlog until there is none.
func (c *attachment) flush() {
	for {
		c.mu.Lock()
		if c.gone || c.sent == len(c.backlog) {
			c.backlog, c.sent, c.flushing = nil, 0, false
			finish := c.finishing && !c.gone
			c.mu.Unlock()
			c.wake()
			if finish {
				c.shut()
			}
			return
		}
		p := c.backlog[c.sent:min(c.sent+flushStep, len(c.backlog))]
		if c.finishing {
			_ = c.f.SetWriteDeadline(time.Now().Add(lingerLimit))
		}
		c.mu.Unlock()
		n, err := c.f.Write(p)
		if err != nil {
			c.cut()
			continue
		}
		c.mu.Lock()
		if c.sent += n; c.sent > len(c.backlog)/2 { // make room without growing
			c.backlog = c.backlog[:copy(c.backlog, c.backlog[c.sent:])]
			c.sent = 0
		}
		c.mu.Unlock()
		c.wake()
	}
}

// finish lets the client go when it has everything.
func (c *attachment) finish() {
	c.mu.Lock()
	already := c.finishing || c.gone
	c.finishing = true
	busy := c.flushing
	if busy && !already {
		_ = c.f.SetWriteDeadline(time.Now().Add(lingerLimit))
	}
	c.mu.Unlock()
	if !busy && !already {
		c.shut()
	}
}

// shut tells the peer that there is no more. The socket stays open for reading
// until the peer closes: closing it with unread input would reset the
// connection and could take the last output away.
func (c *attachment) shut() {
	_ = c.rc.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_WR) })
	_ = c.f.SetReadDeadline(time.Now().Add(goodbye))
	c.mu.Lock()
	last := c.readDone
	c.mu.Unlock()
	if last {
		c.close()
	}
}

// readEnded is the end of input: the last one out closes.
func (c *attachment) readEnded() {
	c.mu.Lock()
	c.readDone = true
	last := c.gone || c.finishing && !c.flushing
	c.mu.Unlock()
	if last {
		c.close()
	}
}

// cut drops the client at once.
func (c *attachment) cut() {
	c.mu.Lock()
	c.gone = true
	c.mu.Unlock()
	c.s.leave(c)
	c.close()
	c.wake()
}

func (c *attachment) close() {
	c.closeOne.Do(func() {
		c.f.Close()
		c.s.serving.Done()
	})
}

// keys finds the detach sequence in a terminal's input. Bytes that may be its
// beginning are held back until that is decided.
type keys struct {
	seq  []byte
	held int
}

// scan returns what goes to the process, and whether the sequence was complete.
func (k *keys) scan(p []byte) (out []byte, detach bool) {
	if len(k.seq) == 0 || k.held == 0 && !slices.Contains(p, k.seq[0]) {
		return p, false
	}
	out = make([]byte, 0, len(p)+k.held)
	for _, b := range p {
		if b != k.seq[k.held] {
			out = append(out, k.seq[:k.held]...)
			if k.held = 0; b != k.seq[0] {
				out = append(out, b)
				continue
			}
		}
		if k.held++; k.held == len(k.seq) {
			k.held = 0
			return out, true
		}
	}
	return out, false
}
