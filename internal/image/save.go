package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hull/internal/hull"
)

// Save writes images as one tar that is an OCI layout and a docker-archive at
// once. A repository's name stands for all its tags. An archive without some of
// its layers (Omit, Since) is an OCI layout only, which Load completes with what
// is there.
func (s *Service) Save(ctx context.Context, r hull.SaveRequest, w io.Writer) error {
	ctx = s.ns(ctx)
	leave := s.gate.enter()
	defer leave()
	sv, err := s.collectSave(ctx, r.Refs, r.Platforms)
	if err != nil {
		return err
	}
	if len(r.Since) > 0 {
		base, err := s.collectSave(ctx, r.Since, nil)
		if err != nil {
			return fmt.Errorf("the image that the receiver has: %w", err)
		}
		for d := range base.layers {
			sv.omit(d)
		}
	}
	for _, d := range r.Omit {
		sv.omit(digest.Digest(d))
	}
	if err := sv.write(ctx, w); err != nil {
		return fmt.Errorf("save images: %w", err)
	}
	for _, id := range sv.ids {
		s.publish("save", id, id)
	}
	return nil
}

// Layers lists the layers of images as they are stored, each once: what a
// receiver of the images needs beside their documents.
func (s *store) Layers(ctx context.Context, refs, wanted []string) ([]hull.Blob, error) {
	ctx = s.ns(ctx)
	sv, err := s.collectSave(ctx, refs, wanted)
	if err != nil {
		return nil, err
	}
	list := make([]hull.Blob, 0, len(sv.layers))
	for d := range sv.layers {
		info, err := s.content.Info(ctx, d)
		if err != nil {
			return nil, fmt.Errorf("read layer %s: %w", d, err)
		}
		list = append(list, hull.Blob{Digest: d.String(), Size: info.Size})
	}
	slices.SortFunc(list, func(a, b hull.Blob) int { return strings.Compare(a.Digest, b.Digest) })
	return list, nil
}

// Lacking returns those of the digests that are not here.
func (s *store) Lacking(ctx context.Context, digests []string) ([]string, error) {
	ctx = s.ns(ctx)
	var out []string
	for _, text := range digests {
		d, err := digest.Parse(text)
		if err != nil {
			return nil, badDocument("digest "+text, err)
		}
		if !s.hasBlob(ctx, d) {
			out = append(out, text)
		}
	}
	return out, nil
}

// collectSave finds all that an archive of the references would hold.
func (s *store) collectSave(ctx context.Context, refs, wanted []string) (*saver, error) {
	sv := &saver{
		s: s, blobs: map[digest.Digest]ocispec.Descriptor{}, docs: map[digest.Digest][]byte{},
		layers: map[digest.Digest]bool{}, repos: map[string]map[string]string{},
	}
	for _, p := range wanted {
		spec, err := s.platform(p)
		if err != nil {
			return nil, err
		}
		sv.wanted = append(sv.wanted, spec)
	}
	sv.index.MediaType, sv.index.SchemaVersion = ocispec.MediaTypeImageIndex, 2
	for _, ref := range refs {
		if err := sv.add(ctx, ref); err != nil {
			return nil, err
		}
	}
	return sv, nil
}

type saver struct {
	s      *store
	partly bool // some layers are left out
	layers map[digest.Digest]bool
	wanted []ocispec.Platform
	index  ocispec.Index
	list   []dockerManifest
	repos  map[string]map[string]string // legacy "repositories"
	blobs  map[digest.Digest]ocispec.Descriptor
	docs   map[digest.Digest][]byte // made here
	ids    []string
}

