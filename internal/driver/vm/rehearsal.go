package vm

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/guest"
	monitorvm "hull/internal/monitor/vm"
	"hull/internal/runtime"
)

// rehearse is what a machine of a kind runs before it is anybody's: a container like
// the one that was started last, so that it takes the same ways, but with nothing of
// it: no arguments, environment, names, files or volumes.
func rehearse(like *specs.Spec) (monitorvm.Rehearsal, error) {
	var r monitorvm.Rehearsal
	l := *like.Linux
	s := specs.Spec{
		Version: like.Version, Hostname: "rehearsal", Linux: &l,
		Process: &specs.Process{
			Args: []string{"rehearsal"}, Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, Cwd: "/",
			NoNewPrivileges: like.Process.NoNewPrivileges, Capabilities: like.Process.Capabilities, Rlimits: like.Process.Rlimits,
		},
	}
	l.Sysctl = nil
	for _, m := range like.Mounts {
		if name, ok := strings.CutPrefix(m.Source, guest.FilesDir+"/"); ok {
			r.Container.Files = append(r.Container.Files, guest.File{Name: name, Mode: 0o644})
		} else if strings.HasPrefix(m.Source, guest.ShareDir) {
			continue
		}
		m.Options = slices.Clone(m.Options)
		s.Mounts = append(s.Mounts, m)
	}
	plan, err := runtime.Prepare(&s, runtime.Options{Rootfs: runtime.Rootfs{Lower: []string{guest.RootDir}, Upper: guest.UpperDir, Work: guest.WorkDir}})
	if err != nil {
		return r, fmt.Errorf("compile rehearsal: %w", err)
	}
	r.Container.Lookup, r.Container.Limits = true, limits(l.Resources)
	r.Plan, err = plan.MarshalBinary()
	return r, err
}
