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
	under map[string]chan struct{} // closed when it is over
	all   sync.WaitGroup
}

// begin has remove called in the background. A second removal of a name waits for
// the first.
func (r *removals) begin(g *cgroup.Group, remove func(*cgroup.Group)) {
	done := make(chan struct{})
	r.mu.Lock()
	before := r.under[g.Path()]
	if r.under == nil {
		r.under = map[string]chan struct{}{}
	}
	r.under[g.Path()] = done
	r.mu.Unlock()
	r.all.Go(func() {
		if before != nil {
			<-before
		}
		remove(g)
		r.mu.Lock()
		if r.under[g.Path()] == done {
			delete(r.under, g.Path())
		}
		r.mu.Unlock()
		close(done)
	})
}

// wait returns when no cgroup of that name is being removed, or ctx is done.
func (r *removals) wait(ctx context.Context, g *cgroup.Group) {
	r.mu.Lock()
	done := r.under[g.Path()]
	r.mu.Unlock()
	if done == nil {
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}
