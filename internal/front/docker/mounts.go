package docker

import (
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"hull/api"
	"hull/internal/hull"
)

// volumeName is what moby's local driver accepts.
//
//nolint:gochecknoglobals // compiled once
var volumeName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

// toMounts gathers mounts from the four places of a create request, in the
// order of precedence that Docker has: -v, --mount, --tmpfs, anonymous volumes.
func toMounts(c *container.Config, h *container.HostConfig) ([]hull.Mount, []string, error) {
	var (
		out      []hull.Mount
		warnings []string
		taken    = map[string]bool{}
	)
	add := func(m hull.Mount) error {
		if taken[m.Target] {
			return invalid("Duplicate mount point: %s", m.Target)
		}
		taken[m.Target] = true
		out = append(out, m)
		return nil
	}
	for _, b := range h.Binds {
		m, err := parseBind(b, h.VolumeDriver)
		if err != nil {
			return nil, nil, err
		}
		if err := add(m); err != nil {
			return nil, nil, err
		}
	}
	for _, mt := range h.Mounts {
		m, err := toMount(mt)
		if err != nil {
			return nil, nil, err
		}
		if h.VolumeDriver != "" && m.Type == hull.MountVolume {
			warnings = append(warnings, "WARNING: the container-wide volume-driver configuration is ignored for volumes specified via 'mount'. Use '--mount type=volume,volume-driver=...' instead")
		}
		if err := add(m); err != nil {
			return nil, nil, err
		}
	}
	for _, target := range slices.Sorted(maps.Keys(h.Tmpfs)) {
		to, err := mountTarget(target)
		if err != nil {
			return nil, nil, err
		}
		if err := checkTmpfsOptions(h.Tmpfs[target]); err != nil {
			return nil, nil, err
		}
		if err := add(hull.Mount{Type: hull.MountTmpfs, Target: to, TmpfsOptions: h.Tmpfs[target], ViaBind: true}); err != nil {
			return nil, nil, err
		}
	}
	for _, target := range slices.Sorted(maps.Keys(c.Volumes)) {
		to, err := mountTarget(target)
		if err != nil {
			return nil, nil, err
		}
		if !taken[to] { // -v name:/data wins over VOLUME /data
			taken[to] = true
			out = append(out, hull.Mount{Type: hull.MountVolume, Target: to, VolumeDriver: h.VolumeDriver, ViaBind: true})
		}
	}
	return out, warnings, nil
}

// mountTarget cleans a path in the container.
func mountTarget(target string) (string, error) {
	if !path.IsAbs(target) {
		return "", invalid("invalid mount path: '%s' mount path must be absolute", target)
	}
	if target = path.Clean(target); target == "/" {
		return "", invalid("invalid specification: destination can't be '/'")
	}
	return target, nil
}

// parseBind reads "[source:]target[:mode]" of -v and Binds.
func parseBind(raw, driver string) (hull.Mount, error) {
	bad := invalid("invalid volume specification: '%s'", raw)
	parts := strings.Split(raw, ":")
	m := hull.Mount{ViaBind: true}
	switch len(parts) {
	case 1:
		m.Target = parts[0]
	case 2:
		m.Source, m.Target = parts[0], parts[1]
		if isMode(parts[1]) && !path.IsAbs(parts[1]) {
			return m, bad // "/foo:ro" names no target
		}
	case 3:
		m.Source, m.Target, m.Mode = parts[0], parts[1], parts[2]
	default:
		return m, bad
	}
	if parts[0] == "" || m.Target == "" {
		return m, bad
	}
	var err error
	if m.Target, err = mountTarget(m.Target); err != nil {
		return m, err
	}
	m.Type = hull.MountVolume
	if path.IsAbs(m.Source) {
		m.Type, m.Source, m.CreateSource = hull.MountBind, path.Clean(m.Source), true
	} else if m.Source != "" && !volumeName.MatchString(m.Source) {
		return m, invalid("%q includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path", m.Source)
	}
	if m.Type == hull.MountVolume {
		m.VolumeDriver = driver
	}
	return m, applyMode(&m)
}

func isMode(text string) bool {
	var m bindMode
	return m.read(text) == nil
}