// add collects what one reference stands for.
func (sv *saver) add(ctx context.Context, ref string) error {
	v := sv.s.view.Load()
	named, err := reference.ParseNormalizedNamed(ref)
	if err == nil && reference.IsNameOnly(named) {
		var tags []string
		for n := range v.names {
			if repo, isDigest := splitName(n); !isDigest && repo == named.Name() {
				tags = append(tags, n)
			}
		}
		slices.Sort(tags)
		for _, n := range tags {
			if err := sv.image(ctx, n, v.byName[n], ref); err != nil {
				return err
			}
		}
		if len(tags) > 0 {
			return nil
		}
	}
	entries, ferr := v.find(ref)
	if ferr != nil {
		return ferr
	}
	name := ""
	if err == nil {
		if n := reference.TagNameOnly(named).String(); v.byName[n] != nil {
			if _, isDigest := splitName(n); !isDigest {
				name = n
			}
		}
	}
	return sv.image(ctx, name, entries, ref)
}

// image collects the images of one name ("" = none), of the wanted platforms.
func (sv *saver) image(ctx context.Context, name string, entries []*entry, ref string) error {
	var descs []ocispec.Descriptor
	for _, e := range entries {
		if !sv.wants(e.platform) {
			continue
		}
		d, err := sv.one(ctx, e, name)
		if err != nil {
			return err
		}
		descs = append(descs, d)
	}
	if len(descs) == 0 {
		if len(sv.wanted) > 0 {
			return say(errdefs.ErrNotFound, "image %s has no local content for the platform %s", ref, platforms.FormatAll(sv.wanted[0]))
		}
		return noSuchImage(ref)
	}
	d, whole, err := sv.whole(ctx, name, descs[0])
	if err != nil {
		return err
	}
	if len(descs) > 1 && !whole {
		// One name for several platforms is an index of those that are here.
		idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: descs}
		idx.SchemaVersion = 2
		b, err := json.Marshal(idx)
		if err != nil {
			return fmt.Errorf("write image index: %w", err)
		}
		d = ocispec.Descriptor{MediaType: idx.MediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
		sv.docs[d.Digest] = b
	}
	if name != "" {
		n, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return badReference(err)
		}
		d.Annotations = map[string]string{annotationName: name}
		if t, ok := n.(reference.Tagged); ok {
			d.Annotations[annotationRef] = t.Tag()
		}
	}
	if !slices.ContainsFunc(sv.index.Manifests, func(o ocispec.Descriptor) bool {
		return o.Digest == d.Digest && o.Annotations[annotationName] == d.Annotations[annotationName]
	}) {
		sv.index.Manifests = append(sv.index.Manifests, d)
	}
	return nil
}

// whole collects the index that a name stands for, with what it says about its
// images, when all of it is here: what is loaded then has the same digest.
func (sv *saver) whole(ctx context.Context, name string, d ocispec.Descriptor) (ocispec.Descriptor, bool, error) {
	target := sv.s.view.Load().names[name].target
	if name == "" || len(sv.wanted) > 0 || !isIndex(target.MediaType) {
		return d, false, nil
	}
	_, about, err := sv.s.whole(ctx, target)
	if errdefs.IsNotFound(err) {
		return d, false, nil
	}
	if err != nil {
		return d, false, err
	}
	info, err := sv.s.content.Info(ctx, target.Digest)
	if err != nil {
		return d, false, fmt.Errorf("read image index: %w", err)
	}
	target.Size = info.Size
	sv.blobs[target.Digest] = target
	for _, a := range about {
		sv.blobs[a.Digest] = a.Descriptor
		for _, p := range a.parts {
			sv.blobs[p.Digest] = p
		}
	}
	return target, true, nil
}

func (sv *saver) wants(p ocispec.Platform) bool {
	return len(sv.wanted) == 0 || slices.ContainsFunc(sv.wanted, func(w ocispec.Platform) bool { return platforms.OnlyStrict(w).Match(p) })
}

