// Package event is the engine's event log: what happened lately, and to whom it
// is told.
//
// Publishers never wait. The last events lie in one ring that all subscribers
// read at their own pace, so a subscriber costs a goroutine and no queue. One
// that falls behind by more than the ring loses the oldest events and is told
// so: it gets a daemon event with action "lost" and their number as attribute
// "count" in their place.
package event

import (
	"context"
	"hull/internal/hull"
	"maps"
	"strconv"
	"sync"
	"time"
)

// Lost is the action of the event that stands for events a slow subscriber did
// not get.
const Lost = "lost"

// Log is the event log. It satisfies engine.Events and docker.Events.
type Log struct {
	mu   sync.Mutex
	ring []hull.Event  // event n is at n % len(ring)
	next uint64        // number of the next event
	wake chan struct{} // closed by the next Publish; nil = nobody waits
	last time.Time     // of the last event
}

// New makes a log that remembers the last capacity events.
func New(capacity int) *Log { return &Log{ring: make([]hull.Event, max(capacity, 1))} }

// Publish adds an event. A zero time becomes now. Events are numbered in the
// order of these calls and never go back in time.
func (l *Log) Publish(e hull.Event) {
	e.Attrs = maps.Clone(e.Attrs)
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if e.Time.Before(l.last) {
		e.Time = l.last
	}
	l.last = e.Time
	l.ring[l.next%uint64(len(l.ring))] = e
	l.next++
	if l.wake != nil {
		close(l.wake)
		l.wake = nil
	}
}

// Subscribe gives events in order: those remembered from since on (zero = all where
// until is given, else none of the past), then those that come, until ctx is done or
// until is past (zero = never). Then the channel is closed. Attrs of an event must not
// be changed.
func (l *Log) Subscribe(ctx context.Context, since, until time.Time) (<-chan hull.Event, error) {
	out := make(chan hull.Event)
	s := &subscriber{log: l, out: out, until: until}
	l.mu.Lock()
	s.next = l.next
	if !since.IsZero() || !until.IsZero() {
		for s.next > l.oldest() && !l.at(s.next-1).Time.Before(since) {
			s.next--
		}
	}
	l.mu.Unlock()
	go s.run(ctx) // ends with ctx
	return out, nil
}

func (l *Log) at(n uint64) *hull.Event { return &l.ring[n%uint64(len(l.ring))] }

func (l *Log) oldest() uint64 { return l.next - min(l.next, uint64(len(l.ring))) }

// take returns up to len(into) events from number n on and how many were lost
// before them. With none, wake is closed when there is one.
func (l *Log) take(n uint64, into []hull.Event) (got int, lost uint64, wake <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if first := l.oldest(); n < first {
		lost = first - n
		n = first
	}
	for ; got < len(into) && n < l.next; n++ {
		into[got] = *l.at(n)
		got++
	}
	if got == 0 {
		if l.wake == nil {
			l.wake = make(chan struct{})
		}
		wake = l.wake
	}
	return got, lost, wake
}

type subscriber struct {
	log   *Log
	out   chan<- hull.Event
	until time.Time
	next  uint64
}

// batch is how many events are copied under the lock at once.
const batch = 16

func (s *subscriber) run(ctx context.Context) {
	defer close(s.out)
	var expired <-chan time.Time
	if !s.until.IsZero() {
		t := time.NewTimer(time.Until(s.until))
		defer t.Stop()
		expired = t.C
	}
	var buf [batch]hull.Event
	for last := false; ; {
		got, lost, wake := s.log.take(s.next, buf[:])
		if lost > 0 && !s.send(ctx, lostEvent(lost, buf[:got])) {
			return
		}
		s.next += lost + uint64(got)
		for _, e := range buf[:got] {
			if !s.until.IsZero() && e.Time.After(s.until) || !s.send(ctx, e) {
				return
			}
		}
		if got > 0 {
			continue
		}
		if last {
			return
		}
		select {
		case <-wake:
		case <-expired:
			last = true // one more round, for what happened just before
		case <-ctx.Done():
			return
		}
	}
}

func (s *subscriber) send(ctx context.Context, e hull.Event) bool {
	select {
	case s.out <- e:
		return true
	case <-ctx.Done():
		return false
	}
}

func lostEvent(n uint64, after []hull.Event) hull.Event {
	e := hull.Event{
		Type: "daemon", Action: Lost, Scope: "local", Time: time.Now(),
		Attrs: map[string]string{"count": strconv.FormatUint(n, 10)},
	}
	if len(after) > 0 {
		e.Time = after[0].Time
	}
	return e
}
