// Package fake is a driver without isolation and without processes: containers
// are goroutines that run a toy shell (shell.go). It passes the contract suite
// of driver/drivertest, so what the engine's tests prove with it holds for the
// real ones. Standard streams are real: attach, logs, half-close and detach keys
// behave as with any driver.
package fake

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"hull/internal/driver"
	"hull/internal/hull"
	"hull/internal/monitor/stdio"
)

// World is what outlives a driver: sandboxes and their monitors. A new Driver on
// the same World is an engine that was restarted.
type World struct {
	// Fail, when set, is asked before every operation ("create", "recover", "add",
	// "exec", "start", "signal", "destroy", ...); an error is its result. Set it
	// before use.
	Fail func(op string) error
	// OpenLog, when set, opens a container's log. Otherwise what is logged is kept
	// in memory: see Log.
	OpenLog func(t hull.LogTarget) (stdio.LogWriter, error)

	mu    sync.Mutex
	boxes map[string]*sandbox // by pod id
	gone  map[string]map[string]hull.Exit
	logs  map[string]*bytes.Buffer
	pids  int
}

// NewWorld has nothing in it.
func NewWorld() *World {
	return &World{boxes: map[string]*sandbox{}, gone: map[string]map[string]hull.Exit{}, logs: map[string]*bytes.Buffer{}, pids: 1000}
}

func (w *World) fail(op string) error {
	if w.Fail == nil {
		return nil
	}
	return w.Fail(op)
}

// Log is what container id has written, both streams together.
func (w *World) Log(id string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if b := w.logs[id]; b != nil {
		return b.String()
	}
	return ""
}

// Sandboxes counts what was not destroyed.
func (w *World) Sandboxes() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.boxes)
}

// KillMonitor does to a pod what kill -9 of its monitor does.
func (w *World) KillMonitor(podID string) {
	w.mu.Lock()
	b := w.boxes[podID]
	w.mu.Unlock()
	if b == nil {
		return
	}
	exits := b.kill("the pod's monitor has died")
	w.mu.Lock()
	w.gone[podID] = exits
	delete(w.boxes, podID)
	w.mu.Unlock()
}

// memLog keeps a log in memory.
type memLog struct {
	w  *World
	id string
}

func (l memLog) Write(_ byte, p []byte, _ time.Time) error {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	if l.w.logs[l.id] == nil {
		l.w.logs[l.id] = new(bytes.Buffer)
	}
	l.w.logs[l.id].Write(p)
	return nil
}

func (memLog) Close() error { return nil }

// Driver is a driver.Driver on a World.
type Driver struct{ w *World }

var _ driver.Driver = (*Driver)(nil)

// New makes a driver.
func New(w *World) *Driver { return &Driver{w} }

// Info implements driver.Driver.
func (d *Driver) Info() driver.Info {
	return driver.Info{
		Name:      hull.IsolationContainer,
		Rootfs:    []hull.RootfsKind{hull.RootfsOverlay},
		Abilities: []string{"attach", "exec", "pause", "pids", "resize", "stats", "update", driver.AbilitySockets},
	}
}

// Create implements driver.Driver.
func (d *Driver) Create(_ context.Context, s driver.SandboxSpec) (driver.Sandbox, error) {
	if err := d.w.fail("create"); err != nil {
		return nil, err
	}
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	if d.w.boxes[s.ID] != nil {
		return nil, fmt.Errorf("sandbox %s: %w", s.ID, errdefs.ErrAlreadyExists)
	}
	b := &sandbox{w: d.w, spec: s, procs: map[string]*process{}, memory: map[string]int64{}, paused: map[string]bool{}}
	d.w.boxes[s.ID] = b
	return b, nil
}

// Recover implements driver.Driver.
func (d *Driver) Recover(ctx context.Context, id string, h hull.Handle) (driver.Sandbox, error) {
	if err := d.w.fail("recover"); err != nil {
		return nil, err
	}
	d.w.mu.Lock()
	b, exits := d.w.boxes[id], d.w.gone[id]
	delete(d.w.gone, id)
	d.w.mu.Unlock()
	if b != nil && string(h) == string(b.Handle()) {
		return b, nil
	}
	if b != nil {
		if err := b.Destroy(ctx); err != nil {
			return nil, err
		}
	}
	return nil, &driver.GoneError{ID: id, Exits: exits}
}

type sandbox struct {
	w    *World
	spec driver.SandboxSpec

	mu     sync.Mutex
	procs  map[string]*process
	memory map[string]int64 // limit by container
	paused map[string]bool
	closed bool
}

func (b *sandbox) Handle() hull.Handle { return hull.Handle("fake1 " + b.spec.ID) }

