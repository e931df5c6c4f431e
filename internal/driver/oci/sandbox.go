package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/driver"
	"hull/internal/driver/group"
	"hull/internal/driver/pod"
	"hull/internal/hull"
	"hull/internal/linux/cgroup"
	"hull/internal/monitor"
	wire "hull/internal/monitor/oci"
	"hull/internal/undo"
)

// dirName is the backend's directory in the pod's run directory. Files beginning
// with groupPrefix in it name the cgroups that the pod has.
const (
	dirName     = "oci"
	groupPrefix = "cgroup-"
)

// sandbox is one pod.
type sandbox struct {
	*pod.Pod

	d     *Driver
	f     found
	netns string

	mu     sync.Mutex
	shared bool // holds, or will hold, more than the container that has the pod's id
	alone  bool // the container of the pod's id is the sandbox
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
	var back undo.Stack
	defer back.OnError(ctx, undoLimit, &err)
	x := translation{style: b.f.style, netns: b.netns, tty: hio.TTY, host: hostOf(), holder: b.d.cfg.MonitorPath}
	if c.Init {
		return nil, unable("--init", b.f)
	}
	spec := *c.OCI
	if spec.Process, err = asUser(c); err != nil {
		return nil, err
	}
	if b.f.style == wire.Runsc {
		if x.pod, err = b.enter(c.ID); err != nil {
			return nil, err
		}
	}
	g := b.d.cg.Group(b.d.groupPath(c.ID, spec.Linux))
	x.cgroup = g.Path()
	out, err := x.translate(&spec)
	if err != nil {
		return nil, err
	}
	if err := b.recordGroup(c.ID, g.Path()); err != nil {
		return nil, err
	}
	back.Add("remove cgroup", func(ctx context.Context) error {
		return errors.Join(b.d.removeGroup(ctx, g), b.forgetGroup(c.ID))
	})
	own := b.f.style == wire.Runsc
	if own {
		if err := b.limit(ctx, c.ID, g, spec.Linux); err != nil {
			return nil, err
		}
	}
	config, err := json.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("encode specification: %w", err)
	}
	plan, err := json.Marshal(wire.Container{
		Spec: config, Lower: c.Rootfs.Lower, Upper: c.Rootfs.Upper, Work: c.Rootfs.Work, ReadOnly: c.Rootfs.ReadOnly,
		RuntimeCgroup: !own, Alone: x.pod == "", Binds: bindsOf(&spec),
	})
	if err != nil {
		return nil, fmt.Errorf("encode container: %w", err)
	}
	p, err := b.Pod.Add(ctx, monitor.AddRequest{ID: c.ID, Plan: plan, Cgroup: group.Of(g), IO: hio})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// enter says which sandbox container id goes into: "" = it is one by itself.
func (b *sandbox) enter(id string) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.alone:
		return "", fmt.Errorf("container %s: the sandbox %s is that of one container: %w", id, b.ID(), errdefs.ErrAlreadyExists)
	case id == b.ID() && !b.shared:
		b.alone = true
		return "", nil
	}
	if !b.shared {
		// The sandbox itself lives in a cgroup of the pod's.
		g := b.d.cg.Group(b.d.groupPath(wire.PausePrefix+b.ID(), nil))
		if err := b.recordGroup(wire.PausePrefix+b.ID(), g.Path()); err != nil {
			return "", err
		}
		if err := b.limit(context.Background(), b.ID(), g, nil); err != nil {
			return "", errors.Join(err, b.forgetGroup(wire.PausePrefix+b.ID()))
		}
	}
	b.shared = true
	return wire.PausePrefix + b.ID(), nil
}

// limit makes the cgroup in which the sandbox will be born. One of that name can
// only be left from a run that was not destroyed: nothing may go on in it.
func (b *sandbox) limit(ctx context.Context, id string, g *cgroup.Group, l *specs.Linux) error {
	var res *specs.LinuxResources
	if l != nil {
		res = l.Resources
	}
	res = withSandbox(res)
	warnings, err := g.Create(res)
	if errdefs.IsAlreadyExists(err) {
		if err := b.d.removeGroup(ctx, g); err != nil {
			return err
		}
		warnings, err = g.Create(res)
	}
	if err != nil {
		return fmt.Errorf("create cgroup: %w", err)
	}
	for _, w := range warnings {
		b.d.cfg.Log.Warn(w, "pod", b.ID(), "container", id)
	}
	return nil
}

