package runtime

import (
	"context"
	"errors"
	"os"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Process is a main process or an exec.
type Process struct {
	console *os.File
}

// Pid is the process id as this process sees it.
func (p *Process) Pid() int { return 0 }

// Pidfd is owned by p; it becomes readable when the process has ended. Valid
// until Close.
func (p *Process) Pidfd() int { return -1 }

// Console is the terminal's master side, nil without one. Owned by p; closed by
// Close.
func (p *Process) Console() *os.File { return p.console }

// Start runs the executable. *ExecError when it cannot be run, *StepError when a
// last step before failed; in both cases the process has ended.
func (p *Process) Start(ctx context.Context) error { return errors.ErrUnsupported }

// Signal sends sig through the pidfd. os.ErrProcessDone when it has ended.
func (p *Process) Signal(sig syscall.Signal) error { return errors.ErrUnsupported }

// Wait blocks until the process has ended and reaps it. It may be called by many.
func (p *Process) Wait(ctx context.Context) (syscall.WaitStatus, error) {
	return 0, errors.ErrUnsupported
}

// Resize sets the terminal's size. errdefs.ErrFailedPrecondition without one.
func (p *Process) Resize(rows, cols uint16) error { return errors.ErrUnsupported }

// Close gives back descriptors of a process that has ended (and kills one that
// was never started). It may be called twice.
func (p *Process) Close() error { return nil }

// Container is one set of namespaces with a main process.
type Container struct{ init *Process }

// Plan is a compiled specification.
type Plan struct {
	Process  ProcPlan
	Warnings []string
}

// ProcPlan is one process: what runs, as whom, with which rights.
type ProcPlan struct {
	Args     []string
	Env      []string
	Cwd      string
	Terminal bool
}

// ExecPlan is another process for a running container.
type ExecPlan struct {
	Process  ProcPlan
	Warnings []string
}

// MarshalBinary encodes the plan for another process of the same build.
func (p *Plan) MarshalBinary() ([]byte, error) { return nil, errors.ErrUnsupported }

// UnmarshalBinary is the reverse of MarshalBinary.
func (p *Plan) UnmarshalBinary(b []byte) error { return errors.ErrUnsupported }

// MarshalBinary encodes the plan for another process of the same build.
func (p *ExecPlan) MarshalBinary() ([]byte, error) { return nil, errors.ErrUnsupported }

// UnmarshalBinary is the reverse of MarshalBinary.
func (p *ExecPlan) UnmarshalBinary(b []byte) error { return errors.ErrUnsupported }

func prepare(spec *specs.Spec, o Options) (*Plan, error) { return nil, errors.ErrUnsupported }
func prepareExec(spec *specs.Spec, p *specs.Process, privileged bool) (*ExecPlan, error) {
	return nil, errors.ErrUnsupported
}
func create(ctx context.Context, plan *Plan, s Stdio, cg Cgroup) (*Container, error) {
	return nil, errors.ErrUnsupported
}
func (c *Container) exec(ctx context.Context, p *ExecPlan, s Stdio, cg Cgroup) (*Process, error) {
	return nil, errors.ErrUnsupported
}
func (c *Container) root() (*os.File, error) { return nil, errors.ErrUnsupported }
func (c *Container) destroy() error          { return errors.ErrUnsupported }
