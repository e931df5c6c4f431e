package hull

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// ExecError says that the executable could not be run: Code is 127 when it is
// missing and 126 when it may not be run, as shells and Docker have it.
type ExecError struct {
	Code int
	Path string
	Err  error
}

func (e *ExecError) Error() string {
	return fmt.Sprintf("exec %q: %v", e.Path, e.Err)
}

func (e *ExecError) Unwrap() error { return e.Err }

// Unwrap makes errdefs.IsConflict true.
func (e *NameTakenError) Unwrap() error { return errdefs.ErrConflict }

// BuildStepError says that a step of a build ended with an exit code.
type BuildStepError struct {
	Command string
	Code    int
}

func (e *BuildStepError) Error() string {
	return fmt.Sprintf("The command '%s' returned a non-zero code: %d", e.Command, e.Code)
}
