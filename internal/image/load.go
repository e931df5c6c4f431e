package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"runtime"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"hull/internal/hull"
	"hull/internal/image/packed"
)

// Annotations by which an OCI layout names its images.
const (
	annotationName = "io.containerd.image.name"
	annotationRef  = ocispec.AnnotationRefName
)

// What an image archive may cost.
const (
	maxLoadEntries = 100_000  // files
	maxDocs        = 64 << 20 // bytes of its documents
)

// dockerManifest is one image in a docker-archive's manifest.json.
type dockerManifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// Load reads an image archive: a docker-archive of any age or an OCI layout, in
// a tar that may be packed. It returns what was loaded: names in their familiar
// form, and the ids of images without a name.
func (s *Service) Load(ctx context.Context, r io.Reader, wanted []string, progress func(hull.Progress)) ([]string, error) {
	defer s.cfg.Busy()()
	ctx = s.ns(ctx)
	leave := s.gate.enter()
	defer leave()
	l := &loader{s: s, tell: &teller{fn: progress}, docs: map[string][]byte{}, blobs: map[string]ocispec.Descriptor{}, links: map[string]string{}}
	for _, w := range wanted {
		p, err := s.platform(w)
		if err != nil {
			return nil, err
		}
		l.wanted = append(l.wanted, p)
	}
	names, err := l.load(ctx, r)
	if err != nil {
		s.collect(ctx) // what was stored of it
		return names, errors.Join(fmt.Errorf("load image archive: %w", err), s.reload(ctx))
	}
	if err := s.reload(ctx); err != nil {
		return names, err
	}
	for _, n := range names {
		if list, err := s.view.Load().find(n); err == nil {
			s.publish("load", list[0].img.ID, n)
		}
	}
	return names, nil
}

// loader is one call of Load.
type loader struct {
	s      *Service
	tell   *teller
	wanted []ocispec.Platform // empty = all
	docs   map[string][]byte  // small files by name
	kept   int64              // bytes of docs
	blobs  map[string]ocispec.Descriptor
	links  map[string]string // old archives share layers by symbolic links
}

func (l *loader) load(ctx context.Context, r io.Reader) ([]string, error) {
	if err := l.read(ctx, r); err != nil {
		return nil, err
	}
	return l.images(ctx)
}

// read stores the archive's files: blobs in the content store, where they are
// garbage until an image names them.
func (l *loader) read(ctx context.Context, r io.Reader) error {
	dec, _, err := packed.Decompress(r)
	if err != nil {
		return err
	}
	defer dec.Close()
	tr := tar.NewReader(dec)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return badDocument("read tar", err)
		}
		if n > maxLoadEntries {
			return badDocument("image archive", fmt.Errorf("has more than %d entries", maxLoadEntries))
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		switch h.Typeflag {
		case tar.TypeReg:
			if err := l.file(ctx, name, h.Size, tr); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		case tar.TypeSymlink:
			l.links[name] = strings.TrimPrefix(path.Join("/", path.Dir(name), h.Linkname), "/")
		case tar.TypeLink:
			l.links[name] = strings.TrimPrefix(path.Clean("/"+h.Linkname), "/")
		}
	}
}

// file keeps one file: documents in memory, everything else as a blob.
func (l *loader) file(ctx context.Context, name string, size int64, r io.Reader) error {
	if enc, ok := strings.CutPrefix(name, "blobs/"); ok {
		alg, hex, _ := strings.Cut(enc, "/")
		want := digest.NewDigestFromEncoded(digest.Algorithm(alg), hex)
		if err := want.Validate(); err != nil {
			return badDocument("blob", err)
		}
		return l.blob(ctx, name, size, want, r)
	}
	if size <= maxManifest && (strings.HasSuffix(name, ".json") || name == "repositories" || name == "oci-layout") {
		b, err := io.ReadAll(r)
		if err != nil {
			return badDocument("read tar", err)
		}
		if l.kept += size; l.kept > maxDocs {
			return badDocument("image archive", fmt.Errorf("its documents take more than %d bytes", maxDocs))
		}
		l.docs[name] = b
		return nil
	}
	if strings.HasSuffix(name, ".tar") || path.Base(name) == "layer" {
		return l.blob(ctx, name, size, "", r)
	}
	return nil
}

