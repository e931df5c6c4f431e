package oci

import (
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"hull/internal/driver"
)

// Runtime is one that the user has given a name.
type Runtime struct {
	Path string
	Args []string // before every command
}

// Set are the OCI runtimes of this host: those with a name, and any by its path.
type Set struct {
	base  Config // without Runtime and Args
	named map[string]Runtime

	mu      sync.Mutex
	drivers map[runtimeKey]*Driver
}

// runtimeKey tells two runtimes apart.
type runtimeKey struct{ path, args string }

// known are runtimes by the names that everybody gives them, looked for beside
// hulld and in PATH.
var known = []string{"crun", "hull-runc", "kata-runtime", "runsc", "youki"} //nolint:gochecknoglobals // a constant that Go cannot express

// NewSet makes a set. named are the user's; dir is where hulld's own programs are.
func NewSet(base Config, named map[string]Runtime, dir string) (*Set, error) {
	s := &Set{base: base, named: map[string]Runtime{}, drivers: map[runtimeKey]*Driver{}}
	for _, n := range known {
		if p := lookup(n, dir); p != "" {
			s.named[n] = Runtime{Path: p}
		}
	}
	for n, r := range named {
		if n == "" || strings.ContainsAny(n, "/ \t\n") {
			return nil, fmt.Errorf("runtime name %q: letters, digits, dots and dashes only: %w", n, errdefs.ErrInvalidArgument)
		}
		if !filepath.IsAbs(r.Path) {
			p := lookup(r.Path, dir)
			if p == "" {
				return nil, fmt.Errorf("runtime %s: no program %q in PATH; give its absolute path: %w", n, r.Path, errdefs.ErrInvalidArgument)
			}
			r.Path = p
		}
		s.named[n] = r
	}
	return s, nil
}

// lookup finds a program beside hulld, or in PATH; "" = nowhere.
func lookup(name, dir string) string {
	if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
		return p
	}
	p, err := exec.LookPath(name)
	if err != nil || !filepath.IsAbs(p) {
		return ""
	}
	return p
}

// Sandbox is the driver of isolation "sandbox". runsc need not be there: the
// driver's Info says so, and says what to do.
func (s *Set) Sandbox(dir string) (*Driver, error) {
	r, ok := s.named[RunscName]
	if !ok {
		r = Runtime{Path: filepath.Join(dir, RunscName)}
	}
	return s.driver(r)
}

// Find gives the driver of a runtime, by its name or its absolute path.
func (s *Set) Find(name string) (driver.Driver, error) {
	r, ok := s.named[name]
	if !ok {
		if !filepath.IsAbs(name) {
			return nil, fmt.Errorf("unknown or invalid runtime name: %s (there are %s; a path works, too, and hulld --add-runtime NAME=PATH adds a name): %w",
				name, strings.Join(append([]string{"runc"}, slices.Sorted(maps.Keys(s.named))...), ", "), errdefs.ErrInvalidArgument)
		}
		r = Runtime{Path: filepath.Clean(name)}
	}
	d, err := s.driver(r)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// Paths are the runtimes that have a name.
func (s *Set) Paths() map[string]string {
	all := make(map[string]string, len(s.named))
	for n, r := range s.named {
		all[n] = r.Path
	}
	return all
}

func (s *Set) driver(r Runtime) (*Driver, error) {
	key := runtimeKey{r.Path, strings.Join(r.Args, "\x00")}
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.drivers[key]; d != nil {
		return d, nil
	}
	cfg := s.base
	cfg.Runtime, cfg.Args = r.Path, r.Args
	d, err := New(cfg)
	if err != nil {
		return nil, err
	}
	s.drivers[key] = d
	return d, nil
}

// Close closes the drivers. Pods live on.
func (s *Set) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, d := range s.drivers {
		errs = append(errs, d.Close())
	}
	return errors.Join(errs...)
}
