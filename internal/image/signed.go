package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hull/internal/trust"
)

// What the two kinds of signatures look like in a registry.
//
// cosign: a manifest under the tag sha256-HEX.sig (or one that refers to the
// image), with a layer for each signature: the signed document, and the signature
// in an annotation.
//
// cosign from version 3 on: a manifest for each signature that refers to the image,
// whose only layer is a bundle.
//
// notation: a manifest for each signature that refers to the image, whose only
// layer is the envelope.
const (
	typeCosignReferrer = "application/vnd.dev.cosign.artifact.sig.v1+json"
	annotationCosign   = "dev.cosignproject.cosign/signature"
	annotationBundle   = "dev.sigstore.bundle.predicateType" // what a bundle says
	typeNotation       = "application/vnd.cncf.notary.signature"
	typeJWS            = "application/jose+json"
	typeCOSE           = "application/cose"
)

// What foreign signatures may cost.
const (
	maxSignatureDocument = 1 << 20   // bytes of a manifest
	maxSignature         = 256 << 10 // bytes of a document that is signed, or of an envelope
	maxSignatures        = 64        // of one image
)

// labelSignature begins the labels by which a manifest refers to the manifests of
// its signatures; with it they are kept as long as the manifest is.
const labelSignature = "containerd.io/gc.ref.content.signature."

// signed is a manifest of signatures, with everything of it.
type signed struct {
	format string
	desc   ocispec.Descriptor
	bytes  []byte
	parts  []document
	refers bool // it is no manifest of several signatures, but refers to the image
	sigs   []trust.Signature
}

func signaturesOf(list []signed) []trust.Signature {
	var out []trust.Signature
	for _, s := range list {
		out = append(out, s.sigs...)
	}
	return out
}

// signatureTag is where cosign keeps the signatures of a digest.
func signatureTag(d digest.Digest) string { return referrersTag(d) + ".sig" }

// referrersTag is where a registry without an API for it keeps what refers to a digest.
func referrersTag(d digest.Digest) string {
	return d.Algorithm().String() + "-" + d.Encoded()
}

// reader gets a document or blob, verified.
type reader func(ctx context.Context, d ocispec.Descriptor, limit int64) ([]byte, error)

// remoteReader reads from a registry.
func (n *notary) remoteReader(from remotes.Fetcher) reader {
	return func(ctx context.Context, d ocispec.Descriptor, limit int64) ([]byte, error) {
		if err := checkDescriptor(d); err != nil {
			return nil, err
		}
		if d.Size > limit {
			return nil, badDocument(d.Digest.String(), fmt.Errorf("%d bytes are too large for a signature", d.Size))
		}
		b, err := n.s.fetchDocument(ctx, from, d, limit)
		switch {
		case err != nil:
			return nil, err
		case int64(len(b)) > limit:
			return nil, badDocument(d.Digest.String(), fmt.Errorf("more than %d bytes are too large for a signature", limit))
		}
		if got := d.Digest.Algorithm().FromBytes(b); got != d.Digest {
			return nil, badDocument(d.Digest.String(), &mismatchError{got})
		}
		return b, nil
	}
}

// remoteSignatures fetches what a registry holds of an image's signatures.
func (n *notary) remoteSignatures(ctx context.Context, from remotes.Resolver, named reference.Named, of digest.Digest, format string) ([]signed, error) {
	repo := reference.TrimNamed(named)
	fetcher, err := from.Fetcher(ctx, repo.Name()+"@"+of.String())
	if err != nil {
		return nil, err
	}
	list, err := n.referrers(ctx, fetcher, of, format)
	if err != nil {
		return nil, err
	}
	if format == trust.Cosign {
		_, d, err := from.Resolve(ctx, repo.Name()+":"+signatureTag(of))
		switch {
		case err == nil:
			list = append(list, d)
		case !errdefs.IsNotFound(err):
			return nil, err
		}
	}
	var out []signed
	for _, d := range list {
		one, err := readSigned(ctx, n.remoteReader(fetcher), d, of)
		if err != nil {
			return nil, fmt.Errorf("signature %s: %w", d.Digest, err)
		}
		if one.format != format {
			continue // a bundle that says something else
		}
		out = append(out, one)
		if len(signaturesOf(out)) > maxSignatures {
			return nil, badDocument(of.String(), fmt.Errorf("it has more than %d signatures", maxSignatures))
		}
	}
	return out, nil
}

