package pod

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"hull/internal/driver"
	"hull/internal/hull"
	"hull/internal/monitor"
)

const (
	// undoLimit bounds the clean-up after a failure.
	undoLimit = 15 * time.Second
	// recoverLimit is how long a monitor may take to answer a new engine. One that
	// does not is killed with its pod, so a busy machine must not look like it.
	recoverLimit = time.Minute
	// keepExecs is how many ended execs stay known, as in the monitor.
	keepExecs = 32
)

// Config is what a driver's pods have in common.
type Config struct {
	Backend     string // its name in hull-monitor
	MonitorPath string // the hull-monitor binary
	RunDir      string // pods' run directories are RunDir/pods/<id>
	Log         *slog.Logger
	// Release kills what a dead monitor left of pod id and gives it back: cgroups, a
	// machine's process. Everything is found by name. It may be called twice.
	Release func(ctx context.Context, id, dir string) error
	// Freed is given a monitor whose pod has ended and which can serve another one; nil
	// = such a monitor ends.
	Freed func(c *monitor.Client)
}

// Pod is one pod. A driver's sandbox embeds it.
type Pod struct {
	cfg    Config
	id     string
	dir    string
	handle hull.Handle
	mon    *monitor.Client

	mu        sync.Mutex
	procs     map[string]*Process
	endedEx   []string // oldest first
	destroyed bool
}

// Start starts a monitor with its backend for a new pod. conf is the backend's.
func Start(cfg Config, s driver.SandboxSpec, conf []byte) (*Pod, error) {
	c, err := monitor.Spawn(cfg.MonitorPath)
	if err != nil {
		return nil, err
	}
	return StartIn(cfg, s, conf, c)
}

// StartIn is Start with a monitor that has no pod yet, which it takes over.
func StartIn(cfg Config, s driver.SandboxSpec, conf []byte, c *monitor.Client) (*Pod, error) {
	l, err := LifeOf(c.Pid())
	if err != nil {
		c.Close()
		return nil, err
	}
	return StartAs(cfg, s, conf, c, l)
}

// StartAs is StartIn for who knows the monitor's life.
func StartAs(cfg Config, s driver.SandboxSpec, conf []byte, c *monitor.Client, l Life) (*Pod, error) {
	if s.ID == "" || !filepath.IsAbs(s.RunDir) {
		c.Close()
		return nil, fmt.Errorf("sandbox %q with run directory %q: %w", s.ID, s.RunDir, errdefs.ErrInvalidArgument)
	}
	h, err := newHandle(cfg.Backend, c.Pid(), l, s.RunDir)
	if err == nil {
		err = c.PodWith(s.ID, s.RunDir, cfg.Backend, conf)
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("give the monitor its pod: %w", err)
	}
	p := newPod(cfg, s.ID, s.RunDir, h, c)
	p.run()
	return p, nil
}

func newPod(cfg Config, id, dir string, h hull.Handle, c *monitor.Client) *Pod {
	return &Pod{cfg: cfg, id: id, dir: dir, handle: h, mon: c, procs: map[string]*Process{}}
}

// run begins to receive from the monitor.
func (p *Pod) run() {
	p.mon.Listen(monitor.Events{
		Exited: func(id string, x hull.Exit) {
			if q := p.find(id); q != nil {
				p.ended(q, x)
			}
		},
		Warned: func(id, text string) {
			p.cfg.Log.Warn("monitor: "+text, "pod", p.id, "process", id)
		},
		Freed: p.cfg.Freed,
	})
	go func() {
		if <-p.mon.Gone(); p.mon.Died() {
			p.monitorDied()
		}
	}()
}

// Recover finds a pod again. When it is gone, what was left of it is released and
// the error is a *driver.GoneError.
func Recover(ctx context.Context, cfg Config, id string, raw hull.Handle) (*Pod, error) {
	h, err := parseHandle(cfg.Backend, raw)
	if err != nil {
		// Nothing but names is left to go by.
		h = handle{Dir: filepath.Join(cfg.RunDir, "pods", id)}
		cfg.Log.Warn("pod without a usable handle is destroyed", "pod", id, "error", err)
		return nil, gone(ctx, cfg, id, h)
	}
	if !h.alive() {
		return nil, gone(ctx, cfg, id, h)
	}
	p, err := reconnect(ctx, cfg, id, h, raw)
	if err == nil {
		return p, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	// A monitor that cannot be talked to is as good as dead: its pod can be
	// neither stopped nor watched.
	cfg.Log.Warn("pod whose monitor does not answer is destroyed", "pod", id, "error", err)
	return nil, gone(ctx, cfg, id, h)
}

// gone releases what is left of a pod and returns its *driver.GoneError.
func gone(ctx context.Context, cfg Config, id string, h handle) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	if err := errors.Join(h.kill(), cfg.Release(ctx, id, h.Dir)); err != nil {
		return fmt.Errorf("release sandbox %s: %w", id, err)
	}
	return &driver.GoneError{ID: id, Exits: exits(h.Dir)}
}

