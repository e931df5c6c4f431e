package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/driver"
	"hull/internal/driver/group"
	"hull/internal/hull"
	"hull/internal/linux/cgroup"
	"hull/internal/monitor"
	"hull/internal/runtime"
	"hull/internal/undo"
)

// keepExecs is how many ended execs stay known, as in the monitor.
const keepExecs = 32

// sandbox is one pod.
type sandbox struct {
	d      *Driver
	id     string
	dir    string
	netns  string
	handle hull.Handle
	mon    *monitor.Client
	lost   chan struct{}

	mu        sync.Mutex
	boxes     map[string]*box
	procs     map[string]*process
	endedEx   []string // oldest first
	destroyed bool
	spare     *cgroup.Group // the monitor's seat, until a container has it
}

// box is what belongs to one container.
type box struct {
	group  *cgroup.Group
	spec   *specs.Spec
	seated bool // made out of the spare one
}

var _ driver.Sandbox = (*sandbox)(nil)

func (d *Driver) newSandbox(id, dir string, h hull.Handle, c *monitor.Client) *sandbox {
	return &sandbox{
		d: d, id: id, dir: dir, handle: h, mon: c, lost: make(chan struct{}),
		boxes: map[string]*box{}, procs: map[string]*process{},
	}
}

// run begins to receive from the monitor.
func (b *sandbox) run() {
	b.mon.Listen(monitor.Events{
		Exited: func(id string, x hull.Exit) {
			if p := b.find(id); p != nil {
				b.ended(p, x)
			}
		},
		Warned: func(id, text string) {
			b.d.cfg.Log.Warn("monitor: "+text, "pod", b.id, "process", id)
		},
		Freed: b.d.freed,
	})
	go func() {
		if <-b.mon.Gone(); b.mon.Died() {
			b.monitorDied()
		}
	}()
}

// reconnect finds a pod whose monitor lives.
func (d *Driver) reconnect(ctx context.Context, id string, h handle, raw hull.Handle) (*sandbox, error) {
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
	b := d.newSandbox(id, h.Dir, raw, c)
	b.run()
	metas, err := readMetas(h.Dir)
	if err != nil {
		d.cfg.Log.Warn("read what is known of a pod", "pod", id, "error", err)
	}
	ctx, cancel := context.WithTimeout(ctx, recoverLimit)
	defer cancel()
	pod, procs, err := c.List(ctx)
	if err == nil && pod != id {
		err = fmt.Errorf("monitor has pod %q", pod)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	for cid, m := range metas {
		b.boxes[cid] = &box{group: d.cg.Group(m.Cgroup), spec: m.Spec}
	}
	for _, p := range procs {
		b.adopt(p)
	}
	return b, nil
}

// adopt makes the local half of a process that the monitor has. An exit that
// was told since the list was made is in the list of the next one only, so the
// process may be there already: exits come through ended in any case.
func (b *sandbox) adopt(x monitor.Proc) {
	p := b.register(x.ID, x.Container, x.TTY)
	p.pid.Store(int64(x.Pid))
	if x.Exit != nil {
		b.ended(p, *x.Exit)
	}
}

// Handle implements driver.Sandbox.
func (b *sandbox) Handle() hull.Handle { return b.handle }

// Lost implements the ability driver.Lost.
func (b *sandbox) Lost() <-chan struct{} { return b.lost }

// Add implements driver.Sandbox.
func (b *sandbox) Add(ctx context.Context, c driver.ContainerSpec, hio hull.IO) (_ driver.Process, err error) {
	if c.OCI == nil || c.OCI.Process == nil {
		return nil, fmt.Errorf("container %s has no process: %w", c.ID, errdefs.ErrInvalidArgument)
	}
	if c.Rootfs.Kind != hull.RootfsOverlay && c.Rootfs.Kind != "" {
		return nil, fmt.Errorf("root file system of kind %q: %w", c.Rootfs.Kind, errdefs.ErrNotImplemented)
	}
	if h := c.OCI.Hooks; h != nil && len(h.Prestart)+len(h.CreateRuntime)+len(h.CreateContainer)+len(h.StartContainer)+len(h.Poststart)+len(h.Poststop) > 0 { //nolint:staticcheck // an old description may have Prestart
		return nil, fmt.Errorf("hooks (a device of CDI asks for them) are not run by isolation container; use --runtime with an OCI runtime of the host, as runc: %w", errdefs.ErrNotImplemented)
	}
	var back undo.Stack
	defer back.OnError(ctx, undoLimit, &err)

	spec := b.join(c.OCI)
	if spec.Process, err = b.d.asUser(c); err != nil {
		return nil, err
	}
	plan, err := runtime.Prepare(spec, runtime.Options{
		Rootfs: runtime.Rootfs{Lower: c.Rootfs.Lower, Upper: c.Rootfs.Upper, Work: c.Rootfs.Work, ReadOnly: c.Rootfs.ReadOnly},
		Init:   c.Init,
	})
	if err != nil {
		return nil, fmt.Errorf("compile specification: %w", err)
	}
	b.warn(c.ID, plan.Warnings)
	raw, err := plan.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("encode plan: %w", err)
	}

	bx, err := b.newBox(c.ID, spec)
	if err != nil {
		return nil, err
	}
	back.Add("forget container", func(context.Context) error { return b.dropBox(c.ID) })
	back.Add("remove cgroup", func(ctx context.Context) error { return b.d.removeGroup(ctx, bx.group) })
	if err := b.limit(c.ID, bx, spec); err != nil {
		return nil, err
	}

	// The record is written while the monitor works.
	recorded := make(chan error, 1)
	go func() { recorded <- writeMeta(b.dir, c.ID, meta{Cgroup: bx.group.Path(), Spec: spec}) }()
	p, err := b.add(ctx, monitor.AddRequest{ID: c.ID, Plan: raw, Seated: bx.seated, Cgroup: group.Of(bx.group), IO: hio})
	if e := <-recorded; e != nil && err == nil {
		err = fmt.Errorf("record container: %w", e)
		_ = p.Signal(context.WithoutCancel(ctx), syscall.SIGKILL)
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

// join returns a copy of spec with the sandbox's network namespace.
func (b *sandbox) join(spec *specs.Spec) *specs.Spec {
	s, l := *spec, specs.Linux{}
	if spec.Linux != nil {
		l = *spec.Linux
	}
	l.Namespaces = slices.DeleteFunc(slices.Clone(l.Namespaces), func(n specs.LinuxNamespace) bool {
		return n.Type == specs.NetworkNamespace
	})
	if b.netns != "" {
		l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: b.netns})
	}
	s.Linux = &l
	return &s
}

