package volume

import (
	"context"
	"errors"
	"fmt"
	"hull/internal/hull"
	"os"
	"path/filepath"
)

// Resolve turns requests into mount points when a container is created: it makes
// named and anonymous volumes and checks bind sources. On an error the volumes
// it made are dropped again.
func (s *Service) Resolve(ctx context.Context, containerID string, mounts []hull.Mount) (_ []hull.MountPoint, err error) {
	out := make([]hull.MountPoint, 0, len(mounts))
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Drop(context.WithoutCancel(ctx), containerID, out, true))
		}
	}()
	at := map[string]bool{}
	for _, m := range mounts {
		if err := checkMount(m); err != nil {
			return nil, err
		}
		target := filepath.Clean(m.Target)
		if at[target] {
			return nil, invalid("Duplicate mount point: %s", m.Target)
		}
		at[target] = true
		p := hull.MountPoint{
			Type: m.Type, Source: m.Source, Target: target, Mode: m.Mode, RW: !m.ReadOnly,
			Propagation: m.Propagation, Spec: m,
		}
		switch m.Type {
		case hull.MountBind:
			if p.Propagation == "" {
				p.Propagation = "rprivate"
			}
			err = bindSource(m)
			p.Source = filepath.Clean(m.Source)
		case hull.MountVolume:
			err = s.resolveVolume(containerID, m, &p)
		case hull.MountTmpfs, hull.MountImage, hull.MountSecret: // the runtime's, the image service's and the engine's
		}
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// bindSource checks that a bind mount's source exists, or makes a directory
// where -v asks for it.
func bindSource(m hull.Mount) error {
	_, err := os.Stat(m.Source)
	if errors.Is(err, os.ErrNotExist) {
		if !m.CreateSource {
			return invalid("invalid mount config for type %q: bind source path does not exist: %s", string(m.Type), m.Source)
		}
		err = os.MkdirAll(m.Source, 0o755)
	}
	if err != nil {
		return fmt.Errorf("bind source %s: %w", m.Source, err)
	}
	return nil
}

func (s *Service) resolveVolume(containerID string, m hull.Mount, p *hull.MountPoint) error {
	v := hull.Volume{Name: m.Source, Driver: m.VolumeDriver, Labels: m.VolumeLabels, Options: m.VolumeOptions}
	if v.Name == "" {
		v.Name, v.Anonymous = newName(), true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// Does not wait for the disk: the container's record, which comes next, does,
	// and is written together with the volume's. See also adopt.
	v, err := s.create(v, false)
	if err != nil {
		return err
	}
	s.of(v.Name).users[containerID] = struct{}{}
	p.Name, p.Driver, p.Source, p.Anonymous = v.Name, v.Driver, v.Mountpoint, m.Source == ""
	return nil
}

// Drop ends containerID's references, and removes the anonymous volumes that
// nobody else uses when asked. It may be called twice.
func (s *Service) Drop(_ context.Context, containerID string, mounts []hull.MountPoint, anonymous bool) error {
	var errs []error
	for _, m := range mounts {
		if m.Type != hull.MountVolume {
			continue
		}
		v, err := s.drop(containerID, m, anonymous)
		if err != nil {
			errs = append(errs, err)
		} else if v != nil {
			s.empty(*v)
		}
	}
	return errors.Join(errs...)
}

// drop ends one reference; v is the volume that went with it.
func (s *Service) drop(containerID string, m hull.MountPoint, anonymous bool) (*hull.Volume, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.state[m.Name]
	if st == nil {
		return nil, nil //nolint:nilnil // nothing to drop, nothing removed
	}
	delete(st.users, containerID)
	if !anonymous || !m.Anonymous || len(st.users) > 0 {
		return nil, nil //nolint:nilnil // as above
	}
	v, err := s.store.Volume(m.Name)
	if err != nil {
		return nil, nil //nolint:nilnil // gone
	}
	if err := s.take(v); err != nil {
		return nil, err
	}
	return &v, nil
}
