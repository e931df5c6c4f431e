package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"hull/internal/hull"
)

// fakeEngine is an engine whose processes are functions of this test. It keeps
// the rules that the front door depends on: attach before start, one descriptor
// handed over, wait registered before it returns.
type fakeEngine struct {
	images *fakeImages

	mu    sync.Mutex // guards what follows
	all   []*fakeContainer
	execs map[string]*hull.Exec
	calls []string
	fail  map[string]error // by verb

	last struct { // what the front door asked for
		unlinked string
		spec     hull.Spec
		exec     hull.ExecSpec
		stop     hull.StopRequest
		remove   hull.RemoveRequest
		update   hull.UpdateRequest
		logs     hull.LogsRequest
		copy     hull.CopyToRequest
		tar      []byte
		commit   hull.CommitRequest
		size     [2]uint16
	}
}

type fakeContainer struct {
	rec      hull.Container
	attached []*fakeStream
	log      []hull.LogLine
	done     chan struct{} // closed at exit
	removed  chan struct{}
	exit     hull.Exit
}

// fakeStream is a monitor's end of an attach.
type fakeStream struct {
	conn *os.File
	a    hull.Attach
}

var (
	_ Containers = (*fakeEngine)(nil)
	_ Images     = (*fakeImages)(nil)
	_ Volumes    = (*fakeVolumes)(nil)
	_ Networks   = (*fakeNetworks)(nil)
	_ Events     = (*fakeEvents)(nil)
)

func newFakeEngine(i *fakeImages) *fakeEngine {
	return &fakeEngine{images: i, execs: map[string]*hull.Exec{}, fail: map[string]error{}}
}

var epoch = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func fakeID(n int) string {
	return fmt.Sprintf("%02x", n+0xa0) + strings.Repeat("0123456789abcdef", 4)[:62]
}

func (e *fakeEngine) called(verb string) error {
	e.calls = append(e.calls, verb)
	return e.fail[verb]
}

func (e *fakeEngine) find(ref string) (*fakeContainer, error) {
	for _, c := range e.all {
		if c.rec.ID == ref || c.rec.Name == ref {
			return c, nil
		}
	}
	for _, c := range e.all {
		if ref != "" && strings.HasPrefix(c.rec.ID, ref) {
			return c, nil
		}
	}
	return nil, errdefs.ErrNotFound.WithMessage("No such container: " + ref)
}

// get locks, notes the verb and finds.
func (e *fakeEngine) get(verb, ref string) (*fakeContainer, func(), error) {
	e.mu.Lock()
	c, err := e.find(ref)
	if f := e.called(verb); f != nil {
		err = f
	}
	if err != nil {
		e.mu.Unlock()
		return nil, nil, err
	}
	return c, e.mu.Unlock, nil
}