// reconnect finds a pod whose monitor lives.
func reconnect(ctx context.Context, cfg Config, id string, h handle, raw hull.Handle) (*Pod, error) {
	c, err := monitor.Dial(h.Dir)
	for wait := time.Millisecond; err != nil && wait < time.Second; wait *= 2 {
		// The engine may have died just after it gave the monitor its pod.
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(wait):
		}
		c, err = monitor.Dial(h.Dir)
	}
	if err != nil {
		return nil, err
	}
	if c.Pid() != h.Pid {
		c.Close()
		return nil, fmt.Errorf("process %d answers for monitor %d", c.Pid(), h.Pid)
	}
	p := newPod(cfg, id, h.Dir, raw, c)
	p.run()
	ctx, cancel := context.WithTimeout(ctx, recoverLimit)
	defer cancel()
	name, procs, err := c.List(ctx)
	if err == nil && name != id {
		err = fmt.Errorf("monitor has pod %q", name)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	for _, x := range procs {
		p.adopt(x)
	}
	return p, nil
}

// adopt makes the local half of a process that the monitor has. An exit that
// was told since the list was made is in the list of the next one only, so the
// process may be there already: exits come through ended in any case.
func (p *Pod) adopt(x monitor.Proc) {
	q := p.register(x.ID, x.Container)
	q.pid.Store(int64(x.Pid))
	if x.Exit != nil {
		p.ended(q, *x.Exit)
	}
}

// ID is the pod's.
func (p *Pod) ID() string { return p.id }

// Dir is the pod's run directory.
func (p *Pod) Dir() string { return p.dir }

// MonitorPid is the monitor's process id.
func (p *Pod) MonitorPid() int { return p.mon.Pid() }

// Handle is driver.Sandbox's.
func (p *Pod) Handle() hull.Handle { return p.handle }

// Add makes a main process or an exec ready. It is known here before the monitor
// has it, because its exit may be told before the answer is read.
func (p *Pod) Add(ctx context.Context, r monitor.AddRequest) (*Process, error) {
	p.mu.Lock()
	switch {
	case p.destroyed:
		p.mu.Unlock()
		return nil, fmt.Errorf("sandbox %s is destroyed: %w", p.id, errdefs.ErrFailedPrecondition)
	case p.procs[r.ID] != nil:
		p.mu.Unlock()
		return nil, fmt.Errorf("process %s: %w", r.ID, errdefs.ErrAlreadyExists)
	}
	q := p.newProcess(r.ID, r.Container)
	q.started = r.Now
	p.mu.Unlock()
	pid, err := p.mon.Add(ctx, r)
	if err != nil {
		p.mu.Lock()
		delete(p.procs, r.ID)
		p.mu.Unlock()
		return nil, err
	}
	q.pid.Store(int64(pid))
	return q, nil
}

// AddExec is Add of a command in a container: its input ends with the client's, and
// what it writes is in no log. With now it is started, too, where the monitor can do
// that; its Start does nothing then.
func (p *Pod) AddExec(ctx context.Context, container, id string, plan []byte, hio hull.IO, now bool) (driver.Process, error) {
	hio.StdinOnce = true
	hio.Log = hull.LogTarget{}
	q, err := p.Add(ctx, monitor.AddRequest{ID: id, Container: container, Plan: plan, IO: hio, Now: now && p.mon.SameBuild()})
	if err != nil {
		return nil, err // an interface with nil in it is not nil
	}
	return q, nil
}

// Call is monitor.Client.Call.
func (p *Pod) Call(ctx context.Context, op string, body []byte, files ...*os.File) ([]byte, []*os.File, error) {
	return p.mon.Call(ctx, op, body, files...)
}

// Process is driver.Sandbox's.
func (p *Pod) Process(id string) (driver.Process, error) {
	if q := p.find(id); q != nil {
		return q, nil
	}
	return nil, fmt.Errorf("process %s: %w", id, errdefs.ErrNotFound)
}

// Running is container id's main process; errdefs.ErrNotFound when it has ended.
func (p *Pod) Running(id string) (*Process, error) {
	q := p.find(id)
	if q == nil || q.container != "" {
		return nil, fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound)
	}
	if q.hasEnded() {
		return nil, fmt.Errorf("container %s is not running: %w", id, errdefs.ErrNotFound)
	}
	return q, nil
}

// Has says whether the pod has, or had, a process of that id.
func (p *Pod) Has(id string) bool { return p.find(id) != nil }

func (p *Pod) find(id string) *Process {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.procs[id]
}

// register makes the local half of a process, or finds it.
func (p *Pod) register(id, container string) *Process {
	p.mu.Lock()
	defer p.mu.Unlock()
	if q := p.procs[id]; q != nil {
		return q
	}
	return p.newProcess(id, container)
}

