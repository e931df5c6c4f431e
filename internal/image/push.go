package image

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"hull/internal/hull"
)

// PushResult is the machine readable end of a push, as Docker's API has it.
type PushResult struct {
	Tag    string
	Digest string
	Size   int64
}

// Push sends an image to its registry. What is there already is not sent again.
func (s *Service) Push(ctx context.Context, r hull.PushRequest) error {
	ctx = s.ns(ctx)
	named, err := reference.ParseNormalizedNamed(r.Ref)
	if err != nil {
		return badReference(err)
	}
	leave := s.gate.enter()
	defer leave()
	v := s.view.Load()
	var names []string
	if r.All && reference.IsNameOnly(named) {
		for n := range v.names {
			if repo, isDigest := splitName(n); !isDigest && repo == named.Name() {
				names = append(names, n)
			}
		}
		slices.Sort(names)
	} else if n := reference.TagNameOnly(named).String(); v.names[n].name != "" {
		names = []string{n}
	}
	if len(names) == 0 {
		return say(errdefs.ErrNotFound, "An image does not exist locally with the tag: %s", reference.FamiliarName(named))
	}
	t := &teller{fn: r.Progress}
	t.say("", "The push refers to repository ["+named.Name()+"]")
	for _, n := range names {
		p := &pusher{s: s, name: n, tell: t, tracker: docker.NewInMemoryTracker()}
		if err := p.push(ctx, r, v.names[n].target, v.byName[n]); err != nil {
			return pushError(named, err)
		}
	}
	return nil
}

// pushError puts a registry's refusal into Docker's words.
func pushError(n reference.Named, err error) error {
	if denied(err) {
		return say(errdefs.ErrPermissionDenied, "denied: requested access to the resource is denied: push access to %s denied, repository does not exist or may require 'docker login'", reference.FamiliarName(n))
	}
	return fmt.Errorf("push %s: %w", reference.FamiliarName(n), err)
}

type pusher struct {
	s       *Service
	name    string
	tell    *teller
	remote  remotes.Pusher
	tracker docker.StatusTracker
}

