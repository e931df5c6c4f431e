package monitor

import (
	"fmt"

	"github.com/containerd/errdefs"

	"hull/internal/hull"
	"hull/internal/monitor/stdio"
)

// openLog opens the writer for a target.
func openLog(t hull.LogTarget) (stdio.LogWriter, error) {
	switch t.Driver {
	case "", "none":
		return nil, nil
	}
	return nil, fmt.Errorf("log driver %q: %w", t.Driver, errdefs.ErrNotImplemented)
}
