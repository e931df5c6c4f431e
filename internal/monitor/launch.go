package monitor

import (
	"context"
	"fmt"

	"hull/internal/runtime"
)

// Launch carries out an encoded runtime.Plan; it is a Config's Create. It takes
// the seat over.
func Launch(ctx context.Context, seat *runtime.Seat, plan []byte, s runtime.Stdio, cg runtime.Cgroup) (Container, error) {
	var p runtime.Plan
	if err := p.UnmarshalBinary(plan); err != nil {
		if seat != nil {
			seat.Close()
		}
		return nil, fmt.Errorf("decode plan: %w", err)
	}
	var c *runtime.Container
	var err error
	if seat != nil {
		c, err = seat.Create(ctx, &p, s, cg)
	} else {
		c, err = runtime.Create(ctx, &p, s, cg)
	}
	if err != nil {
		return nil, err
	}
	return launched{c}, nil
}

// launched fits runtime.Container to Container.
type launched struct{ c *runtime.Container }

func (l launched) Main() Process  { return l.c.Init() }
func (l launched) Destroy() error { return l.c.Destroy() }

func (l launched) Exec(ctx context.Context, plan []byte, s runtime.Stdio, cg runtime.Cgroup) (Process, error) {
	var p runtime.ExecPlan
	if err := p.UnmarshalBinary(plan); err != nil {
		return nil, fmt.Errorf("decode plan: %w", err)
	}
	proc, err := l.c.Exec(ctx, &p, s, cg)
	if err != nil {
		return nil, err // not a Process holding a nil pointer
	}
	return proc, nil
}
