package monitor

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A frame on the socket, little endian:
//
//	+--------+------+-------+-------+----------------+
//	| length | kind | zero  | id    | body ...       |
//	| u32    | u8   | 3 x 0 | u32   | length bytes   |
//	+--------+------+-------+-------+----------------+
//
// Descriptors ride (SCM_RIGHTS) on the first byte of a frame; the kernel never
// glues the data after them to what came before, so they cannot be mixed up.
// id pairs a reply with its request and is 0 in a notification.
const (
	headerSize = 12
	// maxFrame bounds what one message may take: arguments and environment are at
	// most 6 MiB on Linux (a quarter of the stack limit of 24 MiB it allows).
	maxFrame = 8 << 20
	// maxFiles is the most descriptors one message carries.
	maxFiles = 4
	// sendLimit is how long a peer may keep us from writing before it is dropped.
	sendLimit = 10 * time.Second
)

var (
	errFrame  = errors.New("malformed frame")
	errClosed = errors.New("connection closed")
)

// frame is one message. Whoever receives it owns files.
type frame struct {
	kind  uint8
	id    uint32
	body  []byte
	files []*os.File
}

func (f *frame) closeFiles() {
	for _, x := range f.files {
		x.Close()
	}
	f.files = nil
}

// conn is one end of a framed stream socket. One goroutine receives; any may send.
type conn struct {
	f  *os.File
	rc syscall.RawConn
	mu sync.Mutex // one frame at a time goes out
}

// newConn takes fd over.
func newConn(fd int) (*conn, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	unix.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), "monitor")
	rc, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &conn{f: f, rc: rc}, nil
}

func (c *conn) close() { c.f.Close() }

// peer is the process at the other end when it connected.
func (c *conn) peer() (*unix.Ucred, error) {
	var u *unix.Ucred
	var err error
	if e := c.rc.Control(func(fd uintptr) {
		u, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); e != nil {
		return nil, e
	}
	return u, err
}

// send writes one frame. files stay the caller's. After an error the
// connection is of no use any more.
func (c *conn) send(kind uint8, id uint32, body []byte, files ...*os.File) error {
	if len(body) > maxFrame || len(files) > maxFiles {
		return errFrame
	}
	b := make([]byte, headerSize, headerSize+len(body))
	binary.LittleEndian.PutUint32(b, uint32(len(body)))
	b[4] = kind
	binary.LittleEndian.PutUint32(b[8:], id)
	b = append(b, body...)

	oob, err := rights(files)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.f.SetWriteDeadline(time.Now().Add(sendLimit)); err != nil {
		return err
	}
	for len(b) > 0 {
		var n int
		if e := c.rc.Write(func(fd uintptr) bool {
			n, err = unix.SendmsgN(int(fd), b, oob, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
			return !retry(err)
		}); e != nil {
			return e
		}
		if err != nil {
			return err
		}
		b, oob = b[n:], nil
	}
	runtime.KeepAlive(files)
	return nil
}

// rights makes the control message for files. Not with Fd, which may make a
// file blocking.
func rights(files []*os.File) ([]byte, error) {
	if len(files) == 0 {
		return nil, nil
	}
	var fds []int
	for _, f := range files {
		rc, err := f.SyscallConn()
		if err != nil {
			return nil, err
		}
		if err := rc.Control(func(fd uintptr) { fds = append(fds, int(fd)) }); err != nil {
			return nil, err
		}
	}
	return unix.UnixRights(fds...), nil
}

// retry says that a system call has to be made again, at once or when the
// poller says so.
func retry(err error) bool { return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) }

// recv reads one frame. errClosed at the end of the stream between two frames.
func (c *conn) recv() (f frame, err error) {
	defer func() {
		if err != nil {
			f.closeFiles()
		}
	}()
	var head [headerSize]byte
	oob := make([]byte, unix.CmsgSpace(4*maxFiles))
	for got := 0; got < headerSize; {
		n, oobn, flags := 0, 0, 0
		if e := c.rc.Read(func(fd uintptr) bool {
			n, oobn, flags, _, err = unix.Recvmsg(int(fd), head[got:], oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
			return !retry(err)
		}); e != nil {
			return f, e
		}
		if err != nil {
			return f, err
		}
		if err = f.addFiles(oob[:oobn]); err != nil {
			return f, err
		}
		if flags&unix.MSG_CTRUNC != 0 || len(f.files) > maxFiles {
			return f, errFrame
		}
		if n == 0 {
			if got == 0 {
				return f, errClosed
			}
			return f, errFrame
		}
		got += n
	}
	size := binary.LittleEndian.Uint32(head[:])
	f.kind, f.id = head[4], binary.LittleEndian.Uint32(head[8:])
	if size > maxFrame || head[5]|head[6]|head[7] != 0 {
		return f, errFrame
	}
	f.body, err = readBody(c.f, int(size))
	return f, err
}

// readBody reads size bytes, and takes memory only as they come, so that a
// length alone costs nothing.
func readBody(f *os.File, size int) ([]byte, error) {
	const step = 64 << 10
	var b []byte
	for len(b) < size {
		at := len(b)
		b = append(b, make([]byte, min(size-at, max(step, at)))...)
		for at < len(b) {
			n, err := f.Read(b[at:])
			if err != nil {
				return nil, errFrame
			}
			at += n
		}
	}
	return b, nil
}

// addFiles keeps the descriptors of a control message, owned from here on.
func (f *frame) addFiles(oob []byte) error {
	if len(oob) == 0 {
		return nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return errFrame
	}
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			return errFrame
		}
		for _, fd := range fds {
			_ = unix.SetNonblock(fd, true) // all of them are sockets that we poll
			f.files = append(f.files, os.NewFile(uintptr(fd), "passed"))
		}
	}
	return nil
}