func (b *sandbox) Add(_ context.Context, c driver.ContainerSpec, hio hull.IO) (driver.Process, error) {
	if err := b.w.fail("add"); err != nil {
		return nil, err
	}
	if c.OCI == nil || c.OCI.Process == nil || len(c.OCI.Process.Args) == 0 {
		return nil, fmt.Errorf("container %s has no process: %w", c.ID, errdefs.ErrInvalidArgument)
	}
	user, err := lookupUser(c.User, c.Groups)
	if err != nil {
		return nil, err
	}
	var log stdio.LogWriter = memLog{b.w, c.ID}
	if b.w.OpenLog != nil {
		if log, err = b.w.OpenLog(hio.Log); err != nil {
			return nil, fmt.Errorf("open log: %w", err)
		}
	}
	p, err := b.make(c.ID, "", user, c.OCI.Process.Args, hio, log)
	if err != nil {
		return nil, err
	}
	if c.OCI.Linux != nil && c.OCI.Linux.Resources != nil && c.OCI.Linux.Resources.Memory != nil {
		if l := c.OCI.Linux.Resources.Memory.Limit; l != nil {
			b.mu.Lock()
			b.memory[c.ID] = *l
			b.mu.Unlock()
		}
	}
	return p, nil
}

func (b *sandbox) Exec(_ context.Context, id string, e driver.ExecSpec, hio hull.IO) (driver.Process, error) {
	if err := b.w.fail("exec"); err != nil {
		return nil, err
	}
	c, err := b.live(id)
	if err != nil {
		return nil, err
	}
	if e.Process == nil || len(e.Process.Args) == 0 {
		return nil, fmt.Errorf("exec %s has no process: %w", e.ID, errdefs.ErrInvalidArgument)
	}
	hio.StdinOnce = true
	user, err := lookupUser(e.User, e.Groups)
	if err != nil {
		return nil, err
	}
	return b.make(e.ID, c.id, user, e.Process.Args, hio, nil)
}

// live finds a container whose main process has not ended.
func (b *sandbox) live(id string) (*process, error) {
	b.mu.Lock()
	p := b.procs[id]
	b.mu.Unlock()
	if p == nil || p.container != "" || p.ended() {
		return nil, fmt.Errorf("container %s is not running: %w", id, errdefs.ErrNotFound)
	}
	return p, nil
}

func (b *sandbox) make(id, container, user string, args []string, hio hull.IO, log stdio.LogWriter) (*process, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || b.procs[id] != nil {
		return nil, fmt.Errorf("process %s: %w", id, errdefs.ErrAlreadyExists)
	}
	streams, child, err := stdio.New(hio, log, stdio.NewBuffers(nil), nil)
	if err != nil {
		return nil, err
	}
	p := &process{
		box: b, id: id, container: container, user: user, args: args, streams: streams, child: child,
		rows: hio.Rows, cols: hio.Cols, done: make(chan struct{}), sigs: make(chan syscall.Signal, 16), traps: map[syscall.Signal]int{},
	}
	if hio.TTY {
		if err := p.openTTY(); err != nil {
			return nil, err
		}
	}
	p.ctx, p.kill = context.WithCancelCause(context.Background())
	if hio.Attach != nil {
		if err := p.Attach(context.Background(), *hio.Attach); err != nil {
			return nil, err
		}
	}
	streams.Run()
	b.w.mu.Lock()
	b.w.pids++
	p.pid = b.w.pids
	b.w.mu.Unlock()
	b.procs[id] = p
	go p.waitKilled()
	return p, nil
}

func (b *sandbox) Process(id string) (driver.Process, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.procs[id]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("process %s: %w", id, errdefs.ErrNotFound)
}

// kill ends every process and returns the exits of containers.
func (b *sandbox) kill(why string) map[string]hull.Exit {
	b.mu.Lock()
	b.closed = true
	procs := maps.Clone(b.procs)
	b.mu.Unlock()
	exits := map[string]hull.Exit{}
	for id, p := range procs {
		p.kill(&death{code: 137, why: why})
		<-p.done
		if p.container == "" {
			exits[id] = p.exit
		}
	}
	return exits
}

func (b *sandbox) Destroy(context.Context) error {
	if err := b.w.fail("destroy"); err != nil {
		return err
	}
	b.kill("")
	b.w.mu.Lock()
	if b.w.boxes[b.spec.ID] == b {
		delete(b.w.boxes, b.spec.ID)
	}
	b.w.mu.Unlock()
	return nil
}

func (b *sandbox) Pause(_ context.Context, id string) error  { return b.setPaused(id, true) }
func (b *sandbox) Resume(_ context.Context, id string) error { return b.setPaused(id, false) }

func (b *sandbox) setPaused(id string, v bool) error {
	if _, err := b.live(id); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.paused[id] = v
	return nil
}

