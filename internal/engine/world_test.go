package engine

import (
	"context"
	"errors"
	"fmt"
	"hull/internal/driver"
	"hull/internal/hull"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

var errInjected = errors.New("injected")

// world is every dependency of the engine at once: it counts what is open, and
// fails the n-th acquisition.
type world struct {
	mu     sync.Mutex
	failAt int
	calls  int
	open   map[string]int
	log    []string // what was called, in order
	events []string

	pods       map[string]hull.Pod
	containers map[string]hull.Container
	boxes      map[string]*box
	img        hull.Image

	running func() // called when a workload runs, before the engine hears of it
}

func newWorld() *world {
	return &world{
		open: map[string]int{}, pods: map[string]hull.Pod{}, containers: map[string]hull.Container{}, boxes: map[string]*box{},
		img: hull.Image{ID: "sha256:1", Config: hull.ImageConfig{Cmd: []string{"app"}}},
	}
}

func (w *world) engine(t *testing.T) *Engine {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/pods", 0o700); err != nil {
		t.Fatal(err)
	}
	return New(Config{RunDir: dir, DefaultIsolation: "fake", DefaultLogDriver: "json-file", StopTimeout: time.Second}, Parts{
		Drivers: map[hull.Isolation]driver.Driver{"fake": fdriver{w}},
		Images:  fimages{w}, Volumes: fvolumes{w}, Networks: fnetworks{w}, Logs: flogs{w}, Store: fstore{w}, Events: fevents{w},
		Log: slog.New(slog.DiscardHandler),
	})
}

// step is one thing that may fail.
func (w *world) step(what string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls++
	w.log = append(w.log, what)
	if w.calls == -w.failAt {
		panic("kill -9 at " + what)
	}
	if w.calls == w.failAt {
		return fmt.Errorf("%s: %w", what, errInjected)
	}
	return nil
}

func (w *world) acquire(what string) error {
	if err := w.step(what); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open[what]++
	return nil
}

func (w *world) release(what string) hull.Release {
	var once sync.Once
	return func(context.Context) error {
		once.Do(func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.open[what]--
			w.log = append(w.log, "-"+what)
		})
		return nil
	}
}

func (w *world) leaks() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for what, n := range w.open {
		if n != 0 {
			out = append(out, fmt.Sprintf("%s:%d", what, n))
		}
	}
	slices.Sort(out)
	return out
}

type fimages struct{ w *world }

func (f fimages) Resolve(_ context.Context, ref, _ string) (hull.Image, error) {
	if ref == "missing" {
		return hull.Image{}, fmt.Errorf("No such image: missing:latest: %w", errdefs.ErrNotFound)
	}
	return f.w.img, nil
}

func (f fimages) Prepare(context.Context, string, hull.Image, map[string]string) error {
	return f.w.acquire("layer")
}
func (f fimages) Discard(ctx context.Context, _ string) error { return f.w.release("layer")(ctx) }
func (f fimages) Mount(context.Context, string, []hull.RootfsKind) (hull.Rootfs, hull.Release, error) {
	return hull.Rootfs{}, f.w.release("rootfs"), f.w.acquire("rootfs")
}
func (f fimages) Open(context.Context, string) (*os.File, error) { return os.Open("/") }
func (f fimages) OpenImage(context.Context, string, string, hull.IDRange) (*os.File, error) {
	return os.Open("/")
}
func (f fimages) Changes(context.Context, string) ([]hull.Change, error) { return nil, nil }
func (fimages) Refill(context.Context, string, io.Reader) error          { return nil }

func (f fimages) Export(context.Context, string, io.Writer) error    { return nil }
func (f fimages) Size(context.Context, string) (int64, int64, error) { return 0, 0, nil }
func (f fimages) Sweep(context.Context, func(string) bool) error     { return nil }
func (f fimages) Commit(context.Context, string, hull.CommitRequest, hull.ImageConfig) (string, error) {
	return "sha256:2", f.w.step("commit")
}

type fvolumes struct{ w *world }

func (f fvolumes) Resolve(_ context.Context, _ string, m []hull.Mount) ([]hull.MountPoint, error) {
	var out []hull.MountPoint
	for _, x := range m {
		out = append(out, hull.MountPoint{Type: x.Type, Source: x.Source, Target: x.Target, RW: !x.ReadOnly, Spec: x})
	}
	return out, f.w.acquire("volumes")
}

func (f fvolumes) Mount(_ context.Context, _ string, m []hull.MountPoint, _ func() (*os.File, error)) ([]hull.MountPoint, hull.Release, error) {
	return m, f.w.release("volmount"), f.w.acquire("volmount")
}

func (f fvolumes) Reattach(string, []hull.MountPoint) hull.Release { return f.w.release("volmount") }

