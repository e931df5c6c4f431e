package event

import (
	"context"
	"fmt"
	"hull/internal/hull"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func ev(n int) hull.Event {
	return hull.Event{Type: "container", Action: fmt.Sprint(n)}
}

func collect(ch <-chan hull.Event) (out []string) {
	for e := range ch {
		out = append(out, e.Action)
	}
	return out
}

func equal(t *testing.T, got []string, from, to int) {
	t.Helper()
	if len(got) != to-from {
		t.Fatalf("%d events %v, want %d", len(got), got, to-from)
	}
	for i, a := range got {
		if a != fmt.Sprint(from+i) {
			t.Fatalf("event %d is %s", from+i, a)
		}
	}
}

func TestReplayThenFollowUntil(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := New(100)
		var since time.Time
		for i := range 10 {
			if i == 4 {
				since = time.Now()
			}
			l.Publish(ev(i))
			time.Sleep(time.Second)
		}
		past, err := l.Subscribe(t.Context(), since, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		equal(t, collect(past), 4, 10)
		past, err = l.Subscribe(t.Context(), time.Time{}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		equal(t, collect(past), 0, 10)

		follow, _ := l.Subscribe(t.Context(), since, time.Now().Add(3*time.Second))
		go func() {
			for i := 10; i < 20; i++ {
				l.Publish(ev(i)) // at 0, 1, 2, 3 s; the one at 3 s still counts
				time.Sleep(time.Second)
			}
		}()
		got := collect(follow)
		if len(got) != 9 && len(got) != 10 {
			t.Fatal(got)
		}
		equal(t, got[:9], 4, 13)
		time.Sleep(time.Minute)
	})
}

func TestNoneOfThePast(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := New(10)
		l.Publish(ev(1))
		ctx, cancel := context.WithCancel(t.Context())
		ch, _ := l.Subscribe(ctx, time.Time{}, time.Time{})
		l.Publish(ev(2))
		if e := <-ch; e.Action != "2" || e.Time.IsZero() {
			t.Error(e)
		}
		cancel()
		if _, ok := <-ch; ok {
			t.Error("not closed")
		}
	})
}

func TestSlowSubscriberLosesAndIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := New(8)
		ch, _ := l.Subscribe(t.Context(), time.Time{}, time.Now().Add(time.Hour))
		fast, _ := l.Subscribe(t.Context(), time.Time{}, time.Now().Add(time.Hour))
		var got []string
		go func() {
			for e := range fast {
				got = append(got, e.Action)
			}
		}()
		for i := range 100 {
			l.Publish(ev(i)) // nobody reads ch: this must not block
			synctest.Wait()
		}
		equal(t, got, 0, 100)
		seen, lost := 0, 0
		for e := range ch {
			if e.Action == Lost {
				var n int
				fmt.Sscan(e.Attrs["count"], &n)
				lost += n
			} else if e.Action != fmt.Sprint(seen+lost) {
				t.Fatal("out of order:", e.Action, "after", seen, "seen and", lost, "lost")
			} else {
				seen++
			}
		}
		if lost == 0 || seen+lost != 100 {
			t.Error(seen, "seen,", lost, "lost")
		}
	})
}

func TestTimeNeverGoesBack(t *testing.T) {
	t.Parallel()
	l := New(10)
	now := time.Now()
	for _, d := range []time.Duration{0, -time.Hour, time.Second} {
		e := ev(0)
		e.Time = now.Add(d)
		l.Publish(e)
	}
	ch, _ := l.Subscribe(t.Context(), now, now.Add(time.Minute))
	for range 3 {
		if e := <-ch; e.Time.Before(now) {
			t.Error(e.Time)
		}
	}
}

func TestPublishersKeepTheirAttributes(t *testing.T) {
	t.Parallel()
	l := New(4)
	attrs := map[string]string{"a": "1"}
	l.Publish(hull.Event{Attrs: attrs, Time: time.Unix(1, 0)})
	attrs["a"] = "2"
	ch, _ := l.Subscribe(t.Context(), time.Unix(1, 0), time.Unix(2, 0))
	if e := <-ch; e.Attrs["a"] != "1" {
		t.Error(e)
	}
}

func TestManyOfBoth(t *testing.T) {
	t.Parallel()
	l := New(100000)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var readers, writers sync.WaitGroup
	for range 20 {
		ch, _ := l.Subscribe(ctx, time.Time{}, time.Time{})
		readers.Go(func() {
			next := map[string]int{}
			for range 1000 {
				e := <-ch
				var n int
				fmt.Sscan(e.Action, &n)
				if next[e.Actor] != n {
					t.Error("publisher", e.Actor, "event", n, "want", next[e.Actor])
					return
				}
				next[e.Actor]++
			}
		})
	}
	for p := range 10 {
		writers.Go(func() {
			for i := range 100 {
				e := ev(i)
				e.Actor = fmt.Sprint(p)
				l.Publish(e)
			}
		})
	}
	writers.Wait()
	readers.Wait()
}
