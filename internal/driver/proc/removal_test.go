package proc

import (
	"context"
	"slices"
	"sync"
	"testing"

	"hull/internal/linux/cgroup"
)

// TestRemovalIsWaitedFor: who makes a cgroup waits until removals of its name are
// over, which come one after the other; another name does not wait.
func TestRemovalIsWaitedFor(t *testing.T) {
	t.Parallel()
	sys := &cgroup.System{}
	g, other := sys.Group("/a/b"), sys.Group("/a/c")
	var r removals
	r.wait(t.Context(), g)

	var mu sync.Mutex
	var order []string
	say := func(s string) { mu.Lock(); defer mu.Unlock(); order = append(order, s) }
	goOn := make(chan struct{})
	r.begin(g, func(*cgroup.Group) { <-goOn; say("first") })
	r.begin(g, func(*cgroup.Group) { say("second") })
	r.wait(t.Context(), other)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	r.wait(gone, g)
	say("waited for nothing")
	close(goOn)
	r.wait(t.Context(), g)
	say("waited")
	if want := []string{"waited for nothing", "first", "second", "waited"}; !slices.Equal(order, want) {
		t.Errorf("%q, want %q", order, want)
	}
	r.all.Wait()
	if len(r.under) != 0 {
		t.Errorf("%d removals are remembered", len(r.under))
	}
}
