package store

import (
	"fmt"
	"hull/internal/hull"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"
)

const (
	bucketPods = "pods"
	kindPod    = "pod"
)

// podEntry is one pod's place in memory.
type podEntry struct {
	durable bool
	cur     atomic.Pointer[hull.Pod] // immutable

	mu     sync.Mutex // serialises changes of this record; held across I/O
	gone   bool       // removed; under mu
	record slotFile   // when not durable; under mu
	status slotFile   // under mu
}

// PutPod adds a pod, or replaces one. It does not wait for the disk: a durable
// pod is written with the next record that waits (its container's), in the same
// transaction, or soon after.
func (s *Store) PutPod(p hull.Pod, durable bool) error {
	if err := checkID(p.ID); err != nil {
		return err
	}
	p = clonePod(&p)
	p.Created, p.Status.StartedAt = p.Created.Round(0), p.Status.StartedAt.Round(0)
	s.mu.Lock()
	e := s.pods[p.ID]
	if e == nil {
		e = s.newPodEntry(p.ID, durable)
		s.pods[p.ID] = e
	}
	s.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone { // deleted between the two locks
		return noPod(p.ID)
	}
	if err := s.writePod(&p, e); err != nil {
		if e.cur.Load() == nil {
			s.forgetPod(p.ID, e)
		}
		return err
	}
	e.cur.Store(&p)
	return nil
}

func (s *Store) newPodEntry(id string, durable bool) *podEntry {
	return &podEntry{
		durable: durable,
		record:  s.run.slots(kindPod, id, partRecord), status: s.run.slots(kindPod, id, partStatus),
	}
}

func (s *Store) writePod(p *hull.Pod, e *podEntry) error {
	if !e.durable {
		b, err := encode(p)
		if err != nil {
			return err
		}
		return e.record.put(b)
	}
	intent := *p
	intent.Status = hull.PodStatus{}
	b, err := encode(intent)
	if err != nil {
		return err
	}
	s.w.putLazy(record{dbKey{bucketPods, p.ID}, b})
	return nil
}

// Pod finds a pod by its full id.
func (s *Store) Pod(id string) (hull.Pod, error) {
	s.mu.RLock()
	e := s.pods[id]
	s.mu.RUnlock()
	if e != nil {
		if p := e.cur.Load(); p != nil {
			return clonePod(p), nil
		}
	}
	return hull.Pod{}, noPod(id)
}

// Pods returns all pods, newest first.
func (s *Store) Pods() []hull.Pod {
	s.mu.RLock()
	out := make([]hull.Pod, 0, len(s.pods))
	for _, e := range s.pods {
		if p := e.cur.Load(); p != nil {
			out = append(out, clonePod(p))
		}
	}
	s.mu.RUnlock()
	slices.SortFunc(out, func(a, b hull.Pod) int { return b.Created.Compare(a.Created) })
	return out
}

// DeletePod forgets a pod. An unknown id is no error.
func (s *Store) DeletePod(id string) error {
	e, _, unlock := s.lockPod(id)
	if e == nil {
		return nil
	}
	defer unlock()
	if e.durable {
		s.w.putLazy(record{dbKey{bucketPods, id}, nil})
	} else if err := s.run.remove(kindPod, id, partRecord); err != nil {
		return err
	}
	s.forgetPod(id, e)
	return s.run.remove(kindPod, id, partStatus)
}

// forgetPod takes a pod out of the index. The caller holds e.mu.
func (s *Store) forgetPod(id string, e *podEntry) {
	e.gone = true
	s.mu.Lock()
	delete(s.pods, id)
	s.mu.Unlock()
}

// UpdatePod changes a pod's status, which is a fact of this boot: it is kept on
// tmpfs only. fn gets a copy; when it fails nothing changes.
func (s *Store) UpdatePod(id string, fn func(*hull.PodStatus) error) error {
	e, p, unlock := s.lockPod(id)
	if e == nil {
		return noPod(id)
	}
	defer unlock()
	st := clonePodStatus(&p.Status)
	if err := fn(&st); err != nil {
		return err
	}
	next := *p
	next.Status = clonePodStatus(&st)
	next.Status.StartedAt = next.Status.StartedAt.Round(0)
	b, err := encode(next.Status)
	if err != nil {
		return err
	}
	if err := e.status.put(b); err != nil {
		return err
	}
	e.cur.Store(&next)
	return nil
}

func (s *Store) lockPod(id string) (e *podEntry, p *hull.Pod, unlock func()) {
	s.mu.RLock()
	e = s.pods[id]
	s.mu.RUnlock()
	if e == nil {
		return nil, nil, nil
	}
	e.mu.Lock()
	if p = e.cur.Load(); e.gone || p == nil {
		e.mu.Unlock()
		return nil, nil, nil
	}
	return e, p, e.mu.Unlock
}

func noPod(id string) error {
	return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("No such pod: %s", id))
}
