package hull

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// Phases. Created is only before the first start; a container that has run and
// may be started again is Stopped.
//
//	created --start--> starting --> running <--pause/unpause--> paused
//	                      |            |  exit                     |
//	                      v            v                           |
//	                   stopped <-------+---------------------------+
//	                      |--remove--> removing --> (gone)
const (
	Created  Phase = "created"
	Starting Phase = "starting"
	Running  Phase = "running"
	Paused   Phase = "paused"
	Stopped  Phase = "stopped"
	Removing Phase = "removing"
	Dead     Phase = "dead" // removal failed half way; only remove is possible
)

// Live says whether a main process exists in this phase.
func (p Phase) Live() bool { return p == Running || p == Paused }

// CanStart is the state machine's answer to start, without side effect. It
// returns errdefs.ErrConflict, or ErrNotModified when it already runs.
func (c Container) CanStart() error {
	switch c.Status.Phase {
	case Created, Stopped:
		return nil
	case Running:
		return fmt.Errorf("container %s is already running: %w", c.Name, ErrNotModified)
	case Paused:
		return fmt.Errorf("cannot start a paused container, try unpause instead: %w", errdefs.ErrConflict)
	case Removing, Dead:
		return fmt.Errorf("container is marked for removal and cannot be started: %w", errdefs.ErrConflict)
	case Starting:
	}
	return fmt.Errorf("container %s is being started: %w", c.Name, errdefs.ErrConflict)
}
