package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hull/internal/hull"
	"hull/internal/trust"
)

// How long a signature that was found good is believed to be so: certificates
// expire. A change of the policy or its keys is seen at once.
const (
	verdictLife = 5 * time.Minute
	maxVerdicts = 1000
)

// guard holds images to the trust policy, which is read anew each time: it is one
// small file, and mostly not there.
type guard struct {
	path string // "" = there is none
	must bool   // it was asked for: its absence is an error
	ask  func(ctx context.Context, q trust.Request) (trust.Reply, error)

	mu   sync.Mutex
	good map[string]time.Time // until when
}

// notary finds, keeps and sends signatures, and judges images by them.
type notary struct {
	s     *Service
	guard *guard
}

// policy is what holds now; nil = everything is accepted. A policy that cannot be
// read accepts nothing.
func (g *guard) policy() (*trust.Policy, error) {
	if g.path == "" {
		return nil, nil //nolint:nilnil // documented
	}
	p, err := trust.Load(g.path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !g.must:
		return nil, nil //nolint:nilnil // documented
	case err != nil:
		return nil, say(errdefs.ErrPermissionDenied, "%v; until that is mended, no image is pulled, built on or run", err)
	case p.Open():
		return nil, nil //nolint:nilnil // documented
	}
	return p, nil
}

// judged is one image that is judged, under one name.
type judged struct {
	name      reference.Named // nil = it has none
	byDigest  bool            // it was asked for by a digest
	documents []ocispec.Descriptor
	// signatures brings those that there are of the documents.
	signatures func(ctx context.Context, format string) ([]trust.Signature, error)
	hint       string // what to do when there is none
	fresh      bool   // an earlier verdict is not enough: the signatures are wanted
}

func (j judged) repository() string {
	if j.name == nil {
		return ""
	}
	return j.name.Name()
}

// String names the image for people.
func (j judged) String() string {
	name := "an image without a name"
	if j.name != nil {
		name = "image " + reference.FamiliarString(j.name)
	}
	if len(j.documents) > 0 && (j.name == nil || !strings.Contains(name, "@")) {
		name += " (" + j.documents[0].Digest.String() + ")"
	}
	return name
}

// verdict is what the policy says of an image.
type verdict struct {
	rule trust.Rule
	by   string // who has signed, when that is required and so
}

// judge says whether the policy accepts an image. errdefs.ErrPermissionDenied,
// with the rule and what to do, when not.
func (g *guard) judge(ctx context.Context, p *trust.Policy, j judged) (verdict, error) {
	rule := p.For(j.repository())
	v := verdict{rule: rule}
	refuse := func(why, next string) error {
		which := fmt.Sprintf("rule %q", rule.Match)
		if rule.Match == "" {
			which = "its default"
		}
		return say(errdefs.ErrPermissionDenied, "%s is refused by the trust policy %s, %s: it requires %s%s; %s", j, p.Path, which, rule, why, next)
	}
	switch {
	case rule.Require == trust.Accept:
		return v, nil
	case rule.Require == trust.Digest && len(rule.Digests) > 0:
		if slices.ContainsFunc(j.documents, func(d ocispec.Descriptor) bool { return slices.Contains(rule.Digests, d.Digest.String()) }) {
			return v, nil
		}
		return v, refuse("", "add the image's digest to the rule's digests, if you trust it")
	case rule.Require == trust.Digest:
		if j.byDigest {
			return v, nil
		}
		next := "name it by its digest"
		if j.name != nil && len(j.documents) > 0 {
			next += ": " + reference.FamiliarName(j.name) + "@" + j.documents[0].Digest.String()
		}
		return v, refuse("", next)
	case !rule.Signature():
		return v, refuse("", "add a rule for it, if you trust it")
	}
	key := strings.Join(append([]string{p.Print(), j.repository()}, digestsOf(j.documents)...), " ")
	if !j.fresh && g.known(key) {
		return v, nil
	}
	sigs, err := j.signatures(ctx, rule.Require)
	if err != nil {
		return v, refuse(", and its signatures cannot be had: "+err.Error(), j.hint)
	}
	if len(sigs) == 0 {
		return v, refuse(", and there is none", j.hint)
	}
	r, err := g.ask(ctx, trust.Request{Verify: &trust.Verify{Rule: rule, Artifacts: artifacts(j), Signatures: sigs}})
	if err != nil {
		return v, refuse(", and: "+err.Error(), "have it signed by whom the rule names, or change the rule")
	}
	g.learn(key)
	v.by = r.By
	return v, nil
}

