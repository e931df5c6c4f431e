package engine

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/driver"
	"hull/internal/hull"
)

// Modes of a user namespace, as --userns says them.
const (
	usersHost    = "host"
	usersPrivate = "private"
)

// UserNS says what this host can do with user namespaces.
type UserNS struct {
	Default  string // of containers that do not say: "private" or "host"
	Reason   string // why there are none; "" = there are
	RunFiles bool   // files below the run directory can be mapped, too
}

// hostCaps are capabilities that the kernel honours in its initial user namespace
// only (capable() rather than ns_capable()). Who asks for one wants what it does.
var hostCaps = []string{ //nolint:gochecknoglobals // a constant that Go cannot express
	"ALL", "CAP_DAC_READ_SEARCH", "CAP_LINUX_IMMUTABLE", "CAP_IPC_LOCK", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_PACCT",
	"CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_AUDIT_CONTROL",
	"CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ",
	"CAP_PERFMON", "CAP_BPF",
}

// needsHost says what of a request cannot be had in a user namespace, in Docker's
// words where it has some; "" = nothing.
func needsHost(s hull.Spec) string {
	switch {
	case s.Security.Privileged:
		return "privileged mode is incompatible with user namespaces. You must run the container in the host namespace when running privileged mode"
	case s.Namespaces.PID == "host":
		return "cannot share the host PID namespace when user namespaces are enabled"
	case s.Network.Mode == "host":
		return "cannot share the host's network namespace when user namespaces are enabled"
	case s.Namespaces.IPC == "host":
		return "cannot share the host's IPC namespace when user namespaces are enabled"
	}
	add, err := normaliseCaps(s.Security.CapAdd)
	if err != nil {
		return "" // reported elsewhere
	}
	if opt, err := parseSecurity(s.Security); err == nil && opt.writableCgroups {
		return "the cgroups of a container belong to the host's root"
	}
	for _, c := range add {
		if slices.Contains(hostCaps, c) {
			return fmt.Sprintf("capability %s has no effect in a user namespace", c)
		}
	}
	return ""
}

// checkUsers reports a request for a user namespace that cannot be met.
func (e *base) checkUsers(s hull.Spec, drv driver.Driver) error {
	if s.Namespaces.User != usersPrivate {
		return nil
	}
	why := needsHost(s)
	if why == "" {
		why = e.noUsers(drv)
	}
	if why != "" {
		return fmt.Errorf("%s: %w", why, errdefs.ErrInvalidArgument)
	}
	return nil
}

// checkOwners reports a mount whose owner cannot be mapped.
func checkOwners(s hull.Spec, drv driver.Driver) error {
	for _, m := range s.Mounts {
		if m.OneOwner && !slices.Contains(drv.Info().Abilities, driver.AbilityUserNS) {
			return fmt.Errorf("mount on %s: isolation %s cannot map owners (idmap): %w", m.Target, drv.Info().Name, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// noUsers says why a driver's containers have no user namespaces here.
func (e *base) noUsers(drv driver.Driver) string {
	if !slices.Contains(drv.Info().Abilities, driver.AbilityUserNS) {
		return fmt.Sprintf("isolation %s has no user namespaces", drv.Info().Name)
	}
	return e.cfg.UserNS.Reason
}

// usersOf decides in which user namespace a container's run is: that of those whose
// namespaces it shares; else one of its own, unless something it asks for takes the
// host's.
func (e *base) usersOf(ctx context.Context, c hull.Container, drv driver.Driver) (hull.PodUsers, error) {
	s := c.Spec
	if err := e.checkUsers(s, drv); err != nil {
		return hull.PodUsers{}, err
	}
	if s.Namespaces.User == usersHost || needsHost(s) != "" || e.noUsers(drv) != "" {
		return hull.PodUsers{}, nil
	}
	shared, owner, err := e.sharedUsers(s)
	if err != nil {
		return hull.PodUsers{}, err
	}
	if shared == nil {
		if firstOf(s.Namespaces.User, e.cfg.UserNS.Default) != usersPrivate {
			return hull.PodUsers{}, nil
		}
		shared, owner = &hull.PodUsers{Own: true}, ""
	}
	if shared.IDs.Size == 0 && !shared.Own && s.Namespaces.User == usersPrivate {
		return hull.PodUsers{}, fmt.Errorf("container %s, whose namespace is to be shared, is in the host's user namespace: %w", owner, errdefs.ErrInvalidArgument)
	}
	if !shared.Own && shared.IDs.Size == 0 {
		return hull.PodUsers{}, nil
	}
	refused, err := e.refusing(ctx, c.Mounts)
	switch {
	case err != nil:
		return hull.PodUsers{}, err
	case refused == "":
		return *shared, nil
	case s.Namespaces.User == usersPrivate || !shared.Own:
		return hull.PodUsers{}, fmt.Errorf("the file system of %s cannot be mounted into a user namespace; use --userns host: %w", refused, errdefs.ErrFailedPrecondition)
	}
	return hull.PodUsers{}, nil
}

// sharedUsers is the user namespace of the containers whose namespaces s shares;
// nil = it shares none.
func (e *base) sharedUsers(s hull.Spec) (*hull.PodUsers, string, error) {
	var found *hull.PodUsers
	var owner string
	for _, mode := range []string{s.Network.Mode, s.Namespaces.PID, s.Namespaces.IPC} {
		id, ok := strings.CutPrefix(mode, "container:")
		if !ok {
			continue
		}
		o, err := e.store.Container(id)
		if err != nil {
			return nil, "", err
		}
		u := hull.PodUsers{IDs: o.Status.Endpoint.IDs}
		if u.IDs.Size > 0 {
			u.Path = o.Status.Endpoint.NetNS
		}
		if found != nil && found.IDs != u.IDs {
			return nil, "", fmt.Errorf("containers %s and %s, whose namespaces are to be shared, are in different user namespaces; run all of them with --userns host: %w", owner, o.Name, errdefs.ErrInvalidArgument)
		}
		found, owner = &u, o.Name
	}
	return found, owner, nil
}

// refusing finds a mount that cannot be shown through a user namespace's ids.
func (e *base) refusing(_ context.Context, mounts []hull.MountPoint) (string, error) {
	for _, m := range mounts {
		if m.Type == hull.MountTmpfs || m.Type == hull.MountImage || m.Type == hull.MountSecret || m.Source == "" {
			continue // an image is only read; what its own root alone may read stays closed
		}
		kind, err := e.volumes.Mapping(m.Source)
		if err != nil {
			return "", err
		}
		if kind == hull.Refused {
			return m.Source, nil
		}
	}
	return "", nil
}

// addUsers puts a specification into the user namespace that owns its network, and
// maps what it mounts of the host.
func (e *base) addUsers(s *specs.Spec, mounts []hull.MountPoint, ep hull.Endpoint) error {
	if ep.IDs.Size == 0 {
		return nil
	}
	// The runtime takes a network namespace's path for the user namespace that owns it.
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: ep.NetNS})
	s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: ep.IDs.UID, Size: ep.IDs.Size}}
	s.Linux.GIDMappings = []specs.LinuxIDMapping{{HostID: ep.IDs.GID, Size: ep.IDs.Size}}
	for i := range s.Mounts {
		m := &s.Mounts[i]
		if slices.ContainsFunc(mounts, func(o hull.MountPoint) bool { return o.Type == hull.MountImage && o.Target == m.Destination }) {
			continue // opened with the container's owners
		}
		rec := slices.Contains(m.Options, "rbind")
		if !rec && !slices.Contains(m.Options, "bind") || strings.HasPrefix(m.Source, "/proc/") && !strings.HasPrefix(m.Source, fmt.Sprintf("/proc/%d/fd/", os.Getpid())) {
			continue // another container's shared memory has its ids
		}
		if strings.HasPrefix(m.Source, filepath.Join(e.cfg.RunDir, "pods")+"/") { // the engine's own: hosts, secrets
			if !e.cfg.UserNS.RunFiles {
				continue
			}
		} else if kind, err := e.volumes.Mapping(m.Source); err != nil || kind != hull.Mapped {
			if err != nil {
				return err
			}
			continue
		}
		opt := "idmap"
		if rec {
			opt = "ridmap"
		}
		m.Options = append(slices.Clip(m.Options), opt)
	}
	return nil
}

