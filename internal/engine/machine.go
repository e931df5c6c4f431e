package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"hull/internal/driver"
	"hull/internal/hull"
	"hull/internal/undo"
)

// machineOf says whether a container has its files on a disk of a machine. A runtime that is gone was none.
func (e *base) machineOf(c hull.Container) bool {
	d, err := e.driverOf(c.Spec.Isolation, c.Spec.Runtime)
	return err == nil && d.Info().OnDisk()
}

// machineFiles are the files of a container in a machine: the running one's, or
// those on the disk of one that does not run, which nobody starts meanwhile.
func (e *copies) machineFiles(ctx context.Context, id string) (_ driver.Files, done hull.Release, err error) {
	c, unlock, err := e.locked(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	back := undo.Stack{}
	back.Add("unlock", func(context.Context) error { unlock(); return nil })
	defer back.OnError(ctx, undoLimit, &err)
	if pod := e.runs.pod(c.PodID); pod != nil && c.Status.Phase.Live() {
		f, err := driver.RunningFiles(pod.box, c.ID)
		if err != nil {
			return nil, nil, err
		}
		unlock() // it may be stopped while its files are read
		back.Release()
		return f, f.Close, nil
	}
	drv, err := e.driver(c.Spec.Isolation, c.Spec.Runtime)
	if err != nil {
		return nil, nil, err
	}
	root, unmount, err := e.images.Mount(ctx, c.ID, drv.Info().Rootfs)
	if err != nil {
		return nil, nil, fmt.Errorf("mount root file system of %s: %w", c.Name, err)
	}
	back.Add("unmount root file system", unmount)
	f, err := driver.DiskFiles(ctx, drv, root)
	if err != nil {
		return nil, nil, fmt.Errorf("open the disk of %s: %w", c.Name, err)
	}
	back.Add("close the disk", f.Close)
	return f, func(ctx context.Context) error { return back.Run(ctx, undoLimit) }, nil
}

// fetchLayer gives the image service a copy of what a container in a machine has
// written, so that it is worked on like any other's. done drops the copy.
func (e *copies) fetchLayer(ctx context.Context, c hull.Container) (done func(), err error) {
	if !e.machineOf(c) {
		return func() {}, nil
	}
	unlock, err := e.locks.Lock(ctx, "layer "+c.ID)
	if err != nil {
		return nil, err
	}
	done = func() {
		if err := e.images.Refill(context.WithoutCancel(ctx), c.ID, nil); err != nil {
			e.log.Error("drop the copy of a machine's files", "container", c.ID, "error", err)
		}
		unlock()
	}
	if err := e.copyLayer(ctx, c); err != nil {
		done()
		return nil, fmt.Errorf("read what the machine of %s has written: %w", c.Name, err)
	}
	return done, nil
}

func (e *copies) copyLayer(ctx context.Context, c hull.Container) (err error) {
	f, closeFiles, err := e.machineFiles(ctx, c.ID)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeFiles(context.WithoutCancel(ctx))) }()
	r, w := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := f.Layer(ctx, w)
		w.CloseWithError(err)
		packed <- err
	}()
	err = e.images.Refill(ctx, c.ID, r)
	r.CloseWithError(err)
	if perr := <-packed; err == nil {
		err = perr
	}
	return err
}

// checkMachine refuses what a machine of its own cannot share, and a disk limit,
// which its disk does not have.
func (e *creation) checkMachine(s hull.Spec, podID string, drv driver.Driver) error {
	modes := []string{s.Network.Mode, s.Namespaces.PID, s.Namespaces.IPC, s.Namespaces.UTS}
	for _, mode := range modes {
		ref, ok := strings.CutPrefix(mode, "container:")
		if !ok {
			continue
		}
		o, err := e.store.Container(ref)
		if err != nil {
			return err
		}
		if drv.Info().OnDisk() || e.machineOf(o) {
			return noMachine("a namespace shared with another container", machineName(s, o, drv))
		}
	}
	switch {
	case !drv.Info().OnDisk():
		return nil
	case slices.Contains(modes, "host"):
		return noMachine("a namespace of the host", s.Isolation)
	case len(s.StorageOpt) > 0:
		return noMachine("--storage-opt", s.Isolation)
	case len(s.Resources.Devices)+len(s.Resources.DeviceRequests) > 0:
		return noMachine("--device", s.Isolation)
	case podID == "":
		return nil
	}
	for _, c := range e.store.Containers() {
		if c.PodID == podID {
			return noMachine("a second container in a pod", s.Isolation)
		}
	}
	return nil
}

func noMachine(what string, i hull.Isolation) error {
	return fmt.Errorf("%s is not supported by isolation %s; use --isolation container: %w", what, i, errdefs.ErrNotImplemented)
}

// machineName is the isolation of the one of two containers that is a machine.
func machineName(s hull.Spec, o hull.Container, drv driver.Driver) hull.Isolation {
	if drv.Info().OnDisk() {
		return s.Isolation
	}
	return o.Spec.Isolation
}