// blob stores one blob. want "" = its digest is not known.
func (l *loader) blob(ctx context.Context, name string, size int64, want digest.Digest, r io.Reader) error {
	d := ocispec.Descriptor{Digest: want, Size: size}
	if want != "" && l.s.hasBlob(ctx, want) {
		// Nothing of it is used: what is here has been verified.
		l.blobs[name] = d
		return nil
	}
	ref := "load-" + name + "-" + fmt.Sprint(size)
	if err := l.s.content.Abort(ctx, ref); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("clear an earlier load: %w", err)
	}
	d, err := l.writeBlob(ctx, ref, d, r)
	if err != nil {
		abort := l.s.content.Abort(context.WithoutCancel(ctx), ref)
		if errdefs.IsNotFound(abort) {
			abort = nil
		}
		return errors.Join(err, abort)
	}
	l.blobs[name] = d
	return nil
}

func (l *loader) writeBlob(ctx context.Context, ref string, d ocispec.Descriptor, r io.Reader) (ocispec.Descriptor, error) {
	w, err := content.OpenWriter(ctx, l.s.content, content.WithRef(ref))
	if err != nil {
		return d, fmt.Errorf("store blob: %w", err)
	}
	defer w.Close()
	id := "blob"
	if d.Digest != "" {
		id = short(d.Digest.Encoded())
	}
	src := &paced{r: r, p: pace{report: l.tell.tell, id: id, status: "Loading layer", total: d.Size}}
	n, err := io.CopyBuffer(w, struct{ io.Reader }{src}, make([]byte, 256<<10))
	if err != nil {
		return d, fmt.Errorf("store blob: %w", err)
	}
	if n != d.Size {
		return d, badDocument("read tar", io.ErrUnexpectedEOF)
	}
	got := w.Digest()
	if d.Digest != "" && d.Digest.Algorithm() == got.Algorithm() && d.Digest != got {
		return d, &mismatchError{got}
	}
	if d.Digest == "" {
		d.Digest = got
	}
	if err := w.Commit(ctx, d.Size, d.Digest); err != nil && !errdefs.IsAlreadyExists(err) {
		return d, fmt.Errorf("store blob: %w", err)
	}
	return d, nil
}

// images makes the images that the archive describes.
func (l *loader) images(ctx context.Context) ([]string, error) {
	if b, ok := l.docs["index.json"]; ok {
		return l.layout(ctx, b)
	}
	if b, ok := l.docs["manifest.json"]; ok {
		return l.dockerArchive(ctx, b)
	}
	return nil, badDocument("image archive", errors.New("has neither manifest.json nor index.json: it is no image archive (for a root file system's tar use import)"))
}

// layout makes the images of an OCI layout.
func (l *loader) layout(ctx context.Context, b []byte) ([]string, error) {
	idx, err := parseIndex(b, ocispec.MediaTypeImageIndex)
	if err != nil {
		return nil, err
	}
	var names []string
	done := map[digest.Digest]bool{}
	for _, d := range idx.Manifests {
		if !isManifest(d.MediaType) && !isIndex(d.MediaType) {
			continue
		}
		ids, err := l.target(ctx, d, done)
		if err != nil {
			return names, err
		}
		if len(ids) == 0 {
			continue
		}
		named, err := l.nameTarget(ctx, d)
		if err != nil {
			return names, err
		}
		if named == "" {
			names = append(names, ids...)
			continue
		}
		if !slices.Contains(names, named) {
			names = append(names, named)
		}
	}
	if len(names) == 0 {
		return nil, badDocument("image archive", errors.New("holds no image for the wanted platform"))
	}
	return names, nil
}

