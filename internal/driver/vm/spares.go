package vm

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"hull/internal/linux"
	"hull/internal/monitor"
	monitorvm "hull/internal/monitor/vm"
)

const (
	// spareLimit bounds the making of one.
	spareLimit = time.Minute
	// spareDelay keeps the making off the way of the container before it.
	spareDelay = 200 * time.Millisecond
	// spareWait is how long a start waits for one that is being made; to be restored
	// takes less.
	spareWait = 10 * time.Second
	// spareIdle is how long one is kept that nobody takes.
	spareIdle = 10 * time.Minute
	// spareCheck is how often the host's memory is looked at meanwhile.
	spareCheck = 10 * time.Second
)

// Blank gives what a machine rehearses with: a root file system that has these files,
// all of them executable, and is read-only, and a disk that is nobody else's. What it
// gives has no names to be cleaned up.
type Blank func(ctx context.Context, files map[string][]byte) (root, disk *os.File, err error)

// standby is a machine that waits for its pod: the monitor that has it.
type standby interface {
	comparable
	Pid() int
	Close()
}

// spares keeps one machine ready, of the kind that was started last: restored,
// rehearsed and nobody's, in a monitor that has no pod yet (ADR 0026). Nothing of it
// has a name: it ends with its monitor, and that with this process.
type spares[M standby] struct {
	build func(context.Context, monitorvm.AheadConfig) (M, error) // nil = there are no spares
	room  func(bytes int64) bool                                  // whether the host has memory to spare
	log   *slog.Logger

	mu   sync.Mutex
	have *spare[M]
	ctx  context.Context //nolint:containedctx // the engine's life: longer than the start that asked
	stop context.CancelFunc
	wg   sync.WaitGroup
}

// spare is one that is being made or waits.
type spare[M standby] struct {
	key     string
	drop    context.CancelFunc
	made    chan struct{}
	machine M // valid after made, zero = it could not be made
	// Of spares.mu:
	claimed bool          // somebody waits for it
	taken   chan struct{} // closed when somebody has it
}

func newSpares[M standby](build func(context.Context, monitorvm.AheadConfig) (M, error), room func(int64) bool, log *slog.Logger) *spares[M] {
	ctx, stop := context.WithCancel(context.Background())
	return &spares[M]{build: build, room: room, log: log, ctx: ctx, stop: stop}
}

func (s *spares[M]) close() {
	s.stop()
	s.wg.Wait()
}

// take gives a machine of a kind, if there is one. One that is being made is waited
// for, as long as that takes when all is well: to restore another beside it would take
// longer.
func (s *spares[M]) take(ctx context.Context, key string) (m M, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.have
	if x == nil || x.key != key || x.claimed {
		return m, false
	}
	x.claimed = true
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, spareWait)
	defer cancel()
	select {
	case <-x.made:
	case <-ctx.Done():
	}
	s.mu.Lock()
	x.claimed = false
	if s.have != x || ctx.Err() != nil || x.machine == m {
		return m, false
	}
	s.have = nil
	close(x.taken)
	return x.machine, true
}

// says is for hull info.
func (s *spares[M]) says() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.build == nil {
		return "never (hulld --vm-spare=false)"
	}
	if s.have != nil {
		select {
		case <-s.have.made:
			var none M
			if m := s.have.machine; m != none {
				return fmt.Sprintf("a machine waits for the next start (hull-monitor %d)", m.Pid())
			}
		default:
			return "a machine for the next start is being made"
		}
	}
	return fmt.Sprintf("none; each start has one made for the next, kept for %v", spareIdle)
}

// clear gives up the one that waits, unless it is about to be taken.
func (s *spares[M]) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.have != nil && !s.have.claimed {
		s.have.drop()
	}
}

// want has one made unless there is one of this kind.
func (s *spares[M]) want(key string, a monitorvm.AheadConfig) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.have; old != nil && (old.key == key || old.claimed) {
		return
	}
	if s.build == nil || s.ctx.Err() != nil {
		return
	}
	if s.have != nil {
		s.have.drop()
	}
	ctx, drop := context.WithCancel(s.ctx)
	x := &spare[M]{key: key, drop: drop, made: make(chan struct{}), taken: make(chan struct{})}
	s.have = x
	s.wg.Go(func() {
		defer drop()
		m, err := s.make(ctx, a)
		x.machine = m
		close(x.made)
		switch {
		case err == nil:
			s.keep(ctx, x, a.Machine.Memory)
		case ctx.Err() == nil:
			s.log.Warn("a machine cannot be made ahead", "error", err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.have == x {
			s.have = nil
		}
		select {
		case <-x.taken:
		default:
			if err == nil {
				m.Close()
			}
		}
	})
}

// keep waits as long as a spare is of use: until somebody has it, or its time is
// over, or the host could use its memory.
func (s *spares[M]) keep(ctx context.Context, x *spare[M], need int64) {
	idle := time.NewTimer(spareIdle)
	defer idle.Stop()
	check := time.NewTicker(spareCheck)
	defer check.Stop()
	for {
		select {
		case <-x.taken:
			return
		case <-ctx.Done():
			return
		case <-idle.C:
			return
		case <-check.C:
			if !s.room(need) {
				return
			}
		}
	}
}

// make waits until the container before it is out of the way, and makes one.
func (s *spares[M]) make(ctx context.Context, a monitorvm.AheadConfig) (m M, err error) {
	select {
	case <-time.After(spareDelay):
	case <-ctx.Done():
		return m, context.Cause(ctx)
	}
	if !s.room(a.Machine.Memory) {
		return m, fmt.Errorf("the host has less than %d MiB of memory available", a.Machine.Memory/mib)
	}
	return s.build(ctx, a)
}

// ahead starts a monitor of a program and has it make a machine.
func ahead(ctx context.Context, program string, blank Blank, a monitorvm.AheadConfig) (_ *monitor.Client, err error) {
	root, disk, err := blank(ctx, stage())
	if err != nil {
		return nil, fmt.Errorf("make what it rehearses with: %w", err)
	}
	defer root.Close()
	defer disk.Close()
	conf, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	c, err := monitor.Spawn(program)
	if err != nil {
		return nil, err
	}
	unhook := context.AfterFunc(ctx, c.Close)
	err = c.Ahead(monitorvm.Name, conf, spareLimit, root, disk)
	if !unhook() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// roomFor reports whether the host has memory to spare.
func roomFor(need int64) bool {
	n, err := linux.MemAvailable()
	return err == nil && n >= need
}
