package seal

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/notaryproject/notation-core-go/signature/cose"
	"github.com/notaryproject/notation-core-go/signature/jws"
	"github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/signer"
	"github.com/notaryproject/notation-go/verifier"
	"github.com/notaryproject/notation-go/verifier/trustpolicy"
	"github.com/notaryproject/notation-go/verifier/truststore"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"hull/internal/trust"
)

// annotationThumbprint is where notation notes the certificates of a signature.
const annotationThumbprint = "io.cncf.notary.x509chain.thumbprint#S256"

// certificates is a trust store that was given along.
type certificates []*x509.Certificate

// GetCertificates implements truststore.X509TrustStore.
func (c certificates) GetCertificates(_ context.Context, kind truststore.Type, _ string) ([]*x509.Certificate, error) {
	if kind != truststore.TypeCA {
		return nil, nil
	}
	return c, nil
}

// notationChecker verifies notation's signatures by the rule's certificates. An
// expired signature or certificate is refused; nobody is asked about revocation.
func notationChecker(r trust.Rule, artifacts []trust.Artifact) (func(trust.Signature) (string, error), error) {
	var store certificates
	for _, f := range r.Certificates {
		list, err := cryptoutils.UnmarshalCertificatesFromPEM(f.PEM)
		if err != nil {
			return nil, fmt.Errorf("certificate %s: %w", f.Name, err)
		}
		store = append(store, list...)
	}
	if err := truststore.ValidateCertificates(store); err != nil {
		return nil, err
	}
	who := r.Identities
	if len(who) == 0 {
		who = []string{"*"}
	}
	v, err := verifier.New(&trustpolicy.Document{Version: "1.0", TrustPolicies: []trustpolicy.TrustPolicy{{
		Name: "hull", RegistryScopes: []string{"*"}, TrustStores: []string{"ca:hull"}, TrustedIdentities: who,
		SignatureVerification: trustpolicy.SignatureVerification{
			VerificationLevel: trustpolicy.LevelStrict.Name,
			Override:          map[trustpolicy.ValidationType]trustpolicy.ValidationAction{trustpolicy.TypeRevocation: trustpolicy.ActionSkip},
		},
	}}}, store, nil)
	if err != nil {
		return nil, fmt.Errorf("rule: %w", err)
	}
	return func(s trust.Signature) (string, error) {
		var errs []error
		for _, a := range artifacts {
			out, err := v.Verify(context.Background(), descriptor(a), s.Payload, notation.VerifierVerifyOptions{
				ArtifactReference: a.Repository + "@" + a.Digest, SignatureMediaType: s.MediaType,
			})
			if err != nil {
				errs = append(errs, fmt.Errorf("a signature: %w", err))
				continue
			}
			return out.EnvelopeContent.SignerInfo.CertificateChain[0].Subject.String(), nil
		}
		return "", errors.Join(errs...)
	}, nil
}

func descriptor(a trust.Artifact) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: a.MediaType, Digest: digest.Digest(a.Digest), Size: a.Size}
}

// signNotation signs with a key and its certificate.
func signNotation(q trust.Sign) (*trust.Signature, error) {
	priv, err := cryptoutils.UnmarshalPEMToPrivateKey(q.Key, cryptoutils.StaticPasswordFunc(q.Password))
	if err != nil {
		return nil, fmt.Errorf("read the key (is the password right?): %w", err)
	}
	chain, err := cryptoutils.UnmarshalCertificatesFromPEM(q.Certificates)
	if err != nil {
		return nil, fmt.Errorf("read the certificates: %w", err)
	}
	if len(chain) == 0 {
		return nil, errors.New("there is no certificate in the file")
	}
	kind := jws.MediaTypeEnvelope
	switch q.Envelope {
	case "", "jws":
	case "cose":
		kind = cose.MediaTypeEnvelope
	default:
		return nil, fmt.Errorf("envelope %q: use jws or cose", q.Envelope)
	}
	s, err := signer.NewGenericSigner(priv, chain)
	if err != nil {
		return nil, fmt.Errorf("use the key: %w", err)
	}
	env, info, err := s.Sign(context.Background(), descriptor(q.Artifact), notation.SignerSignOptions{SignatureMediaType: kind, ExpiryDuration: q.Expiry, SigningAgent: "hull"})
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	var prints []string
	for _, c := range info.CertificateChain {
		sum := sha256.Sum256(c.Raw)
		prints = append(prints, hex.EncodeToString(sum[:]))
	}
	b, err := json.Marshal(prints)
	if err != nil {
		return nil, err
	}
	return &trust.Signature{Format: trust.Notation, MediaType: kind, Payload: env, Annotations: map[string]string{
		annotationThumbprint: string(b), ocispec.AnnotationCreated: time.Now().UTC().Format(time.RFC3339),
	}}, nil
}

// generateNotation makes a key and a self-signed certificate for signing: enough
// for a team; who has an authority gives its certificate instead.
func generateNotation(q trust.Generate) (trust.Reply, error) {
	var none trust.Reply
	if q.Life <= 0 {
		q.Life = 365 * 24 * time.Hour
	}
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return none, fmt.Errorf("make a key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return none, fmt.Errorf("make a serial number: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: q.Name, Organization: []string{"hull"}, Country: []string{"XX"}, Province: []string{"none"}},
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(q.Life),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, priv.Public(), priv)
	if err != nil {
		return none, fmt.Errorf("make a certificate: %w", err)
	}
	secret, err := cryptoutils.MarshalPrivateKeyToPEM(priv)
	if err != nil {
		return none, fmt.Errorf("write the key: %w", err)
	}
	if len(q.Password) > 0 {
		der, err := cryptoutils.MarshalPrivateKeyToEncryptedDER(priv, cryptoutils.StaticPasswordFunc(q.Password))
		if err != nil {
			return none, fmt.Errorf("encrypt the key: %w", err)
		}
		secret = cryptoutils.PEMEncode(cryptoutils.EncryptedSigstorePrivateKeyPEMType, der)
	}
	return trust.Reply{Private: secret, Public: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}, nil
}
