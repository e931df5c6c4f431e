package guest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

const patience = 60 * time.Second

// peer is the guest's end in tests: what it answers is the test's.
type peer struct{ s *Session }

func connect(t *testing.T, answer func(p *peer, f Frame, r Request) error) *Client {
	t.Helper()
	a, b := net.Pipe()
	p := &peer{}
	p.s = NewSession(b, MaxFrame, func(f Frame) error {
		var r Request
		if err := json.Unmarshal(f.Payload, &r); err != nil {
			return err
		}
		return answer(p, f, r)
	})
	go func() { _ = p.s.Run() }()
	c := Dial(a, func(Exited) {}, nil)
	t.Cleanup(c.Close)
	return c
}

func (p *peer) reply(id uint32, r Reply) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return p.s.Send(KindReply, id, b)
}

func limit(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func TestErrorsKeepTheirKind(t *testing.T) {
	c := connect(t, func(p *peer, f Frame, r Request) error {
		go func() {
			_ = p.reply(f.ID, Reply{Error: &Remote{Kind: "notfound", Text: "no such\x1b[2Jthing" + strings.Repeat("x", 5000)}})
		}()
		return nil
	})
	err := c.Run(limit(t), "x")
	if !errdefs.IsNotFound(err) {
		t.Errorf("error %v has lost its kind", err)
	}
	if s := err.Error(); strings.ContainsRune(s, 0x1b) || len(s) > maxText+10 {
		t.Errorf("a guest's text came through: %q", s[:40])
	}
}

// TestSlowReader: a stream that nobody reads holds up itself and nothing else,
// and loses nothing.
func TestSlowReader(t *testing.T) {
	want := bytes.Repeat([]byte("0123456789abcdef"), 64<<10) // eight windows
	c := connect(t, func(p *peer, f Frame, r Request) error {
		if r.Op != OpUpper {
			go func() { _ = p.reply(f.ID, Reply{}) }()
			return nil
		}
		st, err := p.s.Open(r.Out)
		if err != nil {
			return err
		}
		id := f.ID
		go func() {
			if _, err := st.Write(want); err != nil {
				return
			}
			_ = st.Close()
			_ = p.reply(id, Reply{})
		}()
		return nil
	})
	r, w := io.Pipe()
	fetched := make(chan error, 1)
	go func() {
		err := c.Upper(limit(t), w)
		w.CloseWithError(err)
		fetched <- err
	}()
	for range 3 { // while nobody reads
		if err := c.Run(limit(t), "x"); err != nil {
			t.Fatal(err)
		}
	}
	got, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes came, %d were sent", len(got), len(want))
	}
	if err := <-fetched; err != nil {
		t.Error(err)
	}
}

// TestHostileGuest: what breaks the protocol ends the connection, at once and
// with every caller told.
func TestHostileGuest(t *testing.T) {
	frames := map[string][]byte{
		"too long":           {0xff, 0xff, 0xff, 0x7f, KindReply, 0, 0, 0, 0},
		"too short":          {1, 0, 0, 0, KindReply, 0, 0, 0, 0},
		"unknown kind":       appendFrame(nil, 99, 0, nil),
		"reply no JSON":      appendFrame(nil, KindReply, 1, []byte("{")),
		"exit no JSON":       appendFrame(nil, KindExited, 0, []byte("x")),
		"stream of ours":     appendFrame(nil, KindOpen, 7, nil),
		"same stream twice":  append(appendFrame(nil, KindOpen, GuestsBit|1, nil), appendFrame(nil, KindOpen, GuestsBit|1, nil)...),
		"more than a window": bytes.Repeat(appendFrame(nil, kindData, 2, make([]byte, MaxData)), Window/MaxData+2),
		"credit of nothing":  appendFrame(nil, kindCredit, 2, []byte{1, 0, 0, 0}),
		"short credit":       appendFrame(nil, kindCredit, 2, []byte{1}),
	}
	for name, raw := range frames {
		t.Run(name, func(t *testing.T) {
			a, b := net.Pipe()
			// Resolving never ends, so that streams stay.
			hold := make(chan struct{})
			defer close(hold)
			c := Dial(a, func(Exited) {}, func(io.ReadWriter) error { <-hold; return nil })
			defer c.Close()
			defer b.Close()
			if _, err := c.s.Open(2); err != nil {
				t.Fatal(err)
			}
			called := make(chan error, 1)
			go func() { called <- c.Run(limit(t), "x") }()
			go func() { _, _ = io.Copy(io.Discard, b) }()
			go func() { _, _ = b.Write(raw) }()
			select {
			case <-c.Gone():
			case <-time.After(patience):
				t.Fatal("the connection goes on")
			}
			if !errors.Is(c.Err(), ErrProtocol) {
				t.Errorf("ended with %v", c.Err())
			}
			if err := <-called; !errdefs.IsUnavailable(err) {
				t.Errorf("the caller was told %v", err)
			}
		})
	}
}

// TestStreamAfterItsRequest: what a request's stream carries comes after the request
// that tells the guest of the stream.
func TestStreamAfterItsRequest(t *testing.T) {
	c := connect(t, func(p *peer, f Frame, r Request) error {
		st, err := p.s.Open(r.In)
		if err != nil {
			return err
		}
		go func() {
			b, err := io.ReadAll(st)
			_ = st.Close()
			_ = p.reply(f.ID, Reply{Error: ToRemote(err), Pid: len(b)})
		}()
		return nil
	})
	for range 2000 {
		if err := c.Unpack(limit(t), "x", "/", "", false, strings.NewReader("text")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSilentGuest(t *testing.T) {
	c := connect(t, func(*peer, Frame, Request) error { return nil })
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := c.Run(ctx, "x"); !errdefs.IsUnavailable(err) {
		t.Errorf("a guest that never answers gives %v", err)
	}
}

// TestGuestThatTakesNothing: nobody waits for a guest longer than he wants to, also when
// it does not even take the question.
func TestGuestThatTakesNothing(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	c := Dial(a, func(Exited) {}, nil)
	t.Cleanup(c.Close)
	asked := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	for what, err := range map[string]error{
		"off":    c.Off(asked()),
		"copy":   c.Copy(asked(), "c", "/", "", io.Discard),
		"unpack": c.Unpack(asked(), "c", "/", "", false, strings.NewReader("tar")),
	} {
		if !errors.Is(err, context.DeadlineExceeded) || !errdefs.IsUnavailable(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, _, err := c.Add(asked(), Start{ID: "c", Stdin: true}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("add: %v", err)
	}
	// What is kept for it has an end: then nobody waits at all.
	var err error
	for range maxUnsent {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		err = c.Off(ctx)
	}
	if errors.Is(err, context.Canceled) || !errdefs.IsUnavailable(err) {
		t.Errorf("after so many: %v", err)
	}
}

// TestGuestThatDoesNotEnd: what a guest sends without an end is bounded, too.
func TestGuestThatDoesNotEnd(t *testing.T) {
	c := connect(t, func(p *peer, f Frame, _ Request) error {
		go func() { _ = p.reply(f.ID, Reply{}) }()
		return nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Upper(ctx, io.Discard); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}