// referrers lists the manifests that refer to a digest: signatures of a format,
// or all.
func (n *notary) referrers(ctx context.Context, from remotes.Fetcher, of digest.Digest, format string) ([]ocispec.Descriptor, error) {
	f, ok := from.(remotes.ReferrersFetcher)
	if !ok {
		return nil, nil
	}
	kinds := map[string][]string{"": {""}, trust.Cosign: {typeCosignReferrer, trust.MediaTypeBundle}, trust.Notation: {typeNotation}}[format]
	var list []ocispec.Descriptor
	for _, kind := range kinds { // a registry that is asked for two may give one
		var only []remotes.FetchReferrersOpt
		if kind != "" {
			only = append(only, remotes.WithReferrerArtifactTypes(kind))
		}
		err := n.s.patient(ctx, func(ctx context.Context) error {
			some, err := f.FetchReferrers(ctx, of, only...)
			list = append(list, some...)
			return err
		})
		if err != nil && !errdefs.IsNotFound(err) {
			return nil, fmt.Errorf("list what refers to %s: %w", of, err)
		}
	}
	if format == trust.Cosign {
		list = slices.DeleteFunc(list, func(d ocispec.Descriptor) bool { return !signs(d.Annotations) })
	}
	if len(list) > maxSignatures {
		return nil, badDocument(of.String(), fmt.Errorf("it has more than %d signatures", maxSignatures))
	}
	return list, nil
}

// signs says whether a bundle signs an image, by what is noted beside it. One without
// a note may.
func signs(annotations map[string]string) bool {
	says, ok := annotations[annotationBundle]
	return !ok || says == trust.PredicateCosign
}

// readSigned reads a manifest of signatures and everything of it. Nothing of what
// it says is believed: that is for the one who verifies.
func readSigned(ctx context.Context, read reader, d ocispec.Descriptor, of digest.Digest) (signed, error) {
	out := signed{desc: ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest}}
	if !isManifest(d.MediaType) {
		return out, badDocument("it", fmt.Errorf("is %q and no manifest", d.MediaType))
	}
	var err error
	if out.bytes, err = read(ctx, d, maxSignatureDocument); err != nil {
		return out, err
	}
	out.desc.Size = int64(len(out.bytes))
	if err := checkShape(out.bytes, d.MediaType); err != nil {
		return out, err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(out.bytes, &m); err != nil {
		return out, badDocument("its manifest", err)
	}
	if len(m.Layers) > maxSignatures {
		return out, badDocument("it", fmt.Errorf("has %d signatures, more than %d", len(m.Layers), maxSignatures))
	}
	if m.Subject != nil && m.Subject.Digest != of {
		return out, badDocument("it", fmt.Errorf("refers to %s", m.Subject.Digest))
	}
	out.refers = m.Subject != nil
	out.desc.ArtifactType, out.desc.Annotations = m.ArtifactType, m.Annotations // for the list of what refers to the image
	if !signs(m.Annotations) {
		return out, nil
	}
	for _, l := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		if err := checkDescriptor(l); err != nil {
			return out, badDocument("it", err)
		}
		l.URLs = nil
		b, err := read(ctx, l, maxSignature)
		if err != nil {
			return out, err
		}
		out.parts = append(out.parts, document{l, b})
	}
	for i, l := range m.Layers {
		b := out.parts[i+1].bytes
		switch l.MediaType {
		case trust.MediaTypeCosign:
			out.format = trust.Cosign
			out.sigs = append(out.sigs, trust.Signature{Format: trust.Cosign, MediaType: trust.MediaTypeCosign, Payload: b, Value: l.Annotations[annotationCosign]})
		case trust.MediaTypeBundle:
			out.format = trust.Cosign
			out.sigs = append(out.sigs, trust.Signature{Format: trust.Cosign, MediaType: l.MediaType, Payload: b})
		case typeJWS, typeCOSE:
			out.format = trust.Notation
			out.sigs = append(out.sigs, trust.Signature{Format: trust.Notation, MediaType: l.MediaType, Payload: b, Annotations: m.Annotations})
		}
	}
	return out, nil
}

