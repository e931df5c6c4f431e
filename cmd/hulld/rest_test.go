package main

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestRest: memory is given back once, some time after the last of what overlaps, and
// not at all by an engine that ends.
func TestRest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		given := 0
		r := &rest{give: func() { given++ }}
		after := func(d time.Duration, want int) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if given != want {
				t.Errorf("given back %d times, want %d", given, want)
			}
		}
		build, pull := r.begin(), r.begin()
		after(2*restAfter, 0)
		build()
		after(2*restAfter, 0)
		pull()
		after(restAfter/2, 0)
		load := r.begin()
		after(restAfter, 0)
		load()
		after(restAfter, 1)
		after(10*restAfter, 1)

		r.begin()()
		last := r.begin()
		if err := r.close(); err != nil {
			t.Fatal(err)
		}
		last()
		after(2*restAfter, 1)
	})
}
