package store

import (
	"bytes"
	"errors"
	"fmt"
	"hull/internal/hull"
	"slices"

	"go.etcd.io/bbolt"
)

// load reads every record into memory: the database first, then what this
// boot's files say over it.
func (s *Store) load() (err error) {
	// bbolt panics on a page that makes no sense.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("damaged database: %v", p)
		}
	}()
	s.volumes, s.networks = objects[hull.Volume]{}, objects[hull.Network]{}
	var found []*entry
	onDisk := map[string][]byte{}
	err = s.db.Update(func(tx *bbolt.Tx) error {
		b := map[string]*bbolt.Bucket{}
		for _, name := range []string{bucketContainers, bucketStatus, bucketPods, bucketVolumes, bucketNetworks} {
			var err error
			if b[name], err = tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return fmt.Errorf("make bucket %s: %w", name, err)
			}
		}
		err := s.eachRecord(b[bucketContainers], bucketContainers, func(key string, v []byte) error {
			c, err := decodeContainer(key, v)
			if err != nil {
				return err
			}
			if b := b[bucketStatus].Get([]byte(key)); b != nil {
				if st, err := decode[hull.Status](b); err != nil {
					s.setAside(bucketStatus, key, err) // the one in the record is older, but readable
				} else {
					c.Status = st
					onDisk[key] = slices.Clone(b)
				}
			}
			c.Status = afterReboot(c.Status)
			e := s.newEntry(key, true)
			e.cur.Store(&c)
			found = append(found, e)
			return nil
		})
		if err != nil {
			return err
		}
		err = s.eachRecord(b[bucketPods], bucketPods, func(key string, v []byte) error {
			p, err := decodePod(key, v)
			if err == nil {
				e := s.newPodEntry(key, true)
				e.cur.Store(&p)
				s.pods[key] = e
			}
			return err
		})
		if err != nil {
			return err
		}
		err = s.eachRecord(b[bucketVolumes], bucketVolumes, func(key string, v []byte) error {
			vol, err := decode[hull.Volume](v)
			if err == nil && vol.Name != key {
				err = fmt.Errorf("name %q under key %q", vol.Name, key)
			}
			if err == nil {
				s.volumes[key] = vol
			}
			return err
		})
		if err != nil {
			return err
		}
		return s.eachRecord(b[bucketNetworks], bucketNetworks, func(key string, v []byte) error {
			n, err := decode[hull.Network](v)
			if err == nil && n.ID != key {
				err = fmt.Errorf("id %q under key %q", n.ID, key)
			}
			if err == nil {
				s.networks[key] = n
			}
			return err
		})
	})
	if err != nil {
		return err
	}
	if found, err = s.loadRunContainers(found, onDisk); err != nil {
		return err
	}
	s.addContainers(found)
	return s.loadRunPods()
}

// eachRecord calls fn for every record and sets aside what it refuses.
func (s *Store) eachRecord(b *bbolt.Bucket, kind string, fn func(key string, v []byte) error) error {
	return b.ForEach(func(k, v []byte) error {
		if err := fn(string(k), v); err != nil {
			s.setAside(kind, string(k), err)
		}
		return nil
	})
}

// loadRunContainers adds the containers that live as long as this boot, and
// lays the statuses of this boot over all. onDisk is the database's statuses.
func (s *Store) loadRunContainers(found []*entry, onDisk map[string][]byte) ([]*entry, error) {
	statuses := map[string]bool{}
	err := s.run.each(kindContainer, func(id, part string) error {
		if part == partStatus {
			statuses[id] = true
			return nil
		}
		e := s.newEntry(id, false)
		c, err := readRecord(&e.record, id, decodeContainer)
		if err != nil {
			return s.unreadable(kindContainer, id, err)
		}
		e.cur.Store(&c)
		found = append(found, e)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, e := range found {
		c := *e.cur.Load()
		if !statuses[c.ID] {
			continue
		}
		delete(statuses, c.ID)
		if c.Status, err = readStatus[hull.Status](&e.status); err != nil {
			if errors.Is(err, errTorn) { // cut short at the first write: nothing had begun
				continue
			}
			s.setAside(kindContainer+" status", c.ID, err)
			continue
		}
		e.cur.Store(&c)
		if !e.durable {
			continue
		}
		// The engine may have died before the database had it.
		b, err := encode(afterReboot(c.Status))
		if err != nil {
			return nil, err
		}
		if e.last = b; !bytes.Equal(b, onDisk[c.ID]) {
			s.behind = append(s.behind, record{dbKey{bucketStatus, c.ID}, b})
		}
	}
	// Left by a crash in the middle of a removal.
	for id := range statuses {
		if err := s.run.remove(kindContainer, id, partStatus); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// unreadable sets a file of this run aside. One that was never written as a whole
// is what a crash in the middle of PutContainer or PutPod left: nobody was told
// that the record exists.
func (s *Store) unreadable(kind, id string, err error) error {
	if errors.Is(err, errTorn) {
		return s.run.remove(kind, id, partRecord)
	}
	s.setAside(kind, id, err)
	return nil
}

func readRecord[T any](f *slotFile, id string, decode func(string, []byte) (T, error)) (T, error) {
	b, err := f.get()
	if err != nil {
		var none T
		return none, fmt.Errorf("read record: %w", err)
	}
	return decode(id, b)
}

func readStatus[T any](f *slotFile) (T, error) {
	b, err := f.get()
	if err != nil {
		var none T
		return none, fmt.Errorf("read status: %w", err)
	}
	return decode[T](b)
}

// addContainers fills the index. Two records never claim one name, except after
// an unreadable record's name was used again and the record can be read now: the
// older one keeps the name.
func (s *Store) addContainers(found []*entry) {
	slices.SortFunc(found, func(a, b *entry) int { return newestFirst(b.cur.Load(), a.cur.Load()) })
	for _, e := range found {
		c := e.cur.Load()
		err := s.containers.claim(c.ID, c.Name, e)
		if err == nil {
			continue
		}
		s.log.Warn("name of container is taken, it goes by its id", "container", c.ID, "err", err)
		next := *c
		next.Name = c.ID[:min(12, len(c.ID))]
		e.cur.Store(&next)
		if err := s.containers.claim(next.ID, next.Name, e); err != nil {
			s.setAside(kindContainer, next.ID, err)
		}
	}
}

func (s *Store) loadRunPods() error {
	statuses := map[string]bool{}
	err := s.run.each(kindPod, func(id, part string) error {
		if part == partStatus {
			statuses[id] = true
			return nil
		}
		e := s.newPodEntry(id, false)
		p, err := readRecord(&e.record, id, decodePod)
		if err != nil {
			return s.unreadable(kindPod, id, err)
		}
		e.cur.Store(&p)
		s.pods[id] = e
		return nil
	})
	if err != nil {
		return err
	}
	for id := range statuses {
		e := s.pods[id]
		if e == nil {
			if err := s.run.remove(kindPod, id, partStatus); err != nil {
				return err
			}
			continue
		}
		p := *e.cur.Load()
		if p.Status, err = readStatus[hull.PodStatus](&e.status); errors.Is(err, errTorn) {
			continue // as a container's
		} else if err != nil {
			s.setAside(kindPod+" status", id, err)
			continue
		}
		e.cur.Store(&p)
	}
	return nil
}
