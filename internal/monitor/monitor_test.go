package monitor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hull/internal/hull"
	"hull/internal/runtime"
)

// hostProcess runs plain host processes in place of containers: everything of a
// monitor but the runtime. It waits at a pipe until it is started.
type hostProcess struct {
	cmd   *exec.Cmd
	pidfd int
	gate  *os.File
	args  []string
	once  sync.Once
	state syscall.WaitStatus
}

// A plan is the arguments, separated by NUL.
func hostCreate(_ context.Context, _ *runtime.Seat, plan []byte, s runtime.Stdio, _ runtime.Cgroup) (Container, error) {
	p, err := hostStart(plan, s)
	if err != nil {
		return nil, err
	}
	return hostContainer{p}, nil
}

func hostStart(plan []byte, s runtime.Stdio) (*hostProcess, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	args := strings.Split(string(plan), "\x00")
	cmd := exec.Command("/bin/sh", append([]string{"-c", `read -r _ <&3 || kill -9 $$; exec 3<&-; exec "$@"`, "sh"}, args...)...)
	if s.In != nil {
		cmd.Stdin = s.In
	}
	if s.Out != nil {
		cmd.Stdout, cmd.Stderr = s.Out, s.Err
	}
	cmd.ExtraFiles = []*os.File{r}
	fd := -1
	cmd.SysProcAttr = &syscall.SysProcAttr{PidFD: &fd, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, err
	}
	fd, err = unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		return nil, err
	}
	return &hostProcess{cmd: cmd, pidfd: fd, gate: w, args: args}, nil
}

func (p *hostProcess) Pid() int          { return p.cmd.Process.Pid }
func (p *hostProcess) Pidfd() int        { return p.pidfd }
func (p *hostProcess) Console() *os.File { return nil }
func (p *hostProcess) Start(context.Context) error {
	if _, err := exec.LookPath(p.args[0]); err != nil {
		p.cmd.Process.Kill()
		return &runtime.ExecError{Errno: syscall.ENOENT, Path: p.args[0], Msg: "no such program"}
	}
	_, err := p.gate.WriteString("go\n")
	return err
}
func (p *hostProcess) Signal(sig syscall.Signal) error { return p.cmd.Process.Signal(sig) }
func (p *hostProcess) Wait(context.Context) (syscall.WaitStatus, error) {
	p.once.Do(func() {
		p.cmd.Wait()
		p.state = p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	})
	return p.state, nil
}

func (p *hostProcess) Resize(uint16, uint16) error {
	return fmt.Errorf("no terminal: %w", errdefs.ErrFailedPrecondition)
}

func (p *hostProcess) Close() error {
	p.gate.Close()
	return unix.Close(p.pidfd)
}

type hostContainer struct{ p *hostProcess }

func (c hostContainer) Main() Process  { return c.p }
func (c hostContainer) Destroy() error { return nil }
func (c hostContainer) Exec(_ context.Context, plan []byte, s runtime.Stdio, _ runtime.Cgroup) (Process, error) {
	return hostStart(plan, s)
}

// pod is a monitor in this process.
type pod struct {
	t      testing.TB
	dir    string
	c      *Client
	exits  *exits
	served chan error
}

type exits struct {
	mu sync.Mutex
	m  map[string]hull.Exit
	ch chan struct{}
}

func (e *exits) add(id string, x hull.Exit) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.m[id] = x
	close(e.ch)
	e.ch = make(chan struct{})
}

func (e *exits) wait(t testing.TB, id string) hull.Exit {
	t.Helper()
	limit := time.After(time.Minute)
	for {
		e.mu.Lock()
		x, ok := e.m[id]
		ch := e.ch
		e.mu.Unlock()
		if ok {
			return x
		}
		select {
		case <-ch:
		case <-limit:
			t.Fatalf("%s did not end", id)
		}
	}
}

func newPod(t testing.TB) *pod {
	t.Helper()
	p := servePod(t, Config{Create: hostCreate, OpenLog: openLog})
	if err := p.c.Pod("pod", p.dir); err != nil {
		t.Fatal(err)
	}
	return p
}

// servePod is a monitor that has no pod yet.
func servePod(t testing.TB, cfg Config) *pod {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := &pod{t: t, dir: t.TempDir(), exits: &exits{m: map[string]hull.Exit{}, ch: make(chan struct{})}, served: make(chan error, 1)}
	go func() { p.served <- Serve(fds[1], cfg) }()
	c, err := newConn(fds[0])
	if err != nil {
		t.Fatal(err)
	}
	p.c = newClient(c, os.Getpid(), nil)
	p.c.Listen(Events{Exited: p.exits.add})
	t.Cleanup(func() {
		p.c.Destroy(context.Background())
		select {
		case err := <-p.served:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(time.Minute):
			t.Error("the monitor did not end")
		}
		p.c.Close()
	})
	return p
}

