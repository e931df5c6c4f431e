package volume

import (
	"context"
	"errors"
	"fmt"
	"hull/internal/hull"
	"hull/internal/linux"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// SnapshotOf is the label of a snapshot: the name of the volume it was taken of.
const SnapshotOf = "hull.snapshot.of"

// OpenVolume opens a volume's root directory. A mount, if it needs one, ends with
// the descriptor.
func (s *Service) OpenVolume(ctx context.Context, name string) (*os.File, error) {
	f, err := s.open(ctx, name, "")
	if err != nil {
		return nil, fmt.Errorf("open volume %s: %w", name, err)
	}
	return f, nil
}

// Rename gives a volume another name: errdefs.ErrConflict while a container's
// record names it, or when the new name is taken.
func (s *Service) Rename(_ context.Context, name, to string) (hull.Volume, error) {
	fail := func(err error) (hull.Volume, error) {
		return hull.Volume{}, fmt.Errorf("rename volume %s to %s: %w", name, to, err)
	}
	v, err := s.store.Volume(name)
	if err != nil {
		return hull.Volume{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.vacant(to); err != nil {
		return fail(err)
	}
	if err := s.unused(name); err != nil {
		return fail(err)
	}
	old := v
	v.Name, v.Mountpoint, v.Anonymous = to, s.data(to), false
	v.Labels = maps.Clone(v.Labels)
	delete(v.Labels, anonymousLabel)
	// The new record first: a crash in between leaves one name too many, which is
	// empty, and no data without a name.
	if err := s.store.PutVolume(v, true); err != nil {
		return fail(err)
	}
	if err := os.Rename(filepath.Join(s.dir, name), filepath.Join(s.dir, to)); err != nil {
		return fail(errors.Join(err, s.store.DeleteVolume(to)))
	}
	if err := s.store.DeleteVolume(name); err != nil {
		return fail(err)
	}
	delete(s.state, name)
	s.publish("destroy", old, nil)
	s.publish("create", v, nil)
	return v, nil
}

// Clone copies a volume with all that is in it to a new one; data is shared until
// written where the file system can (reflinks). The copy of a volume that a
// container writes to meanwhile is as after a power cut, file by file.
func (s *Service) Clone(ctx context.Context, name, to string) (hull.Volume, error) {
	v, err := s.store.Volume(name)
	if err != nil {
		return v, err
	}
	return s.copyTo(ctx, v, to, v.Labels)
}

// Snapshot is Clone to a name made of the volume's and the time, labelled with
// where it comes from. name "" = choose that name.
func (s *Service) Snapshot(ctx context.Context, volume, name string) (hull.Volume, error) {
	v, err := s.store.Volume(volume)
	if err != nil {
		return v, err
	}
	if name == "" {
		name = volume + "." + time.Now().UTC().Format("20060102-150405.000")
	}
	l := maps.Clone(v.Labels)
	if l == nil {
		l = map[string]string{}
	}
	l[SnapshotOf] = volume
	return s.copyTo(ctx, v, name, l)
}

func (s *Service) copyTo(ctx context.Context, v hull.Volume, to string, l map[string]string) (_ hull.Volume, err error) {
	fail := func(err error) (hull.Volume, error) {
		return hull.Volume{}, fmt.Errorf("copy volume %s to %s: %w", v.Name, to, err)
	}
	src, err := s.open(ctx, v.Name, "")
	if err != nil {
		return fail(err)
	}
	defer src.Close()
	l = maps.Clone(l)
	delete(l, anonymousLabel)
	n := hull.Volume{Name: to, Labels: l}
	if size := v.Options["size"]; size != "" { // any other file system is the original's
		n.Options = map[string]string{"size": size}
	}
	s.mu.Lock()
	if err = s.vacant(to); err == nil {
		n, err = s.create(n, true)
	}
	s.mu.Unlock()
	if err != nil {
		return fail(err)
	}
	dst, err := s.open(ctx, to, "")
	if err == nil {
		err = errors.Join(linux.CopyTree(src, dst), dst.Close())
	}
	if err != nil {
		return fail(errors.Join(err, s.Remove(context.WithoutCancel(ctx), to, true)))
	}
	return n, nil
}

// vacant says whether a volume may be given that name. The caller holds mu.
func (s *Service) vacant(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if _, err := s.store.Volume(name); err == nil {
		return errdefs.ErrConflict.WithMessage("a volume named " + name + " exists already")
	}
	return nil
}

// unused is errdefs.ErrConflict, with who it is, while containers' records name
// the volume. The caller holds mu.
func (s *Service) unused(name string) error {
	if st := s.state[name]; st != nil && len(st.users) > 0 {
		ids := slices.Sorted(maps.Keys(st.users))
		return errdefs.ErrConflict.WithMessage("volume is in use - [" + strings.Join(ids, ", ") + "]")
	}
	return nil
}