// enc appends values to a body; dec is its reverse. Integers are little endian
// and of fixed size, strings and lists carry their length as u32.
type enc struct{ b []byte }

func (e *enc) u8(v uint8)   { e.b = append(e.b, v) }
func (e *enc) u16(v uint16) { e.b = binary.LittleEndian.AppendUint16(e.b, v) }
func (e *enc) u32(v uint32) { e.b = binary.LittleEndian.AppendUint32(e.b, v) }
func (e *enc) u64(v uint64) { e.b = binary.LittleEndian.AppendUint64(e.b, v) }

func (e *enc) flag(v bool) {
	if v {
		e.u8(1)
	} else {
		e.u8(0)
	}
}

func (e *enc) str(s string) {
	e.u32(uint32(len(s)))
	e.b = append(e.b, s...)
}

func (e *enc) bytes(p []byte) {
	e.u32(uint32(len(p)))
	e.b = append(e.b, p...)
}

func (e *enc) pairs(m map[string]string) {
	e.u32(uint32(len(m)))
	for k, v := range m {
		e.str(k)
		e.str(v)
	}
}

// dec reads a body. After the first mistake every value is zero and ok is false.
type dec struct {
	b   []byte
	bad bool
}

func (d *dec) take(n int) []byte {
	if d.bad || n < 0 || n > len(d.b) {
		d.bad = true
		return nil
	}
	p := d.b[:n:n]
	d.b = d.b[n:]
	return p
}

func (d *dec) u8() uint8 {
	if p := d.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (d *dec) u16() uint16 {
	if p := d.take(2); p != nil {
		return binary.LittleEndian.Uint16(p)
	}
	return 0
}

func (d *dec) u32() uint32 {
	if p := d.take(4); p != nil {
		return binary.LittleEndian.Uint32(p)
	}
	return 0
}

func (d *dec) u64() uint64 {
	if p := d.take(8); p != nil {
		return binary.LittleEndian.Uint64(p)
	}
	return 0
}

func (d *dec) flag() bool {
	v := d.u8()
	if v > 1 {
		d.bad = true
	}
	return v == 1
}

func (d *dec) bytes() []byte { return d.take(int(d.u32())) }
func (d *dec) str() string   { return string(d.bytes()) }

// count reads the length of a list whose elements take at least size bytes.
func (d *dec) count(size int) int {
	n := int(d.u32())
	if d.bad || n > len(d.b)/size {
		d.bad = true
		return 0
	}
	return n
}

func (d *dec) pairs() map[string]string {
	n := d.count(8)
	if n == 0 {
		return nil
	}
	m := make(map[string]string, n)
	for range n {
		k := d.str()
		m[k] = d.str()
	}
	return m
}

// done reports whether the body was read completely and without a mistake.
func (d *dec) done() bool { return !d.bad && len(d.b) == 0 }
