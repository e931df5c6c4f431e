package image

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hull/internal/hull"
	"hull/internal/image/layers"
	"hull/internal/image/snaps"
)

// Names in containerd's image store: "docker.io/library/redis:7" and
// "docker.io/library/redis@sha256:..." as in Docker's reference store; an image
// without a name is kept by danglingPrefix + its manifest's digest.
const danglingPrefix = "hull.dangling/"

// labelParent on a configuration blob names the image it was committed on.
const labelParent = "hull.image.parent"

// store is what the service knows of images: their content, their names, and a
// view of both.
type store struct {
	content content.Store
	names   images.Store
	layers  *layers.Store
	steps   *snaps.Store     // of the builder
	host    ocispec.Platform // the default one
	log     *slog.Logger
	settle  func() error // what was written outlives a power failure

	view     atomic.Pointer[view]
	reloadMu sync.Mutex
	parsed   map[digest.Digest]*parsed // by manifest digest; guarded by reloadMu
}

// view is everything that can be asked about local images, rebuilt after each
// change and read without a lock.
type view struct {
	names  map[string]record          // every name
	byName map[string][]*entry        // the images a name stands for, one for each platform
	byID   map[digest.Digest]*entry   // by configuration digest
	all    []*entry                   // newest first
	target map[digest.Digest][]*entry // by what names point to
	held   map[digest.Digest]bool     // the manifests of all
}

type record struct {
	name    string
	target  ocispec.Descriptor
	updated time.Time
}

// entry is one local image.
type entry struct {
	img       hull.Image
	platform  ocispec.Platform
	manifest  ocispec.Descriptor
	manifests []digest.Digest // all with this configuration
	chains    []digest.Digest // lowest first
	history   []ocispec.History
}

// parsed is what a manifest and its configuration say; it never changes.
type parsed struct {
	manifest ocispec.Manifest
	config   imageConfig
	raw      json.RawMessage
	parent   string
	chains   []digest.Digest // lowest first
}

// reload rebuilds the view from the database.
func (s *store) reload(ctx context.Context) error {
	s.reloadMu.Lock()
	defer s.reloadMu.Unlock()
	list, err := s.names.List(ctx)
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	v := &view{
		names: map[string]record{}, byName: map[string][]*entry{},
		byID: map[digest.Digest]*entry{}, target: map[digest.Digest][]*entry{}, held: map[digest.Digest]bool{},
	}
	seen := map[digest.Digest]*parsed{}
	for _, i := range list {
		r := record{name: i.Name, target: i.Target, updated: i.UpdatedAt}
		v.names[i.Name] = r
		if err := s.addRecord(ctx, v, r, seen); err != nil {
			// One broken image must not hide the others, nor stop the engine.
			s.log.Warn("image cannot be read", "name", i.Name, "target", i.Target.Digest, "error", err)
		}
	}
	s.parsed = seen
	for _, e := range v.byID {
		slices.Sort(e.img.RepoTags)
		slices.Sort(e.img.RepoDigests)
		slices.Sort(e.img.Names)
		v.all = append(v.all, e)
	}
	slices.SortFunc(v.all, func(a, b *entry) int {
		return cmp.Or(b.img.Created.Compare(a.img.Created), cmp.Compare(a.img.ID, b.img.ID))
	})
	s.view.Store(v)
	s.layers.Sync()
	return nil
}

// addRecord adds the local images behind one name.
func (s *store) addRecord(ctx context.Context, v *view, r record, seen map[digest.Digest]*parsed) error {
	entries, ok := v.target[r.target.Digest]
	if !ok {
		manifests, err := s.manifestsOf(ctx, r.target, 0)
		if err != nil {
			return err
		}
		for _, m := range manifests {
			p, err := s.parse(ctx, m, seen)
			if errdefs.IsNotFound(err) {
				continue // another platform, not pulled
			}
			if err != nil {
				return err
			}
			entries = append(entries, v.entry(s, m, p, r.target))
		}
		v.target[r.target.Digest] = entries
	}
	v.byName[r.name] = entries
	for _, e := range entries {
		e.name(r)
	}
	return nil
}

// hasManifest says whether an image that has a name, or is kept without one, has
// this manifest.
func (v *view) hasManifest(d digest.Digest) bool { return v.held[d] }

// name adds one name to an image.
func (e *entry) name(r record) {
	if strings.HasPrefix(r.name, danglingPrefix) {
		return
	}
	n, err := reference.ParseNormalizedNamed(r.name)
	if err != nil {
		return
	}
	e.img.Names = append(e.img.Names, r.name)
	if r.updated.After(e.img.LastTagged) {
		e.img.LastTagged = r.updated
	}
	if _, ok := n.(reference.Digested); ok {
		e.img.RepoDigests = append(e.img.RepoDigests, reference.FamiliarString(n))
		return
	}
	e.img.RepoTags = append(e.img.RepoTags, reference.FamiliarString(n))
	// A tag is the better answer to what the image is.
	e.img.Target, e.img.TargetType = r.target.Digest.String(), r.target.MediaType
}

