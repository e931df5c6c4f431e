// Package jail unpacks layers in a process that can reach nothing but the layer.
//
// A layer is the most hostile input there is: a compressed stream and a tar from
// anywhere, turned into files by root. archive bounds what an honest
// implementation does with it; here is what holds if that has a hole. The child
//
//   - sees an empty root with its own /proc, and the layer's directory as a mount
//     that leads nowhere; the layers below it, when asked for, read-only;
//   - is alone in its pid and ipc namespaces, and may make no socket, run no
//     program, make no mount and no namespace, and load nothing into the kernel;
//   - keeps only the capabilities that owners, modes, devices and attributes need.
//
// It reads the layer from its standard input. A socket carries its order and the
// layer's directory in, requests for the layers below both ways, and the result out.
package jail

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"hull/internal/image/archive"
)

const (
	// control is the socket's descriptor in the child.
	control = 3
	// maxMessage bounds a message of either side, bytes.
	maxMessage = 64 << 10
	// maxLower is how many layers may be below one: what one message can carry.
	maxLower = 250
)

// order is the first message, with the layer's directory.
type order struct {
	Limits    archive.Limits
	User      bool
	SkipOwner bool
	Plain     bool
	Packed    bool
	HasLower  bool
}

// answer is a message of the child: a request for the layers below, or the end.
type answer struct {
	WantLower bool
	Result    archive.Result
	Digest    digest.Digest
	Failure   *failure
}

// lower answers a request; the directories come with it.
type lower struct{ Failure *failure }

// failure carries an error over the socket.
type failure struct {
	Message string
	Errno   syscall.Errno       `json:",omitempty"`
	Kind    string              `json:",omitempty"`
	Limit   *archive.LimitError `json:",omitempty"`
}

// The kinds that Unpack's errors have.
func kinds() map[string]error {
	return map[string]error{
		"invalid": errdefs.ErrInvalidArgument, "exhausted": errdefs.ErrResourceExhausted,
		"unimplemented": errdefs.ErrNotImplemented, "data-loss": errdefs.ErrDataLoss,
	}
}

func toFailure(err error) *failure {
	if err == nil {
		return nil
	}
	f := &failure{Message: err.Error()}
	if len(f.Message) > maxMessage/4 {
		f.Message = f.Message[:maxMessage/4]
	}
	_ = errors.As(err, &f.Errno)
	_ = errors.As(err, &f.Limit)
	for name, kind := range kinds() {
		if errors.Is(err, kind) {
			f.Kind = name
		}
	}
	return f
}

// remote is an error that the other side had.
type remote struct {
	message string
	causes  []error
}

func (e *remote) Error() string   { return e.message }
func (e *remote) Unwrap() []error { return e.causes }

func (f *failure) error() error {
	if f == nil {
		return nil
	}
	e := &remote{message: fmt.Sprintf("%.*s", maxMessage, f.Message)}
	if f.Errno != 0 {
		e.causes = append(e.causes, f.Errno)
	}
	if f.Limit != nil {
		e.causes = append(e.causes, f.Limit)
	} else if kind, ok := kinds()[f.Kind]; ok {
		e.causes = append(e.causes, kind)
	}
	return e
}
