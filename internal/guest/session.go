package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// The conversation between a pod's monitor and the guest's process 1, over one
// virtio-serial port. Frames, little-endian:
//
//	u32 length of what follows | u8 kind | u32 id | payload
//
//	monitor                                      guest
//	  |<------------------------------- ready(0) --|   once, when it has booted
//	  |-- request(id, {"op": ..., ...}) --------->|
//	  |<----------------- reply(id, {...}) --------|   also for errors
//	  |<------------- exited(0, {process, ...}) ---|   its output has been sent by then
//	  |<=== data(stream), end(stream) ============>|   standard streams, archives, DNS
//	  |<=== credit(stream, bytes taken) ==========>|
//
// Streams are numbered by the monitor and named in the request that makes use of
// them; those the guest opens (a DNS query) have the top bit set. A sender may
// be Window bytes ahead of what the receiver has taken: a stream that nobody
// reads holds up itself and no other. Both sides count, and one that sends more
// is cut off: what a guest says is never trusted to be bounded.
const (
	KindRequest uint8 = iota + 1
	KindReply
	KindExited
	kindData
	kindEnd
	kindCredit
	KindOpen  // guest to monitor: a stream of its own begins; payload = what for
	KindReady // guest to monitor: it waits for its first request
)

const (
	// MaxFrame bounds a frame: a plan with a large environment fits.
	MaxFrame = 4 << 20
	// MaxFromGuest bounds what the monitor accepts in one frame.
	MaxFromGuest = 512 << 10
	// Window is how far a sender may be ahead on a stream.
	Window = 128 << 10
	// MaxData is what one data frame carries, so that control frames get a turn.
	MaxData = 16 << 10
	// maxStreams bounds how many streams may be open at a time.
	maxStreams = 1024

	headLen    = 9
	GuestsBit  = 1 << 31
	creditStep = Window / 4
)

// ErrProtocol is what a peer that breaks the protocol gets.
var ErrProtocol = errors.New("the other side breaks the protocol")

// ErrClosed is what a session gives that has ended.
var ErrClosed = errors.New("the connection to the guest has ended")

// Frame is one message.
type Frame struct {
	Kind    uint8
	ID      uint32
	Payload []byte
}

// readFrame reads one frame of at most limit bytes into buf, which it may grow.
func readFrame(r io.Reader, buf []byte, limit int) (Frame, []byte, error) {
	var h [headLen]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return Frame{}, buf, err
	}
	n := binary.LittleEndian.Uint32(h[:4])
	if n < headLen-4 || int64(n) > int64(limit) {
		return Frame{}, buf, fmt.Errorf("frame of %d bytes: %w", n, ErrProtocol)
	}
	n -= headLen - 4
	if int(n) > cap(buf) {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	if _, err := io.ReadFull(r, buf); err != nil {
		return Frame{}, buf, io.ErrUnexpectedEOF
	}
	return Frame{Kind: h[4], ID: binary.LittleEndian.Uint32(h[5:]), Payload: buf}, buf, nil
}

func appendFrame(b []byte, kind uint8, id uint32, payload []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(headLen-4+len(payload)))
	b = append(b, kind)
	b = binary.LittleEndian.AppendUint32(b, id)
	return append(b, payload...)
}

// Session is either side's end.
type Session struct {
	conn   io.ReadWriteCloser
	limit  int
	handle func(f Frame) error
	gone   chan struct{}

	out sync.Mutex // one frame at a time is written
	buf []byte     // of out

	mu      sync.Mutex
	streams map[uint32]*Stream
	err     error
}

// NewSession makes one end. limit bounds a frame that comes in; handle gets what
// is not about streams, and ends the session with an error.
func NewSession(conn io.ReadWriteCloser, limit int, handle func(Frame) error) *Session {
	return &Session{conn: conn, limit: limit, handle: handle, gone: make(chan struct{}), streams: map[uint32]*Stream{}}
}

// Run receives until the connection ends or the other side misbehaves.
func (s *Session) Run() error {
	var buf []byte
	var err error
	for err == nil {
		var f Frame
		if f, buf, err = readFrame(s.conn, buf, s.limit); err == nil {
			err = s.dispatch(f)
		}
	}
	s.end(err)
	return err
}

func (s *Session) end(err error) {
	s.conn.Close()
	s.mu.Lock()
	streams := s.streams
	s.streams = nil
	if s.err == nil {
		s.err = err
		close(s.gone)
	}
	s.mu.Unlock()
	for _, st := range streams {
		st.broken()
	}
}

func (s *Session) dispatch(f Frame) error {
	switch f.Kind {
	case kindData, kindEnd, kindCredit:
	default:
		return s.handle(f)
	}
	s.mu.Lock()
	st := s.streams[f.ID]
	s.mu.Unlock()
	if st == nil {
		return nil // closed by us a moment ago
	}
	switch f.Kind {
	case kindData:
		return st.received(f.Payload)
	case kindEnd:
		st.ended()
		return nil
	}
	if len(f.Payload) != 4 {
		return fmt.Errorf("credit of %d bytes: %w", len(f.Payload), ErrProtocol)
	}
	return st.credited(binary.LittleEndian.Uint32(f.Payload))
}