// localSignatures reads the signatures that are kept here with documents.
func (n *notary) localSignatures(ctx context.Context, of []ocispec.Descriptor, format string) ([]signed, error) {
	var out []signed
	for _, d := range of {
		info, err := n.s.content.Info(ctx, d.Digest)
		if err != nil {
			continue // an index of which only a part is here
		}
		for _, k := range slices.Sorted(maps.Keys(info.Labels)) {
			if !strings.HasPrefix(k, labelSignature) {
				continue
			}
			at := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.Digest(info.Labels[k])}
			one, err := readSigned(ctx, n.s.readBlob, at, d.Digest)
			if err != nil {
				return nil, fmt.Errorf("signature %s: %w", at.Digest, err)
			}
			if one.format == format || format == "" {
				out = append(out, one)
			}
		}
	}
	return out, nil
}

// keepSigned stores signatures with the document they are of.
func (n *notary) keepSigned(ctx context.Context, of digest.Digest, list []signed) error {
	labels := map[string]string{}
	for _, one := range list {
		refs := map[string]string{}
		for i, p := range one.parts {
			if err := n.s.writeBlob(ctx, p.Descriptor, p.bytes, nil, ""); err != nil {
				return err
			}
			refs[refLabel("l", i)] = p.Digest.String()
		}
		if err := n.s.writeBlob(ctx, one.desc, one.bytes, refs, ""); err != nil {
			return err
		}
		labels[labelSignature+one.slot()] = one.desc.Digest.String()
	}
	if len(labels) == 0 {
		return nil
	}
	return n.s.label(ctx, of, labels)
}

// slot is a name for a manifest of signatures among those of one image: cosign has
// one, which grows, beside its bundles.
func (o signed) slot() string {
	if o.format == trust.Cosign && !o.refers {
		return trust.Cosign
	}
	return o.format + "-" + short(o.desc.Digest.Encoded())
}

// cosignManifest is what cosign would have in a registry: earlier signatures and
// one more.
func cosignManifest(earlier []signed, add trust.Signature) (signed, error) {
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}
	m.SchemaVersion = 2
	out := signed{format: trust.Cosign}
	sigs := slices.DeleteFunc(append(signaturesOf(earlier), add), func(g trust.Signature) bool { return g.MediaType == trust.MediaTypeBundle })
	var diffs []string
	for i, g := range sigs {
		if slices.ContainsFunc(sigs[:i], func(o trust.Signature) bool { return o.Value == g.Value && string(o.Payload) == string(g.Payload) }) {
			continue
		}
		d := ocispec.Descriptor{MediaType: trust.MediaTypeCosign, Digest: digest.FromBytes(g.Payload), Size: int64(len(g.Payload)), Annotations: map[string]string{annotationCosign: g.Value}}
		m.Layers = append(m.Layers, d)
		diffs = append(diffs, d.Digest.String())
		out.parts = append(out.parts, document{d, g.Payload})
		out.sigs = append(out.sigs, g)
	}
	conf, err := json.Marshal(map[string]any{
		"architecture": "", "os": "", "config": map[string]any{}, "created": "0001-01-01T00:00:00Z",
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffs},
	})
	if err != nil {
		return out, fmt.Errorf("write signature: %w", err)
	}
	m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(conf), Size: int64(len(conf))}
	out.parts = append([]document{{m.Config, conf}}, out.parts...)
	return out, out.finish(m)
}

// notationManifest is what notation has in a registry for one signature.
func notationManifest(of ocispec.Descriptor, g trust.Signature) (signed, error) {
	out := signed{format: trust.Notation, sigs: []trust.Signature{g}}
	empty := ocispec.DescriptorEmptyJSON
	empty.Data = nil
	d := ocispec.Descriptor{MediaType: g.MediaType, Digest: digest.FromBytes(g.Payload), Size: int64(len(g.Payload))}
	m := ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest, ArtifactType: typeNotation, Config: empty, Layers: []ocispec.Descriptor{d},
		Subject:     &ocispec.Descriptor{MediaType: of.MediaType, Digest: of.Digest, Size: of.Size},
		Annotations: g.Annotations,
	}
	m.SchemaVersion = 2
	out.parts = []document{{empty, []byte("{}")}, {d, g.Payload}}
	return out, out.finish(m)
}