// nameTarget names what the layout's index names; "" = it has no name.
func (l *loader) nameTarget(ctx context.Context, d ocispec.Descriptor) (string, error) {
	for _, a := range []string{d.Annotations[annotationName], d.Annotations[annotationRef]} {
		// A bare tag says nothing about the repository.
		if a == "" || !strings.ContainsAny(a, ":/@") {
			continue
		}
		n, err := reference.ParseNormalizedNamed(a)
		if err != nil {
			continue
		}
		n = reference.TagNameOnly(n)
		if c, ok := n.(reference.Canonical); ok {
			return reference.FamiliarString(n), l.s.setName(ctx, c.String(), d)
		}
		return reference.FamiliarString(n), l.s.tag(ctx, n.String(), d)
	}
	return "", l.s.keepNameless(ctx, d)
}

// keepNameless keeps a target that has no name.
func (s *store) keepNameless(ctx context.Context, d ocispec.Descriptor) error {
	for _, r := range s.view.Load().names {
		if r.target.Digest == d.Digest {
			return nil
		}
	}
	return s.setName(ctx, danglingPrefix+d.Digest.String(), d)
}

// target unpacks the images behind a descriptor and labels its documents. It
// returns their ids; none when the wanted platform is not among them.
func (l *loader) target(ctx context.Context, d ocispec.Descriptor, done map[digest.Digest]bool) ([]string, error) {
	b, err := l.s.readBlob(ctx, d, maxManifest)
	if err != nil {
		return nil, err
	}
	if isManifest(d.MediaType) {
		id, err := l.image(ctx, d, b, done)
		if id == "" || err != nil {
			return nil, err
		}
		return []string{id}, nil
	}
	idx, err := parseIndex(b, d.MediaType)
	if err != nil {
		return nil, err
	}
	labels := map[string]string{}
	var ids []string
	for i, m := range idx.Manifests {
		if !isManifest(m.MediaType) || !l.s.hasBlob(ctx, m.Digest) {
			continue
		}
		if isAttestation(m) {
			a, err := l.s.attestation(ctx, m)
			if errdefs.IsNotFound(err) {
				continue
			}
			if err != nil {
				return nil, err
			}
			if err := l.s.keepAttestation(ctx, a); err != nil {
				return nil, err
			}
			labels[refLabel("m", i)] = m.Digest.String()
			continue
		}
		got, err := l.target(ctx, m, done)
		if err != nil {
			return nil, err
		}
		ids = append(ids, got...)
		labels[refLabel("m", i)] = m.Digest.String()
	}
	return ids, l.s.label(ctx, d.Digest, labels)
}

// image unpacks one image. "" = it is not for a wanted platform.
func (l *loader) image(ctx context.Context, d ocispec.Descriptor, b []byte, done map[digest.Digest]bool) (string, error) {
	m, err := parseManifest(b, d.MediaType)
	if err != nil {
		return "", err
	}
	raw, err := l.s.readBlob(ctx, m.Config, maxConfig)
	if err != nil {
		return "", err
	}
	p, err := assemble(m, raw)
	if err != nil {
		return "", err
	}
	id := m.Config.Digest.String()
	if !l.wants(p.config.Platform) {
		return "", nil
	}
	if done[d.Digest] {
		return id, nil
	}
	done[d.Digest] = true
	return id, l.s.adopt(ctx, d, p, l.tell)
}

func (l *loader) wants(p ocispec.Platform) bool {
	return len(l.wanted) == 0 || slices.ContainsFunc(l.wanted, func(w ocispec.Platform) bool {
		return platforms.OnlyStrict(w).Match(platforms.Normalize(p))
	})
}

// adopt labels the documents of an image whose blobs are all here, and unpacks
// its layers.
func (s *Service) adopt(ctx context.Context, d ocispec.Descriptor, p *parsed, tell *teller) error {
	for _, t := range p.manifest.Layers {
		if !s.hasBlob(ctx, t.Digest) {
			return badDocument(d.Digest.String(), fmt.Errorf("layer %s is neither in the archive nor here: an archive without all its layers needs the image that it was made on top of", t.Digest))
		}
	}
	if err := s.label(ctx, p.manifest.Config.Digest, configLabels(p)); err != nil {
		return err
	}
	if err := s.label(ctx, d.Digest, manifestLabels(p.manifest)); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0) + 1)
	pl := &puller{s: s}
	for _, t := range tasks(p) {
		if s.layers.Has(t.chain) {
			continue
		}
		g.Go(func() error { return pl.fromStore(ctx, t, short(t.blob.Digest.Encoded()), tell.tell) })
	}
	return g.Wait()
}

