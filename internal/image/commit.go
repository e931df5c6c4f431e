package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"hull/internal/hull"
	"hull/internal/image/archive"
	"hull/internal/image/layers"
	"hull/internal/image/packed"
)

// Commit makes an image of the writable layer of container id. conf is the
// container's configuration; what the request says goes before it.
func (s *Service) Commit(ctx context.Context, id string, c hull.CommitRequest, conf hull.ImageConfig) (string, error) {
	ctx = s.ns(ctx)
	named, err := parseTarget(c.Ref)
	if err != nil {
		return "", err
	}
	b, err := s.box(id)
	if err != nil {
		return "", err
	}
	run := fromDomain(conf)
	if len(c.Config) > 0 && string(c.Config) != "null" {
		var over runConfig
		if err := json.Unmarshal(c.Config, &over); err != nil {
			return "", say(errdefs.ErrInvalidArgument, "invalid container configuration: %v", err)
		}
		run = mergeConfig(over, run)
	}
	if run, err = applyChanges(run, c.Changes); err != nil {
		return "", err
	}
	leave := s.gate.enter()
	defer leave()
	base, err := s.base(ctx, b)
	if err != nil {
		return "", err
	}
	next := draft{base: base, run: run, author: c.Author, comment: c.Comment, by: strings.Join(append(append([]string{}, conf.Entrypoint...), conf.Cmd...), " ")}
	upper, err := os.Open(filepath.Join(s.boxDir(id), "upper"))
	if err != nil {
		return "", fmt.Errorf("open writable layer: %w", err)
	}
	defer upper.Close()
	if !emptyDir(upper) {
		pr, pw := io.Pipe()
		go func() { pw.CloseWithError(archive.PackDiff(ctx, pw, upper)) }() //nolint:errcheck // never fails
		l, err := s.makeLayer(ctx, pr, b.chain)
		pr.CloseWithError(errOr(err, errUnpacked)) //nolint:errcheck // never fails
		if err != nil {
			return "", fmt.Errorf("commit container %s: %w", id, err)
		}
		next.layer = &l
	}
	return s.finish(ctx, next, named, "")
}

func emptyDir(d *os.File) bool {
	names, err := d.Readdirnames(1)
	return len(names) == 0 && errors.Is(err, io.EOF)
}

// parseTarget reads the name for a new image, nil for none.
func parseTarget(ref string) (reference.Named, error) {
	if ref == "" {
		return nil, nil //nolint:nilnil // no name is fine
	}
	n, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, badReference(err)
	}
	if _, ok := n.(reference.Digested); ok {
		return nil, say(errdefs.ErrInvalidArgument, "refusing to create a tag with a digest reference")
	}
	if reference.FamiliarName(n) == digest.Canonical.String() {
		return nil, say(errdefs.ErrInvalidArgument, "refusing to create an ambiguous tag using digest algorithm as name")
	}
	return reference.TagNameOnly(n), nil
}

// base is the image that a container stands on.
func (s *store) base(ctx context.Context, b box) (*parsed, error) {
	if b.manifest == "" {
		return &parsed{}, nil
	}
	for _, t := range []string{ocispec.MediaTypeImageManifest, mediaTypeDockerManifest} {
		p, err := s.readImage(ctx, ocispec.Descriptor{MediaType: t, Digest: b.manifest})
		if err == nil || !errdefs.IsInvalidArgument(err) {
			return p, err
		}
	}
	return nil, fmt.Errorf("image %s cannot be read: %w", b.manifest, errdefs.ErrDataLoss)
}

// newLayer is a layer that was made here.
type newLayer struct {
	desc  ocispec.Descriptor
	diff  digest.Digest
	chain digest.Digest
}

// makeLayer turns a tar into a layer on top of parent: it is packed into a blob,
// and unpacked into a directory, at once.
func (s *layerMaker) makeLayer(ctx context.Context, tar io.Reader, parent digest.Digest) (newLayer, error) {
	d, err := s.layers.New()
	if err != nil {
		return newLayer{}, err
	}
	l, info, err := s.fillLayer(ctx, d, tar, parent)
	if err != nil {
		return l, errors.Join(err, d.Discard())
	}
	return l, d.Commit(info)
}

