package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"hull/internal/hull"
	"hull/internal/image/packed"
	"hull/internal/linux"
)

// Pull fetches an image, unpacks it, and names it.
func (s *Service) Pull(ctx context.Context, r hull.PullRequest) (hull.Image, error) {
	defer s.cfg.Busy()()
	named, err := reference.ParseNormalizedNamed(r.Ref)
	if err != nil {
		return hull.Image{}, badReference(err)
	}
	want, err := s.platform(r.Platform)
	if err != nil {
		return hull.Image{}, err
	}
	t := &teller{fn: r.Progress}
	if !r.All {
		return s.pull(ctx, reference.TagNameOnly(named), want, r, t)
	}
	if !reference.IsNameOnly(named) {
		return hull.Image{}, say(errdefs.ErrInvalidArgument, "tag can't be used with --all-tags/-a")
	}
	tags, err := s.tags(ctx, named, r.Auth)
	if err != nil {
		return hull.Image{}, err
	}
	var last hull.Image
	for _, tag := range tags {
		tagged, err := reference.WithTag(named, tag)
		if err != nil {
			return last, badReference(err)
		}
		if last, err = s.pull(ctx, tagged, want, r, t); err != nil {
			return last, err
		}
	}
	return last, nil
}

// pull fetches one reference.
func (s *Service) pull(ctx context.Context, named reference.Named, want ocispec.Platform, r hull.PullRequest, t *teller) (hull.Image, error) {
	ctx = s.ns(ctx)
	leave := s.gate.enter()
	defer leave()
	reg := s.registry(ctx, reference.Domain(named), r.Auth)
	// The registry is asked for the digest only when there is one: the tag beside
	// it may have moved.
	ask := named
	if c, ok := named.(reference.Canonical); ok {
		var err error
		if ask, err = reference.WithDigest(reference.TrimNamed(named), c.Digest()); err != nil {
			return hull.Image{}, badReference(err)
		}
	}
	_, target, err := reg.Resolve(ctx, ask.String())
	if err != nil {
		return hull.Image{}, remoteError(named, err)
	}
	// What was judged is fetched by its digest: a tag that moves meanwhile changes nothing.
	signatures, err := s.admitRemote(ctx, named, target, reg)
	if err != nil {
		return hull.Image{}, err
	}
	tag := "latest"
	switch n := named.(type) {
	case reference.Tagged:
		tag = n.Tag()
	case reference.Digested:
		tag = n.Digest().String()
	}
	t.say(tag, "Pulling from "+reference.Path(named))
	fetcher, err := reg.Fetcher(ctx, ask.String())
	if err != nil {
		return hull.Image{}, remoteError(named, err)
	}
	p := &puller{s: s, named: named, ref: ask.String(), fetcher: fetcher, tell: t}
	before := s.view.Load().names[tagName(named)].target.Digest
	manifest, err := p.documents(ctx, target, want, r.Platform != "")
	if err != nil {
		return hull.Image{}, err
	}
	img, err := p.image(ctx, manifest)
	if err != nil {
		if !worthRetry(err) || errdefs.IsDataLoss(err) || errdefs.IsResourceExhausted(err) {
			s.collect(ctx) // what came of it is of no use; what a network broke off is
		}
		return hull.Image{}, err
	}
	if err := s.keepSigned(ctx, target.Digest, signatures); err != nil {
		return hull.Image{}, err
	}
	if err := s.name(ctx, named, target); err != nil {
		return hull.Image{}, err
	}
	t.say("", "Digest: "+target.Digest.String())
	if before == target.Digest {
		t.say("", "Status: Image is up to date for "+reference.FamiliarString(named))
	} else {
		t.say("", "Status: Downloaded newer image for "+reference.FamiliarString(named))
	}
	s.publish("pull", reference.FamiliarString(named), reference.FamiliarName(named))
	e := s.view.Load().byID[img.manifest.Config.Digest]
	if e == nil {
		return hull.Image{}, fmt.Errorf("image %s vanished while it was pulled: %w", named, errdefs.ErrNotFound)
	}
	return e.snapshot(s.store), nil
}

