package docker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/common"

	"hull/internal/hull"
)

// kinds maps error kinds to status codes, as moby's httpstatus does.
//
//nolint:gochecknoglobals // a table
var kinds = []struct {
	kind   error
	status int
}{
	{hull.ErrNotModified, http.StatusNotModified},
	{errdefs.ErrNotFound, http.StatusNotFound},
	{errdefs.ErrInvalidArgument, http.StatusBadRequest},
	{errdefs.ErrOutOfRange, http.StatusBadRequest},
	{errdefs.ErrConflict, http.StatusConflict},
	{errdefs.ErrAlreadyExists, http.StatusConflict},
	{errdefs.ErrFailedPrecondition, http.StatusConflict},
	{errdefs.ErrAborted, http.StatusConflict},
	{errdefs.ErrPermissionDenied, http.StatusForbidden},
	{errdefs.ErrUnauthenticated, http.StatusUnauthorized},
	{errdefs.ErrNotImplemented, http.StatusNotImplemented},
	{errdefs.ErrUnavailable, http.StatusServiceUnavailable},
	{errdefs.ErrResourceExhausted, http.StatusInsufficientStorage},
	{errdefs.ErrInternal, http.StatusInternalServerError},
	{errdefs.ErrUnknown, http.StatusInternalServerError},
	{errdefs.ErrDataLoss, http.StatusInternalServerError},
	{context.Canceled, 499}, // the client went away; nobody reads it
	{context.DeadlineExceeded, http.StatusGatewayTimeout},
}

// statusError is an error with a status code that no kind expresses.
type statusError struct {
	status int
	text   string
}

func (e *statusError) Error() string { return e.text }

// statusOf is the HTTP status of an error.
func statusOf(err error) int {
	var (
		se   *statusError
		ex   *hull.ExecError
		size *http.MaxBytesError
	)
	switch {
	case errors.As(err, &se):
		return se.status
	case errors.As(err, &ex):
		return http.StatusBadRequest
	case errors.As(err, &size):
		return http.StatusRequestEntityTooLarge
	}
	for _, k := range kinds {
		if errors.Is(err, k.kind) {
			return k.status
		}
	}
	return http.StatusInternalServerError
}

// messageOf is the text for the user. The name of the kind at the end of the
// chain ("...: not found") says nothing that the status does not.
func messageOf(err error) string {
	text := err.Error()
	for _, k := range kinds {
		for _, sep := range []string{": ", "\n"} { // wrapped or joined
			if short, ok := strings.CutSuffix(text, sep+k.kind.Error()); ok && short != "" && errors.Is(err, k.kind) {
				return short
			}
		}
	}
	return text
}

// execMessage is how Docker words a program that cannot be run; clients decide
// between the exit codes 126 and 127 by this text (docker/cli, container run).
func execMessage(e *hull.ExecError) string {
	why := "permission denied"
	switch {
	case e.Code == 127 && strings.Contains(e.Path, "/"):
		why = "stat " + e.Path + ": no such file or directory"
	case e.Code == 127:
		why = "executable file not found in $PATH"
	case errors.Is(e.Err, syscall.EISDIR):
		why = "is a directory"
	case errors.Is(e.Err, syscall.EACCES), errors.Is(e.Err, fs.ErrPermission), e.Err == nil:
	default:
		why = e.Err.Error() + ": permission denied"
	}
	return fmt.Sprintf("exec: %q: %s", e.Path, why)
}

// startError words a failed start as Docker does.
func startError(err error) error {
	var ex *hull.ExecError
	if errors.As(err, &ex) {
		return &statusError{http.StatusBadRequest, "failed to create task for container: failed to create shim task: OCI runtime create failed: unable to start container process: error during container init: " + execMessage(ex)}
	}
	return err
}

// execError words a failed exec as Docker does.
func execError(err error) error {
	var ex *hull.ExecError
	if errors.As(err, &ex) {
		return &statusError{http.StatusBadRequest, "OCI runtime exec failed: exec failed: unable to start container process: " + execMessage(ex)}
	}
	return err
}

func writeError(w http.ResponseWriter, err error) {
	status := statusOf(err)
	if status == http.StatusNotModified {
		w.WriteHeader(status)
		return
	}
	if status == 499 {
		status = http.StatusInternalServerError
	}
	writeJSON(w, status, common.ErrorResponse{Message: messageOf(err)})
}

// invalid makes a 400 with Docker's own words.
func invalid(format string, a ...any) error {
	return &statusError{http.StatusBadRequest, fmt.Sprintf(format, a...)}
}

func notFound(format string, a ...any) error {
	return &statusError{http.StatusNotFound, fmt.Sprintf(format, a...)}
}

func conflict(format string, a ...any) error {
	return &statusError{http.StatusConflict, fmt.Sprintf(format, a...)}
}

func notImplemented(format string, a ...any) error {
	return &statusError{http.StatusNotImplemented, fmt.Sprintf(format, a...)}
}