func (b *sandbox) Stats(_ context.Context, id string) (hull.Stats, error) {
	if _, err := b.live(id); err != nil {
		return hull.Stats{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return hull.Stats{
		Read: time.Now(), OnlineCPUs: 1, SystemCPU: 1,
		CPU:    hull.CPUStats{Total: 1},
		Memory: hull.MemoryStats{Usage: 4096, Limit: uint64(b.memory[id])},
		Pids:   hull.PidsStats{Current: 1},
	}, nil
}

func (b *sandbox) Update(_ context.Context, id string, r hull.Resources) error {
	if _, err := b.live(id); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.Memory != 0 {
		b.memory[id] = r.Memory
	}
	return nil
}

func (b *sandbox) Pids(_ context.Context, id string) ([]int, error) {
	p, err := b.live(id)
	if err != nil {
		return nil, err
	}
	return []int{p.pid}, nil
}

// death is why a process is killed.
type death struct {
	code int
	why  string
}

func (d *death) Error() string { return d.why }

type process struct {
	box           *sandbox
	id, container string
	user          string // as id prints it
	args          []string
	pid           int
	streams       *stdio.Streams
	child         stdio.Child
	ctx           context.Context //nolint:containedctx // a process is its context
	kill          context.CancelCauseFunc
	done          chan struct{}
	sigs          chan syscall.Signal
	exit          hull.Exit // valid after done

	mu         sync.Mutex
	started    bool
	running    bool // run decides the exit, not waitKilled
	rows, cols uint16
	traps      map[syscall.Signal]int // exit code by signal
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *process) Pid() int {
	if p.ended() {
		return 0
	}
	return p.pid
}

func (p *process) Start(context.Context) error {
	if err := p.box.w.fail("start"); err != nil {
		return err
	}
	p.mu.Lock()
	if p.started {
		p.mu.Unlock()
		return fmt.Errorf("process %s was started before: %w", p.id, errdefs.ErrConflict)
	}
	if p.ctx.Err() != nil {
		p.mu.Unlock()
		return fmt.Errorf("process %s: %w", p.id, errdefs.ErrNotFound)
	}
	p.started, p.running = true, true
	p.mu.Unlock()
	p.streams.Started()
	if x := lookup(p.args[0]); x != nil {
		p.finish(hull.Exit{Code: x.Code})
		return x
	}
	go p.run()
	return nil
}

func (p *process) run() {
	code, oom := p.shell(p.args)
	x := hull.Exit{Code: code, OOMKilled: oom}
	var d *death
	if errors.As(context.Cause(p.ctx), &d) {
		x.Code, x.Error = d.code, d.why
	}
	p.finish(x)
}

// waitKilled ends a process that never ran.
func (p *process) waitKilled() {
	<-p.ctx.Done()
	p.mu.Lock()
	mine := !p.running
	p.running = true
	p.mu.Unlock()
	if mine {
		x := hull.Exit{Code: 137}
		var d *death
		if errors.As(context.Cause(p.ctx), &d) {
			x.Error = d.why
		}
		p.finish(x)
	}
}

func (p *process) finish(x hull.Exit) {
	if p.container == "" { // execs die with their container
		p.box.mu.Lock()
		for _, e := range p.box.procs {
			if e.container == p.id {
				e.kill(&death{code: 137})
			}
		}
		p.box.mu.Unlock()
	}
	p.child.Close()
	p.streams.Ended()
	x.At = time.Now()
	p.exit = x
	close(p.done)
	p.kill(nil)
}

func (p *process) Signal(_ context.Context, sig syscall.Signal) error {
	if err := p.box.w.fail("signal"); err != nil {
		return err
	}
	if p.ended() {
		return fmt.Errorf("process %s: %w", p.id, errdefs.ErrNotFound)
	}
	switch sig {
	case 0:
	case syscall.SIGKILL:
		p.kill(&death{code: 137})
	default:
		select {
		case p.sigs <- sig:
		default: // the kernel merges them too
		}
	}
	return nil
}

func (p *process) Wait(ctx context.Context) (hull.Exit, error) {
	select {
	case <-p.done:
		return p.exit, nil
	case <-ctx.Done():
		return hull.Exit{}, context.Cause(ctx)
	}
}

func (p *process) Resize(_ context.Context, rows, cols uint16) error {
	if p.ended() {
		return fmt.Errorf("process %s: %w", p.id, errdefs.ErrNotFound)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rows, p.cols = rows, cols
	return nil
}

func (p *process) Attach(_ context.Context, a hull.Attach) error {
	f, err := dup(a.Conn)
	if err != nil {
		return err
	}
	return p.streams.Attach(f, a, p.container != "")
}

// openTTY makes a terminal of a socket pair: no line discipline, which the toy
// shell does not need.
func (p *process) openTTY() error {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := syscall.SetNonblock(fds[1], true); err != nil { // so that Close ends a read
		return err
	}
	master := os.NewFile(uintptr(fds[0]), "console")
	defer master.Close()
	tty := os.NewFile(uintptr(fds[1]), "tty")
	p.child = stdio.Child{In: tty, Out: tty, Err: tty}
	return p.streams.SetConsole(master)
}

func dup(f *os.File) (*os.File, error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	var e error
	if err := rc.Control(func(u uintptr) {
		if fd, e = syscall.Dup(int(u)); e == nil {
			syscall.CloseOnExec(fd)
			e = syscall.SetNonblock(fd, true)
		}
	}); err != nil {
		return nil, err
	}
	if e != nil {
		return nil, os.NewSyscallError("dup", e)
	}
	return os.NewFile(uintptr(fd), "attached"), nil
}
