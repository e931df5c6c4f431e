package image

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
)

// said is an error in the words that clients of Docker know, with a kind.
type said struct {
	text string
	kind error
}

func (e *said) Error() string { return e.text }
func (e *said) Unwrap() error { return e.kind }

func say(kind error, format string, args ...any) error {
	return &said{fmt.Sprintf(format, args...), kind}
}

// noSuchImage is for an unknown reference, shown in its familiar form.
func noSuchImage(ref string) error {
	if n, err := reference.ParseNormalizedNamed(ref); err == nil {
		ref = reference.FamiliarString(reference.TagNameOnly(n))
	}
	return say(errdefs.ErrNotFound, "No such image: %s", ref)
}

// badReference is for a string that is no reference at all. The parser's words
// are Docker's.
func badReference(err error) error {
	if err == nil {
		err = reference.ErrReferenceInvalidFormat
	}
	return say(errdefs.ErrInvalidArgument, "%v", err)
}
