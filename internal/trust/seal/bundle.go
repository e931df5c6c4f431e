package seal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"github.com/sigstore/sigstore/pkg/signature/dsse"
	"google.golang.org/protobuf/encoding/protojson"

	"hull/internal/trust"
)

// typeStatement is the kind of document in a bundle that signs an image: an in-toto
// statement.
const typeStatement = "application/vnd.in-toto+json"

// statement is what of such a document is looked at.
type statement struct {
	Subject       []struct{ Digest map[string]string }
	PredicateType string
}

// checkBundle verifies a signature as cosign makes it from version 3 on: sigstore's
// bundle, around an envelope with a statement about a digest. It says nothing about a
// repository, so that the rule must have no demand there. What is in it of
// certificates and of a transparency log is not looked at: the rule's keys decide.
func checkBundle(s trust.Signature, r trust.Rule, keys []key, artifacts []trust.Artifact) (string, error) {
	if !slices.Contains(r.SignedAs, "*") {
		return "", errors.New(`a signature is a bundle (cosign 3), which does not say for which repository it is: signed-as = ["*"] in the rule accepts that`)
	}
	var b protobundle.Bundle
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(s.Payload, &b); err != nil {
		return "", fmt.Errorf("a bundle cannot be read: %w", err)
	}
	e := b.GetDsseEnvelope()
	if e == nil {
		return "", errors.New("a bundle has no statement about an image")
	}
	raw, err := protojson.Marshal(e)
	if err != nil {
		return "", fmt.Errorf("a bundle cannot be read: %w", err)
	}
	var payload []byte
	i := slices.IndexFunc(keys, func(k key) bool {
		v := dsse.WrapVerifier(k.Verifier, dsse.WithExpectedPayloadType(typeStatement), dsse.WithDecodedPayload(&payload))
		return v.VerifySignature(bytes.NewReader(raw), nil) == nil
	})
	if i < 0 {
		return "", errors.New("a bundle is not by a key of the rule, or what it signs was changed")
	}
	// Only now is the payload somebody's word.
	var said statement
	if err := json.Unmarshal(payload, &said); err != nil {
		return "", fmt.Errorf("a bundle's statement cannot be read: %w", err)
	}
	if said.PredicateType != trust.PredicateCosign {
		return "", fmt.Errorf("a bundle is no signature, but a statement of the kind %q", said.PredicateType)
	}
	for _, a := range artifacts {
		algorithm, sum, _ := strings.Cut(a.Digest, ":")
		for _, of := range said.Subject {
			if of.Digest[algorithm] == sum && sum != "" {
				return keys[i].name, nil
			}
		}
	}
	return "", errors.New("a bundle is of another image")
}
