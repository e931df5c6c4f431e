package store

import (
	"bytes"
	"hull/internal/hull"
	"slices"

	"github.com/containerd/errdefs"
)

// Names of buckets and of the directories on tmpfs.
const (
	bucketContainers = "containers"
	bucketStatus     = "status"
	kindContainer    = "container"
	partRecord       = "record"
	partStatus       = "status"
)

// PutContainer adds a record and claims its name: *hull.NameTakenError when
// another has it, errdefs.ErrAlreadyExists for a known id. A durable record is
// on disk when PutContainer returns; another one lives as long as this boot.
func (s *Store) PutContainer(c hull.Container, durable bool) error {
	if err := checkID(c.ID); err != nil {
		return err
	}
	c = cloneContainer(&c)
	c.Name, c.Created, c.Execs = trimSlash(c.Name), c.Created.Round(0), nil
	normalize(&c.Status)
	e := s.newEntry(c.ID, durable)
	e.mu.Lock()
	defer e.mu.Unlock()

	s.mu.Lock()
	err := s.containers.claim(c.ID, c.Name, e)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if err := s.writeContainer(&c, e); err != nil {
		e.gone = true
		s.mu.Lock()
		s.containers.drop(c.ID, c.Name)
		s.mu.Unlock()
		return err
	}
	e.cur.Store(&c)
	return nil
}

func (s *Store) newEntry(id string, durable bool) *entry {
	return &entry{
		durable: durable,
		record:  s.run.slots(kindContainer, id, partRecord), status: s.run.slots(kindContainer, id, partStatus),
	}
}

// writeContainer writes the record and the status it starts with.
func (s *Store) writeContainer(c *hull.Container, e *entry) error {
	r := *c
	if e.durable {
		r.Status = afterReboot(c.Status)
	}
	b, err := encode(r)
	if err != nil {
		return err
	}
	if e.durable {
		return s.w.put(record{dbKey{bucketContainers, c.ID}, b})
	}
	return e.record.put(b)
}

// Container finds by full id, then name, then unambiguous id prefix. Errors:
// errdefs.ErrNotFound, errdefs.ErrInvalidArgument for an ambiguous prefix.
func (s *Store) Container(ref string) (hull.Container, error) {
	s.mu.RLock()
	c, err := s.containers.find(ref)
	s.mu.RUnlock()
	if err != nil {
		return hull.Container{}, err
	}
	return cloneContainer(c), nil
}

// Containers returns all records, newest first.
func (s *Store) Containers() []hull.Container {
	s.mu.RLock()
	all := make([]*hull.Container, 0, len(s.containers.byID))
	for _, e := range s.containers.byID {
		if c := e.cur.Load(); c != nil {
			all = append(all, c)
		}
	}
	s.mu.RUnlock()
	slices.SortFunc(all, newestFirst)
	out := make([]hull.Container, len(all))
	for i, c := range all {
		out[i] = *c
		ownContainer(&out[i])
	}
	return out
}

// DeleteContainer forgets a record and frees its name. An unknown id is no
// error: removal is repeated after a crash.
func (s *Store) DeleteContainer(id string) error {
	e, c, unlock := s.lockEntry(id)
	if e == nil {
		return nil
	}
	defer unlock()
	if e.durable {
		err := s.w.put(record{dbKey{bucketContainers, id}, nil}, record{dbKey{bucketStatus, id}, nil})
		if err != nil {
			return err
		}
	} else if err := s.run.remove(kindContainer, id, partRecord); err != nil {
		return err
	}
	// The record is gone: from here on a crash leaves a status that the next start
	// removes.
	e.gone = true
	s.mu.Lock()
	s.containers.drop(id, c.Name)
	s.mu.Unlock()
	return s.run.remove(kindContainer, id, partStatus)
}

// Rename gives a container another name: *hull.NameTakenError when another has
// it, errdefs.ErrInvalidArgument when it is its own.
func (s *Store) Rename(id, name string) error {
	e, c, unlock := s.lockEntry(id)
	if e == nil {
		return noContainer(id)
	}
	defer unlock()
	name = trimSlash(name)
	if name == c.Name {
		return errdefs.ErrInvalidArgument.WithMessage("Renaming a container with the same name as its current name")
	}
	s.mu.Lock()
	err := s.containers.claimName(id, name)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	next := *c
	next.Name = name
	free := name
	if err = s.writeContainer(&next, e); err == nil {
		e.cur.Store(&next)
		free = c.Name
	}
	s.mu.Lock()
	s.containers.dropName(id, free)
	s.mu.Unlock()
	return err
}

// UpdateSpec changes the specification. fn gets a copy; when it fails nothing
// changes and its error is returned as it is.
func (s *Store) UpdateSpec(id string, fn func(*hull.Spec) error) error {
	e, c, unlock := s.lockEntry(id)
	if e == nil {
		return noContainer(id)
	}
	defer unlock()
	spec := cloneSpec(&c.Spec)
	if err := fn(&spec); err != nil {
		return err
	}
	next := *c
	next.Spec = cloneSpec(&spec) // fn may have kept a reference
	if err := s.writeContainer(&next, e); err != nil {
		return err
	}
	e.cur.Store(&next)
	return nil
}

// UpdateStatus changes the status. fn gets a copy; when it fails nothing changes
// and its error is returned as it is. It waits for the disk only when the intent
// (StopRequested) of a durable record changes.
func (s *Store) UpdateStatus(id string, fn func(*hull.Status) error) error {
	e, c, unlock := s.lockEntry(id)
	if e == nil {
		return noContainer(id)
	}
	defer unlock()
	st := cloneStatus(&c.Status)
	if err := fn(&st); err != nil {
		return err
	}
	next := *c
	next.Status = cloneStatus(&st)
	normalize(&next.Status)
	b, err := encode(next.Status)
	if err != nil {
		return err
	}
	// tmpfs first: after a crash of the engine it is the one that is believed.
	if err := e.status.put(b); err != nil {
		return err
	}
	e.cur.Store(&next)
	if !e.durable {
		return nil
	}
	if b, err = encode(afterReboot(next.Status)); err != nil {
		return err
	}
	if bytes.Equal(b, e.last) {
		return nil // a health check, for one, changes nothing that outlives a reboot
	}
	e.last = b
	s.w.putLazy(record{dbKey{bucketStatus, id}, b}) // also when it waits: a full disk must not lose it
	if next.Status.StopRequested != c.Status.StopRequested {
		return s.w.put()
	}
	return nil
}

// lockEntry finds a complete record and holds its changes off. e is nil when
// there is none.
func (s *Store) lockEntry(id string) (e *entry, c *hull.Container, unlock func()) {
	s.mu.RLock()
	e = s.containers.byID[id]
	s.mu.RUnlock()
	if e == nil {
		return nil, nil, nil
	}
	e.mu.Lock()
	if c = e.cur.Load(); e.gone || c == nil {
		e.mu.Unlock()
		return nil, nil, nil
	}
	return e, c, e.mu.Unlock
}
