package oci

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/driver"
	"hull/internal/linux"
)

// asUser returns the container's process with its user looked up in the root file
// system, which is mounted for that, detached and read-only. The writable layer is
// one more lower one: two mounts that write to the same directory would be
// undefined.
func asUser(c driver.ContainerSpec) (*specs.Process, error) {
	lower := c.Rootfs.Lower
	if c.Rootfs.Upper != "" {
		lower = append([]string{c.Rootfs.Upper}, lower...)
	}
	root, err := linux.MountOverlay(linux.Overlay{Lower: lower, ReadOnly: true})
	if err != nil {
		return nil, fmt.Errorf("open root file system: %w", err)
	}
	// Not waited for: the end of a mount takes an RCU grace period.
	defer func() { go root.Close() }()
	p := *c.OCI.Process
	return &p, setUser(root, &p, c.User, c.Groups)
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
	if !slices.ContainsFunc(p.Env, func(e string) bool { return strings.HasPrefix(e, "HOME=") }) {
		p.Env = append(slices.Clip(p.Env), "HOME="+u.Home)
	}
	return nil
}
