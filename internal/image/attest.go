package image

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// attestation is a manifest in an index that is about one of its images (how it was
// built, what it holds), with its parts. It is kept, pushed and saved beside the
// image, and never run.
type attestation struct {
	ocispec.Descriptor
	parts []ocispec.Descriptor
}

// isAttestation knows BuildKit's records about an image, which are not images.
func isAttestation(d ocispec.Descriptor) bool {
	return d.Annotations[annotationReferenceType] != "" || (d.Platform != nil && d.Platform.OS == "unknown")
}

// whole lists everything that an index speaks of, if all of it is here, so that it
// can be sent under the index's own digest. errdefs.ErrNotFound when it is not.
func (s *store) whole(ctx context.Context, target ocispec.Descriptor) (images []ocispec.Descriptor, about []attestation, err error) {
	b, err := s.readBlob(ctx, target, maxManifest)
	if err != nil {
		return nil, nil, err
	}
	idx, err := parseIndex(b, target.MediaType)
	if err != nil {
		return nil, nil, err
	}
	for _, d := range idx.Manifests {
		switch {
		case isAttestation(d):
			a, err := s.attestation(ctx, d)
			if err != nil {
				return nil, nil, err
			}
			about = append(about, a)
		case isManifest(d.MediaType):
			img, err := s.readImage(ctx, d)
			if err != nil {
				return nil, nil, err
			}
			for _, l := range img.manifest.Layers {
				if !s.hasBlob(ctx, l.Digest) {
					return nil, nil, fmt.Errorf("layer %s: %w", l.Digest, errdefs.ErrNotFound)
				}
			}
			images = append(images, d)
		default:
			return nil, nil, fmt.Errorf("%s in %s: %w", d.MediaType, target.Digest, errdefs.ErrNotFound)
		}
	}
	if len(images) == 0 {
		return nil, nil, fmt.Errorf("an image in %s: %w", target.Digest, errdefs.ErrNotFound)
	}
	return images, about, nil
}

// attestation reads one; errdefs.ErrNotFound when parts of it are not here.
func (s *store) attestation(ctx context.Context, d ocispec.Descriptor) (attestation, error) {
	a := attestation{Descriptor: d}
	b, err := s.readBlob(ctx, d, maxManifest)
	if err != nil {
		return a, err
	}
	if err := checkShape(b, d.MediaType); err != nil {
		return a, err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return a, badDocument("parse attestation", err)
	}
	if len(m.Layers) > maxLayers {
		return a, badDocument("attestation", fmt.Errorf("has %d parts, more than %d", len(m.Layers), maxLayers))
	}
	for _, p := range append(slices.Clone(m.Layers), m.Config) {
		if err := checkDescriptor(p); err != nil {
			return a, badDocument("attestation", err)
		}
		if !s.hasBlob(ctx, p.Digest) {
			return a, fmt.Errorf("part %s of attestation %s: %w", p.Digest, d.Digest, errdefs.ErrNotFound)
		}
		p.URLs = nil
		a.parts = append(a.parts, p)
	}
	return a, nil
}

// keepAttestation ties an attestation's parts to it, for the garbage collection.
func (s *store) keepAttestation(ctx context.Context, a attestation) error {
	labels := map[string]string{}
	for i, p := range a.parts {
		labels[refLabel("a", i)] = p.Digest.String()
	}
	return s.label(ctx, a.Digest, labels)
}
