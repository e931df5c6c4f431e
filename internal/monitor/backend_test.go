package monitor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hull/internal/hull"
)

// hostBackend runs plain host processes for a pod.
type hostBackend struct {
	pod    BackendPod
	closed chan struct{}
}

func (b *hostBackend) Create(ctx context.Context, r CreateRequest) (Container, error) {
	return hostCreate(ctx, nil, r.Spec, r.Stdio, r.Cgroup)
}

func (b *hostBackend) Call(_ context.Context, op string, body []byte, files []*os.File) ([]byte, []*os.File, error) {
	switch op {
	case "echo":
		if len(files) == 1 { // the monitor closes what it got, and what it sent
			fd, err := unix.Dup(int(files[0].Fd()))
			return append(b.pod.Config, body...), []*os.File{os.NewFile(uintptr(fd), "copy")}, err
		}
		return append(b.pod.Config, body...), nil, nil
	case "panic":
		panic("a bug")
	}
	return nil, nil, errdefs.ErrNotImplemented
}

func (b *hostBackend) Close() error { close(b.closed); return nil }

// remoteProcess is a process of no host: it ends when its boundary does.
type remoteProcess struct {
	Process
	lost chan struct{}
}

func (p remoteProcess) Pid() int   { return 0 }
func (p remoteProcess) Pidfd() int { return -1 }
func (p remoteProcess) Wait(context.Context) (syscall.WaitStatus, error) {
	<-p.lost
	return 0, &LostError{Text: "the machine has died"}
}
func (p remoteProcess) OOMKilled() bool             { return true }
func (p remoteProcess) Start(context.Context) error { close(p.lost); return nil }
func (p remoteProcess) Signal(syscall.Signal) error { return nil }
func (p remoteProcess) Close() error                { return nil }

type remoteContainer struct {
	Container
	p remoteProcess
}

func (c remoteContainer) Main() Process  { return c.p }
func (c remoteContainer) Destroy() error { return nil }

type remoteBackend struct{ hostBackend }

func (b *remoteBackend) Create(context.Context, CreateRequest) (Container, error) {
	return remoteContainer{p: remoteProcess{lost: make(chan struct{})}}, nil
}