// Send sends a frame.
func (s *Session) Send(kind uint8, id uint32, payload []byte) error {
	s.out.Lock()
	defer s.out.Unlock()
	s.buf = appendFrame(s.buf[:0], kind, id, payload)
	_, err := s.conn.Write(s.buf)
	if cap(s.buf) > 64<<10 {
		s.buf = nil
	}
	if err != nil {
		return ErrClosed
	}
	return nil
}

// Open makes a stream's local end.
func (s *Session) Open(id uint32) (*Stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.streams == nil {
		return nil, ErrClosed
	}
	if len(s.streams) >= maxStreams || s.streams[id] != nil {
		return nil, fmt.Errorf("stream %d: %w", id, ErrProtocol)
	}
	st := &Stream{s: s, id: id, window: Window}
	st.cond.L = &st.mu
	s.streams[id] = st
	return st, nil
}

func (s *Session) forget(id uint32) {
	s.mu.Lock()
	delete(s.streams, id)
	s.mu.Unlock()
}

// Stream is one direction or both of a byte stream.
type Stream struct {
	s  *Session
	id uint32

	mu       sync.Mutex
	cond     sync.Cond
	in       []byte // received and not read
	taken    int    // read, not credited yet
	eof      bool   // the other side ended it
	deaf     bool   // we have closed it: what comes is dropped
	granting bool   // a credit for dropped bytes is on its way
	window   int    // bytes that may be sent
	finished bool   // we ended our direction
	err      error
}

var _ io.ReadWriteCloser = (*Stream)(nil)

func (st *Stream) received(p []byte) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.eof || len(st.in)+st.taken+len(p) > Window {
		return fmt.Errorf("stream %d: more than its window: %w", st.id, ErrProtocol)
	}
	if st.deaf {
		st.taken += len(p)
		st.drop()
		return nil
	}
	st.in = append(st.in, p...)
	st.cond.Broadcast()
	return nil
}

// drop credits what is dropped, so that a sender who does not know yet that
// nobody listens does not wait. The receiving goroutine must not wait for the
// line, so another one does; one at a time. Called with mu held.
func (st *Stream) drop() {
	if st.granting || st.taken < creditStep {
		return
	}
	n := st.taken
	st.taken, st.granting = 0, true
	go func() {
		_ = st.s.Send(kindCredit, st.id, binary.LittleEndian.AppendUint32(nil, uint32(n)))
		st.mu.Lock()
		defer st.mu.Unlock()
		st.granting = false
		st.drop()
	}()
}

func (st *Stream) ended() {
	st.mu.Lock()
	st.eof = true
	deaf := st.deaf
	st.cond.Broadcast()
	st.mu.Unlock()
	if deaf {
		st.s.forget(st.id)
	}
}

func (st *Stream) credited(n uint32) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if int64(st.window)+int64(n) > Window {
		return fmt.Errorf("stream %d: credit for what was not sent: %w", st.id, ErrProtocol)
	}
	st.window += int(n)
	st.cond.Broadcast()
	return nil
}

func (st *Stream) broken() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.err == nil {
		st.err = ErrClosed
	}
	st.cond.Broadcast()
}

// Read implements io.Reader.
func (st *Stream) Read(p []byte) (int, error) {
	st.mu.Lock()
	for len(st.in) == 0 && !st.eof && st.err == nil {
		st.cond.Wait()
	}
	n := copy(p, st.in)
	if n == 0 {
		err := st.err
		if st.eof {
			err = io.EOF
		}
		st.mu.Unlock()
		return 0, err
	}
	if st.in = st.in[n:]; len(st.in) == 0 {
		st.in = nil
	}
	st.taken += n
	credit := 0
	if !st.eof && (st.taken >= creditStep || len(st.in) == 0 && st.taken > 0 && st.taken >= creditStep/2) {
		credit, st.taken = st.taken, 0
	}
	st.mu.Unlock()
	if credit > 0 {
		_ = st.s.Send(kindCredit, st.id, binary.LittleEndian.AppendUint32(nil, uint32(credit))) // the next read tells
	}
	return n, nil
}

// Write implements io.Writer; it waits for the reader.
func (st *Stream) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		st.mu.Lock()
		for st.window == 0 && st.err == nil && !st.finished {
			st.cond.Wait()
		}
		if st.err != nil || st.finished {
			err := st.err
			st.mu.Unlock()
			if err == nil {
				err = io.ErrClosedPipe
			}
			return done, err
		}
		n := min(len(p)-done, MaxData, st.window)
		st.window -= n
		st.mu.Unlock()
		if err := st.s.Send(kindData, st.id, p[done:done+n]); err != nil {
			return done, err
		}
		done += n
	}
	return len(p), nil
}

// CloseWrite ends our direction.
func (st *Stream) CloseWrite() error {
	st.mu.Lock()
	if st.finished || st.err != nil {
		st.mu.Unlock()
		return nil
	}
	st.finished = true
	st.cond.Broadcast()
	st.mu.Unlock()
	return st.s.Send(kindEnd, st.id, nil)
}

// Close ends our direction and hears no more; what still comes is dropped. Both
// sides close a stream, or it is kept until the session ends.
func (st *Stream) Close() error {
	err := st.CloseWrite()
	st.mu.Lock()
	if st.err == nil {
		st.err = io.ErrClosedPipe
	}
	st.deaf = true
	st.taken += len(st.in)
	st.in = nil
	st.drop()
	eof := st.eof
	st.cond.Broadcast()
	st.mu.Unlock()
	if eof {
		st.s.forget(st.id)
	}
	return err
}
