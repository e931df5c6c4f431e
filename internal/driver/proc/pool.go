package proc

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"hull/internal/monitor"
)

// refillDelay keeps the start of the next monitor off the path of the container
// that took the last one: on a small machine they would share the same cores.
const refillDelay = 30 * time.Millisecond

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
	for first := true; ; {
		select {
		case <-ctx.Done():
			return
		case <-p.want:
		}
		if !first {
			select {
			case <-ctx.Done():
				return
			case <-time.After(refillDelay):
			}
		}
		m := spawn(p.path)
		if m.err != nil { // whoever takes next tries again and hears why
			p.log.Error("start a monitor ahead of time", "error", m.err)
			p.want <- struct{}{}
			first = false
			continue
		}
		p.have <- m // never blocks: as many wants as places
		first = first && len(p.have) < cap(p.have)
	}
}

// spawn starts a monitor now.
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

// take gives a ready monitor, and has another one made. In a burst that empties
// the pool it starts one itself.
func (p *pool) take() (ready, error) {
	select {
	case m := <-p.have:
		p.want <- struct{}{}
		return m, nil
	default:
		m := spawn(p.path)
		return m, m.err
	}
}

func (p *pool) close() {
	p.stop()
	p.done.Wait()
	for {
		select {
		case m := <-p.have:
			m.client.Close()
		default:
			return
		}
	}
}
