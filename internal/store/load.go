package store

import (
	"bytes"
	"fmt"
	"slices"

	"go.etcd.io/bbolt"

	"hull/internal/hull"
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
			e := &entry{durable: true}
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
				s.addPod(p, true)
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
	status := map[string][]byte{}
	err := s.run.each(kindContainer, func(id, part string, b []byte) {
		if part == partStatus {
			status[id] = b
			return
		}
		c, err := decodeContainer(id, b)
		if err != nil {
			s.setAside(kindContainer, id, err)
			return
		}
		e := &entry{}
		e.cur.Store(&c)
		found = append(found, e)
	})
	if err != nil {
		return nil, err
	}
	for _, e := range found {
		c := *e.cur.Load()
		b, ok := status[c.ID]
		if !ok {
			continue
		}
		delete(status, c.ID)
		st, err := decode[hull.Status](b)
		if err != nil {
			s.setAside(kindContainer+" status", c.ID, err)
			continue
		}
		c.Status = st
		e.cur.Store(&c)
		if !e.durable {
			continue
		}
		// The engine may have died before the database had it.
		if b, err = encode(afterReboot(st)); err != nil {
			return nil, err
		}
		if !bytes.Equal(b, onDisk[c.ID]) {
			s.behind = append(s.behind, record{dbKey{bucketStatus, c.ID}, b})
		}
	}
	// Left by a crash in the middle of a removal.
	for id := range status {
		if err := s.run.remove(kindContainer, id, partStatus); err != nil {
			return nil, err
		}
	}
	return found, nil
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

func (s *Store) addPod(p hull.Pod, durable bool) *podEntry {
	e := &podEntry{durable: durable}
	e.cur.Store(&p)
	s.pods[p.ID] = e
	return e
}

func (s *Store) loadRunPods() error {
	status := map[string][]byte{}
	err := s.run.each(kindPod, func(id, part string, b []byte) {
		if part == partStatus {
			status[id] = b
			return
		}
		p, err := decodePod(id, b)
		if err != nil {
			s.setAside(kindPod, id, err)
			return
		}
		s.addPod(p, false)
	})
	if err != nil {
		return err
	}
	for id, b := range status {
		e := s.pods[id]
		if e == nil {
			if err := s.run.remove(kindPod, id, partStatus); err != nil {
				return err
			}
			continue
		}
		st, err := decode[hull.PodStatus](b)
		if err != nil {
			s.setAside(kindPod+" status", id, err)
			continue
		}
		p := *e.cur.Load()
		p.Status = st
		e.cur.Store(&p)
	}
	return nil
}
