package proc

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"hull/internal/driver/group"
	"hull/internal/driver/pod"
	"hull/internal/linux"
	"hull/internal/linux/cgroup"
	"hull/internal/monitor"
	"hull/internal/runtime"
)

// refillDelay is how long a pool that is at least half full waits for monitors that
// come back, whose pods have ended: to start another one costs a tenth of a
// container's start.
const refillDelay = time.Second

// retryDelay is for a host that cannot start monitors now.
const retryDelay = time.Second

// pool keeps monitors ready, so that starting one is on nobody's path. They hold
// nothing and exit by themselves when this process closes their socket or dies.
type pool struct {
	spawn func() ready      // quickly
	sit   func(ready) ready // gives it a seat, ahead of time
	log   *slog.Logger
	want  chan struct{} // one element per missing monitor
	low   chan struct{} // has one when no more than half are left
	have  chan ready
	stop  context.CancelFunc

	mu     sync.Mutex
	closed bool
	extra  int            // beyond those that were wanted: they came back from a burst
	done   sync.WaitGroup // added to under mu, unless closed
}

// ready is a monitor without a pod.
type ready struct {
	client *monitor.Client
	life   pod.Life
	spare  *cgroup.Group // in which it has a seat; nil = none
	err    error
}

func newPool(spawn func() ready, sit func(ready) ready, size int, log *slog.Logger) *pool {
	ctx, stop := context.WithCancel(context.Background())
	p := &pool{
		spawn: spawn, sit: sit, log: log, stop: stop,
		want: make(chan struct{}, size), low: make(chan struct{}, 1), have: make(chan ready, 2*size),
	}
	for range size {
		p.want <- struct{}{}
	}
	p.done.Go(func() { p.fill(ctx) })
	return p
}

// isLow says that another monitor should be started at once.
func (p *pool) isLow() bool { return len(p.have) <= cap(p.want)/2 }

// fill has a monitor started for each one that is missing: several at a time when
// there are few left, otherwise only when none has come back for a while. A seat is
// mostly waiting for the kernel (ADR 0007).
func (p *pool) fill(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.want:
		}
		if !p.isLow() {
			p.want <- struct{}{} // for one that comes back
			select {
			case <-ctx.Done():
				return
			case <-p.low:
				continue
			case <-time.After(refillDelay):
			}
			select {
			case <-p.want:
			default:
				continue
			}
		}
		p.done.Go(func() { p.fillOne(ctx) })
	}
}

// fillOne tries until it has a monitor; whoever takes meanwhile hears why there
// is none.
func (p *pool) fillOne(ctx context.Context) {
	for {
		m := p.spawn()
		if m.err == nil {
			m = p.sit(m)
		}
		if m.err == nil {
			p.have <- m // never blocks: there are places for what is wanted and for extra ones
			return
		}
		p.log.Error("start a monitor ahead of time", "error", m.err)
		if linux.Sleep(ctx, retryDelay) != nil {
			return
		}
	}
}

// back takes a monitor whose pod has ended, unless there are enough.
func (p *pool) back(m ready) {
	if !p.place() {
		m.dismiss()
		return
	}
	defer p.done.Done()
	if m = p.sit(m); m.err != nil {
		p.log.Error("make a monitor ready again", "error", m.err)
		p.missing()
		return
	}
	p.have <- m
}

// place finds a place for a monitor that comes back, and has close wait for it.
func (p *pool) place() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	select {
	case <-p.want:
	default:
		if p.extra == cap(p.want) {
			return false
		}
		p.extra++
	}
	p.done.Add(1)
	return true
}

// missing counts one less.
func (p *pool) missing() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.extra > 0 {
		p.extra--
		return
	}
	p.want <- struct{}{}
}

// spawn starts a monitor.
func (d *Driver) spawn() ready {
	c, err := d.program.Spawn()
	if err != nil {
		return ready{err: err}
	}
	l, err := pod.LifeOf(c.Pid())
	if err != nil {
		c.Close()
		return ready{err: err}
	}
	return ready{client: c, life: l}
}

// freed takes a monitor back that has served a pod.
func (d *Driver) freed(c *monitor.Client) {
	l, err := pod.LifeOf(c.Pid())
	if err != nil {
		c.Close()
		return
	}
	d.pool.back(ready{client: c, life: l})
}

// sit gives a monitor a seat, where seats are of use.
func (d *Driver) sit(m ready) ready {
	var err error
	if m.spare, err = d.seat(m); err != nil {
		m.dismiss()
		return ready{err: err}
	}
	return m
}

// sparePrefix begins the names of cgroups that wait for a container.
const sparePrefix = "spare-"

func (d *Driver) seat(m ready) (*cgroup.Group, error) {
	// A name of its own for each pod: the seat of the one before may be being removed.
	name := fmt.Sprintf("%s%d-%d", sparePrefix, m.client.Pid(), m.life.Pods)
	g := d.cg.Group(filepath.Join(d.cfg.CgroupParent, name))
	if !runtime.CanSeat(group.Of(g)) {
		return nil, nil //nolint:nilnil // there is none, and that is all right
	}
	err := g.CreateSpare()
	if errdefs.IsAlreadyExists(err) { // of a monitor that had this pid
		if err = g.Destroy(context.Background()); err == nil {
			err = g.CreateSpare()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("make spare cgroup: %w", err)
	}
	if err := m.client.Seat(group.Of(g)); err != nil {
		return g, fmt.Errorf("take a seat in the spare cgroup: %w", err)
	}
	return g, nil
}

// dismiss ends a monitor that has no pod.
func (m ready) dismiss() {
	m.client.Close()
	if m.spare == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), undoLimit)
	defer cancel()
	_ = m.spare.Destroy(ctx) // what is left, the next engine sweeps
}

// take gives a ready monitor, and has another one made. In a burst that empties
// the pool it starts one itself.
func (p *pool) take() (ready, error) {
	select {
	case m := <-p.have:
		p.missing()
		if p.isLow() {
			select {
			case p.low <- struct{}{}:
			default:
			}
		}
		return m, nil
	default:
		m := p.spawn()
		return m, m.err
	}
}

func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.stop()
	p.done.Wait()
	for {
		select {
		case m := <-p.have:
			m.dismiss()
		default:
			return
		}
	}
}