func (e *fakeEngine) Create(ctx context.Context, name string, s hull.Spec) (hull.Container, []string, error) {
	img, err := e.images.Resolve(ctx, s.Image, s.Platform)
	if err != nil {
		return hull.Container{}, nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last.spec = s
	if err := e.called("create"); err != nil {
		return hull.Container{}, nil, err
	}
	if c, err := e.find(name); err == nil && name != "" {
		return hull.Container{}, nil, &hull.NameTakenError{Name: name, ID: c.rec.ID}
	}
	n := len(e.all)
	if name == "" {
		name = fmt.Sprintf("quick_hull%d", n)
	}
	argv := slices.Concat(s.Process.Entrypoint, s.Process.Cmd)
	if len(argv) == 0 {
		argv = img.Config.Cmd
	}
	c := &fakeContainer{done: make(chan struct{}), removed: make(chan struct{}), rec: hull.Container{
		ID: fakeID(n), PodID: fakeID(n), Name: name, Created: epoch.Add(time.Duration(n) * time.Second), Spec: s,
		Image: hull.ImageRef{Name: s.Image, ID: img.ID, Manifest: img.Manifest, Platform: "linux/amd64"},
		Resolved: hull.Resolved{
			Path: argv[0], Args: argv[1:], Cmd: s.Process.Cmd, Entrypoint: s.Process.Entrypoint, Env: s.Process.Env,
			WorkDir: "/", Labels: s.Labels, Exposed: s.Network.Exposed,
		},
		Status: hull.Status{Phase: hull.Created},
	}}
	e.all = append(e.all, c)
	return c.rec, []string{"a warning of the engine"}, nil
}

func (e *fakeEngine) Start(_ context.Context, ref string) error {
	c, unlock, err := e.get("start", ref)
	if err != nil {
		return err
	}
	defer unlock()
	if err := c.rec.CanStart(); err != nil {
		return err
	}
	if c.rec.Resolved.Path == "missing" {
		// As dockerd: a failed start ends attached streams, and the container is
		// removed when it is --rm; the CLI waits for both.
		for _, s := range c.attached {
			_ = s.conn.Close()
		}
		c.attached = nil
		c.rec.Status.ExitCode = 127
		if c.rec.Spec.AutoRemove {
			e.all = slices.DeleteFunc(e.all, func(o *fakeContainer) bool { return o == c })
			close(c.done)
			close(c.removed)
		}
		return fmt.Errorf("start process: %w", &hull.ExecError{Code: 127, Path: "missing", Err: errors.New("not found")})
	}
	c.rec.Status.Phase, c.rec.Status.Pid, c.rec.Status.StartedAt = hull.Running, 4711, epoch
	c.rec.Status.Endpoint = hull.Endpoint{
		NetNS: "/run/hull/netns/x", Networks: map[string]hull.NetworkEndpoint{"bridge": {
			NetworkID: "net0", EndpointID: "ep0", MacAddress: "02:42:ac:11:00:02", IPv4: "172.17.0.2", Gateway4: "172.17.0.1", PrefixLen4: 16,
		}},
		Ports: []hull.PublishedPort{{ContainerPort: 80, Proto: "tcp", HostPort: 8080}},
	}
	streams := c.attached
	c.attached = nil
	go e.run(c, streams)
	return nil
}

// run is the workload: echo, cat (until end of input), hold (until killed).
func (e *fakeEngine) run(c *fakeContainer, streams []*fakeStream) {
	out := func(stream, text string) {
		e.mu.Lock()
		c.log = append(c.log, hull.LogLine{Stream: stream, Time: epoch, Data: []byte(text), Attrs: map[string]string{"a": "b"}})
		e.mu.Unlock()
		for _, s := range streams {
			if stream == "stdout" && s.a.Stdout || stream == "stderr" && s.a.Stderr {
				_, _ = frames{s.conn, s.a.Mux}.write(stream, []byte(text))
			}
		}
	}
	code := 0
	switch c.rec.Resolved.Path {
	case "echo":
		out("stdout", strings.Join(c.rec.Resolved.Args, " ")+"\n")
	case "fail":
		out("stderr", "it failed\n")
		code = 3
	case "cat":
		for _, s := range streams {
			in, _ := io.ReadAll(io.MultiReader(bytes.NewReader(s.a.Prelude), s.conn))
			out("stdout", string(in))
		}
	case "hold":
		<-c.removed
		code = 137
	}
	e.exited(c, code)
	for _, s := range streams {
		_ = s.conn.Close()
	}
}

func (e *fakeEngine) exited(c *fakeContainer, code int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c.rec.Status.Phase, c.rec.Status.Pid, c.rec.Status.ExitCode = hull.Stopped, 0, code
	c.rec.Status.FinishedAt = epoch.Add(time.Second)
	c.exit = hull.Exit{Code: code, At: c.rec.Status.FinishedAt}
	close(c.done)
	if c.rec.Spec.AutoRemove {
		e.all = slices.DeleteFunc(e.all, func(o *fakeContainer) bool { return o == c })
		select {
		case <-c.removed:
		default:
			close(c.removed)
		}
	}
}

func (e *fakeEngine) Stop(_ context.Context, ref string, r hull.StopRequest) error {
	c, unlock, err := e.get("stop", ref)
	if err != nil {
		return err
	}
	e.last.stop = r
	if !c.rec.Status.Phase.Live() {
		unlock()
		return fmt.Errorf("stop: %w", hull.ErrNotModified)
	}
	close(c.removed)
	unlock()
	<-c.done
	return nil
}

func (e *fakeEngine) Restart(_ context.Context, ref string, r hull.StopRequest) error {
	_, unlock, err := e.get("restart", ref)
	if err == nil {
		e.last.stop = r
		unlock()
	}
	return err
}

func (e *fakeEngine) Kill(_ context.Context, ref, sig string) error {
	c, unlock, err := e.get("kill "+sig, ref)
	if err != nil {
		return err
	}
	defer unlock()
	if !c.rec.Status.Phase.Live() {
		return fmt.Errorf("cannot kill container: %s: container %s is not running: %w", ref, c.rec.ID, errdefs.ErrConflict)
	}
	return nil
}

func (e *fakeEngine) phase(verb, ref string, p hull.Phase) error {
	c, unlock, err := e.get(verb, ref)
	if err != nil {
		return err
	}
	defer unlock()
	c.rec.Status.Phase = p
	return nil
}

func (e *fakeEngine) Pause(_ context.Context, ref string) error {
	return e.phase("pause", ref, hull.Paused)
}

func (e *fakeEngine) Unpause(_ context.Context, ref string) error {
	return e.phase("unpause", ref, hull.Running)
}

func (e *fakeEngine) Rename(_ context.Context, ref, name string) error {
	c, unlock, err := e.get("rename", ref)
	if err != nil {
		return err
	}
	defer unlock()
	if o, err := e.find(name); err == nil {
		return &hull.NameTakenError{Name: name, ID: o.rec.ID}
	}
	c.rec.Name = name
	return nil
}

func (e *fakeEngine) TakeOver(_ context.Context, ref, from string) ([]hull.PublishedPort, error) {
	return []hull.PublishedPort{{ContainerPort: 80, Proto: "tcp", HostIP: "0.0.0.0", HostPort: 8080}}, nil
}

func (e *fakeEngine) Publish(_ context.Context, ref string, _, _ []hull.PortBinding) ([]hull.PublishedPort, error) {
	_, unlock, err := e.get("publish", ref)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return []hull.PublishedPort{{ContainerPort: 80, Proto: "tcp", HostIP: "0.0.0.0", HostPort: 8080}}, nil
}

func (e *fakeEngine) Update(_ context.Context, ref string, r hull.UpdateRequest) ([]string, error) {
	_, unlock, err := e.get("update", ref)
	if err != nil {
		return nil, err
	}
	defer unlock()
	e.last.update = r
	return nil, nil
}

func (e *fakeEngine) Remove(_ context.Context, ref string, r hull.RemoveRequest) error {
	c, unlock, err := e.get("remove", ref)
	if err != nil {
		return err
	}
	e.last.remove = r
	if c.rec.Status.Phase.Live() {
		if !r.Force {
			unlock()
			return fmt.Errorf("cannot remove container %q: container is running: stop the container before removing or force remove: %w", "/"+c.rec.Name, errdefs.ErrConflict)
		}
		close(c.removed)
		unlock()
		<-c.done
		e.mu.Lock()
		unlock = e.mu.Unlock
	}
	defer unlock()
	e.all = slices.DeleteFunc(e.all, func(o *fakeContainer) bool { return o == c })
	select {
	case <-c.removed:
	default:
		close(c.removed)
	}
	return nil
}

func (e *fakeEngine) Container(_ context.Context, ref string) (hull.Container, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c, err := e.find(ref)
	if err != nil {
		return hull.Container{}, err
	}
	return c.rec, nil
}

func (e *fakeEngine) List(context.Context) ([]hull.Container, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []hull.Container
	for _, c := range slices.Backward(e.all) {
		out = append(out, c.rec)
	}
	return out, e.fail["list"]
}

func (e *fakeEngine) Wait(_ context.Context, ref string, cond hull.WaitCondition) (func(context.Context) (hull.Exit, error), error) {
	c, unlock, err := e.get("wait "+string(cond), ref)
	if err != nil {
		return nil, err
	}
	defer unlock()
	ch := c.done
	if cond == hull.WaitRemoved {
		ch = c.removed
	}
	return func(ctx context.Context) (hull.Exit, error) {
		select {
		case <-ch:
			<-c.done
			return c.exit, nil
		case <-ctx.Done():
			return hull.Exit{}, ctx.Err()
		}
	}, nil
}

func (e *fakeEngine) Attach(_ context.Context, ref string, a hull.Attach) error {
	c, unlock, err := e.get("attach", ref)
	if err != nil {
		return err
	}
	defer unlock()
	dup, err := dupFile(a.Conn)
	if err != nil {
		return err
	}
	if err := a.Ready(); err != nil { // under the lock: a start waits
		_ = dup.Close()
		return err
	}
	c.attached = append(c.attached, &fakeStream{conn: dup, a: a})
	return nil
}

func (e *fakeEngine) Resize(_ context.Context, ref string, rows, cols uint16) error {
	_, unlock, err := e.get("resize", ref)
	if err != nil {
		return err
	}
	defer unlock()
	e.last.size = [2]uint16{rows, cols}
	return nil
}

type fakeLog struct {
	lines  []hull.LogLine
	follow bool
	closed chan struct{}
	once   sync.Once
}

func (l *fakeLog) Next() (hull.LogLine, error) {
	if len(l.lines) > 0 {
		out := l.lines[0]
		l.lines = l.lines[1:]
		return out, nil
	}
	if l.follow {
		<-l.closed
	}
	return hull.LogLine{}, io.EOF
}

func (l *fakeLog) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (e *fakeEngine) Logs(_ context.Context, ref string, r hull.LogsRequest) (hull.LogReader, error) {
	c, unlock, err := e.get("logs", ref)
	if err != nil {
		return nil, err
	}
	defer unlock()
	e.last.logs = r
	return &fakeLog{lines: slices.Clone(c.log), follow: r.Follow, closed: make(chan struct{})}, nil
}

func (e *fakeEngine) Top(_ context.Context, ref, args string) ([]string, [][]string, error) {
	_, unlock, err := e.get("top "+args, ref)
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	return []string{"PID", "CMD"}, [][]string{{"1", "hold"}}, nil
}

func (e *fakeEngine) Stats(_ context.Context, ref string) (hull.Stats, error) {
	c, unlock, err := e.get("stats", ref)
	if err != nil {
		return hull.Stats{}, err
	}
	defer unlock()
	if !c.rec.Status.Phase.Live() {
		return hull.Stats{}, nil
	}
	n := uint64(len(e.calls))
	return hull.Stats{
		Read: epoch, CPU: hull.CPUStats{Total: 1e6 * n, User: 7e5, System: 3e5}, SystemCPU: 1e9 * n, OnlineCPUs: 2,
		Memory: hull.MemoryStats{Usage: 5 << 20, Limit: 1 << 30, Raw: map[string]uint64{"cache": 1}},
		Pids:   hull.PidsStats{Current: 1}, Networks: map[string]hull.NetStats{"eth0": {RxBytes: 10}},
		Blkio: []hull.BlkioEntry{{Kind: "service_bytes", Major: 8, Op: "read", Value: 4096}},
	}, nil
}

func (e *fakeEngine) Size(_ context.Context, ref string) (int64, int64, error) {
	_, unlock, err := e.get("size", ref)
	if err != nil {
		return 0, 0, err
	}
	defer unlock()
	return 100, 2000, nil
}

func (e *fakeEngine) Changes(_ context.Context, ref string) ([]hull.Change, error) {
	_, unlock, err := e.get("changes", ref)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return []hull.Change{{Path: "/etc", Kind: 0}, {Path: "/etc/new", Kind: 1}, {Path: "/gone", Kind: 2}}, nil
}

func (e *fakeEngine) Export(_ context.Context, ref string, w io.Writer) error {
	_, unlock, err := e.get("export", ref)
	if err != nil {
		return err
	}
	defer unlock()
	_, err = io.WriteString(w, "a tar")
	return err
}

var fakeStat = hull.PathStat{Name: "f", Size: 3, Mode: 0o644, Mtime: epoch, LinkTarget: ""}

func (e *fakeEngine) StatPath(_ context.Context, ref, path string) (hull.PathStat, error) {
	_, unlock, err := e.get("stat", ref)
	if err != nil {
		return hull.PathStat{}, err
	}
	defer unlock()
	if path == "/missing" {
		return hull.PathStat{}, fmt.Errorf("stat %s: %w", path, errdefs.ErrNotFound)
	}
	return fakeStat, nil
}

func (e *fakeEngine) CopyFrom(ctx context.Context, ref, path string) (io.ReadCloser, hull.PathStat, error) {
	st, err := e.StatPath(ctx, ref, path)
	if err != nil {
		return nil, st, err
	}
	return io.NopCloser(strings.NewReader("a tar")), st, nil
}

func (e *fakeEngine) CopyTo(_ context.Context, ref string, r hull.CopyToRequest, tar io.Reader) error {
	_, unlock, err := e.get("copyto", ref)
	if err != nil {
		return err
	}
	defer unlock()
	e.last.copy = r
	e.last.tar, err = io.ReadAll(tar)
	return err
}

func (e *fakeEngine) Commit(_ context.Context, ref string, r hull.CommitRequest) (string, error) {
	_, unlock, err := e.get("commit", ref)
	if err != nil {
		return "", err
	}
	defer unlock()
	e.last.commit = r
	return "sha256:" + strings.Repeat("c", 64), nil
}

func (e *fakeEngine) Prune(_ context.Context, keep func(hull.Container) bool) (hull.PruneReport, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var r hull.PruneReport
	e.all = slices.DeleteFunc(e.all, func(c *fakeContainer) bool {
		gone := !c.rec.Status.Phase.Live() && !keep(c.rec)
		if gone {
			r.Deleted = append(r.Deleted, c.rec.ID)
			r.Reclaimed += 100
		}
		return gone
	})
	return r, nil
}

func (e *fakeEngine) ExecCreate(_ context.Context, ref string, s hull.ExecSpec) (string, error) {
	c, unlock, err := e.get("exec create", ref)
	if err != nil {
		return "", err
	}
	defer unlock()
	if !c.rec.Status.Phase.Live() {
		return "", fmt.Errorf("container %s is not running: %w", c.rec.ID, errdefs.ErrConflict)
	}
	e.last.exec = s
	id := fakeID(0x40 + len(e.execs))
	e.execs[id] = &hull.Exec{ID: id, ContainerID: c.rec.ID, Spec: s}
	return id, nil
}

func (e *fakeEngine) ExecStart(_ context.Context, id string, a *hull.Attach, rows, cols uint16) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	x := e.execs[id]
	code := 0
	x.ExitCode, x.Started = &code, true
	e.last.size = [2]uint16{rows, cols}
	if x.Spec.Args[0] == "missing" {
		code = 127
		return &hull.ExecError{Code: 127, Path: "missing"}
	}
	if a == nil {
		return nil
	}
	dup, err := dupFile(a.Conn)
	if err != nil {
		return err
	}
	x.Running = true
	att := *a
	go func() {
		defer func() { _ = dup.Close() }()
		text := strings.Join(x.Spec.Args[1:], " ") + "\n"
		if x.Spec.Args[0] == "cat" {
			in, _ := io.ReadAll(io.MultiReader(bytes.NewReader(att.Prelude), dup))
			text = string(in)
		}
		_, _ = frames{dup, att.Mux}.write("stdout", []byte(text))
		e.mu.Lock()
		x.Running = false
		e.mu.Unlock()
	}()
	return nil
}

