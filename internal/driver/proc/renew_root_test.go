package proc_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"hull/internal/driver"
	"hull/internal/driver/drivertest"
	"hull/internal/driver/proc"
	"hull/internal/hull"
	"hull/internal/require"
)

// TestMonitorServesAgainRoot: a monitor whose pod has ended is given another one.
// What is still known of the pod before does not lead to it: to release that one
// leaves the other in peace, and an engine that comes after finds it.
func TestMonitorServesAgainRoot(t *testing.T) {
	require.Root(t)
	ctx := context.Background()
	w := newWorld(t)
	d := w.driver()
	before := map[int]hull.Handle{} // by the monitor's pid
	for n, limit := 0, time.Now().Add(2*time.Minute); ; n++ {
		id := fmt.Sprintf("pod%d", n)
		box, p := w.sleeper(d, id)
		pid := pidOf(t, box.Handle())
		old, again := before[pid]
		if !again {
			before[pid] = box.Handle()
			if err := box.Destroy(ctx); err != nil {
				t.Fatal(err)
			}
			if time.Now().After(limit) {
				t.Fatalf("none of %d monitors came back", n)
			}
			continue
		}
		var gone *driver.GoneError
		if _, err := d.Recover(ctx, "ended", old); !errors.As(err, &gone) {
			t.Errorf("the pod before: %v", err)
		}
		if err := p.Signal(ctx, syscall.Signal(0)); err != nil {
			t.Errorf("the pod after: %v", err)
		}
		found, err := w.driver().Recover(ctx, id, box.Handle())
		if err != nil {
			t.Fatal(err)
		}
		if q, err := found.Process(id); err != nil || q.Pid() != p.Pid() {
			t.Errorf("the next engine finds %v, %v instead of process %d", q, err, p.Pid())
		}
		if err := found.Destroy(ctx); err != nil {
			t.Fatal(err)
		}
		return
	}
}

// sleeper is a pod of one that stays.
func (w *world) sleeper(d *proc.Driver, id string) (driver.Sandbox, driver.Process) {
	w.t.Helper()
	ctx := context.Background()
	box, err := d.Create(ctx, driver.SandboxSpec{ID: id, RunDir: w.RunDir(id)})
	if err != nil {
		w.t.Fatal(err)
	}
	p, err := box.Add(ctx, driver.ContainerSpec{ID: id, Rootfs: w.Rootfs(), OCI: drivertest.Spec("/bin/sleep", "1000")}, hull.IO{Log: w.Log(id)})
	if err == nil {
		err = p.Start(ctx)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return box, p
}

func pidOf(t *testing.T, raw hull.Handle) int {
	t.Helper()
	var h struct{ Pid int }
	if err := json.Unmarshal(raw, &h); err != nil || h.Pid == 0 {
		t.Fatalf("handle %s: %v", raw, err)
	}
	return h.Pid
}
