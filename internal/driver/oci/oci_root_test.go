package oci_test

import (
	"os"
	"path/filepath"
	"testing"

	"hull/internal/driver"
	"hull/internal/driver/drivertest"
	"hull/internal/driver/drivertest/ground"
	"hull/internal/driver/oci"
	"hull/internal/hull"
	"hull/internal/monitor"
	backend "hull/internal/monitor/oci"
	"hull/internal/require"
)

// TestMain makes this binary a hull-monitor when it is started as one, and the
// first process of a sandbox.
func TestMain(m *testing.M) {
	if os.Args[0] == "hull-monitor" {
		os.Exit(monitor.Main(map[string]monitor.NewBackend{backend.Backend: backend.New}))
	}
	if filepath.Base(os.Args[0]) == backend.PauseMode {
		os.Exit(backend.PauseMain(os.Args[1:]))
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

// TestContractSandboxRoot: the contract holds for gVisor.
func TestContractSandboxRoot(t *testing.T) {
	require.Root(t)
	path := require.Runsc(t)
	drivertest.Run(t, func(t *testing.T) drivertest.World { return newWorld(t, path) })
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
