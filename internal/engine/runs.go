package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"hull/internal/driver"
	"hull/internal/hull"
	"hull/internal/undo"
)

// podRun is a pod's boundary while it exists.
type podRun struct {
	box     driver.Sandbox
	detach  hull.Release // of its networks; part of release, may be called before it
	release undo.Stack
}

// run is one run of a container, from Start until its exit has been handled.
type run struct {
	id, pod string
	proc    driver.Process
	release undo.Stack
	started time.Time
	exited  chan struct{}      // the process has ended and its output is in the log
	done    chan struct{}      // the exit has been recorded and everything released
	health  context.CancelFunc // stops the health check; nil = none
	// unhealthy: the health check ended this run (restart policy "unhealthy").
	unhealthy atomic.Bool
	// restart: somebody is about to start the container again.
	restart atomic.Bool
}

// execRun is an exec from ExecCreate until its container is removed.
type execRun struct {
	mu   sync.Mutex
	info hull.Exec
	proc driver.Process
	done chan struct{} // closed by end
}

// waiter is one Wait call.
type waiter struct {
	cond hull.WaitCondition
	ch   chan hull.Exit
}

// runs is what this engine process remembers: a cache over the drivers' facts,
// rebuilt by Recover. It holds its own lock, never while calling anything.
type runs struct {
	mu        sync.Mutex
	pods      map[string]*podRun
	byID      map[string]*run
	execs     map[string]*execRun
	execOrder map[string][]string // exec ids by container, oldest first
	waiters   map[string][]waiter
	pending   map[string][]hull.Attach      // attached before start
	backoff   map[string]context.CancelFunc // containers waiting to be restarted
	delay     map[string]time.Duration      // their next delay
	departed  []departure                   // oldest first
	stopped   bool                          // the engine is shutting down: nobody restarts
	wg        sync.WaitGroup                // watchers
}

func newRuns() *runs {
	return &runs{
		pods: map[string]*podRun{}, byID: map[string]*run{}, execs: map[string]*execRun{},
		waiters: map[string][]waiter{}, pending: map[string][]hull.Attach{}, backoff: map[string]context.CancelFunc{},
		execOrder: map[string][]string{}, delay: map[string]time.Duration{},
	}
}

func (r *runs) run(id string) *run {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byID[id]
}

func (r *runs) add(x *run) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.byID[x.id] = x
}

func (r *runs) drop(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.byID, id)
}

func (r *runs) pod(id string) *podRun {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pods[id]
}

func (r *runs) setPod(id string, p *podRun) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p == nil {
		delete(r.pods, id)
		return
	}
	r.pods[id] = p
}

// takePending hands over the clients that attached before the start.
func (r *runs) takePending(id string) []hull.Attach {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.pending[id]
	delete(r.pending, id)
	return a
}

// wait registers w; it is answered by notify.
func (r *runs) wait(id string, w waiter) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiters[id] = append(r.waiters[id], w)
}

func (r *runs) unwait(id string, ch chan hull.Exit) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ws := r.waiters[id]
	for i, w := range ws {
		if w.ch == ch {
			r.waiters[id] = append(ws[:i:i], ws[i+1:]...)
			break
		}
	}
	if len(r.waiters[id]) == 0 {
		delete(r.waiters, id)
	}
}

// notify answers the waiters of id whose condition holds: an exit, or the
// removal, which answers everyone.
func (r *runs) notify(id string, removed bool, exit hull.Exit) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var rest []waiter
	for _, w := range r.waiters[id] {
		if w.cond == hull.WaitRemoved && !removed {
			rest = append(rest, w)
			continue
		}
		w.ch <- exit // buffered, answered once
	}
	if rest == nil {
		delete(r.waiters, id)
		return
	}
	r.waiters[id] = rest
}

// departure is the end of a container that was removed by itself.
type departure struct {
	id   string
	exit hull.Exit
}

// maxDepartures bounds the ends that are remembered of containers that are gone.
const maxDepartures = 256

// depart remembers how a container ended that is about to remove itself: a client
// that started it, and asks for its end in another request, may come after that.
func (r *runs) depart(id string, exit hull.Exit) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.departed) == maxDepartures {
		r.departed = slices.Delete(r.departed, 0, 1)
	}
	r.departed = append(r.departed, departure{id, exit})
}

// departure gives the end of a container that removed itself.
func (r *runs) departure(id string) (hull.Exit, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range slices.Backward(r.departed) {
		if d.id == id {
			return d.exit, true
		}
	}
	return hull.Exit{}, false
}

// nextDelay is how long to wait before the next restart of id, and a context
// that ends when the restart is called off.
func (r *runs) nextDelay(ctx context.Context, id string, ran time.Duration) (time.Duration, context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.delay[id]
	if d == 0 || ran >= steadyRun {
		d = firstRestartDelay
	}
	r.delay[id] = min(2*d, lastRestartDelay)
	ctx, cancel := context.WithCancel(ctx)
	r.backoff[id] = cancel
	return d, ctx
}

// cancelBackoff calls a waiting restart off.
func (r *runs) cancelBackoff(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if cancel := r.backoff[id]; cancel != nil {
		cancel()
		delete(r.backoff, id)
	}
}

// forget drops what is remembered of a container across runs.
func (r *runs) forget(id string) {
	r.cancelBackoff(id)
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.delay, id)
	for _, eid := range r.execOrder[id] {
		delete(r.execs, eid)
	}
	delete(r.execOrder, id)
	for _, a := range r.pending[id] {
		a.Conn.Close()
	}
	delete(r.pending, id)
}

func (r *runs) stopping() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stopped
}

func (r *runs) addPending(id string, a hull.Attach) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pending[id] = append(r.pending[id], a)
}

// maxExecs bounds what is remembered of finished execs in one container.
const maxExecs = 128

func (r *runs) addExec(x *execRun) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.execs[x.info.ID] = x
	r.execOrder[x.info.ContainerID] = append(r.execOrder[x.info.ContainerID], x.info.ID)
	if order := r.execOrder[x.info.ContainerID]; len(order) > maxExecs {
		for i, id := range order {
			if old := r.execs[id]; old == nil || old.ended() {
				delete(r.execs, id)
				r.execOrder[x.info.ContainerID] = append(order[:i:i], order[i+1:]...)
				break
			}
		}
	}
}

// exec finds an exec by id or unambiguous prefix.
func (r *runs) exec(id string) (*execRun, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if x := r.execs[id]; x != nil {
		return x, nil
	}
	var found *execRun
	for eid, x := range r.execs {
		if id != "" && strings.HasPrefix(eid, id) {
			if found != nil {
				return nil, fmt.Errorf("exec id %s is ambiguous: %w", id, errdefs.ErrInvalidArgument)
			}
			found = x
		}
	}
	if found == nil {
		return nil, fmt.Errorf("no such exec instance: %s: %w", id, errdefs.ErrNotFound)
	}
	return found, nil
}

// liveExecs lists the execs that inspect shows.
func (r *runs) liveExecs(containerID string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, id := range r.execOrder[containerID] {
		if x := r.execs[id]; x != nil && !x.ended() {
			out = append(out, id)
		}
	}
	return out
}

func (x *execRun) ended() bool {
	if !x.mu.TryLock() { // somebody is starting it
		return false
	}
	defer x.mu.Unlock()
	return x.info.CanRemove
}
