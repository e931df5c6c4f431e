package vm

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	monitorvm "hull/internal/monitor/vm"
	"hull/internal/vmm"
)

// waiting is a machine that was made ahead, as far as it matters here.
type waiting struct {
	kind   string
	closed atomic.Bool
}

func (w *waiting) Pid() int { return 7 }
func (w *waiting) Close()   { w.closed.Store(true) }

// stable is a host on which machines are made ahead, each in a second.
type stable struct {
	*spares[*waiting]
	made []*waiting
	full atomic.Bool // the host has no memory to spare
	fail error
	hang bool // the next one never answers
}

func (s *stable) build(ctx context.Context, a monitorvm.AheadConfig) (*waiting, error) {
	take, err := time.Second, s.fail
	if s.hang {
		s.hang = false
		take, err = spareLimit, context.DeadlineExceeded
	}
	select {
	case <-time.After(take):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, err
	}
	w := &waiting{kind: a.Machine.Name}
	s.made = append(s.made, w)
	return w, nil
}

// start has one of a kind made, and waits until it is.
func (s *stable) start(kind string) *waiting {
	n := len(s.made)
	s.want(kind, monitorvm.AheadConfig{Machine: vmm.Config{Name: kind}})
	time.Sleep(time.Second + spareDelay)
	synctest.Wait()
	if len(s.made) == n {
		return nil
	}
	return s.made[n]
}

// TestSpares: a machine that was made ahead is for the next start of its kind, and
// goes when nobody wants it.
func TestSpares(t *testing.T) {
	t.Parallel()
	later := func(d time.Duration) { time.Sleep(d); synctest.Wait() }
	for name, run := range map[string]func(t *testing.T, s *stable){
		"is taken once": func(t *testing.T, s *stable) {
			w := s.start("a")
			if got, ok := s.take(t.Context(), "a"); !ok || got != w {
				t.Errorf("taken: %v %v", got, ok)
			}
			if got, ok := s.take(t.Context(), "a"); ok {
				t.Errorf("taken twice: %v", got)
			}
			later(2 * spareIdle)
			if s.close(); w.closed.Load() {
				t.Error("one that was taken has been ended")
			}
		},
		"is waited for while it is made": func(t *testing.T, s *stable) {
			s.want("a", monitorvm.AheadConfig{})
			if _, ok := s.take(t.Context(), "a"); !ok {
				t.Error("not taken")
			}
		},
		"is not waited for longer than the start lives": func(t *testing.T, s *stable) {
			s.want("a", monitorvm.AheadConfig{})
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			if _, ok := s.take(ctx, "a"); ok {
				t.Error("taken by a start that is over")
			}
			if _, ok := s.take(t.Context(), "a"); !ok {
				t.Error("the next one does not get it")
			}
		},
		"goes after its time": func(t *testing.T, s *stable) {
			w := s.start("a")
			if later(spareIdle - time.Second); w.closed.Load() {
				t.Error("it goes too soon")
			}
			if later(time.Second); !w.closed.Load() {
				t.Error("it stays for ever")
			}
			if _, ok := s.take(t.Context(), "a"); ok || !strings.HasPrefix(s.says(), "none") {
				t.Errorf("it can be taken after its end: %s", s.says())
			}
		},
		"goes when the host's memory is wanted": func(t *testing.T, s *stable) {
			w := s.start("a")
			if later(3 * spareCheck); w.closed.Load() {
				t.Error("it goes with memory to spare")
			}
			s.full.Store(true)
			if later(spareCheck); !w.closed.Load() {
				t.Error("it stays")
			}
			if w := s.start("a"); w != nil {
				t.Error("another is made without memory to spare")
			}
		},
		"goes for one of another kind": func(t *testing.T, s *stable) {
			a := s.start("a")
			if s.start("a") != nil {
				t.Error("there are two of a kind")
			}
			b := s.start("b")
			if !a.closed.Load() || b == nil || b.closed.Load() {
				t.Errorf("of the kinds a and b there are %+v", s.made)
			}
			if _, ok := s.take(t.Context(), "a"); ok {
				t.Error("one of another kind is taken")
			}
			if got, ok := s.take(t.Context(), "b"); !ok || got != b {
				t.Errorf("taken: %v %v", got, ok)
			}
		},
		"stays while somebody waits for it": func(t *testing.T, s *stable) {
			s.want("a", monitorvm.AheadConfig{})
			got := make(chan bool)
			go func() {
				_, ok := s.take(t.Context(), "a")
				got <- ok
			}()
			synctest.Wait()
			s.want("b", monitorvm.AheadConfig{})
			if !<-got {
				t.Error("it went to make room for another")
			}
		},
		"goes with the engine": func(t *testing.T, s *stable) {
			w := s.start("a")
			if s.close(); !w.closed.Load() {
				t.Error("it stays")
			}
			if s.start("b") != nil {
				t.Error("one is made by an engine that has ended")
			}
		},
		"goes when what it takes is wanted back": func(t *testing.T, s *stable) {
			w := s.start("a")
			s.clear()
			if synctest.Wait(); !w.closed.Load() {
				t.Error("it stays")
			}
			if s.start("a") == nil {
				t.Error("there is no other")
			}
		},
		"is not made to the end for an engine that goes": func(t *testing.T, s *stable) {
			s.want("a", monitorvm.AheadConfig{})
			if s.close(); len(s.made) != 0 {
				t.Error("it was")
			}
		},
		"is not waited for when its guest hangs": func(t *testing.T, s *stable) {
			s.hang = true
			s.want("a", monitorvm.AheadConfig{})
			begin := time.Now()
			if _, ok := s.take(t.Context(), "a"); ok || time.Since(begin) != spareWait {
				t.Errorf("taken: %v, after %v", ok, time.Since(begin))
			}
			if time.Sleep(spareLimit); s.start("a") == nil {
				t.Error("the next start has none made")
			}
		},
		"may be impossible": func(t *testing.T, s *stable) {
			s.fail = errors.New("no such machine")
			s.want("a", monitorvm.AheadConfig{})
			if _, ok := s.take(t.Context(), "a"); ok {
				t.Error("taken")
			}
			if s.fail = nil; s.start("a") == nil {
				t.Error("it is not tried again")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &stable{}
				s.spares = newSpares(s.build, func(int64) bool { return !s.full.Load() }, slog.New(slog.DiscardHandler))
				run(t, s)
				s.close()
				for _, w := range s.made {
					if _, ok := s.take(t.Context(), w.kind); ok {
						t.Errorf("%s can be taken of an engine that has ended", w.kind)
					}
				}
			})
		})
	}
}