// mapOwners makes the container's user the owner of what the sources of its mounts
// with OneOwner have for theirs: what either writes there belongs to both. All other
// owners are nobody, and can be given nothing.
func (e *base) mapOwners(ctx context.Context, s *specs.Spec, c hull.Container, ep hull.Endpoint) error {
	for _, m := range c.Mounts {
		if !m.Spec.OneOwner {
			continue
		}
		i := slices.IndexFunc(s.Mounts, func(o specs.Mount) bool { return o.Destination == m.Target })
		st, err := os.Stat(m.Source)
		if err != nil || i < 0 {
			return fmt.Errorf("map the owner of %s: %w", m.Source, err)
		}
		kind, err := e.volumes.Mapping(m.Source)
		if err != nil {
			return err
		}
		if kind != hull.Mapped {
			return fmt.Errorf("the file system of %s cannot map owners (idmap): %w", m.Source, errdefs.ErrInvalidArgument)
		}
		owner, ok := st.Sys().(*syscall.Stat_t)
		if !ok {
			return fmt.Errorf("map the owner of %s: it has none: %w", m.Source, errdefs.ErrInvalidArgument)
		}
		user, err := e.ownerIn(ctx, c, c.Spec.Process.User)
		if err != nil {
			return fmt.Errorf("map the owner of %s: %w", m.Source, err)
		}
		uid, gid := ep.IDs.Host(user.UID, user.GID)
		to := &s.Mounts[i]
		to.UIDMappings = []specs.LinuxIDMapping{{ContainerID: owner.Uid, HostID: uint32(uid), Size: 1}} //nolint:gosec // an id
		to.GIDMappings = []specs.LinuxIDMapping{{ContainerID: owner.Gid, HostID: uint32(gid), Size: 1}} //nolint:gosec // an id
		if !slices.Contains(to.Options, "idmap") && !slices.Contains(to.Options, "ridmap") {
			to.Options = append(slices.Clip(to.Options), "idmap")
		}
	}
	return nil
}

// containerUsers puts the container's users into a table of ps, named as on the host
// where it has the same number, as Docker's is.
func containerUsers(titles []string, rows [][]string, ids hull.IDRange) {
	pid := slices.Index(titles, "PID")
	for i, title := range titles {
		named := slices.Contains([]string{"UID", "USER", "EUSER", "RUSER"}, title)
		if !named && title != "EUID" && title != "RUID" || pid < 0 {
			continue
		}
		for _, row := range rows {
			if len(row) <= max(i, pid) {
				continue
			}
			if uid, ok := userOf(row[pid], ids); ok {
				row[i] = strconv.Itoa(uid)
				if u, err := user.LookupId(row[i]); named && err == nil {
					row[i] = u.Username
				}
			}
		}
	}
}

// userOf is the container's id of a process's user.
func userOf(pid string, ids hull.IDRange) (int, bool) {
	st, err := os.Stat("/proc/" + pid)
	if err != nil {
		return 0, false
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	uid, _ := ids.Container(int(sys.Uid), int(sys.Gid))
	return uid, true
}