func (s *layerMaker) fillLayer(ctx context.Context, d *layers.Draft, tar io.Reader, parent digest.Digest) (newLayer, layers.Info, error) {
	ref := fmt.Sprintf("make-%d", time.Now().UnixNano())
	w, err := content.OpenWriter(ctx, s.blobs, content.WithRef(ref))
	if err != nil {
		return newLayer{}, layers.Info{}, fmt.Errorf("store layer: %w", err)
	}
	defer w.Close()
	size := &countWriter{w: w}
	z, err := packed.NewPacker(size)
	if err != nil {
		return newLayer{}, layers.Info{}, fmt.Errorf("pack layer: %w", err)
	}
	pr, pw := io.Pipe()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		_, err := io.CopyBuffer(z, struct{ io.Reader }{pr}, make([]byte, 128<<10))
		pr.CloseWithError(err) //nolint:errcheck // never fails
		return errors.Join(err, z.Close())
	})
	var res archive.Result
	var diff digest.Digest
	g.Go(func() error {
		o := archive.Options{Limits: s.cfg.Limits, User: s.cfg.UserXattr, SkipOwner: s.cfg.SkipOwner}
		if parent != "" {
			t := layerTask{below: s.layers.Chain(parent)}
			o.Lower = func(ctx context.Context) ([]*os.File, error) { return s.openLower(ctx, t) }
		}
		var err error
		res, diff, err = s.cfg.Unpack(gctx, io.TeeReader(tar, pw), d.Root(), o)
		pw.CloseWithError(err) //nolint:errcheck // never fails; nil is EOF
		return err
	})
	err = g.Wait()
	l := newLayer{diff: diff}
	if err != nil {
		return l, layers.Info{}, errors.Join(err, s.blobs.Abort(context.WithoutCancel(ctx), ref))
	}
	l.desc = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: w.Digest(), Size: size.n}
	if err := w.Commit(ctx, size.n, l.desc.Digest); err != nil && !errdefs.IsAlreadyExists(err) {
		return l, layers.Info{}, fmt.Errorf("store layer: %w", err)
	}
	l.chain = l.diff
	if parent != "" {
		l.chain = identity.ChainID([]digest.Digest{parent, l.diff})
	}
	return l, layers.Info{Chain: l.chain, Parent: parent, Diff: l.diff, Size: res.Bytes, Entries: res.Entries}, nil
}

type countWriter struct {
	w io.Writer
	n int64
}

func (c *countWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// draft is an image to be made on top of another.
type draft struct {
	base     *parsed
	layer    *newLayer // nil = nothing was added
	run      runConfig
	author   string
	comment  string
	by       string // what made the layer
	platform *ocispec.Platform
}

// finish writes the new image's documents and names it.
func (s *Service) finish(ctx context.Context, d draft, named reference.Named, action string) (string, error) {
	now := time.Now().UTC()
	c := d.base.config
	if c.OS == "" {
		c.Platform = s.host
	}
	if d.platform != nil {
		c.Platform = *d.platform
	}
	c.Config, c.Created, c.Author, c.Comment = d.run, &now, d.author, d.comment
	c.RootFS.Type = "layers"
	c.RootFS.DiffIDs = append([]digest.Digest{}, c.RootFS.DiffIDs...)
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Layers: append([]ocispec.Descriptor{}, d.base.manifest.Layers...)}
	for i := range m.Layers {
		// An OCI manifest holds OCI types; the bytes are the same.
		m.Layers[i].MediaType = ociLayerType(m.Layers[i].MediaType)
	}
	m.SchemaVersion = 2
	if d.layer != nil {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, d.layer.diff)
		m.Layers = append(m.Layers, d.layer.desc)
	}
	c.History = append(append([]ocispec.History{}, c.History...), ocispec.History{
		Created: &now, CreatedBy: d.by, Author: d.author, Comment: d.comment, EmptyLayer: d.layer == nil,
	})
	raw, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("write image configuration: %w", err)
	}
	m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	mb, err := json.Marshal(m)
	if err != nil {
		return "", fmt.Errorf("write image manifest: %w", err)
	}
	p, err := assemble(m, raw)
	if err != nil {
		return "", err
	}
	labels := configLabels(p)
	if d.base.manifest.Config.Digest != "" {
		labels[labelParent] = d.base.manifest.Config.Digest.String()
	}
	target := ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(mb), Size: int64(len(mb))}
	if err := s.writeBlob(ctx, m.Config, raw, labels, ""); err != nil {
		return "", err
	}
	if err := s.writeBlob(ctx, target, mb, manifestLabels(m), ""); err != nil {
		return "", err
	}
	if named != nil {
		err = s.tag(ctx, named.String(), target)
	} else {
		err = s.keepNameless(ctx, target)
	}
	if err != nil {
		return "", err
	}
	if err := s.reload(ctx); err != nil {
		return "", err
	}
	id := m.Config.Digest.String()
	if action != "" {
		s.publish(action, id, "")
	}
	if named != nil {
		s.publish("tag", id, reference.FamiliarString(named))
	}
	return id, nil
}
