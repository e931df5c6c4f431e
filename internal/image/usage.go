package image

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"

	"hull/internal/hull"
)

// Usage is the disk space of unpacked layers.
func (s *Service) Usage(context.Context) (hull.ImageUsage, error) {
	u := hull.ImageUsage{Size: map[string]int64{}, Shared: map[string]int64{}}
	size := map[digest.Digest]int64{}
	for _, l := range s.layers.List() {
		u.LayersSize += l.Size
		size[l.Chain] = l.Size
	}
	v := s.view.Load()
	users := map[digest.Digest]int{}
	for _, e := range v.all {
		for _, c := range e.chains {
			users[c]++
		}
	}
	for _, e := range v.all {
		u.Size[e.img.ID] = e.img.Size
		for _, c := range e.chains {
			if users[c] > 1 {
				u.Shared[e.img.ID] += size[c]
			}
		}
	}
	return u, nil
}

// blockRounding is what a file takes at most beyond its bytes.
const blockRounding = 4096

// Space is what images and the builder's snapshots take on the disk: blobs,
// unpacked layers, steps and cache mounts; not what containers write.
func (s *store) Space(ctx context.Context) (int64, error) {
	sum, err := s.steps.Space(ctx)
	if err != nil {
		return 0, err
	}
	for _, l := range s.layers.List() {
		sum += l.Size + l.Entries*blockRounding
	}
	err = s.content.Walk(s.ns(ctx), func(i content.Info) error {
		sum += i.Size + blockRounding
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("measure blobs: %w", err)
	}
	return sum, nil
}

// Space is the store's, and the images' copies for machines.
func (s *Service) Space(ctx context.Context) (int64, error) {
	sum, err := s.store.Space(ctx)
	if err != nil {
		return 0, err
	}
	disks, err := DisksOf(s).Usage(ctx)
	for _, d := range disks {
		sum += d.Size
	}
	return sum, err
}

// room says beforehand when the disk cannot even hold what is to be downloaded.
// What it takes unpacked is not known yet.
func (s *Service) room(need int64) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(s.cfg.Root, &st); err != nil {
		return fmt.Errorf("free space of %s: %w", s.cfg.Root, err)
	}
	if free := int64(st.Bavail) * st.Bsize; need > free { //nolint:gosec // disks are smaller than 8 EiB
		return fmt.Errorf("not enough disk space in %s: the layers to download take %s, and %s are free: %w",
			s.cfg.Root, units.HumanSize(float64(need)), units.HumanSize(float64(free)), errors.Join(syscall.ENOSPC, errdefs.ErrResourceExhausted))
	}
	return nil
}
