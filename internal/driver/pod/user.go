package pod

import (
	"fmt"
	"os"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/hull"
	"hull/internal/linux"
)

// OpenRootfs mounts a root file system detached and read-only, to look into it
// before it is anybody's. The writable layer is one more lower one: two mounts
// that write to the same directory would be undefined. Whoever closes it need not wait
// for that: the end of a mount takes an RCU grace period.
func OpenRootfs(r hull.Rootfs) (*os.File, error) {
	lower := r.Lower
	if r.Upper != "" {
		lower = append([]string{r.Upper}, lower...)
	}
	root, err := linux.MountOverlay(linux.Overlay{Lower: lower, ReadOnly: true})
	if err != nil {
		return nil, fmt.Errorf("open root file system: %w", err)
	}
	return root, nil
}

// SetUser fills in who p runs as, from the passwd and group files below root, and says
// where that user is at home.
func SetUser(root *os.File, p *specs.Process, user string, groups []string) (home string, err error) {
	u, err := linux.LookupUser(root, user, groups)
	if err != nil {
		return "", fmt.Errorf("find user: %w", err)
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
	return u.Home, nil
}
