package proc_test

import (
	"os"
	"testing"

	"hull/internal/driver"
	"hull/internal/driver/drivertest"
	"hull/internal/driver/drivertest/ground"
	"hull/internal/driver/proc"
	"hull/internal/hull"
	"hull/internal/monitor"
	"hull/internal/require"
)

// TestMain makes this binary a hull-monitor when it is started as one.
func TestMain(m *testing.M) {
	if os.Args[0] == "hull-monitor" {
		os.Exit(monitor.Main(nil, nil))
	}
	os.Exit(m.Run())
}

// world is a machine with one engine's parent cgroup.
type world struct {
	*ground.Ground

	t       testing.TB
	monitor string
}

func newWorld(t testing.TB) *world {
	t.Helper()
	require.Root(t)
	w := &world{Ground: ground.New(t, "/hulltest-"), t: t, monitor: ground.MonitorProgram(t)}
	ground.Busybox(t, w.Lower())
	w.Begin()
	return w
}

func (w *world) driver() *proc.Driver {
	d, err := proc.New(proc.Config{MonitorPath: w.monitor, CgroupParent: w.Parent, RunDir: w.Dir, PoolSize: 1, Log: w.Logger()})
	if err != nil {
		w.t.Fatal(err)
	}
	w.Closing(d)
	return d
}

func (w *world) Driver() driver.Driver { return w.driver() }

func (w *world) Rootfs() hull.Rootfs { return w.Overlay() }

func (*world) NetNS() string { return "" }

func TestContractRoot(t *testing.T) {
	require.Root(t)
	drivertest.Run(t, func(t *testing.T) drivertest.World { return newWorld(t) })
}