func (g *guard) known(key string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return time.Now().Before(g.good[key])
}

func (g *guard) learn(key string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.good) >= maxVerdicts || g.good == nil {
		g.good = map[string]time.Time{}
	}
	g.good[key] = time.Now().Add(verdictLife)
}

func digestsOf(list []ocispec.Descriptor) []string {
	out := make([]string, 0, len(list))
	for _, d := range list {
		out = append(out, d.Digest.String())
	}
	return out
}

func artifacts(j judged) []trust.Artifact {
	out := make([]trust.Artifact, 0, len(j.documents))
	for _, d := range j.documents {
		out = append(out, trust.Artifact{Repository: j.repository(), MediaType: d.MediaType, Digest: d.Digest.String(), Size: d.Size})
	}
	return out
}

// admitRemote judges what a registry has under a name, before anything of it is
// fetched. It returns the signature manifests that the judgement saw.
func (n *notary) admitRemote(ctx context.Context, named reference.Named, target ocispec.Descriptor, from remotes.Resolver) ([]signed, error) {
	p, err := n.guard.policy()
	if p == nil || err != nil {
		return nil, err
	}
	_, kept, err := n.judgeRemote(ctx, p, named, target, from)
	return kept, err
}

func (n *notary) judgeRemote(ctx context.Context, p *trust.Policy, named reference.Named, target ocispec.Descriptor, from remotes.Resolver) (verdict, []signed, error) {
	_, byDigest := named.(reference.Canonical)
	var kept []signed
	v, err := n.guard.judge(ctx, p, judged{
		name: named, byDigest: byDigest, documents: []ocispec.Descriptor{target}, fresh: true,
		signatures: func(ctx context.Context, format string) ([]trust.Signature, error) {
			var err error
			kept, err = n.remoteSignatures(ctx, from, named, target.Digest, format)
			return signaturesOf(kept), err
		},
		hint: "have it signed ('hull image sign --push --key FILE " + reference.FamiliarString(named) + "'), or change the rule",
	})
	return v, kept, err
}

// admit judges an image that is here, by the name it was asked for; by each of its
// names, of which one is enough, when it was asked for by its id.
func (n *notary) admit(ctx context.Context, img hull.Image) error {
	p, err := n.guard.policy()
	if p == nil || err != nil {
		return err
	}
	_, err = n.judgeLocal(ctx, p, img)
	return err
}

func (n *notary) judgeLocal(ctx context.Context, p *trust.Policy, img hull.Image) (verdict, error) {
	ctx = n.s.ns(ctx)
	names := img.Names
	_, err := digest.Parse(img.Ref)
	byID := err == nil
	if img.Ref != "" && !byID {
		names = []string{img.Ref}
	}
	if len(names) == 0 {
		names = []string{""}
	}
	documents := n.s.view.Load().documentsOf(img)
	var first error
	for _, name := range names {
		j := judged{
			byDigest: byID, documents: documents,
			signatures: func(ctx context.Context, format string) ([]trust.Signature, error) {
				kept, err := n.localSignatures(ctx, documents, format)
				return signaturesOf(kept), err
			},
			hint: "have it signed ('hull image sign'), or change the rule",
		}
		if name != "" {
			if j.name, err = reference.ParseNormalizedNamed(name); err != nil {
				return verdict{}, badReference(err)
			}
			_, pinned := j.name.(reference.Canonical)
			j.byDigest = byID || pinned
			j.hint = fmt.Sprintf("fetch them ('hull pull %s'), sign it ('hull image sign --key FILE %[1]s'), or change the rule", reference.FamiliarString(j.name))
		}
		v, err := n.guard.judge(ctx, p, j)
		if err == nil {
			return v, nil
		}
		if first == nil {
			first = err
		}
	}
	return verdict{}, first
}

// documentsOf lists the manifests and indexes that have names and stand for an
// image, what its name points to first.
func (v *view) documentsOf(img hull.Image) []ocispec.Descriptor {
	e := v.byID[digest.Digest(img.ID)]
	if e == nil {
		return nil
	}
	var list []ocispec.Descriptor
	add := func(d ocispec.Descriptor) {
		if !slices.ContainsFunc(list, func(o ocispec.Descriptor) bool { return o.Digest == d.Digest }) {
			list = append(list, ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size})
		}
	}
	if r, ok := v.names[img.Ref]; ok && slices.Contains(v.byName[img.Ref], e) {
		add(r.target)
	}
	for _, n := range img.Names {
		if slices.Contains(v.byName[n], e) {
			add(v.names[n].target)
		}
	}
	add(e.manifest)
	return list
}