// tagName is the name under which a pull of n is recorded.
func tagName(n reference.Named) string {
	if c, ok := n.(reference.Canonical); ok {
		if only, err := reference.WithDigest(reference.TrimNamed(n), c.Digest()); err == nil {
			return only.String()
		}
	}
	return n.String()
}

// name records n -> target, and repository@digest -> target beside it, as
// Docker's reference store does. An image that loses its last name by that stays
// as a dangling one.
func (s *store) name(ctx context.Context, n reference.Named, target ocispec.Descriptor) error {
	byDigest, err := reference.WithDigest(reference.TrimNamed(n), target.Digest)
	if err != nil {
		return badReference(err)
	}
	if _, ok := n.(reference.Tagged); ok {
		if _, ok := n.(reference.Digested); !ok {
			if err := s.tag(ctx, n.String(), target); err != nil {
				return err
			}
		}
	}
	if err := s.setName(ctx, byDigest.String(), target); err != nil {
		return err
	}
	return s.reload(ctx)
}

// tag points a tag at target; what the tag named before must not become garbage
// by that.
func (s *store) tag(ctx context.Context, name string, target ocispec.Descriptor) error {
	v := s.view.Load()
	if old, ok := v.names[name]; ok && old.target.Digest != target.Digest {
		if err := s.setName(ctx, danglingPrefix+old.target.Digest.String(), old.target); err != nil {
			return err
		}
	}
	if err := s.setName(ctx, name, target); err != nil {
		return err
	}
	return s.dropName(ctx, danglingPrefix+target.Digest.String())
}

// puller fetches one image.
type puller struct {
	s       *Service
	named   reference.Named
	ref     string
	fetcher remotes.Fetcher
	tell    *teller
}

// documents fetches the index, if it is one, and the manifest for the platform,
// and checks both.
func (p *puller) documents(ctx context.Context, target ocispec.Descriptor, want ocispec.Platform, must bool) (ocispec.Descriptor, error) {
	for range 4 {
		if isManifest(target.MediaType) {
			return target, nil
		}
		if !isIndex(target.MediaType) {
			return target, badDocument(p.named.String(), fmt.Errorf("media type %q is no image", target.MediaType))
		}
		b, err := p.document(ctx, target, maxManifest)
		if err != nil {
			return target, err
		}
		idx, err := parseIndex(b, target.MediaType)
		if err != nil {
			return target, err
		}
		next, ok := pick(idx.Manifests, want)
		if !ok {
			return target, say(errdefs.ErrNotFound, "no matching manifest for %s in the manifest list entries", platforms.FormatAll(want))
		}
		if err := p.store(ctx, target, b, map[string]string{refLabel("m", 0): next.Digest.String()}); err != nil {
			return target, err
		}
		target = next
	}
	return target, badDocument(p.named.String(), errors.New("indexes are nested too deeply"))
}

// pick chooses the manifest for a platform from an index.
func pick(list []ocispec.Descriptor, want ocispec.Platform) (ocispec.Descriptor, bool) {
	m := platforms.Only(want)
	var found *ocispec.Descriptor
	for i, d := range list {
		if d.Platform == nil || !(isManifest(d.MediaType) || isIndex(d.MediaType)) || !m.Match(*d.Platform) {
			continue
		}
		if found == nil || m.Less(*d.Platform, *found.Platform) {
			found = &list[i]
		}
	}
	if found == nil && len(list) == 1 && list[0].Platform == nil {
		found = &list[0] // a list of one that does not say: the configuration will
	}
	if found == nil {
		return ocispec.Descriptor{}, false
	}
	return *found, true
}

func refLabel(kind string, i int) string {
	return fmt.Sprintf("containerd.io/gc.ref.content.%s.%d", kind, i)
}