func (e *fakeEngine) ExecResize(_ context.Context, _ string, rows, cols uint16) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last.size = [2]uint16{rows, cols}
	return nil
}

func (e *fakeEngine) Exec(_ context.Context, id string) (hull.Exec, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if x, ok := e.execs[id]; ok {
		return *x, nil
	}
	return hull.Exec{}, fmt.Errorf("exec %s: %w", id, errdefs.ErrNotFound)
}

func (e *fakeEngine) ExecWait(ctx context.Context, id string) (hull.Exec, error) {
	for {
		x, err := e.Exec(ctx, id)
		if err != nil || x.Started && !x.Running || ctx.Err() != nil {
			return x, err
		}
		time.Sleep(time.Millisecond)
	}
}

func (e *fakeEngine) Examine(context.Context) []hull.Finding {
	return []hull.Finding{{Subject: "kernel", Verdict: hull.Fine, Says: "Linux"}, {Subject: "nftables", Verdict: hull.Broken, Says: "no", Means: "no networks", Next: "modprobe"}}
}

func (e *fakeEngine) Info(context.Context) (hull.EngineInfo, error) {
	return hull.EngineInfo{
		ID: "engine-1", Name: "host", Root: "/var/lib/hull", Kernel: "6.18", OS: "Debian", Architecture: "x86_64", CPUs: 2, Memory: 1 << 34,
		CgroupVersion: 1, Containers: len(e.all), LogDrivers: []string{"json-file", "local", "none"},
		Isolations: map[hull.Isolation]hull.IsolationInfo{"container": {Available: true}, "vm": {Reason: "no kernel"}},
	}, e.fail["info"]
}

func (e *fakeEngine) Unlink(_ context.Context, name string) error {
	e.last.unlinked = name
	return nil
}
