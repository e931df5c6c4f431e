package proc

import (
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/driver"
	"hull/internal/driver/pod"
)

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
	root, err := pod.OpenRootfs(c.Rootfs)
	if err != nil {
		return nil, err
	}
	defer func() { go root.Close() }()
	if _, err := pod.SetUser(root, &p, c.User, c.Groups); err != nil {
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
