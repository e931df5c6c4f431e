package image

import (
	"context"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"

	"hull/internal/hull"
)

// Tag gives the image source another name.
func (s *Service) Tag(ctx context.Context, source, target string) error {
	ctx = s.ns(ctx)
	named, err := parseTarget(target)
	if err != nil {
		return err
	}
	if named == nil {
		return badReference(nil)
	}
	leave := s.gate.enter()
	defer leave()
	v := s.view.Load()
	entries, err := v.find(source)
	if err != nil {
		return err
	}
	e, err := s.choose(entries, source, "")
	if err != nil {
		return err
	}
	to := e.manifest
	// A name of several platforms stays one: its target is tagged, not one image.
	if n, err := reference.ParseNormalizedNamed(source); err == nil {
		if r, ok := v.names[tagName(reference.TagNameOnly(n))]; ok {
			to = r.target
		}
	}
	if err := s.tag(ctx, named.String(), to); err != nil {
		return err
	}
	if err := s.reload(ctx); err != nil {
		return err
	}
	s.publish("tag", e.img.ID, reference.FamiliarString(named))
	return nil
}

// History lists an image's history, newest first.
func (s *Service) History(_ context.Context, ref, platform string) ([]hull.HistoryItem, error) {
	v := s.view.Load()
	entries, err := v.find(ref)
	if err != nil {
		return nil, err
	}
	e, err := s.choose(entries, ref, platform)
	if err != nil {
		return nil, err
	}
	var list []hull.HistoryItem
	layer := 0
	for _, h := range e.history {
		i := hull.HistoryItem{ID: "<missing>", CreatedBy: h.CreatedBy, Comment: h.Comment}
		if h.Created != nil {
			i.Created = *h.Created
		}
		if !h.EmptyLayer {
			if layer >= len(e.chains) {
				return nil, say(errdefs.ErrDataLoss, "image %s: its history speaks of more layers than it has", e.img.ID)
			}
			if l, err := s.layers.Info(e.chains[layer]); err == nil {
				i.Size = l.Size
			}
			layer++
		}
		list = append([]hull.HistoryItem{i}, list...)
	}
	for i := range list {
		list[i].ID, list[i].Tags = e.img.ID, e.img.RepoTags
		if e = v.byID[digestOf(e.img.Parent)]; e == nil {
			break
		}
	}
	return list, nil
}