// newBox claims a container's id and names its cgroup.
func (b *sandbox) newBox(id string, spec *specs.Spec) (*box, error) {
	path := id
	if spec.Linux != nil && spec.Linux.CgroupsPath != "" {
		path = spec.Linux.CgroupsPath
	}
	// Cleaned as absolute first: a path that climbs stays below the parent.
	bx := &box{group: b.d.cg.Group(filepath.Join(b.d.cfg.CgroupParent, filepath.Clean("/"+path))), spec: spec}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.destroyed {
		return nil, fmt.Errorf("sandbox %s is destroyed: %w", b.id, errdefs.ErrFailedPrecondition)
	}
	if b.boxes[id] != nil {
		return nil, fmt.Errorf("container %s: %w", id, errdefs.ErrAlreadyExists)
	}
	b.boxes[id] = bx
	return bx, nil
}

func (b *sandbox) dropBox(id string) error {
	b.mu.Lock()
	delete(b.boxes, id)
	b.mu.Unlock()
	err := os.Remove(metaFile(b.dir, id))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// limit makes the cgroup. One of that name can only be left from a run that was
// not destroyed: nothing may go on in it.
func (b *sandbox) limit(id string, bx *box, spec *specs.Spec) error {
	var res *specs.LinuxResources
	if spec.Linux != nil {
		res = spec.Linux.Resources
	}
	if runtime.CanSeat(group.Of(bx.group)) {
		res = withSeat(res)
	}
	ctx, cancel := context.WithTimeout(context.Background(), undoLimit)
	defer cancel()
	b.d.late.wait(ctx, bx.group)
	warnings, err := b.create(bx, res)
	if errdefs.IsAlreadyExists(err) {
		if err := b.d.removeGroup(ctx, bx.group); err != nil {
			return err
		}
		warnings, err = b.create(bx, res)
	}
	if err != nil {
		return fmt.Errorf("create cgroup: %w", err)
	}
	b.warn(id, warnings)
	return nil
}

// create makes the cgroup, out of the spare one if that is in the right place
// and not taken yet.
func (b *sandbox) create(bx *box, res *specs.LinuxResources) ([]string, error) {
	b.mu.Lock()
	spare := b.spare
	if spare != nil && filepath.Dir(spare.Path()) == filepath.Dir(bx.group.Path()) && !bx.group.Exists() {
		b.spare, bx.seated = nil, true
	}
	b.mu.Unlock()
	if bx.seated {
		return bx.group.CreateFrom(spare, res)
	}
	return bx.group.Create(res)
}

// withSeat makes room for the seat's thread in a limit of tasks.
func withSeat(res *specs.LinuxResources) *specs.LinuxResources {
	if res == nil || res.Pids == nil || res.Pids.Limit == nil || *res.Pids.Limit <= 0 {
		return res
	}
	r := *res
	limit := *res.Pids.Limit + 1
	r.Pids = &specs.LinuxPids{Limit: &limit}
	return &r
}

// warn logs what the host cannot give a container.
func (b *sandbox) warn(id string, warnings []string) {
	for _, w := range warnings {
		b.d.cfg.Log.Warn(w, "pod", b.id, "container", id)
	}
}

// add sends add or exec. The process is known before the monitor has it, because
// its exit may be told before the answer is read.
func (b *sandbox) add(ctx context.Context, r monitor.AddRequest) (*process, error) {
	if b.find(r.ID) != nil {
		return nil, fmt.Errorf("process %s: %w", r.ID, errdefs.ErrAlreadyExists)
	}
	p := b.register(r.ID, r.Container, r.IO.TTY)
	pid, err := b.mon.Add(ctx, r)
	if err != nil {
		b.mu.Lock()
		delete(b.procs, r.ID)
		b.mu.Unlock()
		return nil, err
	}
	p.pid.Store(int64(pid))
	return p, nil
}

// Exec implements driver.Sandbox.
func (b *sandbox) Exec(ctx context.Context, id string, e driver.ExecSpec, hio hull.IO) (driver.Process, error) {
	bx, err := b.box(id)
	if err != nil {
		return nil, err
	}
	if e.Process == nil {
		return nil, fmt.Errorf("exec %s has no process: %w", e.ID, errdefs.ErrInvalidArgument)
	}
	root, err := b.Root(ctx, id)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	proc := *e.Process
	if err := setUser(root, &proc, e.User, e.Groups); err != nil {
		return nil, err
	}
	e.Process = &proc
	plan, err := prepareExec(bx.spec, e)
	if err != nil {
		return nil, fmt.Errorf("compile process: %w", err)
	}
	b.warn(id, plan.Warnings)
	raw, err := plan.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("encode plan: %w", err)
	}
	hio.StdinOnce = true // the client's end of input is the command's
	hio.Log = hull.LogTarget{}
	now := e.Now && b.mon.SameBuild()
	p, err := b.add(ctx, monitor.AddRequest{ID: e.ID, Container: id, Plan: raw, IO: hio, Now: now})
	if err != nil {
		return nil, err
	}
	p.started = now
	return p, nil
}

