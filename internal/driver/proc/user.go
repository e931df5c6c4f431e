package proc

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/driver"
	"hull/internal/hull"
	"hull/internal/linux"
)

// openRootfs mounts a root file system detached and read-only, to look into it
// before it is anybody's. The writable layer is one more lower one: two mounts
// that write to the same directory would be undefined.
func openRootfs(r hull.Rootfs) (*os.File, error) {
	lower := r.Lower
	if r.Upper != "" {
		lower = append([]string{r.Upper}, lower...)
	}
	return linux.MountOverlay(linux.Overlay{Lower: lower, ReadOnly: true})
}

// asUser returns the container's process with its user looked up.
func (d *Driver) asUser(c driver.ContainerSpec) (*specs.Process, error) {
	p := *c.OCI.Process
	key, fresh := lookupKey(c)
	if fresh {
		if u, ok := d.users.get(key); ok {
			p.User = u
			return &p, nil
		}
	}
	root, err := openRootfs(c.Rootfs)
	if err != nil {
		return nil, fmt.Errorf("open root file system: %w", err)
	}
	// Not waited for: the end of a mount takes an RCU grace period.
	defer func() { go root.Close() }()
	if err := setUser(root, &p, c.User, c.Groups); err != nil {
		return nil, err
	}
	if fresh {
		d.users.put(key, p.User)
	}
	return &p, nil
}

// lookupKey names a look-up that depends on the image alone: fresh says that the
// container's own layer has no /etc, so nothing there can differ.
func lookupKey(c driver.ContainerSpec) (key string, fresh bool) {
	if c.Rootfs.Upper != "" {
		var st unix.Stat_t
		if err := unix.Lstat(c.Rootfs.Upper+"/etc", &st); !errors.Is(err, unix.ENOENT) {
			return "", false
		}
	}
	return strings.Join(slices.Concat([]string{c.User}, c.Groups, []string{""}, c.Rootfs.Lower), "\x00"), true
}

// users remembers look-ups: starts of one image need no mount to find their user.
// Layers never change.
type users struct {
	mu    sync.Mutex
	known map[string]specs.User
}

// maxUsers bounds it; beyond, it starts afresh.
const maxUsers = 256

func (u *users) get(key string) (specs.User, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	v, ok := u.known[key]
	return v, ok
}

func (u *users) put(key string, v specs.User) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.known == nil || len(u.known) >= maxUsers {
		u.known = map[string]specs.User{}
	}
	u.known[key] = v
}

// setUser fills in who p runs as, from the passwd and group files below root.
func setUser(root *os.File, p *specs.Process, user string, groups []string) error {
	u, err := linux.LookupUser(root, user, groups)
	if err != nil {
		return fmt.Errorf("find user: %w", err)
	}
	p.User.UID, p.User.GID = u.UID, u.GID
	// The primary group is always among the additional ones, or a process could
	// drop it and so escape what is denied to it (CVE-2022-36109).
	p.User.AdditionalGids = []uint32{u.GID}
	for _, g := range u.Groups {
		if !slices.Contains(p.User.AdditionalGids, g) {
			p.User.AdditionalGids = append(p.User.AdditionalGids, g)
		}
	}
	return nil
}
