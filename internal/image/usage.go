package image

import (
	"context"

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