// groupPath is a container's cgroup. A path that climbs stays below the parent.
func (d *Driver) groupPath(id string, l *specs.Linux) string {
	path := id
	if l != nil && l.CgroupsPath != "" {
		path = l.CgroupsPath
	}
	return filepath.Join(d.cfg.CgroupParent, filepath.Clean("/"+path))
}

func groupFile(dir, id string) string { return filepath.Join(dir, dirName, groupPrefix+id) }

// recordGroup notes a cgroup where an engine that knows nothing else finds it.
func (b *sandbox) recordGroup(id, path string) error {
	f, err := os.OpenFile(groupFile(b.Dir(), id), os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("container %s: %w", id, errdefs.ErrAlreadyExists)
	}
	if err != nil {
		return fmt.Errorf("record cgroup: %w", err)
	}
	_, err = f.WriteString(path)
	return errors.Join(err, f.Close())
}

func (b *sandbox) forgetGroup(id string) error {
	err := os.Remove(groupFile(b.Dir(), id))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// groupsOf are the cgroups of a pod, by name and by what it noted.
func (d *Driver) groupsOf(id, dir string) []string {
	groups := []string{d.groupPath(id, nil), d.groupPath(wire.PausePrefix+id, nil)}
	files, err := filepath.Glob(groupFile(dir, "*"))
	if err != nil {
		return groups
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.HasPrefix(string(b), d.cfg.CgroupParent+"/") {
			groups = append(groups, filepath.Clean(string(b)))
		}
	}
	return groups
}

// release implements pod.Config.Release.
func (d *Driver) release(ctx context.Context, id, dir string) error {
	var errs []error
	for _, g := range d.groupsOf(id, dir) {
		errs = append(errs, d.removeGroup(ctx, d.cg.Group(g)))
	}
	return errors.Join(append(errs, os.RemoveAll(filepath.Join(dir, dirName)))...)
}

// removeGroup kills what is in a cgroup and removes it.
func (d *Driver) removeGroup(ctx context.Context, g *cgroup.Group) error {
	if !g.Exists() {
		return nil
	}
	// A frozen process dies only when it is thawed (v1).
	if err := g.Thaw(ctx); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("thaw cgroup %s: %w", g.Path(), err)
	}
	if err := g.Kill(ctx); err != nil {
		return fmt.Errorf("kill cgroup %s: %w", g.Path(), err)
	}
	if err := g.Destroy(ctx); err != nil {
		return fmt.Errorf("remove cgroup %s: %w", g.Path(), err)
	}
	return nil
}

// Destroy implements driver.Sandbox.
func (b *sandbox) Destroy(ctx context.Context) error {
	for _, g := range b.d.groupsOf(b.ID(), b.Dir()) {
		if err := b.d.cg.Group(g).Thaw(ctx); err != nil && !errdefs.IsNotFound(err) {
			b.d.cfg.Log.Warn("thaw cgroup", "cgroup", g, "error", err)
		}
	}
	return b.Pod.Destroy(ctx)
}

// Exec implements driver.Sandbox.
func (b *sandbox) Exec(ctx context.Context, id string, e driver.ExecSpec, hio hull.IO) (driver.Process, error) {
	if _, err := b.Running(id); err != nil {
		return nil, err
	}
	if e.Process == nil || len(e.Process.Args) == 0 {
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
	proc.Terminal = hio.TTY
	if hio.TTY && hio.Rows > 0 {
		proc.ConsoleSize = &specs.Box{Height: uint(hio.Rows), Width: uint(hio.Cols)}
	}
	if proc.Cwd == "" {
		proc.Cwd = "/"
	}
	if b.f.style != wire.Runsc {
		proc.Capabilities = hostOf().caps(proc.Capabilities)
	}
	proc.OOMScoreAdj = nil
	raw, err := json.Marshal(&proc)
	if err != nil {
		return nil, fmt.Errorf("encode process: %w", err)
	}
	plan, err := json.Marshal(wire.Exec{Process: raw, Args0: proc.Args[0], Terminal: hio.TTY})
	if err != nil {
		return nil, fmt.Errorf("encode exec: %w", err)
	}
	return b.AddExec(ctx, id, e.ID, plan, hio, false)
}

// unable is the answer to what a runtime cannot do.
func unable(what string, f found) error {
	name := "the runtime " + f.path
	if f.style == wire.Runsc {
		name = "isolation sandbox (gVisor)"
	}
	return fmt.Errorf("%s is not supported by %s; use --isolation container: %w", what, name, errdefs.ErrNotImplemented)
}