// one collects one image.
func (sv *saver) one(ctx context.Context, e *entry, name string) (ocispec.Descriptor, error) {
	p, err := sv.s.readImage(ctx, e.manifest)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d := ocispec.Descriptor{MediaType: e.manifest.MediaType, Digest: e.manifest.Digest, Size: e.manifest.Size, Platform: &e.platform}
	if info, err := sv.s.content.Info(ctx, d.Digest); err == nil {
		d.Size = info.Size
	}
	sv.blobs[d.Digest] = d
	sv.blobs[p.manifest.Config.Digest] = p.manifest.Config
	dm := dockerManifest{Config: blobPath(p.manifest.Config.Digest), RepoTags: nil}
	for _, l := range p.manifest.Layers {
		sv.blobs[l.Digest], sv.layers[l.Digest] = l, true
		dm.Layers = append(dm.Layers, blobPath(l.Digest))
	}
	if !slices.Contains(sv.ids, e.img.ID) {
		sv.ids = append(sv.ids, e.img.ID)
	}
	i := slices.IndexFunc(sv.list, func(o dockerManifest) bool { return o.Config == dm.Config })
	if i < 0 {
		sv.list = append(sv.list, dm)
		i = len(sv.list) - 1
	}
	if name != "" {
		n, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return d, badReference(err)
		}
		familiar := reference.FamiliarString(n)
		if !slices.Contains(sv.list[i].RepoTags, familiar) {
			sv.list[i].RepoTags = append(sv.list[i].RepoTags, familiar)
		}
		if t, ok := n.(reference.Tagged); ok && len(p.chains) > 0 {
			repo := reference.FamiliarName(n)
			if sv.repos[repo] == nil {
				sv.repos[repo] = map[string]string{}
			}
			sv.repos[repo][t.Tag()] = p.chains[len(p.chains)-1].Encoded()
		}
	}
	return d, nil
}

// omit leaves a layer out.
func (sv *saver) omit(d digest.Digest) {
	if sv.layers[d] {
		delete(sv.blobs, d)
		sv.partly = true
	}
}

func blobPath(d digest.Digest) string { return "blobs/" + d.Algorithm().String() + "/" + d.Encoded() }

// write writes the tar. The same images always give the same bytes.
func (sv *saver) write(ctx context.Context, w io.Writer) error {
	tw := tar.NewWriter(w)
	for _, d := range []string{"blobs/", "blobs/sha256/"} {
		if err := tw.WriteHeader(&tar.Header{Name: d, Typeflag: tar.TypeDir, Mode: 0o755, ModTime: time.Unix(0, 0)}); err != nil {
			return err
		}
	}
	var all []digest.Digest
	for d := range sv.blobs {
		all = append(all, d)
	}
	for d := range sv.docs {
		all = append(all, d)
	}
	slices.Sort(all)
	for _, d := range slices.Compact(all) {
		if err := sv.blob(ctx, tw, d); err != nil {
			return err
		}
	}
	for _, f := range []struct {
		name string
		v    any
	}{{"index.json", sv.index}, {"manifest.json", sv.list}, {"oci-layout", ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}}, {"repositories", sv.repos}} {
		if sv.partly && (f.name == "manifest.json" || f.name == "repositories") {
			continue // a docker-archive is whole or none
		}
		b, err := json.Marshal(f.v)
		if err != nil {
			return fmt.Errorf("write %s: %w", f.name, err)
		}
		if err := writeFile(tw, f.name, b); err != nil {
			return err
		}
	}
	return tw.Close()
}

func writeFile(tw *tar.Writer, name string, b []byte) error {
	if err := tw.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(b)), ModTime: time.Unix(0, 0)}); err != nil {
		return err
	}
	_, err := tw.Write(b)
	return err
}

func (sv *saver) blob(ctx context.Context, tw *tar.Writer, d digest.Digest) error {
	if b, ok := sv.docs[d]; ok {
		return writeFile(tw, blobPath(d), b)
	}
	ra, err := sv.s.content.ReaderAt(ctx, sv.blobs[d])
	if err != nil {
		return fmt.Errorf("read %s: %w", d, err)
	}
	defer ra.Close()
	if err := tw.WriteHeader(&tar.Header{Name: blobPath(d), Typeflag: tar.TypeReg, Mode: 0o644, Size: ra.Size(), ModTime: time.Unix(0, 0)}); err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{tw}, content.NewReader(ra), make([]byte, 256<<10))
	return err
}