func (f fvolumes) OpenVolume(context.Context, string) (*os.File, error) { return os.Open("/") }

func (f fvolumes) Open(_ context.Context, m hull.MountPoint) (*os.File, error) {
	return os.Open(m.Source)
}

func (f fvolumes) Mapping(string) (hull.Mapping, error) { return hull.Mapped, nil }

func (f fvolumes) Drop(ctx context.Context, _ string, _ []hull.MountPoint, _ bool) error {
	return f.w.release("volumes")(ctx)
}

type fnetworks struct{ w *world }

func (f fnetworks) Check(context.Context, hull.NetworkSpec) error { return nil }
func (f fnetworks) Attach(_ context.Context, p hull.Pod, _ string) (hull.Endpoint, hull.Release, error) {
	return hull.Endpoint{NetNS: "/netns/" + p.ID}, f.w.release("net"), f.w.acquire("net")
}

func (f fnetworks) Reattach(context.Context, hull.Pod, string) (hull.Release, error) {
	return f.w.release("net"), nil
}
func (f fnetworks) TakeOver(context.Context, string, string) ([]hull.PublishedPort, error) {
	return nil, nil
}

func (f fnetworks) Publish(context.Context, string, []hull.PortBinding, []hull.PortBinding) ([]hull.PublishedPort, error) {
	return nil, nil
}

func (f fnetworks) Rename(context.Context, string, string) error { return nil }

func (f fnetworks) Stats(context.Context, string) (map[string]hull.NetStats, error) { return nil, nil }
func (f fnetworks) Sweep(context.Context, func(string) bool) error                  { return nil }

type flogs struct{ w *world }

func (f flogs) Check(hull.LogSpec) error { return nil }
func (f flogs) Target(hull.Container) (hull.LogTarget, error) {
	return hull.LogTarget{}, f.w.step("log")
}

func (f flogs) Read(context.Context, hull.Container, hull.LogsRequest, <-chan struct{}) (hull.LogReader, error) {
	return nil, errdefs.ErrNotImplemented
}
func (f flogs) Remove(hull.Container) error   { return nil }
func (f flogs) Sweep(func(string) bool) error { return nil }

type fevents struct{ w *world }

func (f fevents) Publish(e hull.Event) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.w.events = append(f.w.events, e.Action)
}

// fstore keeps records in maps.
type fstore struct{ w *world }

func (f fstore) Unreadable() []string { return nil }

func (f fstore) PutPod(p hull.Pod, _ bool) error {
	if err := f.w.step("put pod"); err != nil {
		return err
	}
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.w.pods[p.ID] = p
	return nil
}

func (f fstore) Pod(id string) (hull.Pod, error) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	p, ok := f.w.pods[id]
	if !ok {
		return p, errdefs.ErrNotFound
	}
	return p, nil
}

func (f fstore) Pods() []hull.Pod {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	var out []hull.Pod
	for _, p := range f.w.pods {
		out = append(out, p)
	}
	return out
}

func (f fstore) DeletePod(id string) error {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	delete(f.w.pods, id)
	return nil
}

func (f fstore) UpdatePod(id string, fn func(*hull.PodStatus) error) error {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	p := f.w.pods[id]
	err := fn(&p.Status)
	f.w.pods[id] = p
	return err
}

func (f fstore) PutContainer(c hull.Container, _ bool) error {
	if err := f.w.step("put container"); err != nil {
		return err
	}
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	for _, o := range f.w.containers {
		if o.Name == c.Name {
			return &hull.NameTakenError{Name: c.Name, ID: o.ID}
		}
	}
	f.w.containers[c.ID] = c
	return nil
}

func (f fstore) Container(ref string) (hull.Container, error) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	for _, c := range f.w.containers {
		if c.ID == ref || c.Name == strings.TrimPrefix(ref, "/") {
			return c, nil
		}
	}
	return hull.Container{}, fmt.Errorf("No such container: %s: %w", ref, errdefs.ErrNotFound)
}

func (f fstore) Containers() []hull.Container {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	var out []hull.Container
	for _, c := range f.w.containers {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b hull.Container) int { return b.Created.Compare(a.Created) })
	return out
}

func (f fstore) DeleteContainer(id string) error {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	delete(f.w.containers, id)
	return nil
}

func (f fstore) Rename(id, name string) error {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	c := f.w.containers[id]
	c.Name = name
	f.w.containers[id] = c
	return nil
}

func (f fstore) UpdateSpec(id string, fn func(*hull.Spec) error) error {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	c := f.w.containers[id]
	err := fn(&c.Spec)
	f.w.containers[id] = c
	return err
}