func (o *signed) finish(m ocispec.Manifest) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("write signature: %w", err)
	}
	o.bytes, o.desc = b, ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(b), Size: int64(len(b)), ArtifactType: m.ArtifactType, Annotations: m.Annotations}
	return nil
}

// pushSigned sends signatures of a document that is in the repository.
func (n *notary) pushSigned(ctx context.Context, reg registry, named reference.Named, of digest.Digest, list []signed) error {
	repo := reference.TrimNamed(named)
	for _, one := range list {
		if one.format == trust.Cosign && !one.refers {
			// Somebody else may have signed it as well.
			there, err := n.remoteSignatures(ctx, reg, named, of, trust.Cosign)
			if err != nil {
				return err
			}
			for _, g := range one.sigs {
				if one, err = cosignManifest(there, g); err != nil {
					return err
				}
				there = []signed{one}
			}
			if err := n.pushDocument(ctx, reg, repo.Name()+":"+signatureTag(of), one); err != nil {
				return err
			}
			continue
		}
		if err := n.pushDocument(ctx, reg, repo.Name()+"@"+one.desc.Digest.String(), one); err != nil {
			return err
		}
		if err := n.linkReferrer(ctx, reg, repo, of, one.desc); err != nil {
			return err
		}
	}
	return nil
}

// pushDocument sends a manifest and its parts.
func (n *notary) pushDocument(ctx context.Context, reg registry, ref string, one signed) error {
	to, err := reg.Pusher(ctx, ref)
	if err != nil {
		return err
	}
	for _, p := range append(slices.Clone(one.parts), document{one.desc, one.bytes}) {
		d := p.Descriptor
		d.Annotations = nil
		if err := n.s.sendDocument(ctx, to, d, p.open); err != nil {
			return fmt.Errorf("push signature: %w", err)
		}
	}
	return nil
}

// linkReferrer enters a manifest into the list of what refers to a digest, where
// the registry does not keep that list itself.
func (n *notary) linkReferrer(ctx context.Context, reg registry, repo reference.Named, of digest.Digest, d ocispec.Descriptor) error {
	keeps, err := n.keepsReferrers(ctx, reg, repo, of)
	if err != nil || keeps {
		return err
	}
	idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
	idx.SchemaVersion = 2
	name := repo.Name() + ":" + referrersTag(of)
	_, at, err := reg.Resolve(ctx, name)
	if err == nil {
		fetcher, err := reg.Fetcher(ctx, name)
		if err != nil {
			return err
		}
		b, err := n.remoteReader(fetcher)(ctx, at, maxSignatureDocument)
		if err != nil {
			return fmt.Errorf("read what refers to %s: %w", of, err)
		}
		if idx, err = parseIndex(b, at.MediaType); err != nil {
			return err
		}
	} else if !errdefs.IsNotFound(err) {
		return err
	}
	if slices.ContainsFunc(idx.Manifests, func(o ocispec.Descriptor) bool { return o.Digest == d.Digest }) {
		return nil
	}
	idx.Manifests = append(idx.Manifests, d)
	b, err := json.Marshal(idx)
	if err != nil {
		return fmt.Errorf("list what refers to %s: %w", of, err)
	}
	list := ocispec.Descriptor{MediaType: idx.MediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	return n.pushDocument(ctx, reg, name, signed{desc: list, bytes: b})
}

// keepsReferrers asks a registry whether it has the API for what refers to a digest.
func (n *notary) keepsReferrers(ctx context.Context, reg registry, repo reference.Named, of digest.Digest) (bool, error) {
	hosts, err := reg.hosts(reference.Domain(repo))
	if err != nil {
		return false, err
	}
	ctx = docker.WithScope(ctx, "repository:"+reference.Path(repo)+":pull")
	for _, h := range hosts {
		if !h.Capabilities.Has(docker.HostCapabilityPush) {
			continue
		}
		err := n.s.patient(ctx, func(ctx context.Context) error {
			return ask(ctx, h, "/"+reference.Path(repo)+"/referrers/"+of.String(), nil)
		})
		if busy := (*busyError)(nil); errors.As(err, &busy) {
			return false, err
		}
		if errdefs.IsNotFound(err) || errdefs.IsUnavailable(err) && !errors.Is(err, context.DeadlineExceeded) {
			return false, nil // 404 by the specification; some say 405 or 400
		}
		return err == nil, err
	}
	return false, nil
}
