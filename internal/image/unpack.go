package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hull/internal/image/archive"
	"hull/internal/image/layers"
)

// layerMaker makes unpacked layers.
type layerMaker struct {
	cfg      Config
	writable *boxStore
	layers   *layers.Store
	blobs    content.Store
}

// layerTask is one layer to unpack.
type layerTask struct {
	blob  ocispec.Descriptor
	diff  digest.Digest
	chain digest.Digest
	below []digest.Digest // chain ids below, topmost first
}

// unpackLayer reads a layer from r and gives it its place, when its tar's digest
// is the one that the configuration names.
func (s *layerMaker) unpackLayer(ctx context.Context, t layerTask, r io.Reader) error {
	d, err := s.layers.New()
	if err != nil {
		return err
	}
	info, err := s.unpackInto(ctx, d, t, r)
	if err != nil {
		return errors.Join(err, d.Discard())
	}
	// A layer is there only when those below it are: whoever finds it may use it.
	if len(t.below) > 0 {
		if err := s.layers.Wait(ctx, t.below[0]); err != nil {
			return errors.Join(err, d.Discard())
		}
	}
	return d.Commit(info)
}

func (s *layerMaker) unpackInto(ctx context.Context, d *layers.Draft, t layerTask, r io.Reader) (layers.Info, error) {
	o := archive.Options{Limits: s.cfg.Limits, User: s.cfg.UserXattr, SkipOwner: s.cfg.SkipOwner, Packed: true}
	if len(t.below) > 0 {
		o.Lower = func(ctx context.Context) ([]*os.File, error) { return s.openLower(ctx, t) }
	}
	res, got, err := s.cfg.Unpack(ctx, r, d.Root(), o)
	if err != nil {
		return layers.Info{}, fmt.Errorf("unpack layer %s: %w", t.blob.Digest, err)
	}
	if got != t.diff {
		return layers.Info{}, fmt.Errorf("layer %s: its content has the digest %s where the image says %s: %w", t.blob.Digest, got, t.diff, errdefs.ErrDataLoss)
	}
	info := layers.Info{Chain: t.chain, Diff: t.diff, Size: res.Bytes, Entries: res.Entries}
	if len(t.below) > 0 {
		info.Parent = t.below[0]
	}
	return info, nil
}

// openLower waits for the layers below and opens them, for the caller to close.
func (s *layerMaker) openLower(ctx context.Context, t layerTask) ([]*os.File, error) {
	if err := s.layers.Wait(ctx, t.below[0]); err != nil {
		return nil, err
	}
	var list []*os.File
	for _, c := range t.below {
		f, err := os.Open(s.layers.Path(c))
		if err != nil {
			for _, l := range list {
				l.Close()
			}
			return nil, fmt.Errorf("open layer %s: %w", c, err)
		}
		list = append(list, f)
	}
	return list, nil
}

// ready makes sure that all layers below a writable layer are there, and unpacks
// what is missing from the image's blobs: after a power cut tore some.
func (s *Service) ready(ctx context.Context, b box) error {
	if s.layers.Whole(b.chain) {
		return nil
	}
	ctx = s.ns(ctx)
	p, err := s.base(ctx, b)
	if err != nil {
		return fmt.Errorf("unpack image again: %w", err)
	}
	for _, t := range tasks(p) {
		if s.layers.Has(t.chain) {
			continue
		}
		s.log.Warn("layer is missing, unpacking it again", "layer", t.chain, "blob", t.blob.Digest)
		ra, err := s.content.ReaderAt(ctx, t.blob)
		if err != nil {
			return fmt.Errorf("unpack image again: read layer %s: %w", t.blob.Digest, err)
		}
		err = s.unpackLayer(ctx, t, content.NewReader(ra))
		if err = errors.Join(err, ra.Close()); err != nil {
			return fmt.Errorf("unpack image again: %w", err)
		}
	}
	return nil
}

// mounted is the writable layer of container id with all that it stands on.
func (s *Service) mounted(ctx context.Context, id string) (box, error) {
	b, err := s.box(id)
	if err != nil {
		return b, err
	}
	leave := s.gate.enter()
	defer leave()
	return b, s.ready(ctx, b)
}

// tasks lists the layers of an image, lowest first.
func tasks(p *parsed) []layerTask {
	list := make([]layerTask, len(p.chains))
	for i, c := range p.chains {
		list[i] = layerTask{blob: p.manifest.Layers[i], diff: p.config.RootFS.DiffIDs[i], chain: c}
		for j := i - 1; j >= 0; j-- {
			list[i].below = append(list[i].below, p.chains[j])
		}
	}
	return list
}
