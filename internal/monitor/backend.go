package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"

	"hull/internal/runtime"
)

// Backend makes a pod's processes in another way than as clones of this one: a
// virtual machine, an OCI runtime of the host. The monitor keeps all that a
// client sees, whoever makes the processes: streams, logs, attached clients, exit
// files, the registry of processes, recovery. A pod without a backend pays
// nothing for there being some.
//
// The driver in hulld and the backend here are two halves of one thing. What goes
// between them, CreateRequest.Spec, the plan of an exec, the op and body of Call,
// is theirs alone.
type Backend interface {
	// Create makes a container's main process ready: nothing of the image has run
	// when it returns, and what fails leaves nothing behind. *runtime.ExecError for an
	// executable that cannot be run, here or in Start.
	Create(ctx context.Context, r CreateRequest) (Container, error)
	// Call is the rest: pause, sample, ... It must end by itself, for the monitor
	// answers a bounded number of requests at a time. The monitor closes files of
	// both directions.
	Call(ctx context.Context, op string, body []byte, files []*os.File) ([]byte, []*os.File, error)
	// Close ends the boundary, after every process in it has ended or been killed.
	// It may be called twice.
	Close() error
}

// CallRelink is the operation of Backend.Call by which a backend with a copy of the
// pod's network interfaces learns that they have changed.
const CallRelink = "relink"

// CreateRequest is a container to make.
type CreateRequest struct {
	ID   string
	Spec []byte
	// Stdio are the container's pipes. The backend gives them to the process and
	// keeps none. With a terminal they are nil: Process.Console is read and written
	// instead, which may be any stream descriptor.
	Stdio  runtime.Stdio
	TTY    bool
	Cgroup runtime.Cgroup // of AddRequest
}

// BackendPod is what a backend is made for.
type BackendPod struct {
	ID     string
	Dir    string // the pod's run directory
	Config []byte // of PodWith
	// Ahead is what the backend has made before there was a pod; nil = nothing.
	Ahead any
	// Warn tells hulld's log about something that the user may want to know.
	Warn func(text string)
}

// NewBackend makes a backend. It returns soon: what takes long (a boot) goes on
// beside, and Create waits for it.
type NewBackend func(p BackendPod) (Backend, error)

// Ahead makes in the pool, before there is a pod, what a pod of the backend would
// wait for, from a configuration and files that are the driver's and its own. ctx
// ends with the engine. What it makes goes with the process, if no pod comes.
type Ahead func(ctx context.Context, conf []byte, files []*os.File) (any, error)

// LostError is what Wait of a backend's process returns when the boundary itself
// has died under it.
type LostError struct{ Text string }

func (e *LostError) Error() string { return e.Text }

// oomReporter is a process that knows by itself, without a cgroup of this host,
// that it was killed for want of memory. Asked after Wait.
type oomReporter interface{ OOMKilled() bool }

// waitFailed is the exit of a process that nobody could wait for.
func waitFailed(err error) (code int, text string) {
	var lost *LostError
	if errors.As(err, &lost) {
		return 137, lost.Text
	}
	return 255, "wait: " + err.Error()
}

// open makes the pod's backend.
func (s *server) open(name string, conf []byte) error {
	n, ok := s.cfg.Backends[name]
	if !ok {
		return fmt.Errorf("this hull-monitor knows no backend %q; install the one that belongs to this hulld: %w", name, errdefs.ErrNotImplemented)
	}
	b, err := n(BackendPod{ID: s.pod, Dir: s.dir, Config: conf, Ahead: s.ahead, Warn: func(text string) { s.warn(s.pod, text) }})
	if err != nil {
		return fmt.Errorf("open %s: %w", name, err)
	}
	s.backend = b
	return nil
}

// prepare answers kindAhead. Meanwhile the engine's next frame is waited for, so that
// its end is noticed: next gets it.
func (s *server) prepare(c *conn, f *frame, next chan<- received) error {
	defer f.closeFiles()
	d := dec{b: f.body}
	name, conf := d.str(), d.bytes()
	if !d.done() {
		return errFrame
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	go func() {
		f, err := c.recv()
		if err != nil {
			cancel(err)
		}
		next <- received{f, err}
	}()
	var err error
	if make, ok := s.cfg.Ahead[name]; ok {
		s.ahead, err = make(ctx, conf, f.files)
	} else {
		err = fmt.Errorf("backend %q makes nothing ahead: %w", name, errdefs.ErrNotImplemented)
	}
	if err := s.answerEarly(c, f.id, err); err != nil && ctx.Err() == nil {
		return err
	}
	return nil // next says that nobody wants an answer
}

func (s *server) call(f *frame) ([]byte, []*os.File, error) {
	if s.podErr != nil {
		return nil, nil, s.podErr
	}
	d := dec{b: f.body}
	op, body := d.str(), d.bytes()
	if !d.done() {
		return nil, nil, errFrame
	}
	if s.backend == nil {
		return nil, nil, fmt.Errorf("%s: this pod has no backend: %w", op, errdefs.ErrNotImplemented)
	}
	return s.backend.Call(context.Background(), op, body, f.files)
}

// pidAfter is the answer to start: a backend's process may have no pid before.
func (s *server) pidAfter(p *proc, err error) ([]byte, error) {
	if err != nil || s.backend == nil {
		return nil, err
	}
	var e enc
	e.u32(uint32(p.run.Pid()))
	return e.b, nil
}
