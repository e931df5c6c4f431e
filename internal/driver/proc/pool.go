package proc

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"hull/internal/driver/group"
	"hull/internal/linux/cgroup"
	"hull/internal/monitor"
	"hull/internal/runtime"
)

// refillDelay keeps the start of the next monitor off the path of the container
// that took the last one: on a small machine they would share the same cores.
const refillDelay = 30 * time.Millisecond

// retryDelay is for a host that cannot start monitors now.
const retryDelay = time.Second

// pool keeps monitors ready, so that starting one is on nobody's path. They hold
// nothing and exit by themselves when this process closes their socket or dies.
type pool struct {
	spawn  func() ready // quickly
	seated func() ready // ahead of time
	log    *slog.Logger
	want   chan struct{} // one element per missing monitor
	have   chan ready
	stop   context.CancelFunc
	done   sync.WaitGroup
}

// ready is a monitor without a pod.
type ready struct {
	client *monitor.Client
	start  uint64        // its start time, for the handle
	spare  *cgroup.Group // in which it has a seat; nil = none
	err    error
}

func newPool(spawn, seated func() ready, size int, log *slog.Logger) *pool {
	ctx, stop := context.WithCancel(context.Background())
	p := &pool{spawn: spawn, seated: seated, log: log, want: make(chan struct{}, size), have: make(chan ready, size), stop: stop}
	for range size {
		p.want <- struct{}{}
	}
	p.done.Go(func() { p.fill(ctx) })
	return p
}

// fill has a monitor started for each one taken: later while there are some
// left, at once and several at a time when they run out. A seat is mostly waiting
// for the kernel (ADR 0007).
func (p *pool) fill(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.want:
		}
		if len(p.have) > cap(p.have)/2 && !sleep(ctx, refillDelay) {
			return
		}
		p.done.Go(func() { p.fillOne(ctx) })
	}
}

// fillOne tries until it has a monitor; whoever takes meanwhile hears why there
// is none.
func (p *pool) fillOne(ctx context.Context) {
	for {
		m := p.seated()
		if m.err == nil {
			p.have <- m // never blocks: as many wants as places
			return
		}
		p.log.Error("start a monitor ahead of time", "error", m.err)
		if !sleep(ctx, retryDelay) {
			return
		}
	}
}

// sleep says whether d passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// spawnSeated starts a monitor, with a seat where seats are of use.
func (d *Driver) spawnSeated() ready {
	m := d.spawn()
	if m.err != nil {
		return m
	}
	var err error
	if m.spare, err = d.seat(m.client); err != nil {
		m.dismiss()
		return ready{err: err}
	}
	return m
}

// spawn starts a monitor.
func (d *Driver) spawn() ready {
	c, err := d.program.Spawn()
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

// sparePrefix begins the names of cgroups that wait for a container.
const sparePrefix = "spare-"

func (d *Driver) seat(c *monitor.Client) (*cgroup.Group, error) {
	g := d.cg.Group(filepath.Join(d.cfg.CgroupParent, sparePrefix+strconv.Itoa(c.Pid())))
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
	if err := c.Seat(group.Of(g)); err != nil {
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
		p.want <- struct{}{}
		return m, nil
	default:
		m := p.spawn()
		return m, m.err
	}
}

func (p *pool) close() {
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
