package image

import (
	"context"
	"sync"

	"hull/internal/hull"
)

// flights lets concurrent callers share one piece of work: the first one's
// starts it, all get its progress and its result, and it is cancelled when the
// last of them has gone. The zero value is ready.
type flights struct {
	mu   sync.Mutex
	runs map[string]*flight
}

type flight struct {
	done   chan struct{}
	err    error
	cancel context.CancelFunc

	mu      sync.Mutex
	next    int
	readers map[int]func(hull.Progress)
	last    map[string]hull.Progress // for those who come later, by id
}

// do runs fn under key, or joins the run that exists.
func (g *flights) do(ctx context.Context, key string, progress func(hull.Progress), fn func(ctx context.Context, report func(hull.Progress)) error) error {
	g.mu.Lock()
	if g.runs == nil {
		g.runs = map[string]*flight{}
	}
	f := g.runs[key]
	if f == nil {
		run, cancel := context.WithCancel(context.WithoutCancel(ctx))
		f = &flight{done: make(chan struct{}), cancel: cancel, readers: map[int]func(hull.Progress){}, last: map[string]hull.Progress{}}
		g.runs[key] = f
		go func() {
			f.err = fn(run, f.report)
			cancel()
			g.mu.Lock()
			if g.runs[key] == f {
				delete(g.runs, key)
			}
			g.mu.Unlock()
			close(f.done)
		}()
	}
	me := f.join(progress)
	g.mu.Unlock()

	select {
	case <-f.done:
		f.leave(me)
		return f.err
	case <-ctx.Done():
		g.mu.Lock()
		last := f.leave(me) == 0
		if last {
			f.cancel()
			if g.runs[key] == f {
				delete(g.runs, key) // nobody may join a run that is being cancelled
			}
		}
		g.mu.Unlock()
		if last {
			<-f.done // it must not outlive its last caller
		}
		return context.Cause(ctx)
	}
}

func (f *flight) join(progress func(hull.Progress)) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next++
	if progress == nil {
		progress = func(hull.Progress) {}
	}
	for _, p := range f.last {
		progress(p)
	}
	f.readers[f.next] = progress
	return f.next
}

func (f *flight) leave(me int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.readers, me)
	return len(f.readers)
}

func (f *flight) report(p hull.Progress) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last[p.ID] = p
	for _, r := range f.readers {
		r(p)
	}
}
