package build

import (
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"hull/internal/linux"
)

// restAfter is how long after the last build its memory is given back.
const restAfter = 15 * time.Second

// rest gives memory back when nothing is built any more: what a build leaves free in
// the heap, and the parts of the program that only a build executes.
type rest struct {
	log *slog.Logger

	mu     sync.Mutex
	builds int
	timer  *time.Timer
}

// begin says that a build runs. The result is to be called at its end.
func (r *rest) begin() (end func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.builds++
	r.stop()
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.builds--; r.builds == 0 {
			r.timer = time.AfterFunc(restAfter, r.give)
		}
	}
}

// stop is called with mu held.
func (r *rest) stop() {
	if r.timer != nil {
		r.timer.Stop()
	}
}

func (r *rest) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stop()
}

func (r *rest) give() {
	debug.FreeOSMemory()
	if err := linux.ForgetProgram(); err != nil {
		r.log.Debug("the program's memory is not given back", "error", err)
	}
}
