package image

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"sync/atomic"

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
	in := &counter{r: r}
	dec, kind, err := archive.Decompress(in)
	if err != nil {
		return layers.Info{}, fmt.Errorf("layer %s: %w", t.blob.Digest, err)
	}
	defer dec.Close()
	o := archive.Options{Limits: s.cfg.Limits, User: s.cfg.UserXattr, SkipOwner: s.cfg.SkipOwner}
	if kind != archive.None {
		o.Compressed = in.n.Load
	}
	if len(t.below) > 0 {
		o.Lower = func(ctx context.Context) ([]*os.File, error) { return s.openLower(ctx, t) }
	}
	sum := newHasher(digest.SHA256)
	// The tar reader asks for 512 bytes at a time; the hasher is to get blocks.
	res, err := archive.Unpack(ctx, bufio.NewReaderSize(io.TeeReader(dec, sum), 128<<10), d.Root(), o)
	got := sum.digest()
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

// counter counts what was read.
type counter struct {
	r io.Reader
	n atomic.Int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// hasher computes a digest in a goroutine of its own, so that hashing and
// unpacking share the work between cores.
type hasher struct {
	h    hash.Hash
	full chan []byte
	free chan []byte
	done chan struct{}
}

func newHasher(a digest.Algorithm) *hasher {
	h := &hasher{h: a.Hash(), full: make(chan []byte, 4), free: make(chan []byte, 4), done: make(chan struct{})}
	for range 4 {
		h.free <- nil
	}
	go func() {
		defer close(h.done)
		for b := range h.full {
			h.h.Write(b)
			h.free <- b[:0]
		}
	}()
	return h
}

func (h *hasher) Write(p []byte) (int, error) {
	b := <-h.free
	h.full <- append(b, p...)
	return len(p), nil
}

// digest ends the goroutine and gives the sum. It is called once.
func (h *hasher) digest() digest.Digest {
	close(h.full)
	<-h.done
	return digest.NewDigest(digest.SHA256, h.h)
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
