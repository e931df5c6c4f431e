package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/driver"
	"hull/internal/driver/group"
	"hull/internal/driver/pod"
	"hull/internal/guest"
	"hull/internal/hull"
	"hull/internal/linux"
	"hull/internal/linux/cgroup"
	"hull/internal/monitor"
	monitorvm "hull/internal/monitor/vm"
	"hull/internal/runtime"
)

// sandbox is one machine.
type sandbox struct {
	*pod.Pod
	d     *Driver
	kind  kind // of one that a former engine made, the kernel only
	group *cgroup.Group
	// limits are the host's, of a sandbox made by this engine.
	limits hull.Resources

	mu   sync.Mutex
	spec *specs.Spec // what execs are made from
}

var _ driver.Sandbox = (*sandbox)(nil)

// specName is the file in the run directory that keeps the specification for a
// restarted engine.
const specName = "vm-spec.json"

type saved struct{ Spec *specs.Spec }

// Add implements driver.Sandbox.
func (b *sandbox) Add(ctx context.Context, c driver.ContainerSpec, hio hull.IO) (driver.Process, error) {
	if c.OCI == nil || c.OCI.Process == nil {
		return nil, fmt.Errorf("container %s has no process: %w", c.ID, errdefs.ErrInvalidArgument)
	}
	x := monitorvm.Spec{Root: c.Rootfs.Block, Disk: c.Rootfs.Disk, Stdin: hio.Stdin}
	root, err := b.root(c.Rootfs, &x)
	if err != nil {
		return nil, err
	}
	spec, err := b.inGuest(c.OCI, &x)
	if err != nil {
		return nil, err
	}
	plan, err := runtime.Prepare(spec, runtime.Options{Rootfs: root, Init: c.Init})
	if err != nil {
		return nil, fmt.Errorf("compile specification: %w", err)
	}
	b.warn(c.ID, plan.Warnings)
	if x.Plan, err = plan.MarshalBinary(); err != nil {
		return nil, fmt.Errorf("encode plan: %w", err)
	}
	x.Container.User, x.Container.Groups, x.Container.Lookup = c.User, c.Groups, true
	x.Container.Limits = limits(spec.Linux.Resources)
	if len(x.Binds) > 0 {
		if x.VirtioFSD, err = b.d.virtiofsd(); err != nil {
			return nil, err
		}
	}
	practice, err := rehearse(spec)
	if err != nil {
		return nil, err
	}
	if x.State, x.Memory, err = b.d.template(ctx, b.kind, true, &practice); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(x)
	if err != nil {
		return nil, err
	}
	if err := b.writeSpec(spec); err != nil {
		return nil, fmt.Errorf("record container: %w", err)
	}
	p, err := b.Pod.Add(ctx, monitor.AddRequest{ID: c.ID, Plan: raw, IO: hio})
	if err != nil {
		return nil, err
	}
	// Not before: booting is not the container's work.
	res, err := driver.Limits(b.limits)
	if err == nil {
		_, err = b.group.Set(hostLimits(res))
	}
	if err != nil {
		return nil, fmt.Errorf("limit the machine: %w", err)
	}
	b.d.another(b.kind, len(x.Binds) > 0, x.State, x.Memory, practice)
	return p, nil
}

// root is where the machine has a container's root file system: on its disks, or
// among what it sees of this host's directories.
func (b *sandbox) root(r hull.Rootfs, x *monitorvm.Spec) (runtime.Rootfs, error) {
	switch r.Kind {
	case hull.RootfsBlock:
		root := runtime.Rootfs{Lower: []string{guest.RootDir}, ReadOnly: r.ReadOnly}
		if r.Disk != "" {
			root.Upper, root.Work = guest.UpperDir, guest.WorkDir
		}
		return root, nil
	case hull.RootfsOverlay:
		if err := b.shares("the container's files"); err != nil {
			return runtime.Rootfs{}, err
		}
		const name = "root"
		x.Binds = append(x.Binds, monitorvm.Bind{Name: name, Overlay: &linux.Overlay{Lower: r.Lower, Upper: r.Upper, Work: r.Work, ReadOnly: r.ReadOnly}})
		return runtime.Rootfs{Dir: filepath.Join(guest.ShareDir, name), ReadOnly: r.ReadOnly}, nil
	}
	return runtime.Rootfs{}, fmt.Errorf("root file system of kind %q: %w", r.Kind, errdefs.ErrNotImplemented)
}

