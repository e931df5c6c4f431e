package engine

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"

	"hull/internal/hull"
	"hull/internal/undo"
)

// A mount of type secret shows a secret's value as a file, read-only, while the
// container runs. The value is nowhere in the container's record: it is read when
// the container starts, and its file is in the pod's run directory, in memory.

// checkSecrets reports a secret that is not there, or a file that nobody could have.
func (e *creation) checkSecrets(ctx context.Context, s hull.Spec) error {
	for _, m := range s.Mounts {
		if m.Type != hull.MountSecret {
			continue
		}
		if e.secrets == nil {
			return fmt.Errorf("this engine has no secrets: %w", errdefs.ErrNotImplemented)
		}
		if _, err := e.secrets.Get(ctx, m.Source); err != nil {
			return err
		}
	}
	return nil
}

// showSecrets writes a run's secrets: the mounts' Source is then what the driver
// binds, until back has run.
func (e *base) showSecrets(c hull.Container, ep hull.Endpoint, back *undo.Stack) ([]hull.MountPoint, error) {
	mounts := c.Mounts
	for i, m := range mounts {
		if m.Type != hull.MountSecret {
			continue
		}
		f := m.Spec.Secret
		if !e.cfg.UserNS.RunFiles { // cannot be mapped when it is mounted
			f.UID, f.GID = ep.IDs.Host(f.UID, f.GID)
		}
		path := filepath.Join(e.podDir(c.PodID), "secret-"+c.ID[:12]+"-"+strconv.Itoa(i))
		if err := e.secrets.Show(m.Spec.Source, path, f); err != nil {
			return nil, fmt.Errorf("mount secret %s on %s: %w", m.Spec.Source, m.Target, err)
		}
		back.Add("remove secret's file", func(context.Context) error {
			if err := os.Remove(path); err != nil && !os.IsNotExist(err) { //nolint:forbidigo // one directory up may be gone, too
				return err
			}
			return nil
		})
		mounts = slices.Clone(mounts)
		mounts[i].Source = path
	}
	return mounts, nil
}
