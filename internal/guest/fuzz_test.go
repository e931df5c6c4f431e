package guest

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"testing"
	"time"
)

// hostile is a connection on which a guest says what it likes, and then goes.
type hostile struct {
	io.Reader

	gone chan struct{}
}

func (*hostile) Write(p []byte) (int, error) { return len(p), nil }

func (h *hostile) Close() error {
	select {
	case <-h.gone:
	default:
		close(h.gone)
	}
	return nil
}

func frame(kind uint8, id uint32, payload string) []byte {
	return appendFrame(nil, kind, id, []byte(payload))
}

func join(f ...[]byte) []byte { return bytes.Join(f, nil) }

// FuzzClient: whatever a guest sends, the host's end does not panic, does not
// wait for ever, and takes no more memory than its limits say.
func FuzzClient(f *testing.F) {
	big := binary.LittleEndian.AppendUint32(nil, MaxFromGuest+1)
	for _, seed := range [][]byte{
		frame(KindReady, 0, ""),
		join(frame(KindReady, 0, ""), frame(KindReady, 0, "")),
		frame(KindReply, 1, `{}`),
		frame(KindReply, 1, `{"Error":{"Kind":"notfound","Text":"no"}}`),
		frame(KindReply, 1, `{"Error":{"Exec":true,"Errno":-1,"Path":"\u0000"}}`),
		frame(KindReply, 1, `{"Body":{"cpu.stat":"usage_usec 1"}}`),
		frame(KindReply, 1, `{"Body":[]}`),
		frame(KindReply, 1, `{"Pid":-1}`),
		join(frame(KindReply, 1, `{}`), frame(KindReply, 1, `{}`)),
		frame(KindReply, 1, `[`),
		frame(KindExited, 0, `{"ID":"x","Status":4294967295,"Error":"\u001b[2J"}`),
		frame(KindExited, 0, `{"Status":-1}`),
		frame(KindOpen, 1, "dns"),
		frame(KindOpen, GuestsBit|1, "dns"),
		join(frame(KindOpen, GuestsBit|1, "dns"), frame(KindOpen, GuestsBit|1, "dns")),
		join(frame(KindOpen, GuestsBit|1, "dns"), frame(kindData, GuestsBit|1, "\x00\x05hello"), frame(kindEnd, GuestsBit|1, "")),
		join(frame(kindEnd, 1, ""), frame(kindData, 1, "late")),
		join(frame(kindCredit, 1, "\xff\xff\xff\xff"), frame(kindCredit, 1, "")),
		frame(kindData, 1, string(make([]byte, Window+1))),
		frame(KindRequest, 1, `{"Op":"boot"}`),
		frame(200, 1, ""),
		append(big, 1, 2, 3),
		{0, 0, 0, 0, 0, 0, 0, 0, 0},
		{255, 255, 255, 255},
		{5},
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		conn := &hostile{Reader: bytes.NewReader(said), gone: make(chan struct{})}
		start := make(chan struct{})
		conn.Reader = io.MultiReader(waitFor(start), conn.Reader)
		c := Dial(conn, func(Exited) {}, func(st io.ReadWriter) error {
			_, err := io.Copy(st, io.LimitReader(st, 64<<10))
			return err
		})
		st, err := c.s.Open(1) // a stream and a request of ours, that a guest can meddle with
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		answered := make(chan struct{})
		go func() {
			defer close(answered)
			_, _ = c.Stats(ctx, "x") // request 1
		}()
		read := make(chan int64, 1)
		go func() {
			n, _ := io.Copy(io.Discard, st)
			read <- n
		}()
		close(start)
		for what, ch := range map[string]<-chan struct{}{"the session": c.Gone(), "the request": answered} {
			select {
			case <-ch:
			case <-ctx.Done():
				t.Fatalf("%s did not end", what)
			}
		}
		if n := <-read; n > int64(len(said)) {
			t.Errorf("read %d bytes of %d", n, len(said))
		}
		if ctx.Err() != nil {
			t.Error("it took a minute")
		}
	})
}

// waitFor is a reader that is empty, after ch is closed.
func waitFor(ch <-chan struct{}) io.Reader { return waiting(ch) }

type waiting <-chan struct{}

func (w waiting) Read([]byte) (int, error) {
	<-w
	return 0, io.EOF
}
