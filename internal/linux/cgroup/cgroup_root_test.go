package cgroup

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/require"
)

func p[T any](v T) *T { return &v }

func newGroup(t *testing.T, name string) *Group {
	t.Helper()
	require.Root(t)
	s, err := Detect()
	if err != nil {
		t.Fatal(err)
	}
	parent := s.Group(fmt.Sprintf("/hulltest-%d", os.Getpid()))
	g := s.Group(parent.Path() + "/" + name)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := parent.Kill(ctx); err != nil {
			t.Error(err)
		}
		if err := parent.Destroy(ctx); err != nil {
			t.Error(err)
		}
		if parent.Exists() {
			t.Error("the cgroup is still there")
		}
	})
	return g
}

// sleeper starts a process in g.
func sleeper(t *testing.T, g *Group) *exec.Cmd {
	t.Helper()
	c := exec.Command("sleep", "60")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Kill() //nolint:errcheck // it may be gone
		c.Wait()         //nolint:errcheck // killed
	})
	for _, d := range g.Dirs() {
		if err := os.WriteFile(d.Path+"/cgroup.procs", []byte(fmt.Sprint(c.Process.Pid)), 0); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func TestLifecycle(t *testing.T) {
	g := newGroup(t, "a")
	ctx := context.Background()
	warn, err := g.Create(&specs.LinuxResources{
		Memory:  &specs.LinuxMemory{Limit: p(int64(64 << 20)), Swap: p(int64(64 << 20))},
		CPU:     &specs.LinuxCPU{Quota: p(int64(50000)), Period: p(uint64(100000)), Shares: p(uint64(512))},
		Pids:    &specs.LinuxPids{Limit: p(int64(10))},
		Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}, {Allow: true, Type: "c", Major: p(int64(10)), Minor: p(int64(200)), Access: "rw"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(warn) > 0 {
		t.Log(warn)
	}
	if _, err := g.Create(nil); !errdefs.IsAlreadyExists(err) {
		t.Errorf("second Create: %v", err)
	}
	c := sleeper(t, g)
	if pids, err := g.Pids(); err != nil || len(pids) != 1 || pids[0] != c.Process.Pid {
		t.Errorf("Pids = %v, %v", pids, err)
	}
	st, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if st.MemoryStats.Usage.Limit != 64<<20 || st.PidsStats.Limit != 10 || st.PidsStats.Current != 1 {
		t.Errorf("Stats: memory limit %d, pids %+v", st.MemoryStats.Usage.Limit, st.PidsStats)
	}
	// Up and down again: the order of the two writes matters.
	for _, n := range []int64{256 << 20, 32 << 20} {
		if _, err := g.Set(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &n, Swap: &n}}); err != nil {
			t.Errorf("Set %d: %v", n, err)
		}
	}
	if err := g.Freeze(ctx); err != nil {
		t.Fatal(err)
	}
	if f, err := g.Frozen(); !f || err != nil {
		t.Errorf("Frozen = %v, %v", f, err)
	}
	if err := g.Thaw(ctx); err != nil {
		t.Fatal(err)
	}
	if f, err := g.Frozen(); f || err != nil {
		t.Errorf("Frozen after Thaw = %v, %v", f, err)
	}
	if err := g.Freeze(ctx); err != nil {
		t.Fatal(err)
	}
	// A frozen group dies too.
	if err := g.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	if err := g.Destroy(ctx); err != nil {
		t.Fatal(err)
	}
	if g.Exists() {
		t.Error("still there")
	}
	for _, f := range []func() error{
		func() error { return g.Kill(ctx) }, func() error { return g.Destroy(ctx) },
	} {
		if err := f(); err != nil {
			t.Errorf("on a group that is gone: %v", err)
		}
	}
	if err := g.Freeze(ctx); !errdefs.IsNotFound(err) {
		t.Errorf("Freeze of a group that is gone: %v", err)
	}
}

// TestCreateParent: what is made below a parent can be joined, and its cpuset is the
// kernel's business (v1).
func TestCreateParent(t *testing.T) {
	g := newGroup(t, "parent")
	for range 2 {
		if err := g.CreateParent(); err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range g.sys.hiers {
		if slices.Contains(h.controllers, "cpuset") && !h.v2 && !g.sys.clones(g.dir("cpuset")) {
			t.Error("cpusets below the parent begin empty")
		}
	}
	below := g.sys.Group(g.Path() + "/below")
	if _, err := below.Create(nil); err != nil {
		t.Fatal(err)
	}
	sleeper(t, below)
}

func TestCreateFailsClean(t *testing.T) {
	g := newGroup(t, "b")
	_, err := g.Create(&specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "999"}})
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("Create with a CPU that is not there: %v", err)
	}
	for _, d := range g.Dirs() {
		if _, err := os.Stat(d.Path); !os.IsNotExist(err) {
			t.Errorf("%s is left", d.Path)
		}
	}
}

func BenchmarkCreateDestroy(b *testing.B) {
	s, err := Detect()
	if err != nil || os.Geteuid() != 0 {
		b.Skip("no cgroups or not root")
	}
	ctx := context.Background()
	parent := s.Group(fmt.Sprintf("/hulltest-%d", os.Getpid()))
	if _, err := parent.Create(nil); err != nil {
		b.Fatal(err)
	}
	defer parent.Destroy(ctx) //nolint:errcheck // best effort
	r := &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: p(int64(100))}}
	for b.Loop() {
		g := s.Group(parent.Path() + "/x")
		if _, err := g.Create(r); err != nil {
			b.Fatal(err)
		}
		if err := g.Destroy(ctx); err != nil {
			b.Fatal(err)
		}
	}
}