// push sends what a name stands for: all of it when it is here, and otherwise
// the image of the platform asked for.
func (p *pusher) push(ctx context.Context, r hull.PushRequest, target ocispec.Descriptor, entries []*entry) error {
	manifests, about, whole, err := p.manifests(ctx, r, target, entries)
	if err != nil {
		return err
	}
	if !whole {
		// An index is sent as it is: signatures and attestations speak of its digests.
		if manifests[0], err = p.s.squeeze(ctx, manifests[0]); err != nil {
			return err
		}
	}
	named, err := reference.ParseNormalizedNamed(p.name)
	if err != nil {
		return badReference(err)
	}
	reg := p.s.registry(ctx, reference.Domain(named), r.Auth)
	resolver := docker.NewResolver(docker.ResolverOptions{Hosts: reg.hosts, Tracker: p.tracker})
	var blobs []ocispec.Descriptor
	for _, m := range manifests {
		img, err := p.s.readImage(ctx, m)
		if err != nil {
			return err
		}
		for _, l := range append(slices.Clone(img.manifest.Layers), img.manifest.Config) {
			if !slices.ContainsFunc(blobs, func(o ocispec.Descriptor) bool { return o.Digest == l.Digest }) {
				blobs = append(blobs, l)
			}
		}
		for _, l := range img.manifest.Layers {
			p.tell.say(short(l.Digest.Encoded()), "Preparing")
		}
	}
	for _, a := range about {
		blobs = append(blobs, a.parts...)
		manifests = append(manifests, a.Descriptor)
	}
	last := manifests[len(manifests)-1]
	if whole {
		last = target
	}
	// A push by tag and digest sets the tag only with the very last document.
	if p.remote, err = resolver.Pusher(ctx, p.name); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(5)
	for i, b := range blobs {
		if i >= 5 {
			p.tell.say(short(b.Digest.Encoded()), "Waiting")
		}
		g.Go(func() error { return p.blob(gctx, b) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	size, err := p.documents(ctx, resolver, manifests, last)
	if err != nil {
		return err
	}
	if err := p.signatures(ctx, reg, named, last); err != nil {
		return err
	}
	tag := p.name[strings.LastIndexByte(p.name, ':')+1:]
	p.tell.say("", fmt.Sprintf("%s: digest: %s size: %d", tag, last.Digest, size))
	p.tell.tell(hull.Progress{Aux: PushResult{Tag: tag, Digest: last.Digest.String(), Size: size}})
	d, err := reference.WithDigest(reference.TrimNamed(named), last.Digest)
	if err != nil {
		return badReference(err)
	}
	if err := p.s.setName(ctx, d.String(), last); err != nil {
		return err
	}
	p.s.publish("push", reference.FamiliarString(named), reference.FamiliarName(named))
	return p.s.reload(ctx)
}

// signatures sends those that are kept here with what was pushed.
func (p *pusher) signatures(ctx context.Context, reg registry, named reference.Named, of ocispec.Descriptor) error {
	list, err := p.s.localSignatures(ctx, []ocispec.Descriptor{of}, "")
	if err != nil || len(list) == 0 {
		return err
	}
	if err := p.s.pushSigned(ctx, reg, named, of.Digest, list); err != nil {
		return err
	}
	p.tell.say("", fmt.Sprintf("Signatures: %d", len(signaturesOf(list))))
	return nil
}

// manifests lists what to send. whole: all that the target's index speaks of is
// here, what is said about the images too, so that the index itself can be sent.
func (p *pusher) manifests(ctx context.Context, r hull.PushRequest, target ocispec.Descriptor, entries []*entry) ([]ocispec.Descriptor, []attestation, bool, error) {
	if isIndex(target.MediaType) && r.Platform == "" {
		all, about, err := p.s.whole(ctx, target)
		if err == nil {
			return all, about, true, nil
		}
		if !errdefs.IsNotFound(err) {
			return nil, nil, false, err
		}
	}
	e, err := p.s.choose(entries, p.name, r.Platform)
	if err != nil {
		return nil, nil, false, err
	}
	return []ocispec.Descriptor{e.manifest}, nil, false, nil
}

// documents sends the manifests by digest, and the last one by tag.
func (p *pusher) documents(ctx context.Context, resolver remotes.Resolver, manifests []ocispec.Descriptor, last ocispec.Descriptor) (int64, error) {
	repo := p.name[:strings.LastIndexByte(p.name, ':')]
	for _, m := range manifests {
		if m.Digest == last.Digest {
			continue
		}
		to, err := resolver.Pusher(ctx, repo+"@"+m.Digest.String())
		if err != nil {
			return 0, err
		}
		if err := p.document(ctx, to, m); err != nil {
			return 0, err
		}
	}
	info, err := p.s.content.Info(ctx, last.Digest)
	if err != nil {
		return 0, fmt.Errorf("read manifest: %w", err)
	}
	last.Size = info.Size
	return info.Size, p.document(ctx, p.remote, last)
}

// document sends a manifest or an index.
func (p *pusher) document(ctx context.Context, to remotes.Pusher, d ocispec.Descriptor) error {
	return p.s.sendDocument(ctx, to, d, p.opener(ctx, d))
}

// blob sends one blob, or has the registry mount it from another repository.
func (p *pusher) blob(ctx context.Context, d ocispec.Descriptor) error {
	id := short(d.Digest.Encoded())
	info, err := p.s.content.Info(ctx, d.Digest)
	if err != nil {
		return fmt.Errorf("read layer %s: %w", d.Digest, err)
	}
	d.Size, d.Annotations = info.Size, info.Labels // where it came from
	pc := &pace{report: p.tell.tell, id: id, status: "Pushing", total: d.Size}
	err = p.s.retry(ctx, func(ctx context.Context) (bool, error) {
		pc.at = 0
		// Longer than for a pull: when all is sent, some registries take their time.
		ctx, touch, stop := watch(ctx, 6*p.s.cfg.Stall)
		defer stop()
		err := send(ctx, p.remote, d, p.opener(ctx, d), func(n int) { touch(); pc.add(n) })
		if err != nil && !errdefs.IsAlreadyExists(err) {
			err = cause(ctx, err)
		}
		if errdefs.IsAlreadyExists(err) {
			return false, &localError{err}
		}
		return false, err
	})
	switch {
	case errdefs.IsAlreadyExists(err):
		st, serr := p.tracker.GetStatus(remotes.MakeRefKey(ctx, d))
		if serr == nil && st.MountedFrom != "" {
			_, repo, _ := strings.Cut(st.MountedFrom, "/")
			p.tell.say(id, "Mounted from "+repo)
		} else {
			p.tell.say(id, "Layer already exists")
		}
	case err != nil:
		return fmt.Errorf("push layer %s: %w", d.Digest, err)
	default:
		p.tell.say(id, "Pushed")
	}
	return p.s.origin(ctx, d.Digest, p.name)
}

// opener opens a blob or document that is here.
func (p *pusher) opener(ctx context.Context, d ocispec.Descriptor) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) {
		ra, err := p.s.content.ReaderAt(ctx, ocispec.Descriptor{Digest: d.Digest})
		if err != nil {
			return nil, &localError{fmt.Errorf("read %s: %w", d.Digest, err)}
		}
		return struct {
			io.Reader
			io.Closer
		}{content.NewReader(ra), ra}, nil
	}
}

// sendDocument sends a manifest, an index or a small blob, unless the registry has
// it. A registry may take its time with it, but not for ever.
func (s *registries) sendDocument(ctx context.Context, to remotes.Pusher, d ocispec.Descriptor, open func() (io.ReadCloser, error)) error {
	return s.retry(ctx, func(ctx context.Context) (bool, error) {
		ctx, _, stop := watch(ctx, 6*s.cfg.Stall)
		defer stop()
		err := send(ctx, to, d, open, func(int) {})
		if errdefs.IsAlreadyExists(err) {
			return false, nil
		}
		if err != nil {
			err = cause(ctx, err)
		}
		return false, err
	})
}

// send sends one blob or document, read from what open opens when the registry
// wants it. errdefs.ErrAlreadyExists when it has it.
func send(ctx context.Context, to remotes.Pusher, d ocispec.Descriptor, open func() (io.ReadCloser, error), sent func(int)) error {
	w, err := to.Push(ctx, d)
	if err != nil {
		return err
	}
	defer w.Close()
	rc, err := open()
	if err != nil {
		return err
	}
	defer rc.Close()
	if err := content.Copy(ctx, w, &tap{r: rc, fn: sent}, d.Size, d.Digest); err != nil && !errdefs.IsAlreadyExists(err) {
		return err
	}
	return nil
}

// tap tells what was read.
type tap struct {
	r  io.Reader
	fn func(int)
}

func (t *tap) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	t.fn(n)
	return n, err
}