func (f fstore) UpdateStatus(id string, fn func(*hull.Status) error) error {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	c, ok := f.w.containers[id]
	if !ok {
		return errdefs.ErrNotFound
	}
	err := fn(&c.Status)
	f.w.containers[id] = c
	return err
}

// fdriver makes boxes whose processes end when told to.
type fdriver struct{ w *world }

func (f fdriver) Info() driver.Info {
	return driver.Info{Name: "fake", Abilities: []string{"exec", "pause"}}
}

func (f fdriver) Create(_ context.Context, s driver.SandboxSpec) (driver.Sandbox, error) {
	if err := f.w.acquire("sandbox"); err != nil {
		return nil, err
	}
	b := &box{w: f.w, id: s.ID, procs: map[string]*process{}}
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.w.boxes[s.ID] = b
	return b, nil
}

func (f fdriver) Recover(_ context.Context, id string, _ hull.Handle) (driver.Sandbox, error) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	if b := f.w.boxes[id]; b != nil {
		if b.gone != nil {
			return nil, &driver.GoneError{ID: id, Exits: b.gone}
		}
		return b, nil
	}
	return nil, errdefs.ErrNotFound
}

type box struct {
	w     *world
	id    string
	procs map[string]*process
	gone  map[string]hull.Exit
}

func (b *box) Handle() hull.Handle { return hull.Handle("box " + b.id) }

func (b *box) Add(_ context.Context, c driver.ContainerSpec, _ hull.IO) (driver.Process, error) {
	if err := b.w.step("add"); err != nil {
		return nil, err
	}
	p := &process{w: b.w, args: c.OCI.Process.Args, ended: make(chan struct{})}
	b.w.mu.Lock()
	defer b.w.mu.Unlock()
	b.procs[c.ID] = p
	return p, nil
}

func (b *box) Exec(_ context.Context, _ string, s driver.ExecSpec, io hull.IO) (driver.Process, error) {
	p := &process{w: b.w, args: s.Process.Args, ended: make(chan struct{})}
	if io.Attach != nil {
		own, err := dup(io.Attach.Conn)
		if err != nil {
			return nil, err
		}
		p.out = own
	}
	b.w.mu.Lock()
	defer b.w.mu.Unlock()
	b.procs[s.ID] = p
	return p, nil
}

func (b *box) Process(id string) (driver.Process, error) {
	b.w.mu.Lock()
	defer b.w.mu.Unlock()
	if p := b.procs[id]; p != nil {
		return p, nil
	}
	return nil, errdefs.ErrNotFound
}

func (b *box) Destroy(ctx context.Context) error {
	b.w.mu.Lock()
	if b.w.boxes[b.id] != b {
		b.w.mu.Unlock()
		return nil
	}
	delete(b.w.boxes, b.id)
	b.w.mu.Unlock()
	return b.w.release("sandbox")(ctx)
}

func (b *box) Pause(context.Context, string) error  { return b.w.step("pause") }
func (b *box) Resume(context.Context, string) error { return b.w.step("resume") }

type process struct {
	w     *world
	args  []string
	out   *os.File
	once  sync.Once
	exit  hull.Exit
	ended chan struct{}
	deaf  bool // ignores SIGTERM
	on    bool
}

func (p *process) Start(ctx context.Context) error {
	if p.on {
		return errdefs.ErrConflict
	}
	if err := p.w.step("start"); err != nil {
		return err
	}
	p.on = true
	if p.w.running != nil {
		p.w.running()
	}
	if err := ctx.Err(); err != nil { // it runs, and the answer does not arrive any more
		return err
	}
	switch p.args[0] {
	case "/bin/sh": // a health check: its line is its exit code
		code := 0
		_, _ = fmt.Sscan(p.args[len(p.args)-1], &code)
		if p.out != nil {
			fmt.Fprintf(p.out, "checked")
			p.out.Close()
		}
		p.end(code)
	case "deaf":
		p.deaf = true
	}
	return nil
}

func (p *process) end(code int) {
	p.once.Do(func() { p.exit = hull.Exit{Code: code, At: time.Now()}; close(p.ended) })
}

func (p *process) Signal(_ context.Context, s syscall.Signal) error {
	if p.args[0] == "orphan" { // its monitor dies under the signal
		p.end(137)
		return errdefs.ErrUnavailable
	}
	if s == syscall.SIGKILL || s == syscall.SIGTERM && !p.deaf {
		p.end(128 + int(s))
	}
	return nil
}

func (p *process) Wait(ctx context.Context) (hull.Exit, error) {
	select {
	case <-p.ended:
		return p.exit, nil
	case <-ctx.Done():
		return hull.Exit{}, ctx.Err()
	}
}
func (p *process) Pid() int { return 4711 }
