// Package secret keeps passwords and keys for containers, which see each as a file.
//
// A secret is a file of its own, ROOT/secrets/NAME, which root alone can read (0600,
// in a directory 0700). It is not encrypted: whoever may read it is root, and would
// find the key beside it; who must fear a stolen disk encrypts the disk. The value is
// in no record of a container, no event and no log, and is given to nobody who asks:
// it only goes, when a container starts, into a file in memory (Show).
package secret

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"hull/internal/hull"
	"hull/internal/linux"
)

// MaxSize bounds a value, bytes: a machine gets it in one message.
const MaxSize = 256 << 10

// maxFile bounds a file of ours: the value in base64, its name and labels.
const maxFile = 2 << 20

// Config is the service's own configuration.
type Config struct {
	Root       string                  // secrets are in Root/secrets
	Containers func() []hull.Container // who uses a secret
	Events     func(hull.Event)        // nil = nobody listens
}

// Service is the secrets of one engine. It satisfies engine.Secrets and docker.Secrets.
type Service struct {
	dir        string
	containers func() []hull.Container
	events     func(hull.Event)

	mu sync.Mutex // one change at a time
}

// record is the content of a secret's file.
type record struct {
	Created time.Time
	Labels  map[string]string `json:",omitempty"`
	Value   []byte
}

// New takes the secrets below c.Root into service.
func New(c Config) (*Service, error) {
	s := &Service{dir: filepath.Join(c.Root, "secrets"), containers: c.Containers, events: c.Events}
	if s.events == nil {
		s.events = func(hull.Event) {}
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of secrets: %w", err)
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("read directory of secrets: %w", err)
	}
	for _, e := range entries {
		if strings.Contains(e.Name(), partial) { // a crash while it was written
			if err := os.Remove(filepath.Join(s.dir, e.Name())); err != nil {
				return nil, fmt.Errorf("remove a half-written secret: %w", err)
			}
		}
	}
	return s, nil
}

// partial is in the names of files that linux.WriteFile has not finished, and in no
// secret's.
const partial = ".tmp"

