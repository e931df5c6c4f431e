package engine

import (
	"runtime"
	"testing"

	"hull/internal/hull"
)

// A container's life in the engine, over fakes that do nothing, costs a bounded
// number of allocations: one that grows with the number of containers, or with what
// was done before, shows here on any machine. The limits are twice what was measured.
func TestAllocationsOfALife(t *testing.T) {
	w := newWorld()
	e := w.engine(t)
	life := func() {
		c := start(t, e, hull.Spec{})
		waitExit(t, e, w, c, 0)
		if err := e.Remove(t.Context(), c.ID, hull.RemoveRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	life() // maps and pools are made
	const lives = 200
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range lives {
		life()
	}
	runtime.ReadMemStats(&after)
	objects, bytes := (after.Mallocs-before.Mallocs)/lives, (after.TotalAlloc-before.TotalAlloc)/lives
	t.Logf("a life: %d allocations, %d bytes", objects, bytes)
	if objects > 350 || bytes > 75<<10 {
		t.Errorf("a life takes %d allocations and %d bytes", objects, bytes)
	}
}