// document fetches a small blob and checks its digest.
func (p *puller) document(ctx context.Context, d ocispec.Descriptor, limit int64) ([]byte, error) {
	if d.Size > limit {
		return nil, badDocument(d.Digest.String(), fmt.Errorf("%d bytes are too large", d.Size))
	}
	if p.s.hasBlob(ctx, d.Digest) {
		return p.s.readBlob(ctx, d, limit)
	}
	b, err := p.s.fetchDocument(ctx, p.fetcher, d, limit)
	if err != nil {
		return nil, remoteError(p.named, err)
	}
	if got := d.Digest.Algorithm().FromBytes(b); got != d.Digest {
		return nil, fmt.Errorf("registry sent %s for %s: digest mismatch: %w", got, d.Digest, errdefs.ErrDataLoss)
	}
	return b, nil
}

// store keeps a document that was read and checked.
func (p *puller) store(ctx context.Context, d ocispec.Descriptor, b []byte, labels map[string]string) error {
	d.Size = int64(len(b))
	return p.s.writeBlob(ctx, d, b, labels, p.ref)
}

// image fetches everything of a manifest, and unpacks the layers, all at a time.
func (p *puller) image(ctx context.Context, d ocispec.Descriptor) (*parsed, error) {
	b, err := p.document(ctx, d, maxManifest)
	if err != nil {
		return nil, err
	}
	m, err := parseManifest(b, d.MediaType)
	if err != nil {
		return nil, err
	}
	raw, err := p.document(ctx, m.Config, maxConfig)
	if err != nil {
		return nil, err
	}
	img, err := assemble(m, raw)
	if err != nil {
		return nil, err
	}
	// What refers is stored before what it refers to: nothing can be collected
	// while this pull is inside the gate, and after a crash the parts found again
	// by the next pull are fetched no second time.
	if err := p.store(ctx, m.Config, raw, configLabels(img)); err != nil {
		return nil, err
	}
	if err := p.store(ctx, d, b, manifestLabels(m)); err != nil {
		return nil, err
	}
	return img, p.layers(ctx, img)
}

// layers fetches and unpacks every layer. When none is missing it says nothing of
// them, as Docker.
func (p *puller) layers(ctx context.Context, img *parsed) error {
	list := tasks(img)
	missing, need := 0, int64(0)
	for _, t := range list {
		has := p.s.hasBlob(ctx, t.blob.Digest)
		if has && p.s.layers.Has(t.chain) {
			continue
		}
		missing++
		if !has {
			need += t.blob.Size
		}
		p.tell.say(short(t.blob.Digest.Encoded()), "Pulling fs layer")
	}
	if missing == 0 {
		return nil
	}
	if err := p.s.room(need); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(p.s.cfg.Downloads)
	for _, t := range list {
		g.Go(func() error {
			return p.s.flights.do(ctx, t.chain.String()+t.blob.Digest.String(), p.tell.tell, func(ctx context.Context, report func(hull.Progress)) error {
				return p.layer(ctx, t, report)
			})
		})
	}
	return g.Wait()
}

// layer brings one layer: its blob into the content store, its files into the
// layer store. What an earlier process had begun and is found to be wrong is
// fetched again from the start, once.
func (p *puller) layer(ctx context.Context, t layerTask, report func(hull.Progress)) error {
	ctx = p.s.ns(ctx)
	id := short(t.blob.Digest.Encoded())
	resumed, err := p.fetch(ctx, t, id, report)
	var bad *mismatchError
	if resumed && errors.As(err, &bad) {
		_, err = p.fetch(ctx, t, id, report)
	}
	return err
}

// fetch does what layer says. A fresh blob is unpacked while it comes; one that
// was begun by an earlier process is completed first.
func (p *puller) fetch(ctx context.Context, t layerTask, id string, report func(hull.Progress)) (resumed bool, err error) {
	unpacked := p.s.layers.Has(t.chain)
	// It waits for one that is being given up at this moment.
	w, err := content.OpenWriter(ctx, p.s.content, content.WithRef(blobRef(t.blob)), content.WithDescriptor(t.blob))
	switch {
	case errdefs.IsAlreadyExists(err):
		if unpacked {
			report(hull.Progress{ID: id, Status: "Already exists"})
			return false, nil
		}
		return false, p.fromStore(ctx, t, id, report)
	case err != nil:
		return false, fmt.Errorf("store layer %s: %w", t.blob.Digest, err)
	}
	defer w.Close()
	st, err := w.Status()
	if err != nil {
		return false, fmt.Errorf("store layer %s: %w", t.blob.Digest, err)
	}
	if st.Offset == 0 && !unpacked {
		return false, p.stream(ctx, t, w, id, report)
	}
	if err := p.download(ctx, t.blob, w, st.Offset, nil, id, report); err != nil {
		return st.Offset > 0, err
	}
	if unpacked {
		report(hull.Progress{ID: id, Status: "Pull complete"})
		return true, nil
	}
	return true, p.fromStore(ctx, t, id, report)
}

