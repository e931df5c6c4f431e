package engine

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"hull/internal/driver"
	"hull/internal/hull"
)

// Update changes limits and the restart policy, of a running container at once.
func (e *creation) Update(ctx context.Context, ref string, r hull.UpdateRequest) ([]string, error) {
	c, unlock, err := e.locked(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if c.Status.Phase == hull.Removing || c.Status.Phase == hull.Dead {
		return nil, fmt.Errorf("container is marked for removal and cannot be \"update\": %w", errdefs.ErrConflict)
	}
	next := c.Spec
	if r.Restart != nil && r.Restart.Name != "" {
		if c.Spec.AutoRemove && r.Restart.Name != "no" {
			return nil, fmt.Errorf("Restart policy cannot be updated because AutoRemove is enabled for the container: %w", errdefs.ErrConflict) //nolint:staticcheck // Docker's words
		}
		next.Restart = *r.Restart
	}
	if r.Resources != nil {
		next.Resources = overlay(c.Spec.Resources, *r.Resources)
	}
	if err := validate(next); err != nil {
		return nil, err
	}
	if pod := e.runs.pod(c.PodID); pod != nil && r.Resources != nil && c.Status.Phase.Live() {
		if err := driver.Update(ctx, pod.box, c.ID, next.Resources); err != nil {
			return nil, fmt.Errorf("cannot update container %s: %w", c.ID, err)
		}
	}
	err = e.store.UpdateSpec(c.ID, func(s *hull.Spec) error { *s = next; return nil })
	if err != nil {
		return nil, err
	}
	e.publish("update", c, nil)
	return nil, nil
}

// overlay sets the limits that with names.
func overlay(r, with hull.Resources) hull.Resources {
	if with.NanoCPUs > 0 { // replaces the other way to say it
		r.CPUPeriod, r.CPUQuota = 0, 0
	}
	if with.CPUPeriod > 0 || with.CPUQuota != 0 {
		r.NanoCPUs = 0
	}
	r.NanoCPUs = firstNonZero(with.NanoCPUs, r.NanoCPUs)
	r.CPUShares = firstNonZero(with.CPUShares, r.CPUShares)
	r.CPUPeriod = firstNonZero(with.CPUPeriod, r.CPUPeriod)
	r.CPUQuota = firstNonZero(with.CPUQuota, r.CPUQuota)
	r.CPURealtimePeriod = firstNonZero(with.CPURealtimePeriod, r.CPURealtimePeriod)
	r.CPURealtimeRun = firstNonZero(with.CPURealtimeRun, r.CPURealtimeRun)
	r.CpusetCpus = firstOf(with.CpusetCpus, r.CpusetCpus)
	r.CpusetMems = firstOf(with.CpusetMems, r.CpusetMems)
	if with.Memory > 0 && with.MemorySwap == 0 && r.MemorySwap > 0 && with.Memory > r.MemorySwap {
		r.MemorySwap = 2 * with.Memory
	}
	r.Memory = firstNonZero(with.Memory, r.Memory)
	r.MemoryReservation = firstNonZero(with.MemoryReservation, r.MemoryReservation)
	r.MemorySwap = firstNonZero(with.MemorySwap, r.MemorySwap)
	r.Blkio.Weight = firstNonZero(with.Blkio.Weight, r.Blkio.Weight)
	if with.PidsLimit != nil {
		r.PidsLimit = with.PidsLimit
		if *with.PidsLimit < 0 { // Docker: below zero says what zero says
			r.PidsLimit = new(int64)
		}
	}
	for _, rates := range []struct {
		to   *[]hull.DeviceRate
		with []hull.DeviceRate
	}{
		{&r.Blkio.ReadBps, with.Blkio.ReadBps}, {&r.Blkio.WriteBps, with.Blkio.WriteBps},
		{&r.Blkio.ReadIOps, with.Blkio.ReadIOps}, {&r.Blkio.WriteIOps, with.Blkio.WriteIOps},
	} {
		if len(rates.with) > 0 {
			*rates.to = rates.with
		}
	}
	return r
}

// Rename gives a container another name.
func (e *creation) Rename(ctx context.Context, ref, name string) error {
	if name == "" {
		return fmt.Errorf("neither old nor new names may be empty: %w", errdefs.ErrInvalidArgument)
	}
	c, unlock, err := e.locked(ctx, ref)
	if err != nil {
		return err
	}
	defer unlock()
	if c.Name == name || "/"+c.Name == name {
		return fmt.Errorf("Renaming a container with the same name as its current name: %w", errdefs.ErrInvalidArgument) //nolint:staticcheck // Docker's words
	}
	if name, err = e.chooseName(name); err != nil {
		return err
	}
	if err := e.store.Rename(c.ID, name); err != nil {
		return err
	}
	old := c.Name
	c.Name = name
	if err := e.networks.Rename(ctx, c.PodID, name); err != nil {
		e.log.Error("the container's networks know it by its old name", "container", c.ID, "error", err)
	}
	e.publish("rename", c, map[string]string{"oldName": "/" + old})
	return nil
}
