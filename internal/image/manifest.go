package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// What foreign documents may cost.
const (
	maxManifest = 4 << 20 // bytes; registries refuse more
	maxConfig   = 8 << 20 // bytes
	maxLayers   = 480     // the kernel's overlay takes 500
	maxIndex    = 1000    // manifests in one index
)

// badDocument is the error for a manifest, index or configuration that is wrong.
func badDocument(what string, err error) error {
	return fmt.Errorf("%s: %w", what, errors.Join(err, errdefs.ErrInvalidArgument))
}

const mediaTypeDockerManifest = images.MediaTypeDockerSchema2Manifest

// digestOf is the digest a string holds; a bad one names nothing.
func digestOf(s string) digest.Digest { return digest.Digest(s) }

// ociLayerType is the OCI name of a Docker layer type.
func ociLayerType(t string) string {
	switch t {
	case images.MediaTypeDockerSchema2Layer:
		return ocispec.MediaTypeImageLayer
	case images.MediaTypeDockerSchema2LayerGzip:
		return ocispec.MediaTypeImageLayerGzip
	case images.MediaTypeDockerSchema2LayerZstd:
		return ocispec.MediaTypeImageLayerZstd
	}
	return t
}

// isIndex and isManifest know the OCI and the Docker media types.
func isIndex(mediaType string) bool { return images.IsIndexType(mediaType) }

func isManifest(mediaType string) bool { return images.IsManifestType(mediaType) }

// shape is what a document's own fields say it is. A document that can be read
// as both an index and a manifest is refused: two readers would see two images
// behind one digest (CVE-2021-41190).
func checkShape(b []byte, mediaType string) error {
	var d struct {
		MediaType string          `json:"mediaType"`
		Schema    int             `json:"schemaVersion"`
		Config    json.RawMessage `json:"config"`
		Layers    json.RawMessage `json:"layers"`
		Manifests json.RawMessage `json:"manifests"`
		FSLayers  json.RawMessage `json:"fsLayers"`
	}
	if err := json.Unmarshal(b, &d); err != nil {
		return badDocument("parse manifest", err)
	}
	switch {
	case d.Schema == 1 || len(d.FSLayers) > 0:
		return badDocument("manifest", errors.New("Docker image manifest version 1 is no longer supported; push the image again with a current tool")) //nolint:staticcheck // a name begins it
	case d.MediaType != "" && d.MediaType != mediaType:
		return badDocument("manifest", fmt.Errorf("says it is %q and was sent as %q", d.MediaType, mediaType))
	case isIndex(mediaType) && (len(d.Layers) > 0 || len(d.Config) > 0):
		return badDocument("image index", errors.New("holds layers or a configuration"))
	case isManifest(mediaType) && len(d.Manifests) > 0:
		return badDocument("image manifest", errors.New("holds manifests"))
	}
	return nil
}

// parseIndex reads an image index or a manifest list.
func parseIndex(b []byte, mediaType string) (ocispec.Index, error) {
	var i ocispec.Index
	if err := checkShape(b, mediaType); err != nil {
		return i, err
	}
	if err := json.Unmarshal(b, &i); err != nil {
		return i, badDocument("parse image index", err)
	}
	if len(i.Manifests) > maxIndex {
		return i, badDocument("image index", fmt.Errorf("has %d manifests, more than %d", len(i.Manifests), maxIndex))
	}
	for _, d := range i.Manifests {
		if err := checkDescriptor(d); err != nil {
			return i, badDocument("image index", err)
		}
	}
	return i, nil
}

// parseManifest reads an image manifest.
func parseManifest(b []byte, mediaType string) (ocispec.Manifest, error) {
	var m ocispec.Manifest
	if err := checkShape(b, mediaType); err != nil {
		return m, err
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, badDocument("parse image manifest", err)
	}
	if len(m.Layers) > maxLayers {
		return m, badDocument("image manifest", fmt.Errorf("has %d layers, more than %d", len(m.Layers), maxLayers))
	}
	for _, d := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		if err := checkDescriptor(d); err != nil {
			return m, badDocument("image manifest", err)
		}
	}
	if !images.IsConfigType(m.Config.MediaType) {
		return m, badDocument("image manifest", fmt.Errorf("its configuration is %q: it is an artifact and not a container image", m.Config.MediaType))
	}
	if m.Config.Size > maxConfig {
		return m, badDocument("image manifest", fmt.Errorf("its configuration of %d bytes is too large", m.Config.Size))
	}
	// A layer that is "elsewhere" would have us ask any address for it
	// (CVE-2020-15157); the registry has it or nobody.
	m.Config.URLs = nil
	for i, l := range m.Layers {
		m.Layers[i].URLs = nil
		if !images.IsLayerType(l.MediaType) {
			return m, badDocument("image manifest", fmt.Errorf("layer %s is %q, which is no layer", l.Digest, l.MediaType))
		}
	}
	return m, nil
}