// entry finds or makes the image of a manifest.
func (v *view) entry(s *store, m ocispec.Descriptor, p *parsed, target ocispec.Descriptor) *entry {
	id := p.manifest.Config.Digest
	e := v.byID[id]
	if e == nil {
		e = &entry{platform: platforms.Normalize(p.config.Platform), manifest: m, chains: p.chains, history: p.config.History, img: hull.Image{
			ID: id.String(), Manifest: m.Digest.String(),
			Target: target.Digest.String(), TargetType: target.MediaType,
			Parent: p.parent, Comment: p.config.Comment, Author: p.config.Author,
			OS: p.config.OS, Architecture: p.config.Architecture, Variant: p.config.Variant, OSVersion: p.config.OSVersion,
			Config: p.config.Config.domain(), RawConfig: p.raw, Layers: make([]string, 0, len(p.chains)),
		}}
		if p.config.Created != nil {
			e.img.Created = *p.config.Created
		}
		for i, d := range p.config.RootFS.DiffIDs {
			e.img.Layers = append(e.img.Layers, d.String())
			if l, err := s.layers.Info(p.chains[i]); err == nil {
				e.img.Size += l.Size
			}
		}
		v.byID[id] = e
	}
	v.held[m.Digest] = true
	if !slices.Contains(e.manifests, m.Digest) {
		e.manifests = append(e.manifests, m.Digest)
	}
	return e
}

// parse reads a manifest and its configuration, once.
func (s *store) parse(ctx context.Context, m ocispec.Descriptor, seen map[digest.Digest]*parsed) (*parsed, error) {
	if p := s.parsed[m.Digest]; p != nil {
		seen[m.Digest] = p
		return p, nil
	}
	p, err := s.readImage(ctx, m)
	if err != nil {
		return nil, err
	}
	seen[m.Digest] = p
	return p, nil
}

// readImage reads a manifest and its configuration from the content store.
// errdefs.ErrNotFound when they are not all here.
func (s *store) readImage(ctx context.Context, m ocispec.Descriptor) (*parsed, error) {
	b, err := s.readBlob(ctx, m, maxManifest)
	if err != nil {
		return nil, err
	}
	manifest, err := parseManifest(b, m.MediaType)
	if err != nil {
		return nil, err
	}
	info, err := s.content.Info(ctx, manifest.Config.Digest)
	if err != nil {
		return nil, fmt.Errorf("configuration of %s: %w", m.Digest, err)
	}
	raw, err := s.readBlob(ctx, manifest.Config, maxConfig)
	if err != nil {
		return nil, err
	}
	p, err := assemble(manifest, raw)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", m.Digest, err)
	}
	p.parent = info.Labels[labelParent]
	return p, nil
}

// setName points name at target, and makes it durable.
func (s *store) setName(ctx context.Context, name string, target ocispec.Descriptor) error {
	img := images.Image{Name: name, Target: ocispec.Descriptor{MediaType: target.MediaType, Digest: target.Digest, Size: target.Size}}
	_, err := s.names.Create(ctx, img)
	if errdefs.IsAlreadyExists(err) {
		_, err = s.names.Update(ctx, img)
	}
	if err != nil {
		return fmt.Errorf("record image %s: %w", name, err)
	}
	return s.settle()
}

// dropName forgets a name. An unknown one is no error.
func (s *store) dropName(ctx context.Context, name string) error {
	if err := s.names.Delete(ctx, name); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("forget image name %s: %w", name, err)
	}
	return s.settle()
}

// snapshot copies what a caller may keep.
func (e *entry) snapshot(s *store) hull.Image {
	i := e.img
	i.Names, i.RepoTags, i.RepoDigests = slices.Clone(i.Names), slices.Clone(i.RepoTags), slices.Clone(i.RepoDigests)
	if c := chainOf(i.Layers); c != "" {
		i.LastUsed = s.layers.LastUsed(c)
	}
	return i
}

// List returns every image once, newest first.
func (s *Service) List(_ context.Context, all bool) ([]hull.Image, error) {
	v := s.view.Load()
	parents := map[string]bool{}
	for _, e := range v.all {
		parents[e.img.Parent] = true
	}
	list := make([]hull.Image, 0, len(v.all))
	for _, e := range v.all {
		if !all && len(e.img.Names) == 0 && parents[e.img.ID] {
			continue // intermediate: a nameless parent
		}
		list = append(list, e.snapshot(s.store))
	}
	return list, nil
}
