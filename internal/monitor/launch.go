package monitor

import (
	"context"
	"fmt"

	"hull/internal/runtime"
)

// Launch carries out an encoded runtime.Plan; it is a Config's Create.
func Launch(ctx context.Context, plan []byte, s runtime.Stdio, cg runtime.Cgroup) (Container, error) {
	var p runtime.Plan
	if err := p.UnmarshalBinary(plan); err != nil {
		return nil, fmt.Errorf("decode plan: %w", err)
	}
	c, err := runtime.Create(ctx, &p, s, cg)
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
