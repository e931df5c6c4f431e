package runtime

import (
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

//nolint:gochecknoglobals // constant
var propagations = map[string]uintptr{
	"private": unix.MS_PRIVATE, "rprivate": unix.MS_PRIVATE | unix.MS_REC,
	"slave": unix.MS_SLAVE, "rslave": unix.MS_SLAVE | unix.MS_REC,
	"shared": unix.MS_SHARED, "rshared": unix.MS_SHARED | unix.MS_REC,
	"unbindable": unix.MS_UNBINDABLE, "runbindable": unix.MS_UNBINDABLE | unix.MS_REC,
}

// attrFlag is what an option does to a mount.
type attrFlag struct{ set, clear uint64 }

//nolint:gochecknoglobals // constant
var mountAttrs = map[string]attrFlag{
	"ro": {set: unix.MOUNT_ATTR_RDONLY}, "rw": {clear: unix.MOUNT_ATTR_RDONLY},
	"nosuid": {set: unix.MOUNT_ATTR_NOSUID}, "suid": {clear: unix.MOUNT_ATTR_NOSUID},
	"nodev": {set: unix.MOUNT_ATTR_NODEV}, "dev": {clear: unix.MOUNT_ATTR_NODEV},
	"noexec": {set: unix.MOUNT_ATTR_NOEXEC}, "exec": {clear: unix.MOUNT_ATTR_NOEXEC},
	"nodiratime": {set: unix.MOUNT_ATTR_NODIRATIME}, "diratime": {clear: unix.MOUNT_ATTR_NODIRATIME},
	"nosymfollow": {set: unix.MOUNT_ATTR_NOSYMFOLLOW}, "symfollow": {clear: unix.MOUNT_ATTR_NOSYMFOLLOW},
	// The access time modes exclude each other: all bits are cleared first.
	"noatime":       {set: unix.MOUNT_ATTR_NOATIME, clear: unix.MOUNT_ATTR__ATIME},
	"atime":         {set: unix.MOUNT_ATTR_RELATIME, clear: unix.MOUNT_ATTR__ATIME},
	"relatime":      {set: unix.MOUNT_ATTR_RELATIME, clear: unix.MOUNT_ATTR__ATIME},
	"norelatime":    {set: unix.MOUNT_ATTR_RELATIME, clear: unix.MOUNT_ATTR__ATIME}, // the default
	"strictatime":   {set: unix.MOUNT_ATTR_STRICTATIME, clear: unix.MOUNT_ATTR__ATIME},
	"nostrictatime": {set: unix.MOUNT_ATTR_RELATIME, clear: unix.MOUNT_ATTR__ATIME},
}

// superFlags are options of the file system rather than of the mount, and how
// fsconfig spells them. "" = the default, nothing to set.
//
//nolint:gochecknoglobals // constant
var superFlags = map[string]string{
	"sync": "sync", "async": "", "dirsync": "dirsync", "lazytime": "lazytime", "nolazytime": "",
	"mand": "mand", "nomand": "", "silent": "", "loud": "", "iversion": "", "noiversion": "", "defaults": "",
}

func (p *Plan) mounts(spec *specs.Spec, bundle string) error {
	p.SetupDev = false
	for _, m := range spec.Mounts {
		mp, err := p.mount(m, bundle)
		if err != nil {
			return err
		}
		if mp.Dest == "/dev" && mp.Kind != "bind" {
			p.SetupDev = true
		}
		p.Mounts = append(p.Mounts, mp)
	}
	return nil
}

func (p *Plan) mount(m specs.Mount, bundle string) (MountPlan, error) {
	// Old specifications write destinations without the leading slash.
	mp := MountPlan{Type: m.Type, Source: m.Source, Dest: filepath.Clean("/" + m.Destination)}
	if p.inRootfs(mp.Dest) {
		mp.Dest = mp.Dest[len(p.Rootfs.Dir):] // some write the host's path
	}
	if m.Destination == "" || strings.ContainsRune(m.Destination+m.Source+m.Type, 0) {
		return mp, invalid("mount destination %q", m.Destination)
	}
	bind := m.Type == "bind"
	for _, o := range m.Options {
		if o == "bind" || o == "rbind" {
			bind = true
		}
	}
	if mp.Dest == "/" && !bind {
		return mp, invalid("a mount on the root directory")
	}
	for _, o := range m.Options {
		if err := mp.option(o); err != nil {
			return mp, err
		}
	}
	switch {
	case bind:
		mp.Kind = "bind"
		if mp.Source == "" {
			return mp, invalid("bind mount on %s has no source", m.Destination)
		}
		if !filepath.IsAbs(mp.Source) {
			mp.Source = filepath.Join(bundle, mp.Source)
		}
		mp.Data = nil
	case m.Type == "proc":
		mp.Kind = "proc"
	case m.Type == "cgroup" || m.Type == "cgroup2":
		mp.Kind = "cgroup"
	case m.Type == "tmpfs":
		mp.Kind = "tmpfs"
	case m.Type == "":
		return mp, invalid("mount on %s has no type", m.Destination)
	default:
		mp.Kind = "fs"
	}
	if mp.CopyUp && mp.Kind != "tmpfs" {
		return mp, invalid("mount on %s: tmpcopyup is for tmpfs", m.Destination)
	}
	return mp, p.mountIDs(&mp, m)
}

// inRootfs says whether a path of the host is below a root file system that is a
// plain directory.
func (p *Plan) inRootfs(path string) bool {
	return p.Rootfs.Dir != "" && p.Rootfs.Dir != "/" && strings.HasPrefix(path, p.Rootfs.Dir+"/")
}

// mountIDs compiles a mount's own id mappings, which are for bind mounts. Both or
// none are given; none with the option "idmap" are the container's.
func (p *Plan) mountIDs(mp *MountPlan, m specs.Mount) error {
	mp.UIDMap, mp.GIDMap = idMap(m.UIDMappings), idMap(m.GIDMappings)
	given := len(mp.UIDMap) + len(mp.GIDMap)
	switch {
	case given == 0 && mp.IDMap == "":
		return nil
	case mp.Kind != "bind":
		return invalid("mount on %s: id mappings are for bind mounts", m.Destination)
	case given > 0 && (len(mp.UIDMap) == 0 || len(mp.GIDMap) == 0):
		return invalid("mount on %s: both uidMappings and gidMappings are needed", m.Destination)
	case given == 0 && !p.userNS():
		return invalid("mount on %s: option %s needs a user namespace or id mappings", m.Destination, mp.IDMap)
	case mp.IDMap == "":
		mp.IDMap = "idmap"
	}
	return nil
}

// option compiles one fstab-style option.
func (mp *MountPlan) option(o string) error {
	if a, ok := mountAttrs[o]; ok {
		mp.Remount = true
		switch o {
		case "atime", "norelatime", "nostrictatime":
			// Take a mode away that is not there: mount(2) keeps what is.
		case "noatime", "relatime", "strictatime", "nodiratime":
			mp.Atime = true
			fallthrough
		default:
			mp.Set, mp.Clear = mp.Set&^a.clear|a.set, mp.Clear&^a.set|a.clear
		}
		return nil
	}
	if r, ok := strings.CutPrefix(o, "r"); ok {
		if a, ok := mountAttrs[r]; ok {
			mp.RecSet, mp.RecClr = mp.RecSet&^a.clear|a.set, mp.RecClr&^a.set|a.clear
			return nil
		}
	}
	if f, ok := propagations[o]; ok {
		mp.Prop, mp.PropRec = uint64(f&^unix.MS_REC), f&unix.MS_REC != 0
		return nil
	}
	if s, ok := superFlags[o]; ok {
		if s != "" {
			mp.Data = append(mp.Data, s)
		}
		return nil
	}
	switch o {
	case "bind", "remount":
	case "rbind":
		mp.Rec = true
	case "tmpcopyup":
		mp.CopyUp = true
	case "idmap", "ridmap":
		mp.IDMap = o
	case "newinstance": // devpts has nothing else any more
	default:
		if o == "" || strings.ContainsRune(o, 0) {
			return invalid("mount option %q", o)
		}
		mp.Data = append(mp.Data, o)
	}
	return nil
}

// cutOption splits "key=value".
func cutOption(o string) (key, value string) {
	key, value, _ = strings.Cut(o, "=")
	return key, value
}