// newProcess is called with p.mu held.
func (p *Pod) newProcess(id, container string) *Process {
	q := &Process{p: p, id: id, container: container, done: make(chan struct{})}
	p.procs[id] = q
	return q
}

// ended records an exit, once.
func (p *Pod) ended(q *Process, x hull.Exit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if q.hasEnded() {
		return
	}
	q.exit = x
	close(q.done)
	if q.container == "" {
		return
	}
	p.endedEx = append(p.endedEx, q.id)
	if len(p.endedEx) > keepExecs {
		delete(p.procs, p.endedEx[0])
		p.endedEx = slices.Delete(p.endedEx, 0, 1)
	}
}

// monitorDied ends the pod.
func (p *Pod) monitorDied() {
	ctx, cancel := context.WithTimeout(context.Background(), undoLimit)
	defer cancel()
	if crash, err := os.ReadFile(filepath.Join(p.dir, monitor.CrashName)); err == nil && len(crash) > 0 {
		p.cfg.Log.Error("the pod's monitor has crashed", "pod", p.id, "crash", string(crash[:min(len(crash), 8<<10)]))
	}
	if h, err := parseHandle(p.cfg.Backend, p.handle); err == nil {
		if err := h.kill(); err != nil { // alive, but cannot be talked to
			p.cfg.Log.Error("kill monitor", "pod", p.id, "error", err)
		}
	}
	if err := p.cfg.Release(ctx, p.id, p.dir); err != nil {
		p.cfg.Log.Error("release a dead monitor's pod", "pod", p.id, "error", err)
	}
	p.mu.Lock()
	procs := make([]*Process, 0, len(p.procs))
	for _, q := range p.procs {
		procs = append(procs, q)
	}
	p.mu.Unlock()
	for _, q := range procs {
		x := hull.Exit{Code: 137, At: time.Now(), Error: "the pod's monitor has died"}
		if q.container == "" {
			if seen, err := readExit(p.dir, q.id); err == nil {
				x = seen // it ended before
			}
		}
		p.ended(q, x)
	}
}

// Destroy has the monitor end the pod, and releases what is left.
func (p *Pod) Destroy(ctx context.Context) error {
	if err := errors.Join(p.End(ctx), p.cfg.Release(ctx, p.id, p.dir)); err != nil {
		return fmt.Errorf("destroy sandbox %s: %w", p.id, err)
	}
	return nil
}

// End has the monitor end the pod. One that does not is killed: Release finds what
// it leaves.
func (p *Pod) End(ctx context.Context) error {
	p.mu.Lock()
	p.destroyed = true
	p.mu.Unlock()
	short, cancel := context.WithTimeout(ctx, undoLimit)
	defer cancel()
	err := p.mon.Destroy(short)
	if err == nil || errdefs.IsUnavailable(err) { // done, or dead before
		return nil
	}
	p.cfg.Log.Warn("monitor is killed because it does not end", "pod", p.id, "error", err)
	if p.cfg.Freed != nil {
		p.mon.Close() // before: so that it is given no other pod meanwhile
	}
	h, err := parseHandle(p.cfg.Backend, p.handle)
	if err != nil {
		return err
	}
	return h.kill()
}

// Process is the local half of a process in a pod.
type Process struct {
	p             *Pod
	id, container string
	pid           atomic.Int64
	started       bool // when it was added
	done          chan struct{}
	exit          hull.Exit // valid after done
}

var _ driver.Process = (*Process)(nil)

func (q *Process) hasEnded() bool {
	select {
	case <-q.done:
		return true
	default:
		return false
	}
}

// Pid implements driver.Process.
func (q *Process) Pid() int {
	if q.hasEnded() {
		return 0
	}
	return int(q.pid.Load())
}

// Start implements driver.Process.
func (q *Process) Start(ctx context.Context) error {
	if q.started {
		return nil
	}
	pid, err := q.p.mon.StartPid(ctx, q.id)
	if pid > 0 {
		q.pid.Store(int64(pid))
	}
	return err
}

// Signal implements driver.Process.
func (q *Process) Signal(ctx context.Context, sig syscall.Signal) error {
	if q.hasEnded() {
		return fmt.Errorf("process %s has ended: %w", q.id, errdefs.ErrNotFound)
	}
	return q.p.mon.Signal(ctx, q.id, sig)
}

// Wait implements driver.Process.
func (q *Process) Wait(ctx context.Context) (hull.Exit, error) {
	select {
	case <-q.done:
		return q.exit, nil
	case <-ctx.Done():
		return hull.Exit{}, context.Cause(ctx)
	}
}

// Resize implements the ability driver.Resize.
func (q *Process) Resize(ctx context.Context, rows, cols uint16) error {
	return q.p.mon.Resize(ctx, q.id, rows, cols)
}

// Attach implements the ability driver.Attach.
func (q *Process) Attach(ctx context.Context, a hull.Attach) error {
	return q.p.mon.Attach(ctx, q.id, a)
}
