package image

import (
	"context"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hull/internal/hull"
)

// Resolve finds a local image: by reference, by name@digest, by id, or by an
// unambiguous prefix of an id; names come first, as in Docker.
func (s *Service) Resolve(_ context.Context, ref, platform string) (hull.Image, error) {
	v := s.view.Load()
	entries, err := v.find(ref)
	if err != nil {
		return hull.Image{}, err
	}
	e, err := s.choose(entries, ref, platform)
	if err != nil {
		return hull.Image{}, err
	}
	img := e.snapshot(s.store)
	img.Ref = v.asked(ref, e)
	return img, nil
}

// asked is the name or digest by which an image was asked for, in full; "" = by
// the beginning of its id.
func (v *view) asked(ref string, e *entry) string {
	if _, err := digest.Parse(ref); err == nil {
		return ref
	}
	if named, err := reference.ParseNormalizedNamed(ref); err == nil && slices.Contains(v.named(named), e) {
		return tagName(reference.TagNameOnly(named))
	}
	if "sha256:"+ref == e.img.ID {
		return e.img.ID
	}
	return ""
}

// find lists the images a reference stands for: one for each local platform.
func (v *view) find(ref string) ([]*entry, error) {
	if ref == "" {
		return nil, badReference(nil)
	}
	if d, err := digest.Parse(ref); err == nil {
		return v.byDigest(ref, d)
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		// 64 hex digits are refused as a name, because they are an id.
		if isHex(ref) {
			return v.byPrefix(ref, ref)
		}
		if p, ok := strings.CutPrefix(ref, "sha256:"); ok && isHex(p) {
			return v.byPrefix(ref, p)
		}
		return nil, badReference(err)
	}
	if es := v.named(named); es != nil {
		return es, nil
	}
	if p, ok := strings.CutPrefix(ref, "sha256:"); ok && isHex(p) {
		return v.byPrefix(ref, p)
	}
	if isHex(ref) {
		return v.byPrefix(ref, ref)
	}
	return nil, noSuchImage(ref)
}

// named finds an exact name. With a digest, the tag says nothing: Docker ignores
// it as well.
func (v *view) named(n reference.Named) []*entry {
	if c, ok := n.(reference.Canonical); ok {
		only, err := reference.WithDigest(reference.TrimNamed(n), c.Digest())
		if err != nil {
			return nil
		}
		if es := v.byName[only.String()]; es != nil {
			return es
		}
		// The digest may be that of one platform's manifest under a name of an index.
		for _, e := range v.all {
			if slices.Contains(e.manifests, c.Digest()) && e.inRepository(n.Name()) {
				return []*entry{e}
			}
		}
		return nil
	}
	return v.byName[reference.TagNameOnly(n).String()]
}

// inRepository says whether one of the names is of repository repo.
func (e *entry) inRepository(repo string) bool {
	return slices.ContainsFunc(e.img.Names, func(n string) bool {
		return strings.HasPrefix(n, repo) && len(n) > len(repo) && (n[len(repo)] == ':' || n[len(repo)] == '@')
	})
}

// byDigest finds by the id, and by the digest of a manifest or an index.
func (v *view) byDigest(ref string, d digest.Digest) ([]*entry, error) {
	if e := v.byID[d]; e != nil {
		return []*entry{e}, nil
	}
	if es := v.target[d]; len(es) > 0 {
		return es, nil
	}
	for _, e := range v.all {
		if slices.Contains(e.manifests, d) {
			return []*entry{e}, nil
		}
	}
	return nil, say(errdefs.ErrNotFound, "No such image: %s", ref)
}

// byPrefix finds by the beginning of an id.
func (v *view) byPrefix(ref, prefix string) ([]*entry, error) {
	var found *entry
	for _, e := range v.all {
		_, id, _ := strings.Cut(e.img.ID, ":")
		if !strings.HasPrefix(id, prefix) {
			continue
		}
		if found != nil {
			return nil, say(errdefs.ErrInvalidArgument, "reference %q is ambiguous: it is the beginning of several image ids", ref)
		}
		found = e
	}
	if found == nil {
		return nil, noSuchImage(ref)
	}
	return []*entry{found}, nil
}

func isHex(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for _, c := range s {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// choose takes the image for a platform. Without one asked for, the host's is
// best, and another is better than none.
func (s *store) choose(entries []*entry, ref, platform string) (*entry, error) {
	if len(entries) == 0 {
		return nil, noSuchImage(ref)
	}
	want, err := s.platform(platform)
	if err != nil {
		return nil, err
	}
	e := best(entries, want)
	switch {
	case e != nil:
		return e, nil
	case platform == "":
		return entries[0], nil
	}
	return nil, say(errdefs.ErrNotFound, "image with reference %s was found but its platform (%s) does not match the specified platform (%s)",
		ref, platforms.FormatAll(entries[0].platform), platforms.FormatAll(want))
}

func best(entries []*entry, want ocispec.Platform) *entry {
	m := platforms.Only(want)
	var e *entry
	for _, c := range entries {
		if m.Match(c.platform) && (e == nil || m.Less(c.platform, e.platform)) {
			e = c
		}
	}
	return e
}

// platform parses a platform, "" = the default one.
func (s *store) platform(p string) (ocispec.Platform, error) {
	if p == "" {
		return s.host, nil
	}
	spec, err := platforms.Parse(p)
	if err != nil {
		return spec, say(errdefs.ErrInvalidArgument, "invalid platform %q: %v", p, err)
	}
	return platforms.Normalize(spec), nil
}
