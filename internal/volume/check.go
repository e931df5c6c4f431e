package volume

import (
	"fmt"
	"hull/internal/hull"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
)

const nameChars = "[a-zA-Z0-9][a-zA-Z0-9_.-]"

// maxName keeps names within what file systems allow, trash prefix included.
const maxName = 240

// checkName holds a name to Docker's rule, with Docker's words.
func checkName(name string) error {
	if len(name) == 1 {
		return invalid("volume name is too short, names should be at least two alphanumeric characters")
	}
	for i, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !letter && (i == 0 || !strings.ContainsRune("_.-", r)) {
			return invalid("%q includes invalid characters for a local volume name, only %q are allowed. "+
				"If you intended to pass a host directory, use absolute path", name, nameChars)
		}
	}
	if name == "" || len(name) > maxName {
		return invalid("volume name %q is longer than %d characters", name, maxName)
	}
	return nil
}

// checkOptions holds the local driver's options to Docker's rules. size is the
// bound of a volume in bytes, 0 = none.
func checkOptions(o map[string]string) (size int64, err error) {
	need := map[string][]string{"type": {"device"}, "o": {"device", "type"}, "device": {"type"}, "size": nil}
	for _, k := range slices.Sorted(maps.Keys(o)) {
		others, ok := need[k]
		if !ok {
			return 0, invalid("invalid option: %q", k)
		}
		for _, other := range others {
			if o[other] == "" {
				return 0, invalid("missing required option: %q", other)
			}
		}
	}
	text, bounded := o["size"]
	if !bounded {
		return 0, nil
	}
	if o["type"] != "" {
		return 0, invalid("option \"size\" bounds a volume of this engine's own disk; a %s file system takes its own size option in \"o\"", o["type"])
	}
	if size, err = units.RAMInBytes(text); err != nil || size < minSize {
		return 0, invalid("option \"size\": %q is not a size of at least 1m", text)
	}
	return size, nil
}

// minSize is what a file system needs for itself and a little more. Bytes.
const minSize = 1 << 20

// checkMount reports a mount that cannot be.
func checkMount(m hull.Mount) error {
	fail := func(format string, a ...any) error {
		return invalid("invalid mount config for type %q: %s", string(m.Type), fmt.Sprintf(format, a...))
	}
	switch {
	case m.Target == "":
		return fail("field Target must not be empty")
	case !filepath.IsAbs(m.Target):
		return fail("invalid mount path: '%s' mount path must be absolute", m.Target)
	case filepath.Clean(m.Target) == "/":
		return fail("invalid specification: destination can't be '/'")
	case strings.ContainsRune(m.Target+m.Source+m.Subpath, 0):
		return fail("a path contains a zero byte")
	}
	switch m.Type {
	case hull.MountBind:
		if m.Source == "" {
			return fail("field Source must not be empty")
		}
		if !filepath.IsAbs(m.Source) {
			return fail("invalid mount path: '%s' mount path must be absolute", m.Source)
		}
		modes := []string{"", "rprivate", "private", "rshared", "shared", "rslave", "slave"}
		if !slices.Contains(modes, m.Propagation) {
			return fail("invalid propagation mode: %s", m.Propagation)
		}
	case hull.MountVolume:
		if m.Subpath != "" && (m.Source == "" || !filepath.IsLocal(m.Subpath)) {
			return fail("volume subpath %q must be a relative path within a named volume", m.Subpath)
		}
	case hull.MountTmpfs:
		if m.Source != "" {
			return fail("field Source must not be specified")
		}
	case hull.MountImage, hull.MountSecret:
		if m.Source == "" {
			return fail("field Source must not be empty")
		}
	default:
		return invalid("invalid mount config for type %q: mount type unknown", string(m.Type))
	}
	return nil
}

func invalid(format string, a ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, a...))
}