// Exec implements driver.Sandbox.
func (b *sandbox) Exec(ctx context.Context, id string, e driver.ExecSpec, hio hull.IO) (driver.Process, error) {
	if _, err := b.Running(id); err != nil {
		return nil, err
	}
	if e.Process == nil {
		return nil, fmt.Errorf("exec %s has no process: %w", e.ID, errdefs.ErrInvalidArgument)
	}
	b.mu.Lock()
	base := b.spec
	b.mu.Unlock()
	if base == nil {
		return nil, fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound)
	}
	s, l := *base, *base.Linux
	l.Seccomp = e.Seccomp
	s.Linux = &l
	plan, err := runtime.PrepareExec(&s, e.Process, false)
	if err != nil {
		return nil, fmt.Errorf("compile process: %w", err)
	}
	b.warn(id, plan.Warnings)
	x := monitorvm.Exec{
		ID: e.ID, TTY: hio.TTY, Stdin: hio.Stdin,
		Container: guest.Container{User: e.User, Groups: e.Groups, Lookup: true},
	}
	if x.Plan, err = plan.MarshalBinary(); err != nil {
		return nil, fmt.Errorf("encode plan: %w", err)
	}
	raw, err := json.Marshal(x)
	if err != nil {
		return nil, err
	}
	return b.AddExec(ctx, id, e.ID, raw, hio, false)
}

func (b *sandbox) warn(id string, warnings []string) {
	for _, w := range warnings {
		b.d.cfg.Log.Warn(w, "pod", b.ID(), "container", id)
	}
}

// writeSpec keeps what a restarted engine needs for execs.
func (b *sandbox) writeSpec(spec *specs.Spec) error {
	s, l := *spec, *spec.Linux
	l.Seccomp, s.Mounts, s.Hooks = nil, nil, nil
	s.Linux = &l
	b.mu.Lock()
	b.spec = &s
	b.mu.Unlock()
	raw, err := json.Marshal(saved{&s})
	if err != nil {
		return err
	}
	path := filepath.Join(b.Dir(), specName)
	if err := os.WriteFile(path+".new", raw, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func (b *sandbox) readSpec() error {
	raw, err := os.ReadFile(filepath.Join(b.Dir(), specName))
	if errors.Is(err, os.ErrNotExist) {
		return nil // no container yet
	}
	var x saved
	if err == nil {
		err = json.Unmarshal(raw, &x)
	}
	if err != nil {
		return fmt.Errorf("read what is known of pod %s: %w", b.ID(), err)
	}
	b.spec = x.Spec
	return nil
}

// Pause implements the ability driver.Pause.
func (b *sandbox) Pause(ctx context.Context, id string) error {
	_, _, err := b.Call(ctx, monitorvm.OpPause, []byte(id))
	return err
}

// Resume implements the ability driver.Resume.
func (b *sandbox) Resume(ctx context.Context, id string) error {
	_, _, err := b.Call(ctx, monitorvm.OpResume, []byte(id))
	return err
}

// Update implements the ability driver.Update. A machine's size is what it is:
// limits change within it.
func (b *sandbox) Update(ctx context.Context, id string, r hull.Resources) error {
	if r.Memory > 0 {
		max, err := b.memory(ctx, id)
		if err == nil && uint64(r.Memory) > max {
			return fmt.Errorf("the machine of container %s has %d MiB; give it more with a new --memory at its start: %w", id, max/mib, errdefs.ErrInvalidArgument)
		}
	}
	res, err := driver.Limits(r)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(monitorvm.Limit{ID: id, Limits: limits(res)})
	if err != nil {
		return err
	}
	if _, _, err := b.Call(ctx, monitorvm.OpLimit, raw); err != nil {
		return fmt.Errorf("update container %s: %w", id, err)
	}
	_, err = b.group.Set(hostLimits(res))
	return err
}

// Stats implements the ability driver.Stats.
func (b *sandbox) Stats(ctx context.Context, id string) (hull.Stats, error) {
	raw, _, err := b.Call(ctx, monitorvm.OpStats, []byte(id))
	if err != nil {
		return hull.Stats{}, fmt.Errorf("sample container %s: %w", id, err)
	}
	var s monitorvm.Sample
	if err := json.Unmarshal(raw, &s); err != nil {
		return hull.Stats{}, fmt.Errorf("sample container %s: %w", id, err)
	}
	x := sample(s.Guest)
	x.Read, x.CgroupV2 = time.Now(), true
	if x.Memory.Limit == 0 {
		x.Memory.Limit = uint64(defaultMemory)
	}
	return x, group.HostCPU(&x)
}

// memory is the machine's, in bytes.
func (b *sandbox) memory(ctx context.Context, id string) (uint64, error) {
	raw, _, err := b.Call(ctx, monitorvm.OpStats, []byte(id))
	if err != nil {
		return 0, err
	}
	var s monitorvm.Sample
	if err := json.Unmarshal(raw, &s); err != nil {
		return 0, err
	}
	return strconv.ParseUint(s.Guest["machine"], 10, 64)
}
