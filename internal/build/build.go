// Package build is the builder: BuildKit in this process, on the image service's
// own blobs, names and layers, with its steps run through the driver seam.
//
// BuildKit is opened when it is first asked for (open.go), so an engine that
// builds nothing pays nothing. What is a build's own:
//
//	ROOT/            BuildKit's databases: cache, history, records of snapshots
//	ROOT/mnt/        below it lies everything that is mounted in this mount
//	                 namespace for a build, so that the next start finds it
//	ROOT/contexts/   contexts that came as a tar, while their build lasts
//	RUN/pods/<id>/   steps that run, as with containers: recovery ends them
package build

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/driver"
	"hull/internal/hull"
	"hull/internal/image"
)

// Networks is what a step needs of the network service.
type Networks interface {
	Attach(ctx context.Context, p hull.Pod, runDir string) (hull.Endpoint, hull.Release, error)
}

// Images is what the builder needs of the image service.
type Images interface {
	Workshop(k image.Keys) image.Workshop
}

// Config is the builder's own configuration.
type Config struct {
	Root    string // state directory of the builder
	RunDir  string // of the engine: a step's run directory is RunDir/pods/<id>
	Cache   int64  // bytes of build cache to keep, least recently used first to go; 0 = a tenth of the disk, at least 2 GB
	Version string // of hull
}

// Parts are the services that a build works with.
type Parts struct {
	Images   Images
	Networks Networks
	Drivers  map[hull.Isolation]driver.Driver // container is there
	// Spec builds the OCI specification of a step, as for a container.
	Spec func(c hull.Container, ep hull.Endpoint) (*specs.Spec, error)
	// Users says in which user namespace a step is, as for a container.
	Users func(ctx context.Context, c hull.Container) (hull.PodUsers, error)
	// Ended is called when a build has ended, well or not; nil = nobody wants to know.
	Ended func(ctx context.Context)
	// Busy is called when a build begins, and what it returns when that has ended.
	Busy func() (end func())
	Log  *slog.Logger
}

// Service is the builder.
type Service struct {
	cfg   Config
	parts Parts

	mu     sync.Mutex
	kit    *kit // nil until the first use
	closed bool
}

// New makes a builder, and ends what an earlier engine's builds left mounted.
// BuildKit itself is opened on first use.
func New(cfg Config, p Parts) (*Service, error) {
	if p.Log == nil {
		p.Log = slog.New(slog.DiscardHandler)
	}
	if p.Ended == nil {
		p.Ended = func(context.Context) {}
	}
	if err := unmountAll(filepath.Join(cfg.Root, "mnt")); err != nil {
		return nil, err
	}
	// Contexts and mount points of builds that a crash cut short.
	for _, d := range []string{"contexts", "steps"} {
		if err := os.RemoveAll(filepath.Join(cfg.Root, d)); err != nil {
			return nil, fmt.Errorf("clear builder state: %w", err)
		}
	}
	return &Service{cfg: cfg, parts: p}, nil
}

// Close ends the builder. Builds under way are cancelled.
func (s *Service) Close() error {
	s.mu.Lock()
	k := s.kit
	s.kit, s.closed = nil, true
	s.mu.Unlock()
	var err error
	if k != nil {
		err = k.close()
	}
	return errors.Join(err, unmountAll(filepath.Join(s.cfg.Root, "mnt")))
}

// open returns BuildKit, opened now if it was not.
func (s *Service) open(ctx context.Context) (*kit, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosed
	}
	if s.kit != nil {
		return s.kit, nil
	}
	k, err := openKit(context.WithoutCancel(ctx), s.cfg, s.parts)
	if err != nil {
		return nil, fmt.Errorf("open the builder: %w", err)
	}
	s.kit = k
	return k, nil
}

// used says whether there is anything to ask: BuildKit is open, or has state.
func (s *Service) used() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kit != nil {
		return true
	}
	_, err := os.Stat(filepath.Join(s.cfg.Root, "metadata.db"))
	return err == nil
}
