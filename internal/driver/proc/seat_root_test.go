package proc_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hull/internal/driver"
	"hull/internal/driver/drivertest"
	"hull/internal/driver/group"
	"hull/internal/hull"
	"hull/internal/linux/cgroup"
	"hull/internal/require"
	"hull/internal/runtime"
)

// TestSeatRoot: a container's process and its execs are in each of its cgroups, and the
// thread that makes them is in those but for the cpu controller's, whose limits are not
// to slow it down.
func TestSeatRoot(t *testing.T) {
	require.Root(t)
	ctx := context.Background()
	w := newWorld(t)
	d := w.driver()
	sys, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	for n, limit := 0, time.Now().Add(2*time.Minute); ; n++ {
		id := fmt.Sprintf("seated%d", n)
		g := sys.Group(filepath.Join(w.Parent, id))
		require.Must(t, "seats", runtime.CanSeat(group.Of(g)), "no v1 cgroups with a v2 hierarchy beside them")
		box, p := w.sleeper(d, id)
		e, err := box.Exec(ctx, id, driver.ExecSpec{ID: id + "e", Process: drivertest.Spec("/bin/sleep", "1000").Process}, hull.IO{})
		if err == nil {
			err = e.Start(ctx)
		}
		if err != nil {
			t.Fatal(err)
		}
		want := []string{fmt.Sprint(p.Pid()), fmt.Sprint(e.Pid())}
		more := map[string]int{} // than these two, by hierarchy
		for _, dir := range g.Dirs() {
			if dir.Hierarchy == "unified" {
				continue
			}
			b, err := os.ReadFile(filepath.Join(dir.Path, "tasks"))
			if err != nil {
				t.Fatal(err)
			}
			tasks := strings.Fields(string(b))
			for _, pid := range want {
				if !slices.Contains(tasks, pid) {
					t.Errorf("process %s is not in %s: %q", pid, dir.Path, tasks)
				}
			}
			more[dir.Hierarchy] = len(tasks) - len(want)
		}
		if err := box.Destroy(ctx); err != nil {
			t.Fatal(err)
		}
		if more["memory"] == 0 { // of a monitor that was not ready ahead of time
			if time.Now().After(limit) {
				t.Fatalf("none of %d containers was made from a seat", n)
			}
			continue
		}
		for h, extra := range more {
			if cpu := slices.Contains(strings.Split(h, ","), "cpu"); cpu != (extra == 0) || extra > 1 {
				t.Errorf("%s: %d tasks beside the container's own", h, extra)
			}
		}
		return
	}
}
