package image

import (
	"sync"
	"time"

	"hull/internal/hull"
)

// teller passes progress on, one call at a time.
type teller struct {
	mu sync.Mutex
	fn func(hull.Progress)
}

func (t *teller) tell(p hull.Progress) {
	if t.fn == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fn(p)
}

func (t *teller) say(id, status string) { t.tell(hull.Progress{ID: id, Status: status}) }

// pace reports bytes at most ten times a second.
type pace struct {
	report func(hull.Progress)
	id     string
	status string
	total  int64
	at     int64
	last   time.Time
}

func (p *pace) add(n int) {
	p.at += int64(n)
	if now := time.Now(); now.Sub(p.last) >= 100*time.Millisecond {
		p.last = now
		p.report(hull.Progress{ID: p.id, Status: p.status, Current: p.at, Total: p.total})
	}
}

// short is how Docker shows a digest in progress: twelve hex digits.
func short(encoded string) string {
	if len(encoded) > 12 {
		return encoded[:12]
	}
	return encoded
}
