package store

import (
	"hull/internal/hull"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

const (
	bucketVolumes  = "volumes"
	bucketNetworks = "networks"
)

// objects holds the small records in memory. The caller holds Store.mu. Values
// are immutable.
type objects[T any] map[string]T

// PutVolume adds or replaces a volume's record, by name. It returns when the
// record is on disk, if wait is set; else it is written with the next record
// that waits, or soon after.
func (s *Store) PutVolume(v hull.Volume, wait bool) error {
	v = cloneVolume(&v)
	v.Created = v.Created.Round(0)
	b, err := encode(v)
	if err != nil {
		return err
	}
	r := record{dbKey{bucketVolumes, v.Name}, b}
	if !wait {
		s.w.putLazy(r)
	} else if err := s.w.put(r); err != nil {
		return err
	}
	s.mu.Lock()
	s.volumes[v.Name] = v
	s.mu.Unlock()
	return nil
}

// Volume finds a volume by name: errdefs.ErrNotFound.
func (s *Store) Volume(name string) (hull.Volume, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	v, ok := s.volumes[name]
	if !ok {
		return v, errdefs.ErrNotFound.WithMessage("get " + name + ": no such volume")
	}
	return cloneVolume(&v), nil
}

// Volumes returns all volumes, by name.
func (s *Store) Volumes() []hull.Volume {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]hull.Volume, 0, len(s.volumes))
	for _, v := range s.volumes {
		out = append(out, cloneVolume(&v))
	}
	slices.SortFunc(out, func(a, b hull.Volume) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// DeleteVolume forgets a volume's record, on disk when it returns. An unknown
// name is no error.
func (s *Store) DeleteVolume(name string) error {
	if err := s.w.put(record{dbKey{bucketVolumes, name}, nil}); err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.volumes, name)
	s.mu.Unlock()
	return nil
}

// PutNetwork adds or replaces a network's record, by id; on disk when it returns.
func (s *Store) PutNetwork(n hull.Network) error {
	n = cloneNetwork(&n)
	n.Created = n.Created.Round(0)
	b, err := encode(n)
	if err != nil {
		return err
	}
	if err := s.w.put(record{dbKey{bucketNetworks, n.ID}, b}); err != nil {
		return err
	}
	s.mu.Lock()
	s.networks[n.ID] = n
	s.mu.Unlock()
	return nil
}

// Network finds a network by its full id: errdefs.ErrNotFound.
func (s *Store) Network(id string) (hull.Network, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	n, ok := s.networks[id]
	if !ok {
		return n, errdefs.ErrNotFound.WithMessage("network " + id + " not found")
	}
	return cloneNetwork(&n), nil
}

// Networks returns all networks, oldest first.
func (s *Store) Networks() []hull.Network {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]hull.Network, 0, len(s.networks))
	for _, n := range s.networks {
		out = append(out, cloneNetwork(&n))
	}
	slices.SortFunc(out, func(a, b hull.Network) int { return a.Created.Compare(b.Created) })
	return out
}

// DeleteNetwork forgets a network's record, on disk when it returns. An unknown
// id is no error.
func (s *Store) DeleteNetwork(id string) error {
	if err := s.w.put(record{dbKey{bucketNetworks, id}, nil}); err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.networks, id)
	s.mu.Unlock()
	return nil
}
