package engine

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"hull/internal/driver"
	"hull/internal/hull"
)

// onDisk says whether a driver's containers have their files on disks of a machine
// of their own, instead of in directories of this host. Then the host's kernel
// shows neither their files nor their network.
func onDisk(d driver.Driver) bool { return slices.Contains(d.Info().Rootfs, hull.RootfsBlock) }

// machineOf is onDisk for a container. A runtime that is gone was none.
func (e *base) machineOf(c hull.Container) bool {
	d, err := e.driverOf(c.Spec.Isolation, c.Spec.Runtime)
	return err == nil && onDisk(d)
}

// hostFiles refuses what needs a container's files on the host where they are not:
// the directories here would be empty, and say nothing of it.
func (e *base) hostFiles(c hull.Container, what string) error {
	if !e.machineOf(c) {
		return nil
	}
	return fmt.Errorf("%s of container %s is not supported by isolation %s, whose files lie on a disk that only its machine reads; use --isolation container for it, or tar with hull exec while it runs: %w",
		what, c.Name, c.Spec.Isolation, errdefs.ErrNotImplemented)
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
		if onDisk(drv) || e.machineOf(o) {
			return noMachine("a namespace shared with another container", machineName(s, o, drv))
		}
	}
	switch {
	case !onDisk(drv):
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
	if onDisk(drv) {
		return s.Isolation
	}
	return o.Spec.Isolation
}