// names are those of Docker's secrets, less what would look like a file of ours.
var names = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}$`) //nolint:gochecknoglobals // compiled once

func checkName(name string) error {
	if !names.MatchString(name) || strings.Contains(name, partial) {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid secret name %q: 1 to 64 characters of [a-zA-Z0-9_.-], the first one of [a-zA-Z0-9]", name))
	}
	return nil
}

// Create keeps a secret, on disk when it returns. errdefs.ErrAlreadyExists for a name
// that is taken: a secret is never changed.
func (s *Service) Create(_ context.Context, x hull.Secret, value []byte) (hull.Secret, error) {
	if err := checkName(x.Name); err != nil {
		return hull.Secret{}, err
	}
	switch { // a value that is too large may have been cut by who read it
	case len(value) == 0:
		return hull.Secret{}, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("secret %s is empty", x.Name))
	case len(value) > MaxSize:
		return hull.Secret{}, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("secret %s is larger than %d bytes", x.Name, MaxSize))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := os.Lstat(s.file(x.Name)); err == nil {
		return hull.Secret{}, errdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf("secret %s already exists; remove it first, or take another name", x.Name))
	}
	x.Created = time.Now().UTC()
	b, err := json.Marshal(record{Created: x.Created, Labels: x.Labels, Value: value})
	if err != nil {
		return hull.Secret{}, fmt.Errorf("encode secret %s: %w", x.Name, err)
	}
	if len(b) > maxFile {
		return hull.Secret{}, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("labels of secret %s are too long", x.Name))
	}
	if err := linux.WriteFile(s.file(x.Name), b, 0o600, true); err != nil {
		return hull.Secret{}, fmt.Errorf("write secret %s: %w", x.Name, err)
	}
	s.publish("create", x.Name)
	return x, nil
}

func (s *Service) file(name string) string { return filepath.Join(s.dir, name) }

func (s *Service) read(name string) (record, error) {
	if checkName(name) != nil {
		return record{}, noSuch(name)
	}
	f, err := os.Open(s.file(name))
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, noSuch(name)
	}
	if err != nil {
		return record{}, fmt.Errorf("open secret %s: %w", name, err)
	}
	defer f.Close()
	b, err := linux.ReadAll(f, maxFile)
	if err != nil {
		return record{}, fmt.Errorf("read secret %s: %w", name, err)
	}
	var r record
	if json.Unmarshal(b, &r) != nil { // the decoder's error may show what it has read
		return record{}, fmt.Errorf("secret %s cannot be decoded; remove it and make it again: %w", name, errdefs.ErrDataLoss)
	}
	return r, nil
}

func noSuch(name string) error {
	return errdefs.ErrNotFound.WithMessage("no such secret: " + name)
}

// Get finds a secret: errdefs.ErrNotFound.
func (s *Service) Get(_ context.Context, name string) (hull.Secret, error) {
	r, err := s.read(name)
	if err != nil {
		return hull.Secret{}, err
	}
	return hull.Secret{Name: name, Created: r.Created, Labels: r.Labels}, nil
}

// List gives all secrets, by name.
func (s *Service) List(ctx context.Context) ([]hull.Secret, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("read directory of secrets: %w", err)
	}
	out := []hull.Secret{}
	for _, e := range entries {
		if checkName(e.Name()) != nil {
			continue
		}
		x, err := s.Get(ctx, e.Name())
		if errdefs.IsNotFound(err) {
			continue // removed meanwhile
		}
		if err != nil {
			x = hull.Secret{Name: e.Name()} // it is there, and can be removed
		}
		out = append(out, x)
	}
	return out, nil
}

// Remove deletes a secret: errdefs.ErrConflict while a container's record names it.
func (s *Service) Remove(_ context.Context, name string) error {
	if checkName(name) != nil {
		return noSuch(name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if users := s.users(name); len(users) > 0 {
		return errdefs.ErrConflict.WithMessage(fmt.Sprintf("secret %s is in use by container %s", name, strings.Join(users, ", ")))
	}
	err := os.Remove(s.file(name))
	if errors.Is(err, fs.ErrNotExist) {
		return noSuch(name)
	}
	if err == nil {
		err = linux.SyncDir(s.dir)
	}
	if err != nil {
		return fmt.Errorf("remove secret %s: %w", name, err)
	}
	s.publish("remove", name)
	return nil
}

// users are the containers that name a secret, by their names.
func (s *Service) users(name string) []string {
	found := map[string]bool{}
	for _, c := range s.containers() {
		for _, m := range c.Mounts {
			if m.Type == hull.MountSecret && m.Spec.Source == name {
				found[c.Name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// Show writes the value of a secret to a new file, whose owner is the host's. The
// file must be in memory: errdefs.ErrFailedPrecondition.
func (s *Service) Show(name, path string, f hull.SecretFile) error {
	r, err := s.read(name)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a start that was cut off
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = fill(file, r.Value, f)
	if cerr := file.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

func fill(file *os.File, value []byte, f hull.SecretFile) error {
	kind, err := linux.FSType(file)
	if err != nil {
		return err
	}
	if kind != linux.TmpfsMagic {
		return errdefs.ErrFailedPrecondition.WithMessage("the engine's run directory (--run) is not on a tmpfs: a secret would be written to a disk; put it on one")
	}
	if _, err := file.Write(value); err != nil {
		return err
	}
	if err := file.Chown(f.UID, f.GID); err != nil {
		return err
	}
	return file.Chmod(os.FileMode(f.Mode) & os.ModePerm)
}

func (s *Service) publish(action, name string) {
	s.events(hull.Event{
		Type: "secret", Action: action, Actor: name, Scope: "local", Time: time.Now(),
		Attrs: map[string]string{"name": name},
	})
}