// applyMode reads "ro,z,rslave" into the mount's fields.
func applyMode(m *hull.Mount) error {
	var mode bindMode
	if err := mode.read(m.Mode); err != nil {
		return invalid("invalid mode: %s", m.Mode)
	}
	if (mode.propagation != "" || mode.oneOwner) && m.Type != hull.MountBind || mode.noCopy && m.Type != hull.MountVolume {
		return invalid("invalid mode: %s", m.Mode)
	}
	m.ReadOnly, m.Relabel, m.Propagation = mode.readOnly, mode.relabel, mode.propagation
	m.NoCopy, m.Consistency, m.OneOwner = mode.noCopy, mode.consistency, mode.oneOwner
	return nil
}

// bindMode is the mode part of a bind: at most one word of each kind.
type bindMode struct {
	access, relabel, propagation, consistency string
	readOnly, noCopy, oneOwner                bool
}

func (b *bindMode) set(field *string, word string) error {
	if *field != "" {
		return invalid("invalid mode: %s", word)
	}
	*field = word
	return nil
}

func (b *bindMode) read(text string) error {
	if text == "" {
		return nil
	}
	for word := range strings.SplitSeq(text, ",") {
		var err error
		switch {
		case word == "ro" || word == "rw":
			err = b.set(&b.access, word)
			b.readOnly = word == "ro"
		case word == "z" || word == "Z":
			err = b.set(&b.relabel, word)
		case slices.Contains(mount.Propagations, mount.Propagation(word)):
			err = b.set(&b.propagation, word)
		case word == "consistent" || word == "cached" || word == "delegated" || word == "default":
			err = b.set(&b.consistency, word)
		case word == "nocopy" && !b.noCopy:
			b.noCopy = true
		case word == "idmap" && !b.oneOwner:
			b.oneOwner = true
		default:
			err = invalid("invalid mode: %s", text)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkTmpfsOptions refuses what --tmpfs does not know.
func checkTmpfsOptions(text string) error {
	if text == "" {
		return nil
	}
	for o := range strings.SplitSeq(text, ",") {
		key, _, hasValue := strings.Cut(o, "=")
		known := []string{
			"defaults", "ro", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "sync", "async", "dirsync",
			"remount", "mand", "nomand", "atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime",
			"strictatime", "nostrictatime", "bind", "rbind", "unbindable", "runbindable",
			"private", "rprivate", "shared", "rshared", "slave", "rslave",
		}
		if hasValue {
			known = []string{"size", "nr_blocks", "nr_inodes", "mode", "uid", "gid", "mpol"}
		}
		if !slices.Contains(known, key) {
			return invalid("invalid tmpfs option [%q]", o)
		}
	}
	return nil
}

// toMount translates one --mount.
func toMount(in mount.Mount) (hull.Mount, error) {
	if in.Type == api.SecretMount {
		return secretMount(in)
	}
	bad := func(format string, a ...any) error {
		return invalid("invalid mount config for type %q: "+format, append([]any{string(in.Type)}, a...)...)
	}
	if in.Target == "" {
		return hull.Mount{}, bad("field Target must not be empty")
	}
	target, err := mountTarget(in.Target)
	if err != nil {
		return hull.Mount{}, bad("%s", err.Error())
	}
	m := hull.Mount{
		Type: hull.MountType(in.Type), Source: in.Source, Target: target,
		ReadOnly: in.ReadOnly, Consistency: string(in.Consistency),
	}
	if text := foreignOption(in); text != "" {
		return m, bad("field %s must not be specified", text)
	}
	switch in.Type {
	case mount.TypeBind:
		if text := bindOptions(&m, in); text != "" {
			return m, bad("%s", text)
		}
	case mount.TypeVolume:
		if text := volumeOptions(&m, in); text != "" {
			return m, bad("%s", text)
		}
	case mount.TypeTmpfs:
		if in.Source != "" {
			return m, bad("field Source must not be specified")
		}
		if text := tmpfsOptions(&m, in.TmpfsOptions); text != "" {
			return m, bad("%s", text)
		}
	case mount.TypeImage:
		if in.Source == "" {
			return m, bad("field Source must not be empty")
		}
		if in.ImageOptions != nil {
			m.Subpath = in.ImageOptions.Subpath
		}
		if climbs(m.Subpath) {
			return m, bad("%s", badSubpath)
		}
	default:
		return m, bad("mount type unknown")
	}
	return m, nil
}

// foreignOption names an options field that belongs to another type.
func foreignOption(in mount.Mount) string {
	switch {
	case in.BindOptions != nil && in.Type != mount.TypeBind:
		return "BindOptions"
	case in.VolumeOptions != nil && in.Type != mount.TypeVolume:
		return "VolumeOptions"
	case in.TmpfsOptions != nil && in.Type != mount.TypeTmpfs:
		return "TmpfsOptions"
	case in.ImageOptions != nil && in.Type != mount.TypeImage:
		return "ImageOptions"
	}
	return ""
}

func bindOptions(m *hull.Mount, in mount.Mount) string {
	switch {
	case in.Source == "":
		return "field Source must not be empty"
	case !path.IsAbs(in.Source):
		return "invalid mount path: '" + in.Source + "' mount path must be absolute"
	}
	m.Source = path.Clean(in.Source)
	o := in.BindOptions
	if o == nil {
		return ""
	}
	switch {
	case o.Propagation != "" && !slices.Contains(mount.Propagations, o.Propagation):
		return "invalid propagation mode: " + string(o.Propagation)
	case o.ReadOnlyNonRecursive && o.ReadOnlyForceRecursive:
		return "only one of field ReadOnlyNonRecursive and field ReadOnlyForceRecursive can be specified"
	case (o.ReadOnlyNonRecursive || o.ReadOnlyForceRecursive) && !in.ReadOnly:
		return "ReadOnlyNonRecursive and ReadOnlyForceRecursive need ReadOnly"
	case o.ReadOnlyForceRecursive && o.NonRecursive:
		return "ReadOnlyForceRecursive and NonRecursive cannot both be set"
	}
	m.Propagation, m.NonRecursive, m.CreateSource = string(o.Propagation), o.NonRecursive, o.CreateMountpoint
	m.ReadOnlyNonRec, m.ReadOnlyForce = o.ReadOnlyNonRecursive, o.ReadOnlyForceRecursive
	return ""
}

const badSubpath = "subpath must be a relative path within the volume"

// climbs says whether a subpath is not below where it starts.
func climbs(sub string) bool {
	return path.IsAbs(sub) || slices.Contains(strings.Split(sub, "/"), "..")
}

func volumeOptions(m *hull.Mount, in mount.Mount) string {
	if in.Source != "" && !volumeName.MatchString(in.Source) {
		return "\"" + in.Source + "\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
	}
	o := in.VolumeOptions
	if o == nil {
		return ""
	}
	if o.Subpath != "" {
		if in.Source == "" {
			return "must not set Subpath when using anonymous volumes"
		}
		if climbs(o.Subpath) {
			return badSubpath
		}
	}
	m.NoCopy, m.Subpath, m.VolumeLabels = o.NoCopy, o.Subpath, o.Labels
	if d := o.DriverConfig; d != nil {
		m.VolumeDriver, m.VolumeOptions = d.Name, d.Options
	}
	return ""
}

func tmpfsOptions(m *hull.Mount, o *mount.TmpfsOptions) string {
	if o == nil {
		return ""
	}
	if o.SizeBytes < 0 {
		return "tmpfs size must not be negative"
	}
	m.TmpfsSize, m.TmpfsMode = o.SizeBytes, uint32(o.Mode.Perm())
	if o.Mode&0o1000 != 0 { // clients send the sticky bit as chmod(2) has it
		m.TmpfsMode |= 0o1000
	}
	var words []string
	for _, kv := range o.Options {
		switch len(kv) {
		case 1:
			words = append(words, kv[0])
		case 2:
			words = append(words, kv[0]+"="+kv[1])
		default:
			return "invalid option array length"
		}
	}
	m.TmpfsOptions = strings.Join(words, ",")
	if err := checkTmpfsOptions(m.TmpfsOptions); err != nil {
		return err.Error()
	}
	return ""
}
