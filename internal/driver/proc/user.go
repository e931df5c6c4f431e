package proc

import (
	"fmt"
	"os"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

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
