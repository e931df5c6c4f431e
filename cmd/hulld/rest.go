package main

import (
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"hull/internal/linux"
)

// restAfter is how long after the last piece of work memory is given back.
const restAfter = 15 * time.Second

// rest calls give when nothing large is under way any more: the start, a build, a pull
// or a load.
type rest struct {
	give func()

	mu     sync.Mutex
	work   int // pieces under way
	timer  *time.Timer
	closed bool
}

// begin says that a piece of work begins. The result is to be called at its end.
func (r *rest) begin() (end func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.work++
	r.stop()
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.work--; r.work == 0 && !r.closed {
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

func (r *rest) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	r.stop()
	return nil
}

// giveBack frees what such work leaves free in the heap, and the parts of the program
// that only it executes.
func giveBack(log *slog.Logger) {
	debug.FreeOSMemory()
	if err := linux.ForgetProgram(); err != nil {
		log.Debug("the program's memory is not given back", "error", err)
	}
}
