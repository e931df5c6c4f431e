package driver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"

	"hull/internal/hull"
)

// Abilities beyond the core are small interfaces, reached only through the
// functions below: callers never assert.
type (
	pauser interface {
		Pause(ctx context.Context, containerID string) error
		Resume(ctx context.Context, containerID string) error
	}
	statser interface {
		Stats(ctx context.Context, containerID string) (hull.Stats, error)
	}
	updater interface {
		Update(ctx context.Context, containerID string, r hull.Resources) error
	}
	pidser interface {
		Pids(ctx context.Context, containerID string) ([]int, error)
	}
	lister interface {
		Processes(ctx context.Context, containerID string) (titles []string, rows [][]string, ok bool, err error)
	}
	rooter interface {
		Root(ctx context.Context, containerID string) (*os.File, error)
	}
	filer interface {
		Files(containerID string) Files
	}
	disker interface {
		OpenDisk(ctx context.Context, root hull.Rootfs) (Files, error)
	}
	resizer interface {
		Resize(ctx context.Context, rows, cols uint16) error
	}
	attacher interface {
		Attach(ctx context.Context, a hull.Attach) error
	}
)

func unsupported(what string) error {
	return fmt.Errorf("%s is not supported by this isolation; use --isolation container: %w", what, errdefs.ErrNotImplemented)
}

// Pause freezes every process of a container.
func Pause(ctx context.Context, s Sandbox, containerID string) error {
	if p, ok := s.(pauser); ok {
		return p.Pause(ctx, containerID)
	}
	return unsupported("pause")
}

// Resume is the reverse of Pause.
func Resume(ctx context.Context, s Sandbox, containerID string) error {
	if p, ok := s.(pauser); ok {
		return p.Resume(ctx, containerID)
	}
	return unsupported("unpause")
}

// Stats samples a container. Networks are left empty: the pod's network
// namespace is the network service's.
func Stats(ctx context.Context, s Sandbox, containerID string) (hull.Stats, error) {
	if p, ok := s.(statser); ok {
		return p.Stats(ctx, containerID)
	}
	return hull.Stats{}, unsupported("stats")
}

// Update sets the non-zero fields of r on a running container.
func Update(ctx context.Context, s Sandbox, containerID string, r hull.Resources) error {
	if p, ok := s.(updater); ok {
		return p.Update(ctx, containerID, r)
	}
	return unsupported("update of a running container")
}

// Pids lists the host pids in a container.
func Pids(ctx context.Context, s Sandbox, containerID string) ([]int, error) {
	if p, ok := s.(pidser); ok {
		return p.Pids(ctx, containerID)
	}
	return nil, unsupported("top")
}

// Processes is a table of a container's processes where they are none of this
// host's. ok is false where Pids tells more.
func Processes(ctx context.Context, s Sandbox, containerID string) (titles []string, rows [][]string, ok bool, err error) {
	if p, ok := s.(lister); ok {
		return p.Processes(ctx, containerID)
	}
	return nil, nil, false, nil
}

// Root opens a running container's root directory, with all its mounts, for
// openat2(RESOLVE_IN_ROOT). The caller closes it.
func Root(ctx context.Context, s Sandbox, containerID string) (*os.File, error) {
	if p, ok := s.(rooter); ok {
		return p.Root(ctx, containerID)
	}
	return nil, unsupported("access to the files of a running container")
}

// Files are those of a container whose root directory this host cannot open,
// because another kernel has it. What comes from there is as hostile as the
// container: an archive is unpacked like any other, a path is a text.
type Files interface {
	// Stat, Pack and Unpack are the engine's Files of the same names.
	Stat(ctx context.Context, path string) (hull.PathStat, error)
	// The owner of what is unpacked is looked up in the container; "" = whom the
	// tar says.
	Pack(ctx context.Context, r hull.CopyFromRequest, w io.Writer) error
	Unpack(ctx context.Context, r hull.CopyToRequest, owner string, tar io.Reader) error
	// Layer writes the writable layer as the tar of an image's layer.
	Layer(ctx context.Context, w io.Writer) error
	Close(ctx context.Context) error
}

// RunningFiles are those of a container that runs.
func RunningFiles(s Sandbox, containerID string) (Files, error) {
	if f, ok := s.(filer); ok {
		return f.Files(containerID), nil
	}
	return nil, unsupported("access to the files of a running container")
}

// DiskFiles are those of a container that does not run. Nobody else may use its
// root file system until Close.
func DiskFiles(ctx context.Context, d Driver, root hull.Rootfs) (Files, error) {
	if f, ok := d.(disker); ok {
		return f.OpenDisk(ctx, root)
	}
	return nil, unsupported("access to the files of a container on a disk")
}

// Resize sets the size of a process's terminal.
func Resize(ctx context.Context, p Process, rows, cols uint16) error {
	if r, ok := p.(resizer); ok {
		return r.Resize(ctx, rows, cols)
	}
	return unsupported("resize")
}

// Attach connects a stream to a process. It returns as soon as the stream is
// handed over; the other end is closed when the process has ended.
func Attach(ctx context.Context, p Process, a hull.Attach) error {
	if at, ok := p.(attacher); ok {
		return at.Attach(ctx, a)
	}
	return unsupported("attach")
}

// GoneError is what Recover returns for a sandbox that has ended while nobody
// looked. Exits holds what its monitor wrote down, by process id.
type GoneError struct {
	ID    string
	Exits map[string]hull.Exit
}

func (e *GoneError) Error() string { return "sandbox " + e.ID + " has ended" }

// Unwrap makes errdefs.IsNotFound true.
func (e *GoneError) Unwrap() error { return errdefs.ErrNotFound }

// AsGone finds a GoneError in err.
func AsGone(err error) (*GoneError, bool) {
	var g *GoneError
	ok := errors.As(err, &g)
	return g, ok
}
