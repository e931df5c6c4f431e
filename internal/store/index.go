package store

import (
	"cmp"
	"fmt"
	"hull/internal/hull"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"
)

// entry is one container's place in memory.
type entry struct {
	durable bool
	cur     atomic.Pointer[hull.Container] // immutable; nil while the first write is under way

	mu     sync.Mutex // serialises changes of this record; held across I/O
	gone   bool       // removed; under mu
	record slotFile   // when not durable; under mu
	status slotFile   // under mu
	last   []byte     // status as last queued for the database; under mu
}

// index finds containers. The caller holds Store.mu.
type index struct {
	byID   map[string]*entry
	byName map[string]string // name -> id; claimed before the record is written
	ids    []string          // sorted, for prefixes
}

func newIndex() index {
	return index{byID: map[string]*entry{}, byName: map[string]string{}}
}

// claim reserves id and name for e.
func (x *index) claim(id, name string, e *entry) error {
	if _, ok := x.byID[id]; ok {
		return errdefs.ErrAlreadyExists.WithMessage("container " + id + " exists already")
	}
	if err := x.claimName(id, name); err != nil {
		return err
	}
	x.byID[id] = e
	at, _ := slices.BinarySearch(x.ids, id)
	x.ids = slices.Insert(x.ids, at, id)
	return nil
}

func (x *index) claimName(id, name string) error {
	if name == "" {
		return nil
	}
	if other, ok := x.byName[name]; ok {
		return &hull.NameTakenError{Name: name, ID: other}
	}
	x.byName[name] = id
	return nil
}

// drop undoes claim.
func (x *index) drop(id, name string) {
	delete(x.byID, id)
	x.dropName(id, name)
	if at, ok := slices.BinarySearch(x.ids, id); ok {
		x.ids = slices.Delete(x.ids, at, at+1)
	}
}

func (x *index) dropName(id, name string) {
	if x.byName[name] == id {
		delete(x.byName, name)
	}
}

// find looks for a full id, then a name, then an unambiguous id prefix.
func (x *index) find(ref string) (*hull.Container, error) {
	if c := x.get(ref); c != nil {
		return c, nil
	}
	if c := x.get(x.byName[trimSlash(ref)]); c != nil {
		return c, nil
	}
	var found *hull.Container
	if ref != "" {
		at, _ := slices.BinarySearch(x.ids, ref)
		for _, id := range x.ids[at:] {
			if !strings.HasPrefix(id, ref) {
				break
			}
			c := x.get(id)
			if c != nil && found != nil {
				return nil, errdefs.ErrInvalidArgument.WithMessage("multiple IDs found with provided prefix: " + ref)
			}
			if c != nil {
				found = c
			}
		}
	}
	if found == nil {
		found = x.linked(ref)
	}
	if found == nil {
		return nil, noContainer(ref)
	}
	return found, nil
}

// linked finds by "container/alias", which a link of that container is called.
func (x *index) linked(ref string) *hull.Container {
	parent, alias, ok := strings.Cut(strings.TrimPrefix(ref, "/"), "/")
	if !ok {
		return nil
	}
	c := x.get(x.byName[parent])
	if c == nil {
		return nil
	}
	for _, l := range c.Spec.Network.Links {
		if id, name, _ := strings.Cut(l, ":"); name == alias {
			return x.get(id)
		}
	}
	return nil
}

func (x *index) get(id string) *hull.Container {
	if e := x.byID[id]; e != nil {
		return e.cur.Load()
	}
	return nil
}

func noContainer(ref string) error {
	return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("No such container: %s", ref))
}

// newestFirst orders containers as they are listed.
func newestFirst(a, b *hull.Container) int {
	return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID))
}
