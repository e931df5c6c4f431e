package main

import (
	"bytes"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/moby/term"

	"hull/cmd/internal/wire"
)

// A session on a terminal: raw while it runs, as before afterwards, and the detach
// keys end it without a word to the process.
func TestTerminalSession(t *testing.T) {
	t.Parallel()
	user, tty, err := pty.Open()
	if err != nil {
		t.Skip(err)
	}
	defer user.Close()
	defer tty.Close()
	before, err := term.SaveState(tty.Fd())
	if err != nil {
		t.Fatal(err)
	}
	near, far := pair(t)
	s := &session{conn: wire.New(near), in: tty, out: tty, err: tty, tty: true, detach: defaultDetach}
	if err := s.raw(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.copy() }()
	if _, err := user.WriteString("x\x03\x10y"); err != nil { // ctrl-c and a lone ctrl-p are the process's
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(far, got); err != nil || string(got) != "x\x03\x10y" {
		t.Errorf("the process got %q, %v", got, err)
	}
	if _, err := far.Write([]byte("a\r\nb")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(user, got); err != nil || string(got) != "a\r\nb" {
		t.Errorf("the user got %q, %v", got, err)
	}
	if _, err := user.WriteString("\x10\x11"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err == nil || err.Error() != "read escape sequence" {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("did not detach")
	}
	after, err := term.SaveState(tty.Fd())
	if err != nil || *after != *before {
		t.Errorf("the terminal is not as it was: %v", err)
	}
}

func TestSizeFollowsTheTerminal(t *testing.T) {
	t.Parallel()
	user, tty, err := pty.Open()
	if err != nil {
		t.Skip(err)
	}
	defer user.Close()
	defer tty.Close()
	if err := pty.Setsize(user, &pty.Winsize{Rows: 33, Cols: 99}); err != nil {
		t.Fatal(err)
	}
	if r, c := size(tty); r != 33 || c != 99 {
		t.Errorf("size %d x %d", r, c)
	}
	if r, c := size(file(t, "")); r != 0 || c != 0 {
		t.Errorf("size of a file: %d x %d", r, c)
	}
	e := newEngine(t)
	c := &command{in: tty, out: tty, err: tty, getenv: func(k string) string {
		return map[string]string{"HOME": t.TempDir(), "HULL_HOST": "unix://" + e.socket}[k]
	}}
	if code, err := c.run([]string{"run", "-t", "x"}); code != 0 || err != nil {
		t.Fatal(code, err)
	}
	var found bool
	for end := time.Now().Add(time.Minute); !found && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		found = slices.ContainsFunc(e.requests(), func(r request) bool {
			return strings.HasSuffix(r.Path, "/c0ffee/resize") && r.Query == "h=33&w=99"
		})
	}
	if !found {
		t.Errorf("no resize: %v", e.requests())
	}
	create := outcome{requests: e.requests()}.find(t, "POST", "/create")
	if len(create) != 1 || !strings.Contains(create[0].Body, `"ConsoleSize":[33,99]`) {
		t.Errorf("create: %v", create)
	}
}

// Whatever the engine sends as framed output, the streams get it or an error.
func FuzzOutput(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 2, 'h', 'i', 2, 0, 0, 0, 0, 0, 0, 1, 'x'})
	f.Add([]byte{9, 0, 0, 0, 0, 0, 0, 2, 'h', 'i'})
	f.Add([]byte{1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 4 && b[4] > 1 {
			return // a frame of that size makes the reader wait, not fail
		}
		near, far := pair(t)
		go func() { _, _ = far.Write(b); _ = far.Close() }()
		var out, errs bytes.Buffer
		s := &session{conn: wire.New(near), out: &out, err: &errs, restore: func() {}}
		_ = s.copy()
		if n := out.Len() + errs.Len(); n > len(b) {
			t.Errorf("%d bytes of output of %d", n, len(b))
		}
	})
}

func pair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	dir, err := os.MkdirTemp("", "hull")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", dir+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if near, err = net.Dial("unix", dir+"/s"); err != nil {
		t.Fatal(err)
	}
	if far, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = near.Close(); _ = far.Close() })
	return near, far
}