func (p *pod) add(id, container string, io hull.IO, args ...string) {
	p.t.Helper()
	if _, err := p.c.Add(p.t.Context(), AddRequest{ID: id, Container: container, Plan: []byte(strings.Join(args, "\x00")), IO: io}); err != nil {
		p.t.Fatal(err)
	}
}

func (p *pod) start(id string) {
	p.t.Helper()
	if err := p.c.Start(p.t.Context(), id); err != nil {
		p.t.Fatal(err)
	}
}

// socket is a connected pair: theirs goes to the monitor.
func socket(t testing.TB) (ours, theirs *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs = os.NewFile(uintptr(fds[0]), "client"), os.NewFile(uintptr(fds[1]), "server")
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	ours.SetDeadline(time.Now().Add(20 * time.Second))
	return ours, theirs
}

func (p *pod) attach(id string, a hull.Attach) *os.File {
	p.t.Helper()
	ours, theirs := socket(p.t)
	a.Conn = theirs
	if err := p.c.Attach(p.t.Context(), id, a); err != nil {
		p.t.Fatal(err)
	}
	theirs.Close()
	return ours
}

func read(t *testing.T, f *os.File) string {
	t.Helper()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRun(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	log := filepath.Join(p.dir, "log")
	p.add("c", "", hull.IO{Log: hull.LogTarget{Driver: "json-file", Path: log}}, "sh", "-c", "echo out; echo err >&2; exit 3")
	a := p.attach("c", hull.Attach{Stdout: true, Stderr: true, Mux: true})
	p.start("c")
	x := p.exits.wait(t, "c")
	if x.Code != 3 || x.OOMKilled || x.Error != "" || time.Since(x.At) > time.Minute {
		t.Errorf("exit %+v", x)
	}
	got := read(t, a)
	for _, want := range []string{"\x01\x00\x00\x00\x00\x00\x00\x04out\n", "\x02\x00\x00\x00\x00\x00\x00\x04err\n"} {
		if !strings.Contains(got, want) || len(got) != 24 {
			t.Errorf("client got %q", got)
		}
	}
	b, err := os.ReadFile(log)
	if err != nil || !bytes.Contains(b, []byte(`{"log":"out\n","stream":"stdout",`)) || !bytes.Contains(b, []byte(`{"log":"err\n","stream":"stderr",`)) {
		t.Errorf("log %q, %v", b, err)
	}
	b, err = os.ReadFile(ExitFile(p.dir, "c"))
	if err != nil || !strings.HasPrefix(string(b), `{"code":3,"signal":0,"oom":false,"time":`) {
		t.Errorf("exit file %q, %v", b, err)
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	ctx := t.Context()
	p.add("c", "", hull.IO{}, "sleep", "1000")
	if _, err := p.c.Add(ctx, AddRequest{ID: "c", Plan: []byte("true")}); !errdefs.IsAlreadyExists(err) && !errdefs.IsConflict(err) {
		t.Errorf("same id again: %v", err)
	}
	if _, err := p.c.Add(ctx, AddRequest{ID: "../x", Plan: []byte("true")}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("id with a slash: %v", err)
	}
	if _, err := p.c.Add(ctx, AddRequest{ID: "e", Container: "nope", Plan: []byte("true")}); !errdefs.IsNotFound(err) {
		t.Errorf("exec in nothing: %v", err)
	}
	if err := p.c.Start(ctx, "nope"); !errdefs.IsNotFound(err) {
		t.Errorf("start nothing: %v", err)
	}
	if err := p.c.Resize(ctx, "c", 1, 1); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("resize without a terminal: %v", err)
	}
	p.add("missing", "", hull.IO{}, "no-such-program")
	var x *hull.ExecError
	if err := p.c.Start(ctx, "missing"); !errors.As(err, &x) || x.Code != 127 || !errors.Is(err, syscall.ENOENT) {
		t.Errorf("start of a missing program: %v", err)
	}
	if x := p.exits.wait(t, "missing"); x.Code != 127 {
		t.Errorf("exit %+v", x)
	}
	p.start("c")
	if err := p.c.Start(ctx, "c"); !errdefs.IsConflict(err) {
		t.Errorf("second start: %v", err)
	}
	if err := p.c.Signal(ctx, "c", syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if x := p.exits.wait(t, "c"); x.Code != 143 {
		t.Errorf("exit %+v", x)
	}
	if err := p.c.Signal(ctx, "c", syscall.SIGTERM); !errdefs.IsNotFound(err) {
		t.Errorf("signal to the dead: %v", err)
	}
	if _, err := p.c.Add(ctx, AddRequest{ID: "e", Container: "c", Plan: []byte("true")}); !errdefs.IsNotFound(err) {
		t.Errorf("exec in the dead: %v", err)
	}
}