// blobRef names a download in the content store.
func blobRef(d ocispec.Descriptor) string { return "blob-" + d.Digest.String() }

// stream downloads and unpacks at once. When what comes cannot be unpacked the
// rest of it is still fetched, to tell a transfer that went wrong from a layer
// that is; not so when it is too large.
func (p *puller) stream(ctx context.Context, t layerTask, w content.Writer, id string, report func(hull.Progress)) error {
	pr, pw := io.Pipe()
	g, gctx := errgroup.WithContext(ctx)
	var unpack error
	g.Go(func() error {
		err := p.download(gctx, t.blob, w, 0, pw, id, report)
		pw.CloseWithError(err) //nolint:errcheck // never fails
		if err == nil {
			report(hull.Progress{ID: id, Status: "Extracting", Current: t.blob.Size, Total: t.blob.Size})
		}
		return err
	})
	g.Go(func() error {
		src := packed.Ahead(pr)
		unpack = p.s.unpackLayer(gctx, t, src)
		if errdefs.IsInvalidArgument(unpack) || errdefs.IsDataLoss(unpack) {
			_, err := io.Copy(io.Discard, src)
			return errors.Join(err, src.Close())
		}
		pr.CloseWithError(errOr(unpack, errUnpacked)) //nolint:errcheck // never fails
		return errors.Join(unpack, src.Close())
	})
	if err := errOr(g.Wait(), unpack); err != nil {
		return err
	}
	report(hull.Progress{ID: id, Status: "Pull complete"})
	return nil
}

// fromStore unpacks a layer whose blob is here.
func (p *puller) fromStore(ctx context.Context, t layerTask, id string, report func(hull.Progress)) error {
	ra, err := p.s.content.ReaderAt(ctx, t.blob)
	if err != nil {
		return fmt.Errorf("read layer %s: %w", t.blob.Digest, err)
	}
	defer ra.Close()
	r := &paced{r: content.NewReader(ra), p: pace{report: report, id: id, status: "Extracting", total: t.blob.Size}}
	if err := p.s.unpackLayer(ctx, t, r); err != nil {
		return err
	}
	report(hull.Progress{ID: id, Status: "Pull complete"})
	return nil
}

type paced struct {
	r io.Reader
	p pace
}

func (p *paced) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.p.add(n)
	return n, err
}

var errUnpacked = errors.New("layer is unpacked")

func errOr(err, instead error) error {
	if err != nil {
		return err
	}
	return instead
}

// configLabels refers a configuration to its unpacked layers, for the garbage
// collection.
func configLabels(p *parsed) map[string]string {
	l := map[string]string{}
	for i, c := range p.chains {
		l[fmt.Sprintf("%s%d", layerRef, i)] = c.String()
	}
	return l
}

// manifestLabels refers a manifest to its parts.
func manifestLabels(m ocispec.Manifest) map[string]string {
	l := map[string]string{"containerd.io/gc.ref.content.config": m.Config.Digest.String()}
	for i, d := range m.Layers {
		l[refLabel("l", i)] = d.Digest.String()
	}
	return l
}

// writeBlob stores a small blob. origin, if any, is the reference it came from,
// noted for cross-repository mounts.
func (s *store) writeBlob(ctx context.Context, d ocispec.Descriptor, b []byte, labels map[string]string, origin string) error {
	if _, err := s.content.Info(ctx, d.Digest); err == nil {
		return s.label(ctx, d.Digest, labels)
	}
	labels = maps.Clone(labels)
	if labels == nil {
		labels = map[string]string{}
	}
	err := content.WriteBlob(ctx, s.content, "doc-"+d.Digest.String(), bytesReader(b), d, content.WithLabels(labels))
	if err != nil {
		return fmt.Errorf("store %s: %w", d.Digest, err)
	}
	return s.origin(ctx, d.Digest, origin)
}

