// Package undo collects clean-up steps while resources are acquired and runs
// them, newest first, if the acquiring function fails.
package undo

import (
	"context"
	"errors"
	"fmt"
	"time"
)

type step struct {
	name string
	fn   func(context.Context) error
}

// Stack is the zero value ready to use. It is not safe for concurrent use.
type Stack struct{ steps []step }

// Add registers fn. The name is what the operator reads when it fails.
func (s *Stack) Add(name string, fn func(context.Context) error) {
	s.steps = append(s.steps, step{name, fn})
}

// Release forgets every step: the caller has succeeded.
func (s *Stack) Release() { s.steps = nil }

// OnError is deferred once, with the address of the caller's named result. It
// does nothing when *err is nil. Cancelling ctx does not stop the clean-up;
// limit bounds all of it. Errors of steps are joined to *err.
func (s *Stack) OnError(ctx context.Context, limit time.Duration, err *error) {
	if *err == nil {
		return
	}
	*err = errors.Join(*err, s.Run(ctx, limit))
}

// Run runs every step, newest first, and forgets them. Cancelling ctx does not
// stop it; limit bounds all of it.
func (s *Stack) Run(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	var errs []error
	for i := len(s.steps) - 1; i >= 0; i-- {
		if e := s.steps[i].fn(ctx); e != nil {
			errs = append(errs, fmt.Errorf("undo %s: %w", s.steps[i].name, e))
		}
	}
	s.steps = nil
	return errors.Join(errs...)
}
