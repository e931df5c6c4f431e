// Package volume keeps directories that outlive containers, and makes all mounts
// of host directories ready.
//
// A volume's data is ROOT/volumes/NAME/_data. Its record is in the store. Who
// uses a volume is counted by container in memory, and rebuilt from the
// containers' records when the engine starts; a volume directory without a
// record (the machine died before it was written) is taken back in.
//
// The local driver's options type, o and device name a file system. It is mounted
// nowhere on the host: each container that runs gets a mount of it in its own mount
// namespace. The option size bounds a volume by a quota project where the file
// system has these, else by a file system of its own in the sparse file
// ROOT/volumes/NAME/image.
package volume

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"hull/internal/hull"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

const anonymousLabel = "com.docker.volume.anonymous"

// Local is the one driver there is.
const Local = "local"

// Store keeps volumes' records.
type Store interface {
	// PutVolume waits for the disk when asked; else Sync does.
	PutVolume(v hull.Volume, wait bool) error
	Volume(name string) (hull.Volume, error)
	Volumes() []hull.Volume
	DeleteVolume(name string) error
	// Containers are read once, to see who uses what.
	Containers() []hull.Container
}

// Config is the service's own configuration.
type Config struct {
	Root   string // volumes live in Root/volumes
	Store  Store
	Events func(hull.Event) // nil = nobody listens
	Log    *slog.Logger     // nil = discard
}

// Service is the volumes of one engine. It satisfies engine.Volumes and
// docker.Volumes.
type Service struct {
	places

	store  Store
	events func(hull.Event)
	log    *slog.Logger
	maps   mappings

	mu    sync.Mutex
	state map[string]*state // by volume name; an entry exists while there is a volume or a user
}

// state is what is known of one volume in this process.
type state struct {
	users map[string]struct{} // containers whose record names it; under Service.mu

	mu      sync.Mutex          // one copy-up, mount or unmount at a time; Service.mu is never taken under it
	running map[string]struct{} // containers that have it mounted; under mu
	held    *os.File            // of a file system in memory: its own mount, detached; under mu
}

// New takes the volumes below c.Root into service.
func New(c Config) (*Service, error) {
	s := &Service{
		places: places{filepath.Join(c.Root, "volumes")},
		store:  c.Store, events: c.Events, log: c.Log, state: map[string]*state{},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.events == nil {
		s.events = func(hull.Event) {}
	}
	if err := os.MkdirAll(s.dir, 0o701); err != nil {
		return nil, fmt.Errorf("make volume directory: %w", err)
	}
	if err := s.adopt(); err != nil {
		return nil, err
	}
	for _, c := range c.Store.Containers() {
		for _, m := range c.Mounts {
			if m.Type == hull.MountVolume {
				s.of(m.Name).users[c.ID] = struct{}{}
			}
		}
	}
	return s, nil
}

// adopt finishes removals that a crash cut short, and takes directories in whose
// record is missing.
func (s *Service) adopt() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("read volume directory: %w", err)
	}
	known := map[string]bool{}
	for _, v := range s.store.Volumes() {
		known[v.Name] = true
	}
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, trash) {
			s.clean(filepath.Join(s.dir, name))
			continue
		}
		if known[name] || !e.IsDir() || checkName(name) != nil {
			continue
		}
		v := hull.Volume{Name: name, Driver: Local, Scope: "local", Mountpoint: s.data(name), Created: time.Now(), Anonymous: anonymous(name)}
		v.Labels = labels(v)
		if st, err := e.Info(); err == nil {
			v.Created = st.ModTime()
		}
		if err := s.store.PutVolume(v, false); err != nil {
			return fmt.Errorf("take volume %s in: %w", name, err)
		}
		s.log.Warn("volume without a record is taken in", "volume", name)
	}
	return nil
}

// of finds or makes a volume's state. The caller holds mu, or is New.
func (s *Service) of(name string) *state {
	st := s.state[name]
	if st == nil {
		st = &state{users: map[string]struct{}{}, running: map[string]struct{}{}}
		s.state[name] = st
	}
	return st
}

// places is where volumes are on disk.
type places struct{ dir string }

func (s places) data(name string) string { return filepath.Join(s.dir, name, "_data") }

