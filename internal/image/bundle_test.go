package image

import (
	"bytes"
	"crypto"
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/dsse"

	"hull/internal/hull"
	"hull/internal/trust"
)

// bundle is what cosign 3 puts beside an image with a key pair: a statement of a kind
// about one, and a manifest that refers to another.
func (k signer) bundle(t testing.TB, kind string, about digest.Digest, subject built) signed {
	t.Helper()
	private, err := cryptoutils.UnmarshalPEMToPrivateKey(k.private, cryptoutils.StaticPasswordFunc(nil))
	if err != nil {
		t.Fatal(err)
	}
	by, err := signature.LoadSigner(private, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	statement := mustJSON(t, map[string]any{
		"_type": "https://in-toto.io/Statement/v1", "predicateType": kind, "predicate": map[string]any{},
		"subject": []any{map[string]any{"digest": map[string]string{"sha256": about.Encoded()}}},
	})
	envelope, err := dsse.WrapSigner(by, "application/vnd.in-toto+json").SignMessage(bytes.NewReader(statement))
	if err != nil {
		t.Fatal(err)
	}
	return bundleManifest(t, kind, subject, mustJSON(t, map[string]any{
		"mediaType": trust.MediaTypeBundle, "dsseEnvelope": json.RawMessage(envelope),
		"verificationMaterial": map[string]any{"publicKey": map[string]string{"hint": "anybody"}},
	}))
}

func bundleManifest(t testing.TB, kind string, subject built, bundle []byte) signed {
	t.Helper()
	one, err := notationManifest(subject.desc, trust.Signature{MediaType: trust.MediaTypeBundle, Payload: bundle, Annotations: map[string]string{annotationBundle: kind}})
	if err != nil {
		t.Fatal(err)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(one.bytes, &m); err != nil {
		t.Fatal(err)
	}
	m.ArtifactType = trust.MediaTypeBundle
	if err := one.finish(m); err != nil {
		t.Fatal(err)
	}
	return one
}

// anyRepository is a rule that takes what is for no repository in particular.
const anyRepository = byTeam + "\nsigned-as = [\"*\"]"

// TestTrustBundle: an image that cosign 3 signed, with what else the same key has said
// about it beside the signature.
func TestTrustBundle(t *testing.T) {
	host := registryServer(t)
	dir, k := newTeam(t)
	img := simple(t)
	upload(t, host, "team/app", "1", img)
	sbom := k.bundle(t, "https://spdx.dev/Document", img.desc.Digest, img)
	one := k.bundle(t, trust.PredicateCosign, img.desc.Digest, img)
	var list []ocispec.Descriptor
	for _, x := range []signed{sbom, one} {
		uploadSigned(t, host, "team/app", x.desc.Digest.String(), x)
		list = append(list, x.desc)
	}
	idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: list}
	idx.SchemaVersion = 2
	putManifest(t, host, "team/app", referrersTag(img.desc.Digest), idx.MediaType, mustJSON(t, idx))

	s, ref := guarded(t, dir, rule(host, byTeam)), host+"/team/app:1"
	_, err := s.Pull(t.Context(), hull.PullRequest{Ref: ref})
	refused(t, err, "does not say for which repository", "signed-as")
	put(t, filepath.Join(dir, "trust.toml"), []byte(rule(host, anyRepository)))
	if _, err := s.Pull(t.Context(), hull.PullRequest{Ref: ref}); err != nil {
		t.Fatal(err)
	}
	// Beside an older signature it stays what it is, here and where both are sent.
	add := k.request(t, s, ref)
	if err := s.Sign(t.Context(), add); err != nil {
		t.Fatal(err)
	}
	if err := s.Tag(t.Context(), ref, host+"/team/moved:1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Push(t.Context(), hull.PushRequest{Ref: host + "/team/moved:1"}); err != nil {
		t.Fatal(err)
	}
	said, err := guarded(t, dir, rule(host, anyRepository)).Signatures(t.Context(), hull.SignRequest{Ref: host + "/team/moved:1", Push: true})
	if err != nil || len(said.Signatures) != 2 {
		t.Errorf("where it was sent: %+v, %v", said, err)
	}
}

// TestTrustBundleAttacks: what a registry may show in a bundle's place.
func TestTrustBundleAttacks(t *testing.T) {
	k, stranger := newSigner(t, trust.Cosign), newSigner(t, trust.Cosign)
	good, evil := simple(t), other(t)
	for name, a := range map[string]struct {
		one   signed
		words string
	}{
		"wrong key":                   {stranger.bundle(t, trust.PredicateCosign, evil.desc.Digest, evil), "not by a key of the rule"},
		"of another image":            {k.bundle(t, trust.PredicateCosign, good.desc.Digest, evil), "of another image"},
		"no bundle":                   {bundleManifest(t, trust.PredicateCosign, evil, []byte("{")), "cannot be read"},
		"an empty one":                {bundleManifest(t, trust.PredicateCosign, evil, []byte("{}")), "no statement"},
		"another statement":           {k.bundle(t, "https://spdx.dev/Document", evil.desc.Digest, evil), "there is none"},
		"another statement, unmarked": {unmarked(t, k.bundle(t, "https://spdx.dev/Document", evil.desc.Digest, evil)), "statement of the kind"},
	} {
		t.Run(name, func(t *testing.T) {
			host, dir := registryServer(t), t.TempDir()
			put(t, filepath.Join(dir, "team.pub"), k.public)
			s := guarded(t, dir, rule(host, anyRepository))
			upload(t, host, "team/app", "1", evil)
			uploadSigned(t, host, "team/app", a.one.desc.Digest.String(), a.one)
			refer(t, host, "team/app", evil.desc.Digest, a.one.desc)
			_, err := s.Pull(t.Context(), hull.PullRequest{Ref: host + "/team/app:1"})
			refused(t, err, a.words)
			empty(t, s)
		})
	}
}

// unmarked is a bundle's manifest that does not say what the bundle is.
func unmarked(t testing.TB, one signed) signed {
	t.Helper()
	var m ocispec.Manifest
	if err := json.Unmarshal(one.bytes, &m); err != nil {
		t.Fatal(err)
	}
	m.Annotations = nil
	if err := one.finish(m); err != nil {
		t.Fatal(err)
	}
	return one
}
