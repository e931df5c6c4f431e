package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"hull/internal/hull"
)

// What a foreign tree of documents may cost.
const (
	maxCopyDepth = 4
	maxCopyBlobs = 20_000
)

// Copy sends an image from one repository to another, all its platforms and what
// is said about them. Nothing is unpacked or kept; digests stay what they are.
func (s *Service) Copy(ctx context.Context, r hull.CopyRequest) error {
	ctx = s.ns(ctx)
	from, err := reference.ParseNormalizedNamed(r.Source)
	if err != nil {
		return badReference(err)
	}
	from = reference.TagNameOnly(from)
	to, err := reference.ParseNormalizedNamed(r.Target)
	if err != nil {
		return badReference(err)
	}
	if _, ok := to.(reference.Digested); ok {
		return say(errdefs.ErrInvalidArgument, "cannot copy to a digest: %s", reference.FamiliarString(to))
	}
	if t, ok := from.(reference.Tagged); ok && reference.IsNameOnly(to) {
		if to, err = reference.WithTag(to, t.Tag()); err != nil {
			return badReference(err)
		}
	}
	c := &copyJob{
		s: s, from: from, to: reference.TagNameOnly(to), tell: &teller{fn: r.Progress}, seen: map[digest.Digest]bool{},
		tracker: docker.NewInMemoryTracker(),
		target:  s.registry(ctx, reference.Domain(to), r.TargetAuth),
	}
	source := s.registry(ctx, reference.Domain(from), r.SourceAuth)
	_, root, err := source.Resolve(ctx, from.String())
	if err != nil {
		return remoteError(from, err)
	}
	if c.fetcher, err = source.Fetcher(ctx, from.String()); err != nil {
		return remoteError(from, err)
	}
	if root, err = c.choose(ctx, root, r.Platform); err != nil {
		return err
	}
	if err := c.walk(ctx, root, 0); err != nil {
		return err
	}
	if err := c.push(ctx, root, source); err != nil {
		return pushError(c.to, err)
	}
	return nil
}

// copyJob is one call of Copy.
type copyJob struct {
	s        *Service
	from, to reference.Named
	target   registry
	fetcher  remotes.Fetcher
	tracker  docker.StatusTracker
	tell     *teller
	seen     map[digest.Digest]bool
	blobs    []ocispec.Descriptor
	docs     []document // those that others speak of first
}

// document is a manifest or an index.
type document struct {
	ocispec.Descriptor
	bytes []byte
}

func (d document) open() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(d.bytes)), nil }

// read fetches a document and verifies it.
func (c *copyJob) read(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
	b, err := c.s.fetchDocument(ctx, c.fetcher, d, maxManifest)
	if err != nil {
		return nil, remoteError(c.from, err)
	}
	if len(b) > maxManifest {
		return nil, badDocument(d.Digest.String(), fmt.Errorf("is larger than %d bytes", maxManifest))
	}
	if got := d.Digest.Algorithm().FromBytes(b); got != d.Digest {
		return nil, badDocument(d.Digest.String(), &mismatchError{got})
	}
	return b, checkShape(b, d.MediaType)
}

// choose is the manifest of a platform, or everything.
func (c *copyJob) choose(ctx context.Context, d ocispec.Descriptor, platform string) (ocispec.Descriptor, error) {
	if platform == "" || !isIndex(d.MediaType) {
		return d, nil
	}
	want, err := c.s.platform(platform)
	if err != nil {
		return d, err
	}
	b, err := c.read(ctx, d)
	if err != nil {
		return d, err
	}
	idx, err := parseIndex(b, d.MediaType)
	if err != nil {
		return d, err
	}
	m, ok := pick(idx.Manifests, want)
	if !ok {
		return d, say(errdefs.ErrNotFound, "no matching manifest for %s in %s", platform, reference.FamiliarString(c.from))
	}
	return m, nil
}

// walk collects everything below a document, and last the document.
func (c *copyJob) walk(ctx context.Context, d ocispec.Descriptor, depth int) error {
	if err := checkDescriptor(d); err != nil {
		return badDocument(reference.FamiliarString(c.from), err)
	}
	if c.seen[d.Digest] {
		return nil
	}
	c.seen[d.Digest] = true
	if len(c.seen) > maxCopyBlobs {
		return badDocument(reference.FamiliarString(c.from), fmt.Errorf("has more than %d parts", maxCopyBlobs))
	}
	if !isIndex(d.MediaType) && !isManifest(d.MediaType) {
		c.blobs = append(c.blobs, d)
		return nil
	}
	if depth > maxCopyDepth {
		return badDocument(d.Digest.String(), errors.New("indexes are nested too deeply"))
	}
	b, err := c.read(ctx, d)
	if err != nil {
		return err
	}
	var all struct {
		Manifests []ocispec.Descriptor `json:"manifests"`
		Config    *ocispec.Descriptor  `json:"config"`
		Layers    []ocispec.Descriptor `json:"layers"`
	}
	if err := json.Unmarshal(b, &all); err != nil {
		return badDocument(d.Digest.String(), err)
	}
	parts := slices.Concat(all.Manifests, all.Layers)
	if all.Config != nil {
		parts = append(parts, *all.Config)
	}
	for _, p := range parts {
		p.URLs = nil // the registry has it, or nobody
		if err := c.walk(ctx, p, depth+1); err != nil {
			return err
		}
	}
	d.Size = int64(len(b))
	c.docs = append(c.docs, document{d, b})
	return nil
}