func backendPod(t *testing.T, make NewBackend) *pod {
	t.Helper()
	p := servePod(t, Config{Create: hostCreate, OpenLog: openLog, Backends: map[string]NewBackend{"host": make}})
	if err := p.c.PodWith("pod", p.dir, "host", []byte("conf-")); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestBackend(t *testing.T) {
	t.Parallel()
	closed := make(chan struct{})
	p := backendPod(t, func(b BackendPod) (Backend, error) { return &hostBackend{b, closed}, nil })
	ctx := t.Context()
	p.add("c", "", hull.IO{}, "sh", "-c", "echo out; exit 3")
	a := p.attach("c", hull.Attach{Stdout: true})
	p.start("c")
	if got := read(t, a); got != "out\n" {
		t.Errorf("client got %q", got)
	}
	if x := p.exits.wait(t, "c"); x.Code != 3 {
		t.Errorf("exit %+v", x)
	}
	ours, theirs := socket(t)
	body, files, err := p.c.Call(ctx, "echo", []byte("body"), theirs)
	if err != nil || string(body) != "conf-body" || len(files) != 1 {
		t.Fatalf("call gave %q, %v, %v", body, files, err)
	}
	theirs.Close()
	if _, err := files[0].WriteString("through"); err != nil {
		t.Error(err)
	}
	files[0].Close()
	if got := read(t, ours); got != "through" { // and nobody else holds the other end
		t.Errorf("read %q", got)
	}
	if _, _, err := p.c.Call(ctx, "panic", nil); err == nil || !strings.Contains(err.Error(), "a bug") {
		t.Errorf("panicking call: %v", err)
	}
	if _, _, err := p.c.Call(ctx, "fly", nil); !errdefs.IsNotImplemented(err) {
		t.Errorf("unknown call: %v", err)
	}
	if err := p.c.Destroy(ctx); err != nil {
		t.Error(err)
	}
	select {
	case <-closed:
	case <-time.After(time.Minute):
		t.Error("the backend was not closed")
	}
}

// TestBackendLost: a process without a pid ends with its boundary, and the reason
// is told.
func TestBackendLost(t *testing.T) {
	t.Parallel()
	p := backendPod(t, func(b BackendPod) (Backend, error) {
		return &remoteBackend{hostBackend{b, make(chan struct{})}}, nil
	})
	p.add("c", "", hull.IO{}, "")
	p.start("c")
	if x := p.exits.wait(t, "c"); x.Code != 137 || !x.OOMKilled || x.Error != "the machine has died" {
		t.Errorf("exit %+v", x)
	}
}

func TestBackendMissing(t *testing.T) {
	t.Parallel()
	p := backendPod(t, func(BackendPod) (Backend, error) { return nil, errors.New("no machine here") })
	_, err := p.c.Add(t.Context(), AddRequest{ID: "c", Plan: []byte("true")})
	if err == nil || !strings.Contains(err.Error(), "no machine here") {
		t.Errorf("add to a backend that cannot be: %v", err)
	}
	p = servePod(t, Config{Create: hostCreate, OpenLog: openLog})
	if err := p.c.PodWith("pod", p.dir, "other", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := p.c.Add(t.Context(), AddRequest{ID: "c", Plan: []byte("true")}); !errdefs.IsNotImplemented(err) {
		t.Errorf("add to an unknown backend: %v", err)
	}
	plain := newPod(t)
	if _, _, err := plain.c.Call(t.Context(), "echo", nil); !errdefs.IsNotImplemented(err) {
		t.Errorf("call without a backend: %v", err)
	}
}

// TestAhead: what a backend has made in the pool is its pod's, and the end of the engine
// ends the making.
func TestAhead(t *testing.T) {
	t.Parallel()
	begun := make(chan struct{})
	cfg := Config{
		Create: hostCreate, OpenLog: openLog,
		Backends: map[string]NewBackend{"host": func(b BackendPod) (Backend, error) {
			if b.Ahead != "made of conf and file" {
				return nil, fmt.Errorf("what was made ahead is %v", b.Ahead)
			}
			return &hostBackend{b, make(chan struct{})}, nil
		}},
		Ahead: map[string]Ahead{
			"host": func(_ context.Context, conf []byte, files []*os.File) (any, error) {
				content, err := io.ReadAll(files[0])
				return "made of " + string(conf) + " and " + string(content), err
			},
			"broken": func(context.Context, []byte, []*os.File) (any, error) {
				return nil, errors.New("nothing to make it of")
			},
			"long": func(ctx context.Context, _ []byte, _ []*os.File) (any, error) {
				close(begun)
				<-ctx.Done()
				return nil, ctx.Err()
			},
		},
	}
	serve := func() (*Client, <-chan error) {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() { served <- Serve(fds[1], cfg) }()
		c, err := newConn(fds[0])
		if err != nil {
			t.Fatal(err)
		}
		return newClient(c, os.Getpid(), nil), served
	}
	ends := func(served <-chan error) {
		t.Helper()
		select {
		case err := <-served:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(time.Minute):
			t.Error("the monitor did not end")
		}
	}

	c, served := serve()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("file"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := c.Ahead("host", []byte("conf"), time.Minute, f); err != nil {
		t.Fatal(err)
	}
	if err := c.PodWith("pod", t.TempDir(), "host", []byte("conf-")); err != nil {
		t.Fatal(err)
	}
	c.Listen(Events{})
	if _, _, err := c.Call(t.Context(), "echo", nil); err != nil {
		t.Error(err)
	}
	if err := c.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
	ends(served)

	c, served = serve()
	if err := c.Ahead("broken", nil, time.Minute); err == nil || !strings.Contains(err.Error(), "nothing to make it of") {
		t.Errorf("what cannot be made: %v", err)
	}
	c.Close()
	ends(served)

	c, served = serve()
	go func() {
		<-begun
		c.Close()
	}()
	if err := c.Ahead("long", nil, time.Minute); err == nil {
		t.Error("what an engine did not wait for is there")
	}
	ends(served)
}
