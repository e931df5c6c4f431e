package oci

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hull/internal/driver"
	"hull/internal/driver/group"
	"hull/internal/hull"
	"hull/internal/linux"
	"hull/internal/linux/cgroup"
	wire "hull/internal/monitor/oci"
)

// groupOf is the cgroup of a container that runs.
func (b *sandbox) groupOf(id string) (*cgroup.Group, error) {
	if _, err := b.Running(id); err != nil {
		return nil, err
	}
	path, err := os.ReadFile(groupFile(b.Dir(), id))
	if err != nil {
		return nil, fmt.Errorf("cgroup of container %s: %w", id, err)
	}
	g := b.d.cg.Group(string(path))
	if !g.Exists() {
		return nil, fmt.Errorf("container %s has no cgroup: %w", id, errdefs.ErrNotFound)
	}
	return g, nil
}

// Pause implements the ability driver.Pause. The freezer holds a sandbox as it holds
// any other process, whatever the runtime is.
func (b *sandbox) Pause(ctx context.Context, id string) error {
	g, err := b.groupOf(id)
	if err != nil {
		return err
	}
	return g.Freeze(ctx)
}

// Resume implements the ability driver.Resume.
func (b *sandbox) Resume(ctx context.Context, id string) error {
	g, err := b.groupOf(id)
	if err != nil {
		return err
	}
	return g.Thaw(ctx)
}

// Pids implements the ability driver.Pids: of the host. See Processes.
func (b *sandbox) Pids(_ context.Context, id string) ([]int, error) {
	g, err := b.groupOf(id)
	if err != nil {
		return nil, err
	}
	all, err := g.Pids()
	if err != nil {
		return nil, err
	}
	pids := all[:0]
	for _, p := range all {
		if p != b.MonitorPid() { // its thread in there is not the container's
			pids = append(pids, p)
		}
	}
	return pids, nil
}

// Processes implements the ability driver.Processes, where those in the container
// are none of the host's.
func (b *sandbox) Processes(ctx context.Context, id string) (titles []string, rows [][]string, ok bool, err error) {
	if b.f.style != wire.Runsc {
		return nil, nil, false, nil
	}
	if _, err := b.Running(id); err != nil {
		return nil, nil, true, err
	}
	out, _, err := b.Call(ctx, wire.CallProcesses, []byte(id))
	if err != nil {
		return nil, nil, true, err
	}
	titles, rows, err = parseProcesses(string(out))
	return titles, rows, true, err
}

// parseProcesses reads the table that "runsc ps" prints: titles, then a line for
// each process, whose last column may hold blanks.
func parseProcesses(text string) (titles []string, rows [][]string, err error) {
	lines := strings.Split(strings.TrimRight(strings.ToValidUTF8(text, "?"), "\n"), "\n")
	titles = strings.Fields(lines[0])
	if len(titles) < 2 {
		return nil, nil, fmt.Errorf("the runtime's list of processes begins with %q", clip(lines[0]))
	}
	rows = [][]string{}
	for _, l := range lines[1:] {
		f := strings.Fields(l)
		if len(f) < len(titles) {
			continue
		}
		last := len(titles) - 1
		rows = append(rows, append(f[:last:last], strings.Join(f[last:], " ")))
	}
	return titles, rows, nil
}

// Update implements the ability driver.Update.
func (b *sandbox) Update(_ context.Context, id string, r hull.Resources) error {
	g, err := b.groupOf(id)
	if err != nil {
		return err
	}
	res, err := driver.Limits(r)
	if err != nil {
		return fmt.Errorf("update container %s: %w", id, err)
	}
	if b.f.style == wire.Runsc {
		if r.Memory > 0 && r.Memory < minSandboxMemory {
			return tooSmall(r.Memory)
		}
		res = withSandbox(res)
	}
	warnings, err := g.Set(res)
	if err != nil {
		return fmt.Errorf("update container %s: %w", id, err)
	}
	for _, w := range warnings {
		b.d.cfg.Log.Warn(w, "pod", b.ID(), "container", id)
	}
	return nil
}

// Stats implements the ability driver.Stats.
func (b *sandbox) Stats(_ context.Context, id string) (hull.Stats, error) {
	g, err := b.groupOf(id)
	if err != nil {
		return hull.Stats{}, err
	}
	x, err := group.Sample(g)
	if err != nil {
		return hull.Stats{}, fmt.Errorf("sample container %s: %w", id, err)
	}
	return x, nil
}

// Root implements the ability driver.Root.
func (b *sandbox) Root(ctx context.Context, id string) (*os.File, error) {
	p, err := b.Running(id)
	if err != nil {
		return nil, err
	}
	if b.f.style != wire.Runsc {
		f, err := os.OpenFile("/proc/"+strconv.Itoa(p.Pid())+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("open root of container %s: %w", id, err)
		}
		if err := p.Signal(ctx, 0); err != nil { // the pid was its all the time
			return nil, fmt.Errorf("%w; %w", err, f.Close())
		}
		return f, nil
	}
	_, files, err := b.Call(ctx, wire.CallRoot, []byte(id))
	if err != nil {
		return nil, fmt.Errorf("open root of container %s: %w", id, err)
	}
	if len(files) != 1 {
		linux.CloseAll(files)
		return nil, fmt.Errorf("open root of container %s: the monitor sent %d descriptors", id, len(files))
	}
	return files[0], nil
}
