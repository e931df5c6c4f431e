package seal

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/payload"

	"hull/internal/trust"
)

// key is a public key that a rule names.
type key struct {
	name string
	signature.Verifier
}

// cosignChecker verifies cosign's signatures: by one of the rule's keys, over one
// of the artifacts, for a repository that the rule allows.
func cosignChecker(r trust.Rule, artifacts []trust.Artifact) (func(trust.Signature) (string, error), error) {
	var keys []key
	for _, f := range r.Keys {
		pub, err := cryptoutils.UnmarshalPEMToPublicKey(f.PEM)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", f.Name, err)
		}
		v, err := signature.LoadVerifier(pub, crypto.SHA256)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", f.Name, err)
		}
		keys = append(keys, key{f.Name, v})
	}
	return func(s trust.Signature) (string, error) {
		if s.MediaType == trust.MediaTypeBundle {
			return checkBundle(s, r, keys, artifacts)
		}
		raw, err := base64.StdEncoding.DecodeString(s.Value)
		if err != nil || len(raw) == 0 {
			return "", errors.New("a signature is not base64")
		}
		i := slices.IndexFunc(keys, func(k key) bool {
			return k.VerifySignature(bytes.NewReader(raw), bytes.NewReader(s.Payload)) == nil
		})
		if i < 0 {
			return "", errors.New("a signature is not by a key of the rule, or what it signs was changed")
		}
		// Only now is the payload somebody's word.
		return keys[i].name, checkPayload(s.Payload, r, artifacts)
	}, nil
}

// checkPayload compares what was signed with the image.
func checkPayload(b []byte, r trust.Rule, artifacts []trust.Artifact) error {
	var p payload.SimpleContainerImage
	if err := json.Unmarshal(b, &p); err != nil {
		return fmt.Errorf("a signature's payload cannot be read: %w", err)
	}
	if p.Critical.Type != payload.CosignSignatureType {
		return fmt.Errorf("a signature is of the kind %q", p.Critical.Type)
	}
	of := p.Critical.Image.DockerManifestDigest
	i := slices.IndexFunc(artifacts, func(a trust.Artifact) bool { return a.Digest == of })
	if i < 0 {
		return fmt.Errorf("a signature is of another image (%s)", of)
	}
	if slices.Contains(r.SignedAs, "*") {
		return nil
	}
	allowed := r.SignedAs
	if len(allowed) == 0 {
		allowed = []string{artifacts[i].Repository}
	}
	as := p.Critical.Identity.DockerReference
	n, err := reference.ParseNormalizedNamed(as)
	if err != nil {
		return fmt.Errorf("a signature is for %q, which is no repository", as)
	}
	if !slices.ContainsFunc(allowed, func(a string) bool { return n.Name() == a || strings.HasPrefix(n.Name(), a+"/") && len(r.SignedAs) > 0 }) {
		return fmt.Errorf("a signature is for the repository %s (signed-as in the rule would allow that)", n.Name())
	}
	return nil
}

// signCosign signs as cosign does with a key pair.
func signCosign(q trust.Sign) (*trust.Signature, error) {
	if q.Expiry != 0 {
		return nil, errors.New("a cosign signature does not expire: use notation, or take its key out of the policy")
	}
	priv, err := cryptoutils.UnmarshalPEMToPrivateKey(q.Key, cryptoutils.StaticPasswordFunc(q.Password))
	if err != nil {
		return nil, fmt.Errorf("read the key (is the password right?): %w", err)
	}
	signer, err := signature.LoadSigner(priv, crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("use the key: %w", err)
	}
	d, err := name.NewDigest(q.Artifact.Repository+"@"+q.Artifact.Digest, name.StrictValidation)
	if err != nil {
		return nil, err
	}
	doc, err := payload.Cosign{Image: d, ClaimedIdentity: q.Artifact.Repository}.MarshalJSON()
	if err != nil {
		return nil, err
	}
	raw, err := signer.SignMessage(bytes.NewReader(doc))
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return &trust.Signature{Format: trust.Cosign, MediaType: trust.MediaTypeCosign, Payload: doc, Value: base64.StdEncoding.EncodeToString(raw)}, nil
}

// generateCosign makes the key pair that "cosign generate-key-pair" makes.
func generateCosign(q trust.Generate) (trust.Reply, error) {
	priv, pub, err := cryptoutils.GeneratePEMEncodedECDSAKeyPair(elliptic.P256(), cryptoutils.StaticPasswordFunc(q.Password))
	if err != nil {
		return trust.Reply{}, fmt.Errorf("make a key: %w", err)
	}
	return trust.Reply{Private: priv, Public: pub}, nil
}
