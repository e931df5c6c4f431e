package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"hull/internal/hull"
)

// Disks are images as machines see them (block.go): copies that are made again when
// they are missed.
type Disks struct{ boxes *boxStore }

// DisksOf gives a service's.
func DisksOf(s *Service) Disks { return Disks{s.boxStore} }

// Usage is their disk space.
func (d Disks) Usage(context.Context) ([]hull.BuildCache, error) {
	d.boxes.boxMu.Lock()
	defer d.boxes.boxMu.Unlock()
	return d.usage()
}

// Prune removes those that no container stands on, and none has for a time.
func (d Disks) Prune(_ context.Context, unused time.Duration) (ids []string, bytes int64, err error) {
	// Held until they are gone: a container that is made afterwards looks for its disk
	// afterwards, too.
	d.boxes.boxMu.Lock()
	defer d.boxes.boxMu.Unlock()
	list, err := d.usage()
	for _, c := range list {
		if c.InUse || time.Since(*c.LastUsedAt) < unused {
			continue
		}
		if e := os.Remove(filepath.Join(d.boxes.blocks.dir, blockName(digest.Digest(c.ID)))); e != nil {
			err = errors.Join(err, fmt.Errorf("remove block image: %w", e))
			continue
		}
		ids, bytes = append(ids, c.ID), bytes+c.Size
	}
	return ids, bytes, err
}

func (d Disks) usage() ([]hull.BuildCache, error) {
	all, err := d.boxes.blocks.images()
	if err != nil {
		return nil, fmt.Errorf("size of block images: %w", err)
	}
	stands := map[digest.Digest]bool{}
	for _, b := range d.boxes.boxes {
		stands[b.chain] = true
	}
	var list []hull.BuildCache
	for _, chain := range all {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(d.boxes.blocks.dir, blockName(chain)), &st); err != nil {
			continue // it has gone meanwhile
		}
		used := time.Unix(st.Mtim.Unix())
		list = append(list, hull.BuildCache{
			ID: chain.String(), Type: "machine.disk", Description: "an image's layers as machines see them",
			InUse: stands[chain], Size: st.Blocks * 512, CreatedAt: used, LastUsedAt: &used,
		})
	}
	return list, nil
}
