package stdio

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// bufferSize is one read. 128 KiB amortise the system call and the log's write
	// and still fit a core's second level cache.
	bufferSize = 128 << 10
	// bufferIdle is how long unused buffers are kept.
	bufferIdle = time.Second
)

// Buffers lends read buffers that lie outside Go's heap: a monitor that copies
// nothing holds none, and returning them needs no garbage collection.
type Buffers struct {
	onIdle func() // called when the last one has been given back for a while

	mu    sync.Mutex
	free  [][]byte
	lent  int
	timer *time.Timer
}

// NewBuffers makes an empty pool. onIdle may be nil.
func NewBuffers(onIdle func()) *Buffers { return &Buffers{onIdle: onIdle} }

func (b *Buffers) get() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lent++
	if n := len(b.free); n > 0 {
		p := b.free[n-1]
		b.free = b.free[:n-1]
		return p
	}
	p, err := unix.Mmap(-1, 0, bufferSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		b.lent--
		return nil
	}
	_ = unix.Madvise(p, unix.MADV_DONTFORK) // what is in them is no other process's business
	return p
}

func (b *Buffers) put(p []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lent--
	b.free = append(b.free, p)
	if b.timer == nil {
		b.timer = time.AfterFunc(bufferIdle, b.trim)
	}
}

// trim unmaps what nobody borrowed for bufferIdle; called by the timer.
func (b *Buffers) trim() {
	b.mu.Lock()
	for _, p := range b.free {
		_ = unix.Munmap(p)
	}
	b.free, b.timer = nil, nil
	idle := b.lent == 0
	b.mu.Unlock()
	if idle && b.onIdle != nil {
		b.onIdle()
	}
}

// reader reads a non-blocking descriptor and holds a buffer only while there is
// something to read.
type reader struct {
	f    *os.File
	rc   syscall.RawConn
	pool *Buffers
	buf  []byte
}

// newReader takes f over. f must be non-blocking.
func newReader(f *os.File, pool *Buffers) (*reader, error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &reader{f: f, rc: rc, pool: pool}, nil
}

// next returns what there is to read, valid until the next call; io.EOF at the
// end, os.ErrDeadlineExceeded when a deadline of f has passed.
func (r *reader) next() ([]byte, error) {
	var n int
	var err error
	e := r.rc.Read(func(fd uintptr) bool {
		n, err = r.try(int(fd))
		return !errors.Is(err, unix.EAGAIN)
	})
	if e != nil {
		return nil, e
	}
	return r.result(n, err)
}

// rest is next without waiting; io.EOF also when nothing is there now.
func (r *reader) rest() ([]byte, error) {
	var n int
	var err error
	if e := r.rc.Control(func(fd uintptr) { n, err = r.try(int(fd)) }); e != nil {
		return nil, e
	}
	if errors.Is(err, unix.EAGAIN) {
		return nil, io.EOF
	}
	return r.result(n, err)
}

func (r *reader) try(fd int) (n int, err error) {
	if r.buf == nil {
		if r.buf = r.pool.get(); r.buf == nil {
			return 0, unix.ENOMEM
		}
	}
	for {
		if n, err = unix.Read(fd, r.buf); err != unix.EINTR {
			break
		}
	}
	if err != nil || n == 0 {
		r.drop()
	}
	return n, err
}

func (r *reader) result(n int, err error) ([]byte, error) {
	switch {
	case errors.Is(err, unix.EIO): // a terminal whose last user has gone
		return nil, io.EOF
	case err != nil:
		return nil, err
	case n == 0:
		return nil, io.EOF
	}
	return r.buf[:n], nil
}

// drop gives the buffer back.
func (r *reader) drop() {
	if r.buf != nil {
		r.pool.put(r.buf)
		r.buf = nil
	}
}