// box finds a container, ended or not.
func (b *sandbox) box(id string) (*box, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if bx := b.boxes[id]; bx != nil {
		return bx, nil
	}
	return nil, fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound)
}

// prepareExec compiles an exec. Its seccomp profile is its own.
func prepareExec(container *specs.Spec, e driver.ExecSpec) (*runtime.ExecPlan, error) {
	s, l := *container, specs.Linux{}
	if s.Linux != nil {
		l = *s.Linux
	}
	l.Seccomp = e.Seccomp
	s.Linux = &l
	return runtime.PrepareExec(&s, e.Process, false)
}

// Process implements driver.Sandbox.
func (b *sandbox) Process(id string) (driver.Process, error) {
	if p := b.find(id); p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("process %s: %w", id, errdefs.ErrNotFound)
}

func (b *sandbox) find(id string) *process {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.procs[id]
}

// register makes the local half of a process, or finds it.
func (b *sandbox) register(id, container string, tty bool) *process {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.procs[id]; p != nil {
		return p
	}
	p := &process{b: b, id: id, container: container, tty: tty, done: make(chan struct{})}
	b.procs[id] = p
	return p
}

// ended records an exit, once.
func (b *sandbox) ended(p *process, x hull.Exit) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-p.done:
		return
	default:
	}
	p.exit = x
	close(p.done)
	if p.container == "" {
		return
	}
	b.endedEx = append(b.endedEx, p.id)
	if len(b.endedEx) > keepExecs {
		delete(b.procs, b.endedEx[0])
		b.endedEx = slices.Delete(b.endedEx, 0, 1)
	}
}