// push sends what was collected, and what others have said about it.
func (c *copyJob) push(ctx context.Context, root ocispec.Descriptor, source registry) error {
	c.tell.say("", fmt.Sprintf("Copying %s to %s", reference.FamiliarString(c.from), reference.FamiliarString(c.to)))
	resolver := docker.NewResolver(docker.ResolverOptions{Hosts: c.target.hosts, Tracker: c.tracker})
	if err := c.transfer(ctx, resolver, root, c.to.String()); err != nil {
		return err
	}
	more, err := c.about(ctx, source, resolver)
	if err != nil {
		return fmt.Errorf("signatures: %w", err)
	}
	if more > 0 {
		c.tell.say("", fmt.Sprintf("Signatures and the like: %d", more))
	}
	last := c.docs[len(c.docs)-1]
	tag := ""
	if t, ok := c.to.(reference.Tagged); ok {
		tag = t.Tag()
	}
	c.tell.say("", fmt.Sprintf("%s: digest: %s size: %d", tag, last.Digest, last.Size))
	c.tell.tell(hull.Progress{Aux: PushResult{Tag: tag, Digest: last.Digest.String(), Size: last.Size}})
	return nil
}

// transfer sends what was collected: blobs, documents by digest, root by name.
func (c *copyJob) transfer(ctx context.Context, resolver remotes.Resolver, root ocispec.Descriptor, name string) error {
	named, err := resolver.Pusher(ctx, name)
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(5)
	for _, b := range c.blobs {
		g.Go(func() error { return c.blob(gctx, named, b) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, d := range c.docs {
		to := named
		if d.Digest != root.Digest {
			if to, err = resolver.Pusher(ctx, c.to.Name()+"@"+d.Digest.String()); err != nil {
				return err
			}
		}
		if err := c.s.sendDocument(ctx, to, d.Descriptor, d.open); err != nil {
			return err
		}
	}
	return nil
}

// about sends what the source's registry holds about the documents that were
// copied: what cosign keeps in tags beside an image, and what refers to it.
func (c *copyJob) about(ctx context.Context, source registry, resolver remotes.Resolver) (n int, err error) {
	send := func(d ocispec.Descriptor, name string) error {
		e := *c
		e.blobs, e.docs = nil, nil
		if err := e.walk(ctx, d, 1); err != nil || len(e.docs) == 0 {
			return err // no document: it was sent before
		}
		n++
		return e.transfer(ctx, resolver, d, name)
	}
	for _, doc := range c.docs {
		for _, kind := range []string{".sig", ".att", ".sbom"} {
			tag := ":" + referrersTag(doc.Digest) + kind
			_, d, err := source.Resolve(ctx, c.from.Name()+tag)
			if errdefs.IsNotFound(err) {
				continue
			}
			if err != nil {
				return n, err
			}
			if err := send(d, c.to.Name()+tag); err != nil {
				return n, err
			}
		}
		list, err := c.s.referrers(ctx, c.fetcher, doc.Digest, "")
		if err != nil {
			return n, err
		}
		for _, d := range list {
			if err := send(d, c.to.Name()+"@"+d.Digest.String()); err != nil {
				return n, err
			}
			if err := c.s.linkReferrer(ctx, c.target, reference.TrimNamed(c.to), doc.Digest, d); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// blob has the registry mount a blob from the source's repository, when it is
// the same registry, or sends it through.
func (c *copyJob) blob(ctx context.Context, to remotes.Pusher, d ocispec.Descriptor) error {
	id := short(d.Digest.Encoded())
	at := d
	if host := reference.Domain(c.from); host == reference.Domain(c.to) {
		name, _, _ := strings.Cut(host, ":") // the library leaves the port out
		at.Annotations = map[string]string{labels.LabelDistributionSource + "." + name: reference.Path(c.from)}
	}
	pc := &pace{report: c.tell.tell, id: id, status: "Copying", total: d.Size}
	err := c.s.retry(ctx, func(ctx context.Context) (bool, error) {
		pc.at = 0
		ctx, touch, stop := watch(ctx, 6*c.s.cfg.Stall)
		defer stop()
		err := send(ctx, to, at, func() (io.ReadCloser, error) { return c.fetcher.Fetch(ctx, d) }, func(n int) { touch(); pc.add(n) })
		if errdefs.IsAlreadyExists(err) {
			return false, &localError{err}
		}
		if err != nil {
			err = cause(ctx, err)
		}
		return false, err
	})
	switch {
	case errdefs.IsAlreadyExists(err):
		st, serr := c.tracker.GetStatus(remotes.MakeRefKey(ctx, at))
		if serr == nil && st.MountedFrom != "" {
			c.tell.say(id, "Mounted from "+reference.Path(c.from))
		} else {
			c.tell.say(id, "Layer already exists")
		}
	case err != nil:
		return fmt.Errorf("copy %s: %w", d.Digest, err)
	default:
		c.tell.say(id, "Copied")
	}
	return nil
}
