package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hull/internal/driver"
	"hull/internal/driver/group"
	"hull/internal/hull"
	"hull/internal/runtime"
)

// Root implements the ability driver.Root.
func (b *sandbox) Root(ctx context.Context, id string) (*os.File, error) {
	p, err := b.Running(id)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile("/proc/"+strconv.Itoa(p.Pid())+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open root of container %s: %w", id, errors.Join(err, errdefs.ErrNotFound))
	}
	// The monitor has not reaped it yet, so the pid was its all the time.
	if err := p.Signal(ctx, 0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Pause implements the ability driver.Pause.
func (b *sandbox) Pause(ctx context.Context, id string) error {
	bx, err := b.box(id)
	if err != nil {
		return err
	}
	return bx.group.Freeze(ctx)
}

// Resume implements the ability driver.Resume.
func (b *sandbox) Resume(ctx context.Context, id string) error {
	bx, err := b.box(id)
	if err != nil {
		return err
	}
	return bx.group.Thaw(ctx)
}

// Pids implements the ability driver.Pids.
func (b *sandbox) Pids(_ context.Context, id string) ([]int, error) {
	bx, err := b.box(id)
	if err != nil {
		return nil, err
	}
	return bx.group.Pids()
}

// Update implements the ability driver.Update.
func (b *sandbox) Update(_ context.Context, id string, r hull.Resources) error {
	bx, err := b.box(id)
	if err != nil {
		return err
	}
	res, err := driver.Limits(r)
	if err != nil {
		return fmt.Errorf("update container %s: %w", id, err)
	}
	if runtime.CanSeat(group.Of(bx.group)) {
		res = withSeat(res)
	}
	warnings, err := bx.group.Set(res)
	if err != nil {
		return fmt.Errorf("update container %s: %w", id, err)
	}
	b.warn(id, warnings)
	return nil
}

// Stats implements the ability driver.Stats.
func (b *sandbox) Stats(_ context.Context, id string) (hull.Stats, error) {
	bx, err := b.box(id)
	if err != nil {
		return hull.Stats{}, err
	}
	if !bx.group.Exists() {
		return hull.Stats{}, fmt.Errorf("container %s is not running: %w", id, errdefs.ErrNotFound)
	}
	x, err := group.Sample(bx.group)
	if err != nil {
		return hull.Stats{}, fmt.Errorf("sample container %s: %w", id, err)
	}
	if runtime.CanSeat(group.Of(bx.group)) { // the seat's thread is no task of the container's
		x.Pids.Current -= min(x.Pids.Current, 1)
		x.Pids.Limit -= min(x.Pids.Limit, 1)
	}
	return x, nil
}
