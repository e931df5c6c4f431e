package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/driver"
	"hull/internal/driver/group"
	"hull/internal/driver/pod"
	"hull/internal/hull"
	"hull/internal/linux/cgroup"
	"hull/internal/monitor"
	"hull/internal/runtime"
	"hull/internal/undo"
)

// sandbox is one pod.
type sandbox struct {
	*pod.Pod
	d     *Driver
	netns string

	mu        sync.Mutex
	boxes     map[string]*box
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
	go func() { recorded <- writeMeta(b.Dir(), c.ID, meta{Cgroup: bx.group.Path(), Spec: spec}) }()
	p, err := b.Pod.Add(ctx, monitor.AddRequest{ID: c.ID, Plan: raw, Seated: bx.seated, Cgroup: group.Of(bx.group), IO: hio})
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
		return nil, fmt.Errorf("sandbox %s is destroyed: %w", b.ID(), errdefs.ErrFailedPrecondition)
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
	err := os.Remove(metaFile(b.Dir(), id))
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
		b.d.cfg.Log.Warn(w, "pod", b.ID(), "container", id)
	}
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
	if _, err := pod.SetUser(root, &proc, e.User, e.Groups); err != nil {
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
	return b.AddExec(ctx, id, e.ID, raw, hio, e.Now)
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
	errs = append(errs, b.End(ctx))
	for _, bx := range boxes {
		errs = append(errs, b.d.killGroup(ctx, bx.group))
		b.d.removeLater(bx.group)
	}
	if spare != nil {
		b.d.removeLater(spare)
	}
	for id := range boxes {
		if err := os.Remove(metaFile(b.Dir(), id)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("destroy sandbox %s: %w", b.ID(), err)
	}
	return nil
}
