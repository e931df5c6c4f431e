package proc

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// meta is what a restarted engine must know of a container and the monitor need
// not: it lies in the run directory.
type meta struct {
	Cgroup string // path within the hierarchies
	Spec   *specs.Spec
}

const metaPrefix = "spec-"

func metaFile(dir, id string) string { return filepath.Join(dir, metaPrefix+id+".json") }

// writeMeta records a container. Seccomp and mounts, most of a specification,
// are of no use later: an exec brings its own profile.
func writeMeta(dir, id string, m meta) error {
	s := *m.Spec
	s.Mounts, s.Hooks = nil, nil
	if s.Linux != nil {
		l := *s.Linux
		l.Seccomp = nil
		s.Linux = &l
	}
	m.Spec = &s
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	path := metaFile(dir, id)
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func readMetas(dir string) (map[string]meta, error) {
	names, err := filepath.Glob(filepath.Join(dir, metaPrefix+"*.json"))
	if err != nil {
		return nil, err
	}
	metas := map[string]meta{}
	var errs []error
	for _, n := range names {
		b, err := os.ReadFile(n)
		var m meta
		if err == nil {
			err = json.Unmarshal(b, &m)
		}
		if err != nil || m.Cgroup == "" || m.Spec == nil {
			errs = append(errs, fmt.Errorf("read %s: %w", n, err))
			continue
		}
		id := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(n), metaPrefix), ".json")
		metas[id] = m
	}
	return metas, errors.Join(errs...)
}
