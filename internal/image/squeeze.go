package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"hull/internal/image/packed"
)

// labelSqueezed is on a plain layer blob that was pushed: the digest of the
// compressed one, which is kept as long as the plain one is.
const labelSqueezed = "containerd.io/gc.ref.content.gzip"

// squeezed is the layer type of a plain layer when it is compressed, "" for one
// that is.
func squeezed(mediaType string) string {
	switch mediaType {
	case ocispec.MediaTypeImageLayer:
		return ocispec.MediaTypeImageLayerGzip
	case images.MediaTypeDockerSchema2Layer:
		return images.MediaTypeDockerSchema2LayerGzip
	}
	return ""
}

// squeeze is the manifest under which an image is pushed: plain layers (from
// docker load) are compressed, as a registry's users expect. The configuration,
// and so the image's id, stays. The same image always gives the same manifest.
func (s *Service) squeeze(ctx context.Context, d ocispec.Descriptor) (ocispec.Descriptor, error) {
	img, err := s.readImage(ctx, d)
	if err != nil {
		return d, err
	}
	m := img.manifest
	m.Layers = slices.Clone(m.Layers)
	g, gctx := errgroup.WithContext(ctx)
	// One is limited by the processor; two hide each other's reading.
	g.SetLimit(2)
	small := map[digest.Digest]*ocispec.Descriptor{} // by the plain digest; a layer may occur twice
	for i, l := range m.Layers {
		if squeezed(l.MediaType) == "" || l.Digest != img.config.RootFS.DiffIDs[i] || small[l.Digest] != nil {
			continue // a blob that is not its own content is compressed, whatever its type says
		}
		z := &ocispec.Descriptor{}
		small[l.Digest] = z
		g.Go(func() error {
			var err error
			if *z, err = s.squeezeLayer(gctx, l); err != nil {
				return fmt.Errorf("compress layer %s: %w", l.Digest, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil || len(small) == 0 {
		return d, err
	}
	for i := range m.Layers {
		l := &m.Layers[i]
		if z := small[l.Digest]; z != nil && squeezed(l.MediaType) != "" {
			l.MediaType, l.Digest, l.Size = squeezed(l.MediaType), z.Digest, z.Size
		}
	}
	b, err := json.Marshal(m)
	if err != nil {
		return d, fmt.Errorf("write image manifest: %w", err)
	}
	out := ocispec.Descriptor{MediaType: d.MediaType, Digest: digest.FromBytes(b), Size: int64(len(b)), Platform: d.Platform}
	return out, s.writeBlob(ctx, out, b, manifestLabels(m), "")
}

// squeezeLayer makes the compressed blob of a plain one, once.
func (s *Service) squeezeLayer(ctx context.Context, l ocispec.Descriptor) (ocispec.Descriptor, error) {
	info, err := s.content.Info(ctx, l.Digest)
	if err != nil {
		return l, err
	}
	if have, err := s.content.Info(ctx, digest.Digest(info.Labels[labelSqueezed])); err == nil {
		return ocispec.Descriptor{Digest: have.Digest, Size: have.Size}, nil
	}
	ra, err := s.content.ReaderAt(ctx, ocispec.Descriptor{Digest: l.Digest})
	if err != nil {
		return l, err
	}
	defer ra.Close()
	ref := fmt.Sprintf("squeeze-%s-%d", l.Digest.Encoded(), time.Now().UnixNano())
	w, err := content.OpenWriter(ctx, s.content, content.WithRef(ref))
	if err != nil {
		return l, err
	}
	defer w.Close()
	size := &countWriter{w: w}
	z, err := packed.NewPacker(size)
	if err != nil {
		return l, err
	}
	_, err = io.CopyBuffer(z, contextReader{ctx, content.NewReader(ra)}, make([]byte, 128<<10))
	if err = errors.Join(err, z.Close()); err != nil {
		return l, errors.Join(err, s.content.Abort(context.WithoutCancel(ctx), ref))
	}
	out := ocispec.Descriptor{Digest: w.Digest(), Size: size.n}
	note := content.WithLabels(map[string]string{labels.LabelUncompressed: l.Digest.String()})
	if err := w.Commit(ctx, out.Size, out.Digest, note); err != nil && !errdefs.IsAlreadyExists(err) {
		return l, err
	}
	return out, s.label(ctx, l.Digest, map[string]string{labelSqueezed: out.Digest.String()})
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context //nolint:containedctx // a reader has no parameter for it
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}
