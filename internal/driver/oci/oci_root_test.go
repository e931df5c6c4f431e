package oci_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"hull/internal/driver"
	"hull/internal/driver/drivertest"
	"hull/internal/driver/drivertest/ground"
	"hull/internal/driver/oci"
	"hull/internal/hull"
	"hull/internal/monitor"
	backend "hull/internal/monitor/oci"
	"hull/internal/require"
)

// TestMain makes this binary a hull-monitor when it is started as one.
func TestMain(m *testing.M) {
	if os.Args[0] == "hull-monitor" {
		os.Exit(monitor.Main(map[string]monitor.NewBackend{backend.Backend: backend.New}, nil))
	}
	if code, ok := backend.Program(os.Args); ok {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// world is a machine with one engine's parent cgroup.
type world struct {
	*ground.Ground

	t                testing.TB
	monitor, runtime string
}

func newWorld(t testing.TB, runtime string) *world {
	t.Helper()
	require.Root(t)
	w := &world{Ground: ground.New(t, "/hulltest-"), t: t, monitor: ground.MonitorProgram(t), runtime: runtime}
	w.CreateParent()
	ground.Busybox(t, w.Lower())
	w.Begin()
	return w
}

func (w *world) driver() *oci.Driver {
	d, err := oci.New(oci.Config{Runtime: w.runtime, MonitorPath: w.monitor, CgroupParent: w.Parent, RunDir: w.Dir, Log: w.Logger()})
	if err != nil {
		w.t.Fatal(err)
	}
	w.Closing(d)
	return d
}

func (w *world) Driver() driver.Driver { return w.driver() }

func (w *world) Rootfs() hull.Rootfs { return w.Overlay() }

func (*world) NetNS() string { return "" }

// box makes a pod, which ends with the test.
func (w *world) box(ctx context.Context, pod string) driver.Sandbox {
	w.t.Helper()
	b, err := w.driver().Create(ctx, driver.SandboxSpec{ID: pod, RunDir: w.RunDir(pod)})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := b.Destroy(ctx); err != nil {
			w.t.Error(err)
		}
	})
	return b
}

// script is a program in a runtime's place.
func script(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestContractSandboxRoot: the contract holds for gVisor.
func TestContractSandboxRoot(t *testing.T) {
	require.Root(t)
	path := require.Runsc(t)
	drivertest.Run(t, func(t *testing.T) drivertest.World { return newWorld(t, path) })
}

// TestKillAmongOthersRoot: a container that ends of a signal takes the runtime's command
// along that sent it, when that command lingers; the signal was sent all the same.
func TestKillAmongOthersRoot(t *testing.T) {
	require.Root(t)
	lingering := script(t, "runsc", "for a in \"$@\"; do\n  [ \"$a\" = kill ] && { '"+require.Runsc(t)+"' \"$@\" || exit; exec sleep 60; }\ndone\nexec '"+require.Runsc(t)+"' \"$@\"\n")
	w := newWorld(t, lingering)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b := w.box(ctx, strings.Repeat("cd", 32))
	var one driver.Process
	for _, id := range []string{"one", "two"} {
		p, err := b.Add(ctx, driver.ContainerSpec{ID: id, Rootfs: w.Rootfs(), OCI: drivertest.Spec("/bin/sleep", "1000")}, hull.IO{Log: w.Log(id)})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Start(ctx); err != nil {
			t.Fatal(err)
		}
		if id == "one" {
			one = p
		}
	}
	if err := one.Signal(ctx, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if x, err := one.Wait(ctx); err != nil || x.Code != 137 {
		t.Errorf("%+v %v", x, err)
	}
}

// TestEndDuringStartRoot: a program that ends sooner than the runtime's command that
// starts it does not have its container removed under that command.
func TestEndDuringStartRoot(t *testing.T) {
	require.Root(t)
	runc := require.Program(t, "runc")
	lingering := script(t, "runc", "for a in \"$@\"; do\n"+
		"  [ \"$last\" = --root ] && root=$a\n  [ \"$a\" = start ] && start=1\n  last=$a\ndone\n"+
		"[ \"$start\" ] || exec '"+runc+"' \"$@\"\n"+
		"'"+runc+"' \"$@\" || exit\nsleep 0.5\n[ -d \"$root/$last\" ] && : > \"$0.whole\"\n")
	w := newWorld(t, lingering)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	pod := strings.Repeat("ef", 32)
	b := w.box(ctx, pod)
	p, err := b.Add(ctx, driver.ContainerSpec{ID: pod, Rootfs: w.Rootfs(), OCI: drivertest.Spec("/bin/false")}, hull.IO{Log: w.Log(pod)})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(ctx); err != nil {
		t.Errorf("start: %v", err)
	}
	if x, err := p.Wait(ctx); err != nil || x.Code != 1 {
		t.Errorf("%+v %v", x, err)
	}
	if _, err := os.Stat(lingering + ".whole"); err != nil {
		t.Error("the command that started it did not come to its end, or found the container removed")
	}
}

// TestEndBeforeStartRoot: a sandbox whose own process, or the command that waits for its
// start, is killed while it waits is not started, and nothing of it is left.
func TestEndBeforeStartRoot(t *testing.T) {
	require.Root(t)
	w := newWorld(t, require.Runsc(t))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for name, victim := range map[string]func(pid int) int{
		"sandbox": func(pid int) int { return pid },
		"command": func(pid int) int { return parent(t, pid) },
	} {
		pod := strings.Repeat("0a", 32)
		dir := w.RunDir(pod)
		b, err := w.driver().Create(ctx, driver.SandboxSpec{ID: pod, RunDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		p, err := b.Add(ctx, driver.ContainerSpec{ID: pod, Rootfs: w.Rootfs(), OCI: drivertest.Spec("/bin/true")}, hull.IO{Log: w.Log(pod)})
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(victim(p.Pid()), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := p.Start(ctx); err == nil {
			t.Errorf("started, without its %s", name)
		}
		if x, err := p.Wait(ctx); err != nil || x.Code != 137 {
			t.Errorf("without its %s: %+v %v", name, x, err)
		}
		if err := errors.Join(b.Destroy(ctx), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	}
}

// parent is a process's parent.
func parent(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	var state string
	var ppid int
	_, rest, _ := strings.Cut(string(b), ") ") // the name before may hold anything
	if _, err := fmt.Sscan(rest, &state, &ppid); err != nil {
		t.Fatal(err)
	}
	return ppid
}

// TestContractRuntimeRoot: and for a runtime that follows runc.
func TestContractRuntimeRoot(t *testing.T) {
	require.Root(t)
	path := os.Getenv("HULL_TEST_RUNTIME")
	if path == "" {
		path = require.Program(t, "runc")
	}
	drivertest.Run(t, func(t *testing.T) drivertest.World { return newWorld(t, path) })
}