// label adds labels to a blob that is here.
func (s *store) label(ctx context.Context, d digest.Digest, labels map[string]string) error {
	info, err := s.content.Info(ctx, d)
	if err != nil {
		return fmt.Errorf("label %s: %w", d, err)
	}
	var paths []string
	for k, v := range labels {
		if info.Labels[k] != v {
			paths = append(paths, "labels."+k)
		}
	}
	if len(paths) == 0 {
		return nil
	}
	if _, err := s.content.Update(ctx, content.Info{Digest: d, Labels: labels}, paths...); err != nil {
		return fmt.Errorf("label %s: %w", d, err)
	}
	return nil
}

// origin notes the repository a blob came from.
func (s *store) origin(ctx context.Context, d digest.Digest, ref string) error {
	if ref == "" {
		return nil
	}
	fn, err := docker.AppendDistributionSourceLabel(s.content, ref)
	if err != nil {
		return fmt.Errorf("note the origin of %s: %w", d, err)
	}
	if _, err := fn(ctx, ocispec.Descriptor{Digest: d}); err != nil {
		return fmt.Errorf("note the origin of %s: %w", d, err)
	}
	return nil
}

// retry runs fn until it succeeds, or fails so often in a row without progress.
// fn gets a context that ends when the attempt stands still, and says whether it
// got anywhere.
func (s *registries) retry(ctx context.Context, fn func(ctx context.Context) (progress bool, err error)) error {
	wait := 100 * time.Millisecond
	for failed := 0; ; {
		progress, err := fn(ctx)
		if err == nil || ctx.Err() != nil || !worthRetry(err) {
			return err
		}
		if progress {
			failed, wait = 0, 100*time.Millisecond
		}
		if failed++; failed > s.cfg.Retries {
			return err
		}
		asked := wait
		if busy := (*busyError)(nil); errors.As(err, &busy) {
			if busy.wait > maxBusy {
				return err
			}
			asked = max(wait, busy.wait)
		}
		s.log.Debug("transfer broke off, trying again", "attempt", failed, "wait", asked, "error", err)
		if err := linux.Sleep(ctx, asked); err != nil {
			return err
		}
		wait = min(wait*2, 5*time.Second)
	}
}

// patient runs fn again only where a registry has had enough for now: for what
// else can go wrong with it the library has retries of its own.
func (s *registries) patient(ctx context.Context, fn func(ctx context.Context) error) error {
	err := s.retry(ctx, func(ctx context.Context) (bool, error) {
		err := fn(ctx)
		if busy := (*busyError)(nil); err != nil && !errors.As(err, &busy) {
			err = &localError{err}
		}
		return false, err
	})
	var once *localError
	if errors.As(err, &once) {
		return once.err
	}
	return err
}

// fetchDocument reads a small blob from a registry, and one byte beyond limit at
// most. What came is not verified.
func (s *registries) fetchDocument(ctx context.Context, from remotes.Fetcher, d ocispec.Descriptor, limit int64) ([]byte, error) {
	var b []byte
	err := s.retry(ctx, func(ctx context.Context) (bool, error) {
		ctx, _, stop := watch(ctx, s.cfg.Stall)
		defer stop()
		rc, err := from.Fetch(ctx, d)
		if err != nil {
			return false, cause(ctx, err)
		}
		defer rc.Close()
		if b, err = io.ReadAll(io.LimitReader(rc, limit+1)); err != nil {
			return false, cause(ctx, err)
		}
		return false, nil
	})
	return b, err
}

// worthRetry says whether the same request can have another outcome.
func worthRetry(err error) bool {
	var local *localError
	return !errors.As(err, &local) && !errdefs.IsNotFound(err) && !denied(err) && !errdefs.IsInvalidArgument(err)
}

// localError is a failure on our side of a transfer: no use in asking again.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }
