package image

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hull/internal/hull"
	"hull/internal/trust"
)

// Signable says what a signature of an image is to be of: the document that a
// push sends, when the image is here, else what its registry has. An image that is
// named by a digest that is not here is its registry's.
func (n *notary) Signable(ctx context.Context, r hull.SignRequest) (hull.Signable, error) {
	ctx = n.s.ns(ctx)
	named, out, err := subject(r)
	if err != nil {
		return out, err
	}
	leave := n.s.gate.enter()
	defer leave()
	d, err := n.pushed(ctx, named)
	switch {
	case err == nil:
		out.Local = true
	case errdefs.IsNotFound(err):
		reg := n.s.registry(ctx, reference.Domain(named), r.Auth)
		if _, d, err = reg.Resolve(ctx, named.String()); err != nil {
			return out, remoteError(named, err)
		}
	default:
		return out, err
	}
	out.Documents = []hull.SignedDocument{documentOf(d)}
	return out, nil
}

// subject begins the answer about the image that a request names.
func subject(r hull.SignRequest) (reference.Named, hull.Signable, error) {
	named, err := reference.ParseNormalizedNamed(r.Ref)
	if err != nil {
		return nil, hull.Signable{}, badReference(err)
	}
	return reference.TagNameOnly(named), hull.Signable{Repository: named.Name()}, nil
}

func documentOf(d ocispec.Descriptor) hull.SignedDocument {
	return hull.SignedDocument{MediaType: d.MediaType, Digest: d.Digest.String(), Size: d.Size}
}

// pushed is the document that a push of a name sends last.
func (n *notary) pushed(ctx context.Context, named reference.Named) (ocispec.Descriptor, error) {
	name := tagName(named)
	v := n.s.view.Load()
	r, ok := v.names[name]
	if !ok || len(v.byName[name]) == 0 {
		return ocispec.Descriptor{}, noSuchImage(name)
	}
	if _, ok := named.(reference.Canonical); ok {
		return r.target, nil // that digest and no other
	}
	p := &pusher{s: n.s, name: name, tell: &teller{}}
	manifests, _, whole, err := p.manifests(ctx, hull.PushRequest{}, r.target, v.byName[name])
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if whole {
		return r.target, nil
	}
	return n.s.squeeze(ctx, manifests[0])
}

// Sign keeps a signature with an image that is here, and sends it to the
// registry, which must have the image, when that is asked for.
func (n *notary) Sign(ctx context.Context, r hull.SignRequest) error {
	ctx = n.s.ns(ctx)
	named, err := reference.ParseNormalizedNamed(r.Ref)
	if err != nil {
		return badReference(err)
	}
	of := ocispec.Descriptor{MediaType: r.Document.MediaType, Digest: digest.Digest(r.Document.Digest), Size: r.Document.Size}
	if err := checkDescriptor(of); err != nil {
		return say(errdefs.ErrInvalidArgument, "signature: %v", err)
	}
	if r.Signature.Format != trust.Cosign && r.Signature.Format != trust.Notation || len(r.Signature.Payload) > maxSignature {
		return say(errdefs.ErrInvalidArgument, "signature: the format %q of %d bytes is not known here", r.Signature.Format, len(r.Signature.Payload))
	}
	only, err := reference.WithDigest(reference.TrimNamed(named), of.Digest)
	if err != nil {
		return badReference(err)
	}
	leave := n.s.gate.enter()
	defer leave()
	local := n.s.hasBlob(ctx, of.Digest)
	var one signed
	if r.Signature.Format == trust.Cosign {
		var earlier []signed
		if local {
			if earlier, err = n.localSignatures(ctx, []ocispec.Descriptor{of}, trust.Cosign); err != nil {
				return err
			}
		}
		one, err = cosignManifest(earlier, trust.Signature(r.Signature))
	} else {
		one, err = notationManifest(of, trust.Signature(r.Signature))
	}
	if err != nil {
		return err
	}
	if local {
		if err := n.keepSigned(ctx, of.Digest, []signed{one}); err != nil {
			return err
		}
		// What a push would send is of the image, too: the policy must find it.
		if err := n.s.setName(ctx, only.String(), of); err != nil {
			return err
		}
		if err := n.s.reload(ctx); err != nil {
			return err
		}
	}
	if !r.Push {
		if !local {
			return say(errdefs.ErrNotFound, "image %s is not here: use --push to sign it in its registry, or pull it first", reference.FamiliarString(named))
		}
		return nil
	}
	reg := n.s.registry(ctx, reference.Domain(named), r.Auth)
	if _, _, err := reg.Resolve(ctx, only.String()); err != nil {
		if errdefs.IsNotFound(err) {
			return say(errdefs.ErrNotFound, "the registry does not have %s (%s): push the image first, its signatures go along", reference.FamiliarString(named), of.Digest)
		}
		return remoteError(named, err)
	}
	if err := n.pushSigned(ctx, reg, named, of.Digest, []signed{one}); err != nil {
		return pushError(named, err)
	}
	return nil
}

// Signatures lists what is known of an image's signatures, here or in its
// registry, and what the policy says.
func (n *notary) Signatures(ctx context.Context, r hull.SignRequest) (hull.Signable, error) {
	ctx = n.s.ns(ctx)
	named, out, err := subject(r)
	if err != nil {
		return out, err
	}
	leave := n.s.gate.enter()
	defer leave()
	img, err := n.s.Resolve(ctx, r.Ref, "")
	if r.Push || errdefs.IsNotFound(err) {
		err = n.remoteVerdict(ctx, &out, named, r.Auth)
		return out, err
	}
	if err != nil {
		return out, err
	}
	out.Local = true
	documents := n.s.view.Load().documentsOf(img)
	for _, d := range documents {
		out.Documents = append(out.Documents, documentOf(d))
	}
	list, err := n.localSignatures(ctx, documents, "")
	if err != nil {
		return out, err
	}
	addSignatures(&out, list)
	p, err := n.guard.policy()
	if p == nil || err != nil {
		return out, err
	}
	v, err := n.judgeLocal(ctx, p, img)
	err = report(&out, v, err)
	return out, err
}

// remoteVerdict fills in what a registry has.
func (n *notary) remoteVerdict(ctx context.Context, out *hull.Signable, named reference.Named, a hull.Auth) error {
	reg := n.s.registry(ctx, reference.Domain(named), a)
	_, d, err := reg.Resolve(ctx, named.String())
	if err != nil {
		return remoteError(named, err)
	}
	out.Documents = []hull.SignedDocument{documentOf(d)}
	for _, format := range []string{trust.Cosign, trust.Notation} {
		list, err := n.remoteSignatures(ctx, reg, named, d.Digest, format)
		if err != nil {
			return remoteError(named, err)
		}
		addSignatures(out, list)
	}
	p, err := n.guard.policy()
	if p == nil || err != nil {
		return err
	}
	v, _, err := n.judgeRemote(ctx, p, named, d, reg)
	return report(out, v, err)
}

func addSignatures(out *hull.Signable, list []signed) {
	for _, g := range signaturesOf(list) {
		out.Signatures = append(out.Signatures, hull.Signature(g))
	}
}

// report words a verdict; a refusal is what was asked for and no failure.
func report(out *hull.Signable, v verdict, err error) error {
	if err != nil && !errdefs.IsPermissionDenied(err) {
		return err
	}
	if err != nil {
		out.Refused = err.Error()
		return nil
	}
	out.Accepted = "the trust policy requires " + v.rule.String()
	if v.rule.Match != "" {
		out.Accepted = fmt.Sprintf("rule %q of the trust policy requires %s", v.rule.Match, v.rule)
	}
	if v.by != "" {
		out.Accepted += ", and has it: signed by " + v.by
	}
	return nil
}

// admitBase judges an image that a build is to begin with, which was resolved to
// a digest. from is the registry with the builder's credentials.
func (n *notary) admitBase(ctx context.Context, ref string, d digest.Digest, from remotes.Resolver) error {
	p, err := n.guard.policy()
	if p == nil || err != nil {
		return err
	}
	ctx = n.s.ns(ctx)
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return badReference(err)
	}
	named = reference.TagNameOnly(named)
	v := n.s.view.Load()
	es, asked := v.target[d], tagName(named)
	if id := v.byID[digest.Digest("sha256:"+strings.TrimPrefix(reference.FamiliarName(named), "library/"))]; id != nil {
		es, asked = []*entry{id}, "" // FROM names an id
	}
	var here error
	if len(es) > 0 {
		// By the name that was asked for, not by others that the same content has here.
		img := es[0].snapshot(n.s.store)
		img.Ref = asked
		if _, here = n.judgeLocal(ctx, p, img); here == nil {
			return nil
		}
	}
	at, err := reference.WithDigest(reference.TrimNamed(named), d)
	if err != nil {
		return badReference(err)
	}
	_, target, err := from.Resolve(ctx, at.String())
	if err != nil || target.Digest != d {
		if here != nil {
			return here // it is only here
		}
		return remoteError(named, err)
	}
	_, _, err = n.judgeRemote(ctx, p, named, target, from)
	return err
}
