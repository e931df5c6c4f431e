package agent

import (
	"bytes"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/guest"
)

// writer is a process whose output goes to a host that takes it when it is told to.
type writer struct {
	*proc
	process  *os.File      // where the process writes
	stream   *guest.Stream // the host's end
	overflow func()        // waits until the host has been sent all that it may be
}

func newWriter(t *testing.T) *writer {
	t.Helper()
	here, there := net.Pipe()
	counted := &countedConn{Conn: here}
	g := guest.NewSession(counted, guest.MaxFrame, func(guest.Frame) error { return nil })
	h := guest.NewSession(there, guest.MaxFrame, func(guest.Frame) error { return nil })
	go func() { _ = g.Run() }()
	go func() { _ = h.Run() }()
	t.Cleanup(func() { here.Close() })
	st, err := g.Open(1)
	if err != nil {
		t.Fatal(err)
	}
	x := &writer{proc: &proc{ended: make(chan struct{})}}
	if x.stream, err = h.Open(1); err != nil {
		t.Fatal(err)
	}
	var theirs []*os.File
	process, ours, err := pipeFor(st, &theirs, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { process.Close() })
	x.process, x.files = process, []*os.File{ours}
	x.outputs.Add(1)
	go x.copyOut(ours, st)
	x.overflow = func() {
		for limit := time.Now().Add(time.Minute); counted.sent.Load() < guest.Window; time.Sleep(time.Millisecond) {
			if time.Now().After(limit) {
				t.Fatalf("%d bytes are sent", counted.sent.Load())
			}
		}
	}
	return x
}

type countedConn struct {
	net.Conn
	sent atomic.Int64
}

func (c *countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.sent.Add(int64(n))
	return n, err
}

// TestOutputOfTheEnded: what a process has written before its end arrives, also at a
// host that takes it late.
func TestOutputOfTheEnded(t *testing.T) {
	t.Parallel()
	x := newWriter(t)
	want := bytes.Repeat([]byte("0123456789abcdef"), (guest.Window+pipeSize)/16)
	if _, err := x.process.Write(want); err != nil { // all but a pipe full has been taken then
		t.Fatal(err)
	}
	x.process.Close()
	x.overflow()
	x.end = time.Now().Add(-2 * drainLimit) // its time is over
	close(x.ended)
	x.hurry(x.files[0])
	got, err := io.ReadAll(x.stream)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d of %d bytes (%v)", len(got), len(want), err)
	}
	x.outputs.Wait()
}

// TestOutputOfTheAbandoned: a child that writes on does not hold up the end of its
// process for ever, and is not killed for it.
func TestOutputOfTheAbandoned(t *testing.T) {
	t.Parallel()
	x := newWriter(t)
	go func() { _, _ = io.Copy(io.Discard, x.stream) }()
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		var err error
		for err == nil {
			select {
			case <-stop:
				ended <- nil
				return
			default:
				_, err = x.process.Write(make([]byte, 1024))
			}
		}
		ended <- err
	}()
	x.drain()
	for range 3 { // more than any pipe holds
		if n, err := x.process.Write(make([]byte, 1<<20)); err != nil {
			t.Fatalf("after its process's end a child writes %d bytes: %v", n, err)
		}
	}
	close(stop)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n, err := unix.FcntlInt(x.process.Fd(), unix.F_GETPIPE_SZ, 0); err != nil || n != pipeSize {
		t.Errorf("a pipe holds %d bytes (%v)", n, err)
	}
}