func checkDescriptor(d ocispec.Descriptor) error {
	if err := d.Digest.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w", d.Digest, err)
	}
	if d.Size < 0 {
		return fmt.Errorf("%s has the negative size %d", d.Digest, d.Size)
	}
	return nil
}

// parseConfig reads an image configuration and checks what the rest relies on.
func parseConfig(b []byte) (imageConfig, error) {
	var c imageConfig
	if err := json.Unmarshal(b, &c); err != nil {
		return c, badDocument("parse image configuration", err)
	}
	if len(c.RootFS.DiffIDs) > maxLayers {
		return c, badDocument("image configuration", fmt.Errorf("has %d layers, more than %d", len(c.RootFS.DiffIDs), maxLayers))
	}
	for _, d := range c.RootFS.DiffIDs {
		if err := d.Validate(); err != nil {
			return c, badDocument("image configuration", fmt.Errorf("layer digest %q: %w", d, err))
		}
	}
	return c, nil
}

// readBlob reads a small blob whole.
func (s *store) readBlob(ctx context.Context, d ocispec.Descriptor, limit int64) ([]byte, error) {
	ra, err := s.content.ReaderAt(ctx, ocispec.Descriptor{Digest: d.Digest})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", d.Digest, err)
	}
	defer ra.Close()
	if ra.Size() > limit {
		return nil, badDocument(string(d.Digest), fmt.Errorf("%d bytes are too large", ra.Size()))
	}
	b := make([]byte, ra.Size())
	if _, err := io.ReadFull(content.NewReader(ra), b); err != nil {
		return nil, fmt.Errorf("read %s: %w", d.Digest, err)
	}
	return b, nil
}

// hasBlob says whether content d is here.
func (s *store) hasBlob(ctx context.Context, d digest.Digest) bool {
	_, err := s.content.Info(ctx, d)
	return err == nil
}

// annotationReferenceType is on manifests in an index that are about another of
// its manifests (BuildKit's attestations).
const annotationReferenceType = "vnd.docker.reference.type"

// manifestsOf lists the image manifests that a target stands for, in its order.
// Nested indexes are followed a little way; those not here are left out.
func (s *store) manifestsOf(ctx context.Context, target ocispec.Descriptor, depth int) ([]ocispec.Descriptor, error) {
	if isManifest(target.MediaType) {
		return []ocispec.Descriptor{target}, nil
	}
	if !isIndex(target.MediaType) || depth > 3 {
		return nil, badDocument(string(target.Digest), fmt.Errorf("%q is neither an image manifest nor an index", target.MediaType))
	}
	b, err := s.readBlob(ctx, target, maxManifest)
	if err != nil {
		return nil, err
	}
	idx, err := parseIndex(b, target.MediaType)
	if err != nil {
		return nil, err
	}
	var list []ocispec.Descriptor
	for _, d := range idx.Manifests {
		switch {
		case d.Annotations[annotationReferenceType] != "":
			// About an image (provenance, SBOM), and none.
		case isManifest(d.MediaType):
			list = append(list, d)
		case isIndex(d.MediaType) && s.hasBlob(ctx, d.Digest):
			more, err := s.manifestsOf(ctx, d, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, more...)
		}
	}
	return list, nil
}

// assemble brings a manifest and its configuration together and checks that
// they fit.
func assemble(m ocispec.Manifest, raw []byte) (*parsed, error) {
	c, err := parseConfig(raw)
	if err != nil {
		return nil, err
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) {
		return nil, badDocument("image", fmt.Errorf("manifest has %d layers, and the configuration %d", len(m.Layers), len(c.RootFS.DiffIDs)))
	}
	return &parsed{manifest: m, config: c, raw: raw, chains: identity.ChainIDs(slices.Clone(c.RootFS.DiffIDs))}, nil
}
