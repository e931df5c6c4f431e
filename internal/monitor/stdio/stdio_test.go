package stdio

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/hull"
)

// memory is a log in memory.
type memory struct {
	mu     sync.Mutex
	b      bytes.Buffer
	fail   bool
	closed bool
}

func (m *memory) Write(_ byte, p []byte, _ time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail {
		return errors.New("disk full")
	}
	m.b.Write(p)
	return nil
}

func (m *memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}

func (m *memory) len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.b.Len()
}

func streams(t *testing.T, hio hull.IO, log LogWriter) (*Streams, Child) {
	t.Helper()
	s, child, err := New(hio, log, NewBuffers(nil), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	s.Run()
	t.Cleanup(child.Close)
	return s, child
}

func client(t *testing.T, s *Streams, a hull.Attach, exec bool) *os.File {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	c := os.NewFile(uintptr(fds[0]), "client")
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := s.Attach(os.NewFile(uintptr(fds[1]), "server"), a, exec); err != nil {
		t.Fatal(err)
	}
	return c
}

func within(t *testing.T, what string, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal(what, "takes for ever")
	}
}

// TestSlowOwner: a client that was there from the start gets every byte, however
// late it reads, and the process's end does not wait for it.
func TestSlowOwner(t *testing.T) {
	t.Parallel()
	log := &memory{}
	s, child := streams(t, hull.IO{}, log)
	c := client(t, s, hull.Attach{Stdout: true}, false)
	s.Started()
	const size = 8 << 20
	text := bytes.Repeat([]byte("0123456789abcde\n"), size/16)
	wrote := make(chan error, 1)
	go func() {
		_, err := child.Out.Write(text)
		child.Out.Close()
		wrote <- err
	}()
	// It is held up: backlog, socket and pipe take less than all of it.
	select {
	case <-wrote:
		t.Fatal("nothing held the writer up")
	case <-time.After(100 * time.Millisecond):
	}
	if n := log.len(); n == 0 || n == size {
		t.Errorf("%d bytes logged while the client does not read", n)
	}
	got := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(c)
		got <- b
	}()
	within(t, "writing", func() {
		if err := <-wrote; err != nil {
			t.Error(err)
		}
	})
	child.Err.Close()
	within(t, "draining", s.Ended)
	if b := <-got; !bytes.Equal(b, text) {
		t.Errorf("client got %d bytes of %d", len(b), len(text))
	}
	if !bytes.Equal(log.b.Bytes(), text) || !log.closed {
		t.Errorf("log has %d bytes, closed %v", log.b.Len(), log.closed)
	}
}

// TestStalledAtEnd: the log is complete and the end is told although a client
// never reads.
func TestStalledAtEnd(t *testing.T) {
	t.Parallel()
	log := &memory{}
	s, child := streams(t, hull.IO{}, log)
	c := client(t, s, hull.Attach{Stdout: true, Mux: true}, false)
	go func() {
		child.Out.Write(make([]byte, 2<<20))
		child.Close()
	}()
	for log.len() < 1<<20 {
		time.Sleep(time.Millisecond)
	}
	within(t, "the end", s.Ended)
	if log.len() != 2<<20 {
		t.Errorf("log has %d bytes", log.len())
	}
	b, err := io.ReadAll(c)
	if n := len(b) - 8*bytes.Count(b, []byte{1, 0, 0, 0}); err != nil || n != 2<<20 {
		t.Errorf("client got %d bytes in the end, %v", n, err)
	}
	within(t, "lingering", s.Linger)
}

// TestGone: a client that disappears does not hold anybody up.
func TestGone(t *testing.T) {
	t.Parallel()
	log := &memory{}
	s, child := streams(t, hull.IO{Stdin: true}, log)
	c := client(t, s, hull.Attach{Stdin: true, Stdout: true, Stderr: true}, false)
	done := make(chan error, 1)
	go func() {
		_, err := child.Out.Write(make([]byte, 8<<20))
		done <- err
	}()
	for log.len() == 0 {
		time.Sleep(time.Millisecond)
	}
	c.Close()
	within(t, "writing", func() { <-done })
	child.Close()
	within(t, "the end", s.Ended)
	within(t, "lingering", s.Linger)
	if log.len() != 8<<20 {
		t.Errorf("log has %d bytes", log.len())
	}
}

