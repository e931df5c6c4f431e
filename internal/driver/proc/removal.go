package proc

import (
	"context"
	"sync"

	"hull/internal/linux/cgroup"
)

// removals are the cgroups that are being removed, by path. A removal goes by name,
// so nobody may make a cgroup of that name before it is over: its container would be
// killed, as if it were what is left of the one before.
type removals struct {
	mu    sync.Mutex
	under map[string]*removal
	all   sync.WaitGroup
}

type removal struct{ done chan struct{} }

// begin has remove called in the background. A second removal of a name waits for
// the first.
func (r *removals) begin(g *cgroup.Group, remove func(*cgroup.Group)) {
	x := &removal{make(chan struct{})}
	r.mu.Lock()
	before := r.under[g.Path()]
	if r.under == nil {
		r.under = map[string]*removal{}
	}
	r.under[g.Path()] = x
	r.mu.Unlock()
	r.all.Go(func() {
		if before != nil {
			<-before.done
		}
		remove(g)
		r.mu.Lock()
		if r.under[g.Path()] == x {
			delete(r.under, g.Path())
		}
		r.mu.Unlock()
		close(x.done)
	})
}

// wait returns when no cgroup of that name is being removed, or ctx is done.
func (r *removals) wait(ctx context.Context, g *cgroup.Group) {
	r.mu.Lock()
	x := r.under[g.Path()]
	r.mu.Unlock()
	if x == nil {
		return
	}
	select {
	case <-x.done:
	case <-ctx.Done():
	}
}
