package proc

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"hull/internal/monitor"
)

// pool keeps monitors ready, so that starting one is on nobody's path. They hold
// nothing and exit by themselves when this process closes their socket or dies.
type pool struct {
	path string
	log  *slog.Logger
	want chan struct{} // one element per missing monitor
	have chan ready
	stop context.CancelFunc
	done sync.WaitGroup
}

// ready is a monitor without a pod.
type ready struct {
	client *monitor.Client
	start  uint64 // its start time, for the handle
	err    error
}

func newPool(path string, size int, log *slog.Logger) *pool {
	ctx, stop := context.WithCancel(context.Background())
	p := &pool{path: path, log: log, want: make(chan struct{}, size), have: make(chan ready, size), stop: stop}
	for range size {
		p.want <- struct{}{}
	}
	p.done.Go(func() { p.fill(ctx) })
	return p
}

// fill starts a monitor for each one taken.
func (p *pool) fill(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.want:
			p.have <- spawn(p.path) // never blocks: as many wants as places
		}
	}
}

func spawn(path string) ready {
	c, err := monitor.Spawn(path)
	if err != nil {
		return ready{err: err}
	}
	start, err := startTime(c.Pid())
	if err != nil {
		c.Close()
		return ready{err: err}
	}
	return ready{client: c, start: start}
}

// take gives a ready monitor, and has another one made.
func (p *pool) take(ctx context.Context) (ready, error) {
	select {
	case m, ok := <-p.have:
		if !ok {
			return ready{}, errors.New("the engine is shutting down")
		}
		p.want <- struct{}{}
		return m, m.err
	case <-ctx.Done():
		return ready{}, context.Cause(ctx)
	}
}

func (p *pool) close() {
	p.stop()
	p.done.Wait()
	for {
		select {
		case m := <-p.have:
			if m.client != nil {
				m.client.Close()
			}
		default:
			return
		}
	}
}
