// Package archive turns layer tars into directories and back.
//
// A layer's tar comes from outside and is hostile until proven otherwise. It is
// unpacked below one directory descriptor: every parent is opened with
// openat2(RESOLVE_IN_ROOT), so a link in the layer can only ever lead to another
// place in the layer, and the last component is always created or replaced by
// an *at call that follows nothing. What a layer may cost is bounded by Limits.
//
// In tars, deletions are AUFS whiteouts (".wh.name", ".wh..wh..opq"; OCI image
// layer specification); in directories they are overlayfs's: a 0:0 character
// device, and the attribute trusted.overlay.opaque.
package archive

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

const (
	whPrefix = ".wh."
	whMeta   = ".wh..wh."
	whOpaque = ".wh..wh..opq"

	// OpaqueXattr marks a directory that hides those below it.
	OpaqueXattr = "trusted.overlay.opaque"
	// OpaqueXattrUser is its form for overlays mounted in a user namespace.
	OpaqueXattrUser = "user.overlay.opaque"

	overlayTrusted = "trusted.overlay."
	overlayUser    = "user.overlay."
	paxXattr       = "SCHILY.xattr."
)

// Limits bound what one layer may cost. 0 = the default.
type Limits struct {
	Entries int64 // tar entries; default 900,000
	Bytes   int64 // of all files together, holes included; default 64 GiB
	Depth   int   // path components; default 255
	Ratio   int64 // unpacked bytes per compressed one, beyond 2 GiB; default 250
}

// WithDefaults fills in what is zero.
func (l Limits) WithDefaults() Limits {
	if l.Entries == 0 {
		l.Entries = 900_000
	}
	if l.Bytes == 0 {
		l.Bytes = 64 << 30
	}
	if l.Depth == 0 {
		l.Depth = 255
	}
	if l.Ratio == 0 {
		l.Ratio = 250
	}
	return l
}

// ratioFloor is the size below which a high compression ratio is nobody's harm.
const ratioFloor = 2 << 30

// LimitError says which limit a layer broke. errdefs.IsResourceExhausted is true.
type LimitError struct {
	What  string // "entries", "bytes", ...
	Limit int64
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("layer has more than %d %s, the limit of this engine (raise it in the image limits if the image is trusted)", e.Limit, e.What)
}

// Unwrap gives the kind.
func (e *LimitError) Unwrap() error { return errdefs.ErrResourceExhausted }

// hostile is the error for an entry no honest layer has.
func hostile(name, why string) error {
	if len(name) > 200 {
		name = name[:200] + "..."
	}
	return fmt.Errorf("refuse tar entry %q: %s: %w", name, why, errdefs.ErrInvalidArgument)
}

// clean makes a tar name relative to the layer's root: "" is the root itself.
// Absolute names are relative to the root, as everywhere in the field; names
// that climb out of it are refused.
func clean(name string, depth int) (string, error) {
	if strings.IndexByte(name, 0) >= 0 {
		return "", hostile(name, "name holds a NUL")
	}
	var parts []string
	for c := range strings.SplitSeq(name, "/") {
		switch c {
		case "", ".":
		case "..":
			if len(parts) == 0 {
				return "", hostile(name, "name climbs out of the layer")
			}
			parts = parts[:len(parts)-1]
		default:
			if len(c) > 255 {
				return "", hostile(name, "path component is longer than 255 bytes")
			}
			parts = append(parts, c)
		}
	}
	if len(parts) > depth {
		return "", &LimitError{What: "path components in a name", Limit: int64(depth)}
	}
	return strings.Join(parts, "/"), nil
}

// split gives the directory and the last component of a clean name.
func split(name string) (dir, base string) {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i], name[i+1:]
	}
	return "", name
}