// monitorDied ends the pod: the kernel kills what the monitor started, except
// for what has changed its parent-death signal, which the cgroup finds.
func (b *sandbox) monitorDied() {
	ctx, cancel := context.WithTimeout(context.Background(), undoLimit)
	defer cancel()
	if crash, err := os.ReadFile(filepath.Join(b.dir, monitor.CrashName)); err == nil && len(crash) > 0 {
		b.d.cfg.Log.Error("the pod's monitor has crashed", "pod", b.id, "crash", string(crash[:min(len(crash), 8<<10)]))
	}
	if h, err := parseHandle(b.handle); err == nil {
		if err := h.kill(); err != nil { // alive, but cannot be talked to
			b.d.cfg.Log.Error("kill monitor", "pod", b.id, "error", err)
		}
	}
	b.mu.Lock()
	var groups []*cgroup.Group
	for _, bx := range b.boxes {
		groups = append(groups, bx.group)
	}
	var procs []*process
	for _, p := range b.procs {
		procs = append(procs, p)
	}
	b.mu.Unlock()
	for _, g := range groups {
		if err := g.Kill(ctx); err != nil {
			b.d.cfg.Log.Error("kill cgroup of a dead monitor's pod", "pod", b.id, "error", err)
		}
	}
	for _, p := range procs {
		x := hull.Exit{Code: 137, At: time.Now(), Error: "the pod's monitor has died"}
		if p.container == "" {
			if seen, err := readExit(b.dir, p.id); err == nil {
				x = seen // it ended before
			}
		}
		b.ended(p, x)
	}
	close(b.lost)
}

// Destroy implements driver.Sandbox.
func (b *sandbox) Destroy(ctx context.Context) error {
	b.mu.Lock()
	b.destroyed = true
	boxes, spare := b.boxes, b.spare
	b.mu.Unlock()

	var errs []error
	for _, bx := range boxes {
		// A frozen process dies only when it is thawed (v1).
		if err := bx.group.Thaw(ctx); err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	if err := b.destroyMonitor(ctx); err != nil {
		errs = append(errs, err)
	}
	for _, bx := range boxes {
		errs = append(errs, b.d.killGroup(ctx, bx.group))
		b.d.removeLater(bx.group)
	}
	if spare != nil {
		b.d.removeLater(spare)
	}
	for id := range boxes {
		if err := os.Remove(metaFile(b.dir, id)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("destroy sandbox %s: %w", b.id, err)
	}
	return nil
}

// destroyMonitor has the monitor end the pod. One that cannot is killed: the
// cgroups that are removed next find what it leaves.
func (b *sandbox) destroyMonitor(ctx context.Context) error {
	short, cancel := context.WithTimeout(ctx, undoLimit)
	defer cancel()
	err := b.mon.Destroy(short)
	if err == nil || errdefs.IsUnavailable(err) { // done, or dead before
		return nil
	}
	b.d.cfg.Log.Warn("monitor is killed because it does not end", "pod", b.id, "error", err)
	b.mon.Close() // before: so that it is given no other pod meanwhile
	h, err := parseHandle(b.handle)
	if err != nil {
		return err
	}
	return h.kill()
}

// process is the local half of a process in the pod.
type process struct {
	b             *sandbox
	id, container string
	tty           bool
	pid           atomic.Int64
	started       bool // by Exec
	done          chan struct{}
	exit          hull.Exit // valid after done
}

var _ driver.Process = (*process)(nil)

// Pid implements driver.Process.
func (p *process) Pid() int {
	select {
	case <-p.done:
		return 0
	default:
		return int(p.pid.Load())
	}
}

// Start implements driver.Process.
func (p *process) Start(ctx context.Context) error {
	if p.started {
		return nil
	}
	return p.b.mon.Start(ctx, p.id)
}

// Signal implements driver.Process.
func (p *process) Signal(ctx context.Context, sig syscall.Signal) error {
	select {
	case <-p.done:
		return fmt.Errorf("process %s has ended: %w", p.id, errdefs.ErrNotFound)
	default:
	}
	return p.b.mon.Signal(ctx, p.id, sig)
}

// Wait implements driver.Process.
func (p *process) Wait(ctx context.Context) (hull.Exit, error) {
	select {
	case <-p.done:
		return p.exit, nil
	case <-ctx.Done():
		return hull.Exit{}, context.Cause(ctx)
	}
}

// Resize implements the ability driver.Resize.
func (p *process) Resize(ctx context.Context, rows, cols uint16) error {
	return p.b.mon.Resize(ctx, p.id, rows, cols)
}

// Attach implements the ability driver.Attach.
func (p *process) Attach(ctx context.Context, a hull.Attach) error {
	return p.b.mon.Attach(ctx, p.id, a)
}
