package monitor

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"reflect"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hull/internal/hull"
	"hull/internal/monitor/stdio"
	"hull/internal/runtime"
)

func TestAddMessage(t *testing.T) {
	t.Parallel()
	want := addMsg{
		id: "id", container: "c", plan: []byte("plan"), seated: true,
		cgroup: runtime.Cgroup{V2: true, Dirs: []runtime.CgroupDir{{Hierarchy: "memory", Path: "/a"}, {Path: "/b"}}},
		io: hull.IO{
			TTY: true, Stdin: true, StdinOnce: true, Rows: 3, Cols: 400,
			Log: hull.LogTarget{
				Driver: "local", Path: "/log", MaxSize: -1, MaxFiles: 3, Compress: true, Attrs: map[string]string{"a": "b"},
				Options: map[string]string{"c": "d", "e": ""}, ContainerID: "x", ContainerName: "y", ImageName: "z",
			},
		},
		attach: &attachMsg{stdin: true, mux: true, keysSet: true, keys: []byte("k"), prelude: []byte("p")},
	}
	var got addMsg
	if err := got.decode(want.encode()); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	b := want.encode()
	for n := range b {
		if new(addMsg).decode(b[:n]) == nil {
			t.Fatalf("the first %d of %d bytes were accepted", n, len(b))
		}
	}
	if new(addMsg).decode(append(b, 0)) == nil {
		t.Error("a byte too many was accepted")
	}
}

func TestErrorsCross(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want error
	}{
		{fmt.Errorf("x: %w", errdefs.ErrNotFound), errdefs.ErrNotFound},
		{os.ErrProcessDone, errdefs.ErrNotFound},
		{stdio.ErrEnded, errdefs.ErrNotFound},
		{errdefs.ErrConflict, errdefs.ErrConflict},
		{errdefs.ErrInvalidArgument, errdefs.ErrInvalidArgument},
		{errdefs.ErrFailedPrecondition, errdefs.ErrFailedPrecondition},
		{errors.ErrUnsupported, errdefs.ErrNotImplemented},
	} {
		if got := decodeErr(encodeErr(c.err)); !errors.Is(got, c.want) || got.Error() != c.err.Error() {
			t.Errorf("%v became %v", c.err, got)
		}
	}
	if got := decodeErr(encodeErr(errors.New("plain"))); got.Error() != "plain" || errors.Unwrap(got) != nil {
		t.Errorf("plain error became %#v", got)
	}
	var x *hull.ExecError
	got := decodeErr(encodeErr(fmt.Errorf("start: %w", &runtime.ExecError{Errno: syscall.EACCES, Path: "/p", Msg: `exec: "/p": permission denied`})))
	if !errors.As(got, &x) || x.Code != 126 || x.Path != "/p" || !errors.Is(got, syscall.EACCES) || got.Error() != `exec "/p": permission denied` {
		t.Errorf("exec error became %#v", got)
	}
}

// TestDescriptors: passed descriptors arrive with their own frame only, more
// than allowed are refused, and none stays open.
func TestDescriptors(t *testing.T) {
	t.Parallel()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	a, err := newConn(fds[0])
	if err != nil {
		t.Fatal(err)
	}
	b, err := newConn(fds[1])
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	_, file := socket(t)
	if err := errors.Join(a.send(1, 1, []byte("one")), a.send(2, 2, make([]byte, 300<<10)[:100], file), a.send(3, 3, nil)); err != nil {
		t.Fatal(err)
	}
	for i, files := range []int{0, 1, 0} {
		f, err := b.recv()
		if err != nil || int(f.kind) != i+1 || len(f.files) != files {
			t.Errorf("frame %d: kind %d with %d files, %v", i, f.kind, len(f.files), err)
		}
		f.closeFiles()
	}
	many := make([]*os.File, maxFiles+1)
	for i := range many {
		many[i] = file
	}
	if err := a.send(1, 1, nil, many...); err == nil {
		t.Error("too many descriptors were sent")
	}
	oob, err := rights(many)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Sendmsg(fds[0], make([]byte, headerSize), oob, nil, 0); err != nil {
		t.Fatal(err)
	}
	if f, err := b.recv(); err == nil || f.files != nil {
		t.Errorf("too many descriptors were received: %v, %v", f.files, err)
	}
	a.close()
}

// FuzzServer: a monitor survives whatever comes in.
func FuzzServer(f *testing.F) {
	frameOf := func(kind uint8, body []byte) []byte {
		b := binary.LittleEndian.AppendUint32(nil, uint32(len(body)))
		return append(append(b, kind, 0, 0, 0, 1, 0, 0, 0), body...)
	}
	add := addMsg{id: "c", plan: []byte("p"), attach: &attachMsg{}}
	for k := range uint8(12) {
		f.Add(frameOf(k, add.encode()))
		f.Add(frameOf(k, []byte("\x01\x00\x00\x00c\x09")))
	}
	f.Add(frameOf(kindList, nil))
	f.Add([]byte("\xff\xff\xff\xff\x02\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() {
			served <- Serve(fds[1], Config{
				Create: func(context.Context, *runtime.Seat, []byte, runtime.Stdio, runtime.Cgroup) (Container, error) {
					return nil, errdefs.ErrNotImplemented
				},
				OpenLog: func(hull.LogTarget) (stdio.LogWriter, error) { return nil, nil },
			})
		}()
		dir := t.TempDir()
		var e enc
		e.u8(version)
		e.str("pod")
		e.str(dir)
		out := append(frameOf(kindPod, e.b), in...)
		sent := make(chan struct{})
		go func() { // it may hang up before it has read everything
			defer close(sent)
			unix.Write(fds[0], out)
			unix.Shutdown(fds[0], unix.SHUT_WR)
		}()
		buf := make([]byte, 64<<10)
		for {
			if n, err := unix.Read(fds[0], buf); n <= 0 && err != unix.EINTR {
				break
			}
		}
		<-sent
		unix.Close(fds[0])
		// It still serves, unless it was told to go.
		c, err := Dial(dir)
		for i := 0; err != nil && i < 200; i++ {
			select {
			case <-served:
				return
			case <-time.After(time.Millisecond):
			}
			c, err = Dial(dir)
		}
		if err != nil {
			t.Fatal(err)
		}
		c.Listen(Events{})
		if err := c.Destroy(t.Context()); err != nil && !errdefs.IsUnavailable(err) {
			t.Fatal(err)
		}
		<-served
		c.Close()
	})
}

// FuzzReply: the engine survives whatever a monitor says.
func FuzzReply(f *testing.F) {
	f.Add(encodeErr(&runtime.ExecError{Errno: 2, Path: "p", Msg: "m"}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, in []byte) {
		if decodeErr(in) == nil {
			t.Error("an error became none")
		}
		d := dec{b: in}
		new(Proc).get(&d)
		if d.done() {
			var e enc
			d = dec{b: in}
			var p Proc
			p.get(&d)
			p.put(&e)
			if !bytes.Equal(e.b, in) {
				t.Errorf("%x became %x", in, e.b)
			}
		}
	})
}
