// Package keylock is a mutex per key: the engine's only lock, one per pod.
package keylock

import (
	"context"
	"sync"
)

// Locks is the zero value ready to use.
type Locks struct {
	mu   sync.Mutex
	held map[string]*entry
}

type entry struct {
	waiters int
	token   chan struct{}
}

// Lock waits for key's lock, or until ctx is done, and returns the function
// that gives it back. The returned function may be called once.
func (l *Locks) Lock(ctx context.Context, key string) (func(), error) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[string]*entry{}
	}
	e := l.held[key]
	if e == nil {
		e = &entry{token: make(chan struct{}, 1)}
		l.held[key] = e
	}
	e.waiters++
	l.mu.Unlock()

	select {
	case e.token <- struct{}{}:
		return func() { <-e.token; l.drop(key, e) }, nil
	case <-ctx.Done():
		l.drop(key, e)
		return nil, context.Cause(ctx)
	}
}

func (l *Locks) drop(key string, e *entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.waiters--; e.waiters == 0 {
		delete(l.held, key)
	}
}
