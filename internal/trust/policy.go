// Package trust says which images may be used on this host: a policy file, what
// of it holds for an image, and the questions that are put to hull-trust, the
// program that knows signatures. The cryptography is package seal's, which only
// that program links.
package trust

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/pelletier/go-toml/v2"
)

// What a rule requires of an image.
const (
	Accept   = "accept"   // nothing
	Reject   = "reject"   // that it is not used at all
	Digest   = "digest"   // that it is named by its digest, or has one of those listed
	Cosign   = "cosign"   // a signature as sigstore's cosign makes them with a key pair
	Notation = "notation" // a signature as Notary Project's notation makes them
)

// maxFile bounds the policy and each file that it names, in bytes.
const maxFile = 1 << 20

// Policy is what a policy file says.
type Policy struct {
	Path  string
	rules []Rule
	rest  Rule
	print string
}

// Rule says what images of one registry, or of the repositories below one name,
// need.
type Rule struct {
	Match        string   // "registry.example.com", "registry.example.com/team"; "" = all that no rule names
	Require      string   // one of the constants above
	Keys         []File   // cosign: public keys, of which one must have signed
	Certificates []File   // notation: authorities (or self-signed certificates), of which one must be the signer's
	Identities   []string // notation: "x509.subject: C=DE,O=Acme,CN=release"; none = whoever the authorities certify
	Digests      []string // digest: those that are accepted; none = any, when the image is named by it
	SignedAs     []string // cosign: repositories that a signature may be for; none = the image's own, "*" = any
}

// File is a key or a certificate, as it was read.
type File struct {
	Name string // as the policy has it
	PEM  []byte
}

// document is the file's shape.
type document struct {
	Default string `toml:"default"`
	Rule    []struct {
		Match        string   `toml:"match"`
		Require      string   `toml:"require"`
		Keys         []string `toml:"keys"`
		Certificates []string `toml:"certificates"`
		Identities   []string `toml:"identities"`
		Digests      []string `toml:"digests"`
		SignedAs     []string `toml:"signed-as"`
	} `toml:"rule"`
}

// Load reads a policy and the keys that it names. An error says what is wrong
// where; fs.ErrNotExist when there is no such file.
func Load(path string) (*Policy, error) {
	sum := sha256.New()
	b, err := read(path, sum)
	if err != nil {
		return nil, fmt.Errorf("trust policy: %w", err)
	}
	var d document
	dec := toml.NewDecoder(bytes.NewReader(b)).DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return nil, fmt.Errorf("trust policy %s: %w", path, located(err))
	}
	p := &Policy{Path: path, rest: Rule{Require: d.Default}}
	if !slices.Contains([]string{Accept, Reject, Digest}, d.Default) {
		return nil, fmt.Errorf("trust policy %s: default = %q: say what holds for images that no rule names: accept, digest or reject", path, d.Default)
	}
	for i, r := range d.Rule {
		rule := Rule{Match: strings.TrimSuffix(r.Match, "/"), Require: r.Require, Identities: r.Identities, Digests: r.Digests, SignedAs: r.SignedAs}
		if rule.Keys, err = files(path, r.Keys, "PUBLIC KEY", sum); err == nil {
			rule.Certificates, err = files(path, r.Certificates, "CERTIFICATE", sum)
		}
		if err == nil {
			err = rule.check()
		}
		if err == nil && slices.ContainsFunc(p.rules, func(o Rule) bool { return o.Match == rule.Match }) {
			err = errors.New("there is a rule for it already")
		}
		if err != nil {
			return nil, fmt.Errorf("trust policy %s: rule %d (%s): %w", path, i+1, r.Match, err)
		}
		p.rules = append(p.rules, rule)
	}
	p.print = hex.EncodeToString(sum.Sum(nil))
	return p, nil
}

// located says where in the file an error is.
func located(err error) error {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) && len(strict.Errors) > 0 {
		row, _ := strict.Errors[0].Position()
		return fmt.Errorf("line %d: %q is not known here", row, strings.Join(strict.Errors[0].Key(), "."))
	}
	var at *toml.DecodeError
	if errors.As(err, &at) {
		row, col := at.Position()
		return fmt.Errorf("line %d, column %d: %w", row, col, err)
	}
	return err
}

// read reads a file that only its owner may have written.
func read(path string, sum io.Writer) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !st.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a file", path)
	case st.Mode()&0o022 != 0:
		return nil, fmt.Errorf("%s can be written by others (mode %#o): chmod go-w it", path, st.Mode().Perm())
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	_, err = fmt.Fprintf(sum, "%s %d\n%s\n", path, len(b), b)
	return b, err
}