// TestBackgroundChild: who keeps the pipe open after the end is not waited for
// longer than drainIdle when silent; what was written before is read, and what it
// writes later neither kills it nor holds it up.
func TestBackgroundChild(t *testing.T) {
	t.Parallel()
	log := &memory{}
	s, child := streams(t, hull.IO{}, log)
	if _, err := child.Out.WriteString("last words\n"); err != nil {
		t.Fatal(err)
	}
	within(t, "the end", s.Ended) // child still open
	if got := log.b.String(); got != "last words\n" {
		t.Errorf("log has %q", got)
	}
	within(t, "writing to nobody", func() {
		if _, err := child.Out.Write(make([]byte, 4*pipeSize)); err != nil {
			t.Error(err)
		}
	})
}

// TestLogFailure: output goes on to clients when the log cannot be written, and
// that is told.
func TestLogFailure(t *testing.T) {
	t.Parallel()
	var warned []string
	s, child, err := New(hull.IO{}, &memory{fail: true}, NewBuffers(nil), func(w string) { warned = append(warned, w) })
	if err != nil {
		t.Fatal(err)
	}
	s.Run()
	c := client(t, s, hull.Attach{Stdout: true}, false)
	child.Out.WriteString("hello\n")
	child.Close()
	within(t, "the end", s.Ended)
	if b, err := io.ReadAll(c); string(b) != "hello\n" || err != nil {
		t.Errorf("client got %q, %v", b, err)
	}
	if len(warned) != 1 || warned[0] != "disk full" {
		t.Errorf("warned %q", warned)
	}
}

// TestStdinOfNobody: input for a process that does not read must not keep its
// end from being seen.
func TestStdinOfNobody(t *testing.T) {
	t.Parallel()
	s, child := streams(t, hull.IO{Stdin: true, StdinOnce: true}, nil)
	c := client(t, s, hull.Attach{Stdin: true, Stdout: true}, false)
	go c.Write(make([]byte, 4<<20)) // far more than the pipe holds
	time.Sleep(20 * time.Millisecond)
	child.Close()
	within(t, "the end", s.Ended)
	within(t, "the client", func() { io.Copy(io.Discard, c) })
}

func TestTwoWriters(t *testing.T) {
	t.Parallel()
	s, child := streams(t, hull.IO{Stdin: true}, nil)
	one := client(t, s, hull.Attach{Stdin: true}, false)
	two := client(t, s, hull.Attach{Stdin: true}, false)
	one.WriteString("one")
	two.WriteString("two")
	var got string
	within(t, "reading", func() {
		b := make([]byte, 16)
		for len(got) < 6 {
			n, err := child.In.Read(b)
			if err != nil {
				t.Error(err)
				return
			}
			got += string(b[:n])
		}
	})
	if got != "onetwo" && got != "twoone" {
		t.Errorf("process read %q", got)
	}
	s.CloseStdin()
	if n, err := child.In.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("read %d, %v after the end of input", n, err)
	}
	child.Close()
	s.Ended()
}

// TestUnread: what lies in a client's socket is known until the client has read it,
// or has gone.
func TestUnread(t *testing.T) {
	t.Parallel()
	s, child := streams(t, hull.IO{}, nil)
	reads := client(t, s, hull.Attach{Stdout: true}, true)
	leaves := client(t, s, hull.Attach{Stdout: true}, true)
	s.mu.Lock()
	clients := s.clients
	s.mu.Unlock()
	child.Out.WriteString("output")
	b := make([]byte, 16)
	if err := waitUnread(clients); err != nil {
		t.Fatal(err)
	}
	if n, err := reads.Read(b); n != 6 || err != nil {
		t.Fatalf("read %d, %v", n, err)
	}
	leaves.Close()
	for i, c := range clients {
		if c.unread() {
			t.Errorf("client %d has something to read", i)
		}
	}
	child.Close()
	s.Ended()
}