// dockerArchive makes the images of a docker-archive. It has no manifests of
// its own, so they are made here.
func (l *loader) dockerArchive(ctx context.Context, b []byte) ([]string, error) {
	var list []dockerManifest
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, badDocument("manifest.json", err)
	}
	var names []string
	done := map[digest.Digest]bool{}
	for _, dm := range list {
		d, mb, err := l.manifest(ctx, dm)
		if err != nil {
			return names, err
		}
		id, err := l.image(ctx, d, mb, done)
		if err != nil {
			return names, err
		}
		if id == "" {
			continue
		}
		if len(dm.RepoTags) == 0 {
			names = append(names, id)
			if err := l.s.keepNameless(ctx, d); err != nil {
				return names, err
			}
		}
		for _, t := range dm.RepoTags {
			n, err := reference.ParseNormalizedNamed(t)
			if err != nil {
				return names, badReference(err)
			}
			n = reference.TagNameOnly(n)
			if err := l.s.tag(ctx, n.String(), d); err != nil {
				return names, err
			}
			names = append(names, reference.FamiliarString(n))
		}
	}
	return names, nil
}

// manifest makes the manifest of a docker-archive's image.
func (l *loader) manifest(ctx context.Context, dm dockerManifest) (ocispec.Descriptor, []byte, error) {
	fail := func(err error) (ocispec.Descriptor, []byte, error) { return ocispec.Descriptor{}, nil, err }
	raw, ok := l.docs[l.follow(dm.Config)]
	if !ok {
		d, isBlob := l.blobs[l.follow(dm.Config)]
		if !isBlob {
			return fail(badDocument("manifest.json", fmt.Errorf("configuration %q is not in the archive", dm.Config)))
		}
		var err error
		if raw, err = l.s.readBlob(ctx, d, maxConfig); err != nil {
			return fail(err)
		}
	}
	m := ocispec.Manifest{MediaType: images.MediaTypeDockerSchema2Manifest, Config: ocispec.Descriptor{
		MediaType: images.MediaTypeDockerSchema2Config, Digest: digest.FromBytes(raw), Size: int64(len(raw)),
	}}
	m.SchemaVersion = 2
	if len(dm.Layers) > maxLayers {
		return fail(badDocument("manifest.json", fmt.Errorf("has %d layers, more than %d", len(dm.Layers), maxLayers)))
	}
	for _, name := range dm.Layers {
		d, ok := l.blobs[l.follow(name)]
		if !ok {
			return fail(badDocument("manifest.json", fmt.Errorf("layer %q is not in the archive", name)))
		}
		mt, err := l.s.layerType(ctx, d)
		if err != nil {
			return fail(err)
		}
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: mt, Digest: d.Digest, Size: d.Size})
	}
	b, err := json.Marshal(m)
	if err != nil {
		return fail(err)
	}
	if err := l.s.writeBlob(ctx, m.Config, raw, nil, ""); err != nil {
		return fail(err)
	}
	d := ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	return d, b, l.s.writeBlob(ctx, d, b, nil, "")
}

// follow resolves the links of an archive.
func (l *loader) follow(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	for range 10 {
		to, ok := l.links[name]
		if !ok {
			break
		}
		name = to
	}
	return name
}

// layerType is the media type of a layer blob, from its first bytes.
func (s *store) layerType(ctx context.Context, d ocispec.Descriptor) (string, error) {
	ra, err := s.content.ReaderAt(ctx, ocispec.Descriptor{Digest: d.Digest})
	if err != nil {
		return "", fmt.Errorf("read layer %s: %w", d.Digest, err)
	}
	defer ra.Close()
	head := make([]byte, 6)
	n, err := ra.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read layer %s: %w", d.Digest, err)
	}
	switch packed.Detect(head[:n]) {
	case packed.Gzip:
		return images.MediaTypeDockerSchema2LayerGzip, nil
	case packed.Zstd:
		return images.MediaTypeDockerSchema2LayerZstd, nil
	default:
		return images.MediaTypeDockerSchema2Layer, nil
	}
}