// files reads the keys or certificates that a policy names, relative to it.
func files(policy string, names []string, kind string, sum io.Writer) ([]File, error) {
	var list []File
	for _, n := range names {
		path := n
		if !filepath.IsAbs(path) {
			path = filepath.Join(filepath.Dir(policy), path)
		}
		b, err := read(path, sum)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s is not there", path) // not the policy's own absence, which means that there is none
		}
		if err != nil {
			return nil, err
		}
		if err := checkPEM(b, kind); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		list = append(list, File{Name: n, PEM: b})
	}
	return list, nil
}

// checkPEM says what is wrong with a file of keys or certificates.
func checkPEM(b []byte, kind string) error {
	block, rest := pem.Decode(b)
	if block == nil || block.Type != kind {
		return fmt.Errorf("it is no PEM file with a %s", strings.ToLower(kind))
	}
	if kind == "PUBLIC KEY" {
		if other, _ := pem.Decode(rest); other != nil {
			return errors.New("it has more than one key: give each a file")
		}
		_, err := x509.ParsePKIXPublicKey(block.Bytes)
		return err
	}
	for ; block != nil; block, rest = pem.Decode(rest) {
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return err
		}
	}
	return nil
}

// check refuses a rule that could not mean what it says.
func (r Rule) check() error {
	if err := checkMatch(r.Match); err != nil {
		return err
	}
	for _, d := range r.Digests {
		if _, err := digest.Parse(d); err != nil {
			return fmt.Errorf("digests: %q: %w", d, err)
		}
	}
	for _, s := range r.SignedAs {
		if s != "*" {
			if err := checkMatch(s); err != nil {
				return fmt.Errorf("signed-as: %w", err)
			}
		}
	}
	only := map[string][]string{"keys": {Cosign}, "signed-as": {Cosign}, "certificates": {Notation}, "identities": {Notation}, "digests": {Digest}}
	for what, given := range map[string]bool{
		"keys": len(r.Keys) > 0, "signed-as": len(r.SignedAs) > 0,
		"certificates": len(r.Certificates) > 0, "identities": len(r.Identities) > 0, "digests": len(r.Digests) > 0,
	} {
		if given && !slices.Contains(only[what], r.Require) {
			return fmt.Errorf("%s is only for require = %q", what, only[what][0])
		}
	}
	switch {
	case !slices.Contains([]string{Accept, Reject, Digest, Cosign, Notation}, r.Require):
		return fmt.Errorf("require = %q: use accept, reject, digest, cosign or notation", r.Require)
	case r.Require == Cosign && len(r.Keys) == 0:
		return errors.New("cosign needs keys, the files of public keys")
	case r.Require == Notation && len(r.Certificates) == 0:
		return errors.New("notation needs certificates, the files of authorities")
	}
	return nil
}

// checkMatch: a registry, or a registry and the beginning of a repository.
func checkMatch(m string) error {
	host, path, deeper := strings.Cut(m, "/")
	if host != "localhost" && !strings.ContainsAny(host, ".:") {
		return fmt.Errorf("match = %q: begin with the registry, as in docker.io/library/redis", m)
	}
	if !deeper {
		path = "x"
	}
	n, err := reference.ParseNormalizedNamed(host + "/" + path)
	if err != nil || !reference.IsNameOnly(n) || reference.Domain(n) != host || deeper && path != reference.Path(n) && host != "docker.io" {
		return fmt.Errorf("match = %q: use a registry, or a registry and a repository, without tag or digest", m)
	}
	return nil
}

// For is the rule of a repository ("registry.example.com/team/app"): the longest
// that matches whole parts of its name.
func (p *Policy) For(repository string) Rule {
	best := p.rest
	for _, r := range p.rules {
		if (repository == r.Match || strings.HasPrefix(repository, r.Match+"/")) && len(r.Match) > len(best.Match) {
			best = r
		}
	}
	return best
}

// Print changes with every change of the policy and its keys.
func (p *Policy) Print() string { return p.print }

// Open reports whether the policy accepts everything.
func (p *Policy) Open() bool { return p.rest.Require == Accept && len(p.rules) == 0 }

// Signature reports whether a signature is what the rule requires.
func (r Rule) Signature() bool { return r.Require == Cosign || r.Require == Notation }

// String words what the rule requires.
func (r Rule) String() string {
	names := func(f []File) string {
		var list []string
		for _, x := range f {
			list = append(list, x.Name)
		}
		return strings.Join(list, ", ")
	}
	switch {
	case r.Require == Cosign:
		return "a cosign signature by " + names(r.Keys)
	case r.Require == Notation:
		return "a notation signature by " + strings.Join(append([]string{names(r.Certificates)}, r.Identities...), ", ")
	case r.Require == Digest && len(r.Digests) > 0:
		return "one of the digests that are listed"
	case r.Require == Digest:
		return "that images are named by digest"
	case r.Require == Reject:
		return "that no image is used"
	}
	return "nothing"
}