// Create makes a volume. v.Name "" = choose one; an existing one of the same
// driver is returned as it is.
func (s *Service) Create(_ context.Context, v hull.Volume) (hull.Volume, error) {
	if v.Name == "" {
		v.Name, v.Anonymous = newName(), true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// Waits for the disk: the user was told that it exists.
	return s.create(v, true)
}

// create is Create with mu held.
func (s *Service) create(v hull.Volume, wait bool) (hull.Volume, error) {
	fail := func(err error) (hull.Volume, error) {
		return hull.Volume{}, fmt.Errorf("create %s: %w", v.Name, err)
	}
	if v.Driver == "" {
		v.Driver = Local
	}
	if v.Driver != Local {
		return fail(errdefs.ErrNotFound.WithMessage(fmt.Sprintf("error looking up volume plugin %s: plugin %q not found", v.Driver, v.Driver)))
	}
	if err := checkName(v.Name); err != nil {
		return fail(err)
	}
	if old, err := s.store.Volume(v.Name); err == nil {
		return old, nil
	}
	size, err := checkOptions(v.Options)
	if err != nil {
		return fail(err)
	}
	// Docker's modes: nobody but root reaches volumes through the host's paths.
	if err := os.MkdirAll(s.data(v.Name), 0o755); err != nil {
		return fail(err)
	}
	if err := os.Chmod(filepath.Join(s.dir, v.Name), 0o701); err != nil {
		return fail(err)
	}
	if size > 0 {
		if err := s.bound(v.Name, size); err != nil {
			return fail(errors.Join(err, os.RemoveAll(filepath.Join(s.dir, v.Name))))
		}
	}
	v.Mountpoint, v.Scope, v.Created = s.data(v.Name), "local", time.Now()
	v.Labels = labels(v)
	if err := s.store.PutVolume(v, wait); err != nil {
		return fail(errors.Join(err, os.RemoveAll(filepath.Join(s.dir, v.Name))))
	}
	s.publish("create", v, nil)
	return v, nil
}

// Get finds a volume: errdefs.ErrNotFound.
func (s *Service) Get(_ context.Context, name string) (hull.Volume, error) {
	return s.store.Volume(name)
}

// List gives all volumes, by name.
func (s *Service) List(context.Context) ([]hull.Volume, error) { return s.store.Volumes(), nil }

// Remove deletes a volume and its data: errdefs.ErrConflict while a container's
// record names it. force = a missing one is no error.
func (s *Service) Remove(_ context.Context, name string, force bool) error {
	v, err := s.store.Volume(name)
	if err != nil {
		if force && errdefs.IsNotFound(err) {
			return nil
		}
		return err
	}
	s.mu.Lock()
	err = s.take(v)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	s.empty(v)
	return nil
}

// trash is how directories of removed volumes begin: no volume's name does.
const trash = ".removed-"

// take makes a volume disappear; its data waits in the trash. The caller holds
// mu, so that nobody begins to use it meanwhile.
func (s *Service) take(v hull.Volume) error {
	fail := func(err error) error { return fmt.Errorf("remove %s: %w", v.Name, err) }
	if err := s.unused(v.Name); err != nil {
		return fail(err)
	}
	// A crash may have left it mounted, and what is mounted is not ours to delete.
	if err := unmount(s.data(v.Name)); err != nil {
		return fail(err)
	}
	err := os.Rename(filepath.Join(s.dir, v.Name), filepath.Join(s.dir, trash+v.Name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fail(err)
	}
	if err := s.store.DeleteVolume(v.Name); err != nil {
		return fail(err)
	}
	delete(s.state, v.Name)
	return nil
}

// empty deletes the data of a volume that take has taken.
func (s *Service) empty(v hull.Volume) {
	s.clean(filepath.Join(s.dir, trash+v.Name))
	s.publish("destroy", v, nil)
}

// clean deletes a directory in the trash. The volume is gone for its users
// already; what cannot be deleted is tried again at the next start.
func (s *Service) clean(path string) {
	data := filepath.Join(path, "_data")
	err := unmount(data)
	if err == nil {
		free := s.project(data)
		if err = os.RemoveAll(path); err == nil {
			err = free()
		}
	}
	if err != nil {
		s.log.Warn("removed volume is still there", "path", path, "err", err)
	}
}

// Prune removes the volumes that no container names and keep lets go.
func (s *Service) Prune(ctx context.Context, keep func(hull.Volume) bool) (hull.PruneReport, error) {
	var r hull.PruneReport
	for _, v := range s.store.Volumes() {
		if err := context.Cause(ctx); err != nil {
			return r, err
		}
		if keep != nil && keep(v) || s.used(v.Name) > 0 {
			continue
		}
		size, err := s.size(ctx, v)
		if err != nil {
			return r, fmt.Errorf("prune volume %s: %w", v.Name, err)
		}
		switch err := s.Remove(ctx, v.Name, true); {
		case errdefs.IsConflict(err): // used since
		case err != nil:
			return r, err
		default:
			r.Deleted = append(r.Deleted, v.Name)
			r.Reclaimed += size
		}
	}
	s.events(hull.Event{
		Type: "volume", Action: "prune", Scope: "local", Time: time.Now(),
		Attrs: map[string]string{"reclaimed": fmt.Sprint(r.Reclaimed)},
	})
	return r, nil
}

// Usage is the disk space of a volume in bytes and the number of containers that
// name it.
func (s *Service) Usage(ctx context.Context, name string) (size int64, refs int, err error) {
	v, err := s.store.Volume(name)
	if err != nil {
		return 0, 0, err
	}
	size, err = s.size(ctx, v)
	return size, s.used(name), err
}

func (s *Service) used(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.state[name]; st != nil {
		return len(st.users)
	}
	return 0
}

func (s *Service) publish(action string, v hull.Volume, more map[string]string) {
	attrs := map[string]string{"driver": v.Driver}
	maps.Copy(attrs, more)
	s.events(hull.Event{Type: "volume", Action: action, Actor: v.Name, Attrs: attrs, Scope: "local", Time: time.Now()})
}

// labels adds the label by which Docker's tools know an anonymous volume.
func labels(v hull.Volume) map[string]string {
	out := maps.Clone(v.Labels)
	if v.Anonymous {
		if out == nil {
			out = map[string]string{}
		}
		out[anonymousLabel] = ""
	}
	return out
}

func newName() string {
	b := make([]byte, 32)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// anonymous says whether a name looks like one that newName gave.
func anonymous(name string) bool {
	b, err := hex.DecodeString(name)
	return err == nil && len(b) == 32
}
