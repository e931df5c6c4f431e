// Package seal makes and verifies signatures of images, by sigstore's and Notary
// Project's own libraries, offline: key pairs and certificates, no transparency
// log and no revocation lists. What it gets to read is foreign.
package seal

import (
	"errors"
	"fmt"
	"slices"

	"hull/internal/trust"
)

// maxSignatures bounds those that are tried for one image.
const maxSignatures = 256

// Answer answers a question of package trust.
func Answer(q trust.Request) (trust.Reply, error) {
	switch {
	case q.Verify != nil:
		by, err := verify(*q.Verify)
		return trust.Reply{By: by}, err
	case q.Sign != nil && q.Sign.Format == trust.Cosign:
		s, err := signCosign(*q.Sign)
		return trust.Reply{Signature: s}, err
	case q.Sign != nil && q.Sign.Format == trust.Notation:
		s, err := signNotation(*q.Sign)
		return trust.Reply{Signature: s}, err
	case q.Generate != nil && q.Generate.Format == trust.Cosign:
		return generateCosign(*q.Generate)
	case q.Generate != nil && q.Generate.Format == trust.Notation:
		return generateNotation(*q.Generate)
	}
	return trust.Reply{}, errors.New("the question is not known: hulld and hull-trust are of different versions")
}

// verify finds a signature that a rule accepts and says who made it.
func verify(v trust.Verify) (string, error) {
	if len(v.Signatures) > maxSignatures {
		return "", fmt.Errorf("there are %d signatures, more than %d", len(v.Signatures), maxSignatures)
	}
	var check func(trust.Signature) (string, error)
	var err error
	switch v.Rule.Require {
	case trust.Cosign:
		check, err = cosignChecker(v.Rule, v.Artifacts)
	case trust.Notation:
		check, err = notationChecker(v.Rule, v.Artifacts)
	default:
		err = fmt.Errorf("rule requires %q, which is no signature", v.Rule.Require)
	}
	if err != nil {
		return "", err
	}
	var reasons []error
	for _, s := range v.Signatures {
		if s.Format != v.Rule.Require {
			continue
		}
		by, err := check(s)
		if err == nil {
			return by, nil
		}
		// The same reason again says nothing.
		if !slices.ContainsFunc(reasons, func(o error) bool { return o.Error() == err.Error() }) && len(reasons) < 5 {
			reasons = append(reasons, err)
		}
	}
	if len(reasons) == 0 {
		return "", fmt.Errorf("it has no %s signature", v.Rule.Require)
	}
	return "", errors.Join(reasons...)
}
