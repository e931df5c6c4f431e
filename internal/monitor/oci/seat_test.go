package oci

import (
	"errors"
	"testing"
)

// TestSeatEnded: who comes too late for a container's thread is told so.
func TestSeatEnded(t *testing.T) {
	t.Parallel()
	s := newSeat()
	if err := s.do(func() error { return nil }); err != nil {
		t.Error(err)
	}
	s.end()
	if err := s.do(func() error { return nil }); !errors.Is(err, errSeatEnded) {
		t.Errorf("after its end: %v", err)
	}
}
