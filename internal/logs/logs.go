// Package logs knows where containers' logs are, what their drivers' options
// mean, and how to read them. Writing is done by the monitor, with package
// logfile.
//
// A container's files lie in ROOT/containers/ID, named as Docker names them. For
// journald and syslog, which cannot be read back here, the monitor also keeps a
// capped copy in the local format ("dual logging"), so that `logs` works with
// every driver but none.
package logs

import (
	"context"
	"errors"
	"fmt"
	"hull/internal/hull"
	"hull/internal/logs/logfile"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

// Config is the service's own configuration.
type Config struct {
	Root          string // logs lie in Root/containers/ID
	DefaultDriver string // "" = json-file
	Log           *slog.Logger
}

// Service is the logs of one engine. It satisfies engine.Logs.
type Service struct {
	dir    string
	driver string
	log    *slog.Logger
	watch  *watcher
}

// New makes the service. It fails when the default driver does not exist.
func New(c Config) (*Service, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.DefaultDriver == "" {
		c.DefaultDriver = logfile.JSONFile
	}
	s := &Service{dir: filepath.Join(c.Root, "containers"), driver: c.DefaultDriver, log: c.Log}
	if err := s.Check(hull.LogSpec{}); err != nil {
		return nil, err
	}
	s.watch = newWatcher(c.Log)
	return s, nil
}

// Close ends all follows.
func (s *Service) Close() error { return s.watch.close() }

// Drivers names the drivers there are.
func Drivers() []string {
	return []string{logfile.JSONFile, logfile.Local, logfile.Journald, logfile.Syslog, logfile.None}
}

// Check validates a driver and its options, with Docker's words.
func (s *Service) Check(l hull.LogSpec) error {
	_, err := s.settings(l)
	return err
}

// Target says where the monitor writes the output of c, and makes the directory.
func (s *Service) Target(c hull.Container) (hull.LogTarget, error) {
	set, err := s.settings(c.Spec.Log)
	if err != nil {
		return hull.LogTarget{}, err
	}
	t := hull.LogTarget{
		Driver: set.driver, Path: s.path(c.ID, set.driver),
		MaxSize: set.maxSize, MaxFiles: set.maxFiles, Compress: set.compress,
		ContainerID: c.ID, ContainerName: c.Name, ImageName: c.Image.Name,
	}
	if set.driver == logfile.None {
		return t, nil
	}
	if set.noCache && set.remote() {
		t.Path = ""
	}
	if err := set.describe(c, &t); err != nil {
		return hull.LogTarget{}, err
	}
	if t.Path != "" {
		if err := os.MkdirAll(filepath.Dir(t.Path), 0o710); err != nil {
			return hull.LogTarget{}, fmt.Errorf("make log directory: %w", err)
		}
	}
	return t, nil
}

// path is the present file of a container's log, "" when the driver has none.
func (s *Service) path(id, driver string) string {
	dir := filepath.Join(s.dir, id)
	switch driver {
	case logfile.JSONFile:
		return filepath.Join(dir, id+"-json.log")
	case logfile.Local:
		return filepath.Join(dir, "local-logs", "container.log")
	case logfile.None:
		return ""
	}
	return filepath.Join(dir, "container-cached.log")
}

// Remove deletes a container's log files. None is no error.
func (s *Service) Remove(c hull.Container) error {
	if c.ID == "" || strings.ContainsAny(c.ID, "/.") {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("remove log: invalid id %q", c.ID))
	}
	if err := os.RemoveAll(filepath.Join(s.dir, c.ID)); err != nil {
		return fmt.Errorf("remove log: %w", err)
	}
	return nil
}

// Sweep deletes the logs of containers that keep denies.
func (s *Service) Sweep(keep func(containerID string) bool) error {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sweep logs: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if !keep(e.Name()) {
			errs = append(errs, s.Remove(hull.Container{ID: e.Name()}))
		}
	}
	return errors.Join(errs...)
}

// Read opens a container's log. ended is closed when the run that writes it is
// over and all is written; nil when no run is on: then a follow ends at the end
// of the log. errdefs.ErrNotImplemented for a driver that cannot be read.
func (s *Service) Read(ctx context.Context, c hull.Container, r hull.LogsRequest, ended <-chan struct{}) (hull.LogReader, error) {
	set, err := s.settings(c.Spec.Log)
	if err != nil {
		return nil, err
	}
	if set.driver == logfile.None || set.remote() && set.noCache {
		return nil, errdefs.ErrNotImplemented.WithMessage("configured logging driver does not support reading")
	}
	log := family{path: s.path(c.ID, set.driver), files: set.maxFiles, json: set.driver == logfile.JSONFile}
	rd := newReader(ctx, s, log, r, ended)
	if err := rd.start(); err != nil {
		return nil, errors.Join(err, rd.Close())
	}
	return rd, nil
}

// family is the files of one log: the present one and the rotated ones.
type family struct {
	path  string
	files int  // at most so many
	json  bool // else local
}

func (f family) decoder() decoder {
	if f.json {
		return &jsonDecoder{}
	}
	return &localDecoder{}
}

// open opens all files, oldest first. What rotates or is compressed meanwhile is
// noticed and tried again, so that no part is missing or there twice.
func (f family) open() ([]*source, error) {
	for {
		var out []*source
		for i := f.files - 1; i >= 0; i-- {
			src, err := openSource(logfile.Old(f.path, i), i > 0)
			if err != nil {
				return nil, errors.Join(err, closeAll(out))
			}
			if src != nil {
				out = append(out, src)
			}
		}
		same, err := f.unchanged(out)
		if err != nil {
			return nil, errors.Join(err, closeAll(out))
		}
		if same {
			return out, nil
		}
		if err := closeAll(out); err != nil {
			return nil, err
		}
	}
}

// unchanged says whether the opened files are still the whole log. A rotation in
// the middle of opening them makes one be missed.
func (f family) unchanged(open []*source) (bool, error) {
	n := 0
	for i := f.files - 1; i >= 0; i-- {
		st, err := os.Stat(logfile.Old(f.path, i))
		if errors.Is(err, fs.ErrNotExist) && i > 0 {
			st, err = os.Stat(logfile.Old(f.path, i) + ".gz")
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("read log: %w", err)
		}
		if n == len(open) || !os.SameFile(st, open[n].info) {
			return false, nil
		}
		n++
	}
	return n == len(open), nil
}
