package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/hull"
)

// Usage is the disk space of templates, which are made again when they are missed.
func (d *Driver) Usage(context.Context) ([]hull.BuildCache, error) { return d.templates.usage() }

// Prune removes templates that no machine has been made of for a time, and gives up
// the machine that is ready. Machines that run keep what they have mapped.
func (d *Driver) Prune(_ context.Context, unused time.Duration) (ids []string, bytes int64, err error) {
	d.spares.clear()
	return d.templates.prune(unused)
}

func (t *templates) usage() ([]hull.BuildCache, error) {
	all, err := os.ReadDir(t.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("size of templates: %w", err)
	}
	var list []hull.BuildCache
	for _, e := range all {
		if strings.HasPrefix(e.Name(), partial) {
			continue
		}
		if c, err := t.record(e.Name()); err == nil { // else it has gone meanwhile
			list = append(list, c)
		}
	}
	return list, nil
}

func (t *templates) record(key string) (c hull.BuildCache, err error) {
	var state, memory unix.Stat_t
	for name, st := range map[string]*unix.Stat_t{stateName: &state, memoryName: &memory} {
		if err := unix.Stat(filepath.Join(t.dir, key, name), st); err != nil {
			return c, err
		}
	}
	o, err := readOrigin(filepath.Join(t.dir, key))
	if err != nil {
		return c, err
	}
	used := time.Unix(state.Mtim.Unix())
	return hull.BuildCache{
		ID: key, Type: "machine.template", Description: fmt.Sprintf("machines of %d MiB with kernel %s start from it", memory.Size/mib, o.Kernel),
		Size: (state.Blocks + memory.Blocks) * 512, CreatedAt: time.Unix(memory.Mtim.Unix()), LastUsedAt: &used,
	}, nil
}

func (t *templates) prune(unused time.Duration) (ids []string, bytes int64, err error) {
	list, err := t.usage()
	for _, c := range list {
		if time.Since(*c.LastUsedAt) < unused {
			continue
		}
		if e := os.RemoveAll(filepath.Join(t.dir, c.ID)); e != nil {
			err = errors.Join(err, fmt.Errorf("remove template: %w", e))
			continue
		}
		ids, bytes = append(ids, c.ID), bytes+c.Size
	}
	return ids, bytes, err
}