func waitUnread(clients []*attachment) error {
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if !slices.ContainsFunc(clients, func(c *attachment) bool { return !c.unread() }) {
			return nil
		}
	}
	return errors.New("no output in the clients' sockets")
}

func TestAttachAfterEnd(t *testing.T) {
	t.Parallel()
	s, child := streams(t, hull.IO{}, nil)
	child.Close()
	s.Ended()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	if err := s.Attach(os.NewFile(uintptr(fds[1]), "server"), hull.Attach{Stdout: true}, false); !errors.Is(err, ErrEnded) {
		t.Errorf("attach to the ended: %v", err)
	}
	if n, err := unix.Read(fds[0], make([]byte, 1)); n != 0 || err != nil {
		t.Errorf("the refused client's socket is open: %d, %v", n, err)
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		seq    string
		in     []string
		out    string
		detach bool
	}{
		{"\x10\x11", []string{"ls\n"}, "ls\n", false},
		{"\x10\x11", []string{"a\x10\x11b"}, "a", true},
		{"\x10\x11", []string{"a\x10", "\x11"}, "a", true},
		{"\x10\x11", []string{"\x10", "x"}, "\x10x", false},
		{"\x10\x11", []string{"\x10\x10\x11"}, "\x10", true},
		{"a", []string{"bca"}, "bc", true},
		{"ab", []string{"a", "a", "c"}, "aac", false},
		{"", []string{"\x10\x11"}, "\x10\x11", false},
	} {
		k := keys{seq: []byte(c.seq)}
		var out strings.Builder
		var detach bool
		for _, p := range c.in {
			var b []byte
			b, detach = k.scan([]byte(p))
			out.Write(b)
		}
		if out.String() != c.out || detach != c.detach {
			t.Errorf("%q with %q: %q, %v", c.in, c.seq, out.String(), detach)
		}
	}
}

// FuzzKeys: whatever comes in goes out, but for the sequence itself.
func FuzzKeys(f *testing.F) {
	f.Add([]byte("\x10\x11"), []byte("a\x10\x10b\x11"))
	f.Fuzz(func(t *testing.T, seq, in []byte) {
		k := keys{seq: seq}
		out, detach := k.scan(in)
		switch {
		case detach && !bytes.HasPrefix(in, append(bytes.Clone(out), seq...)):
			t.Errorf("%q with %q: %q, detached", in, seq, out)
		case !detach && !bytes.Equal(append(bytes.Clone(out), seq[:k.held]...), in):
			t.Errorf("%q with %q: %q, %d held", in, seq, out, k.held)
		}
	})
}

func TestBuffers(t *testing.T) {
	t.Parallel()
	idle := make(chan struct{}, 1)
	b := NewBuffers(func() { idle <- struct{}{} })
	p, q := b.get(), b.get()
	if len(p) != bufferSize || &p[0] == &q[0] {
		t.Error("bad buffers")
	}
	b.put(p)
	if r := b.get(); &r[0] != &p[0] {
		t.Error("a free buffer was not used")
	}
	b.put(p)
	b.put(q)
	within(t, "idling", func() { <-idle })
	if b.free != nil || b.lent != 0 {
		t.Errorf("%d kept, %d lent", len(b.free), b.lent)
	}
}

// TestTerminalFramed: a terminal's output is framed for a client that wants it so.
func TestTerminalFramed(t *testing.T) {
	t.Parallel()
	s, _, err := New(hull.IO{TTY: true}, &memory{}, NewBuffers(nil), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	master, slave := os.NewFile(uintptr(fds[0]), "master"), os.NewFile(uintptr(fds[1]), "slave")
	defer master.Close()
	defer slave.Close()
	if err := s.SetConsole(master); err != nil {
		t.Fatal(err)
	}
	s.Run()
	c := client(t, s, hull.Attach{Stdout: true, Mux: true}, true)
	s.Started()
	if _, err := slave.Write([]byte("hi")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 10)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "\x01\x00\x00\x00\x00\x00\x00\x02hi" {
		t.Errorf("client got %q, %v", got, err)
	}
}
