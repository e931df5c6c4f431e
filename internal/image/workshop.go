package image

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hull/internal/hull"
	"hull/internal/image/layers"
	"hull/internal/image/snaps"
)

// snapshotterName is what the builder's snapshots are called in the database. The
// builder knows by it that they are overlays.
const snapshotterName = "overlayfs"

// Workshop is what a builder in this process shares with the image service: the
// same blobs, names, collection of garbage and files. Blobs and snapshots are
// kept by leases; whoever works without one must not be surprised.
type Workshop struct {
	Namespace       string
	SnapshotterName string
	Content         content.Store
	Leases          leases.Manager
	Images          images.Store          // names; an image that gets one can be run at once
	Snapshots       snapshots.Snapshotter // image layers are there as snapshots, too
	Hosts           docker.RegistryHosts
	Collect         func(context.Context)      // removes garbage, at once or soon
	Work            func() (done func() error) // while a build works, its records wait for no disk
	Platform        ocispec.Platform
	// Admit judges an image that is built on, which ref was resolved to. from is its
	// registry, asked with the builder's credentials.
	Admit          func(ctx context.Context, ref string, d digest.Digest, from remotes.Resolver) error
	DanglingPrefix string // a name of this, "@" and a digest keeps an image without name
}

// Keys translates between the builder's names and layers.
type Keys struct {
	// Key is the snapshot's name of a layer chain, Layer its reverse.
	Key   func(chain digest.Digest) string
	Layer func(key string) (chain digest.Digest, ok bool)
	// Made finds the snapshot that has the content of a chain which was made here.
	Made func(ctx context.Context, chain digest.Digest) (key string, ok bool)
}

// Workshop opens the service to the builder.
func (s *Service) Workshop(k Keys) Workshop {
	sn := &workSnapshots{Snapshotter: s.db.Snapshotter(snapshotterName), s: s, keys: k}
	return Workshop{
		Namespace: namespace, SnapshotterName: snapshotterName,
		Content: s.db.ContentStore(), Leases: metadata.NewLeaseManager(s.db),
		Images: &workNames{s: s, keys: k, snapshots: sn}, Snapshots: sn,
		Hosts: func(host string) ([]docker.RegistryHost, error) {
			return s.reach(context.Background(), host, hull.Auth{}, true).hosts(host)
		},
		Admit: s.admitBase, Collect: s.collect, Work: s.journal.work, Platform: s.host, DanglingPrefix: strings.TrimSuffix(danglingPrefix, "/"),
	}
}

// workSnapshots shows layers of images as snapshots: a record is made for those
// that are asked for.
type workSnapshots struct {
	snapshots.Snapshotter
	s    *Service
	keys Keys
	mu   sync.Mutex // one import at a time
}

// Stat implements snapshots.Snapshotter.
func (w *workSnapshots) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	i, err := w.Snapshotter.Stat(ctx, key)
	if !errdefs.IsNotFound(err) {
		return i, err
	}
	chain, ok := w.keys.Layer(key)
	if !ok || !w.s.layers.Whole(chain) {
		return i, err
	}
	leave := w.s.gate.enter()
	defer leave()
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.borrow(ctx, chain); err != nil {
		return i, fmt.Errorf("use layer %s for a build: %w", chain, err)
	}
	return w.Snapshotter.Stat(ctx, key)
}

// borrow makes snapshots of a chain of layers, lowest first.
func (w *workSnapshots) borrow(ctx context.Context, top digest.Digest) error {
	chain := w.s.layers.Chain(top)
	parent := ""
	for i := len(chain) - 1; i >= 0; i-- {
		key := w.keys.Key(chain[i])
		_, err := w.Snapshotter.Stat(ctx, key)
		if errdefs.IsNotFound(err) {
			err = w.borrowOne(ctx, key, parent, chain[i])
		}
		if err != nil {
			return err
		}
		parent = key
	}
	return nil
}

func (w *workSnapshots) borrowOne(ctx context.Context, key, parent string, chain digest.Digest) error {
	labels := snapshots.WithLabels(layerLabels(chain))
	tmp := "borrow-" + key
	if _, err := w.Prepare(ctx, tmp, parent, labels); err != nil && !errdefs.IsAlreadyExists(err) {
		return err
	}
	err := w.Commit(ctx, key, tmp, labels)
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// layerLabels tie a snapshot to a layer.
func layerLabels(chain digest.Digest) map[string]string {
	return map[string]string{snaps.LabelLayer: chain.String()}
}

// workNames is the image store that the builder names its results in.
type workNames struct {
	s         *Service
	keys      Keys
	snapshots *workSnapshots
}

var _ images.Store = (*workNames)(nil)

// Get implements images.Store.
func (w *workNames) Get(ctx context.Context, name string) (images.Image, error) {
	i, err := w.s.names.Get(w.s.ns(ctx), name)
	if err == nil {
		w.used(i.Target.Digest)
	}
	if !errdefs.IsNotFound(err) {
		return i, err
	}
	// FROM may name an image by its id.
	n, perr := reference.ParseNormalizedNamed(name)
	if perr != nil || !strings.HasPrefix(name, "docker.io/library/") {
		return i, err
	}
	id := reference.Path(n)[len("library/"):]
	if len(id) < 12 || strings.Trim(id, "0123456789abcdef") != "" {
		return i, err
	}
	e, ferr := w.s.view.Load().find(id)
	if ferr != nil || len(e) != 1 {
		return i, err
	}
	return images.Image{Name: name, Target: e[0].manifest}, nil
}

// used notes that an image is built on.
func (w *workNames) used(target digest.Digest) {
	for _, e := range w.s.view.Load().target[target] {
		if len(e.chains) > 0 {
			w.s.layers.Used(e.chains[len(e.chains)-1])
		}
	}
}

// List implements images.Store.
func (w *workNames) List(ctx context.Context, filters ...string) ([]images.Image, error) {
	return w.s.names.List(w.s.ns(ctx), filters...)
}

// Create implements images.Store.
func (w *workNames) Create(ctx context.Context, i images.Image) (images.Image, error) {
	return i, w.built(w.s.ns(ctx), i)
}

// Update implements images.Store.
func (w *workNames) Update(ctx context.Context, i images.Image, _ ...string) (images.Image, error) {
	return i, w.built(w.s.ns(ctx), i)
}

// Delete implements images.Store.
func (w *workNames) Delete(ctx context.Context, name string, _ ...images.DeleteOpt) error {
	if err := w.s.dropName(w.s.ns(ctx), name); err != nil {
		return err
	}
	return w.s.reload(w.s.ns(ctx))
}

// built takes an image over that the builder has made: its layers, as far as this
// machine can run them, and its name.
func (w *workNames) built(ctx context.Context, i images.Image) error {
	s := w.s
	leave := s.gate.enter()
	defer leave()
	list, err := s.manifestsOf(ctx, i.Target, 0)
	if err != nil {
		return fmt.Errorf("built image %s: %w", i.Name, err)
	}
	for _, m := range list {
		p, err := s.readImage(ctx, m)
		if errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) {
			continue // another platform's, or an attestation
		}
		if err != nil {
			return fmt.Errorf("built image %s: %w", i.Name, err)
		}
		if err := s.label(ctx, m.Digest, manifestLabels(p.manifest)); err != nil {
			return err
		}
		if err := s.label(ctx, p.manifest.Config.Digest, configLabels(p)); err != nil {
			return err
		}
		for _, t := range tasks(p) {
			if err := w.takeOver(ctx, t); err != nil {
				// It is unpacked from its blob when a container wants it.
				s.log.Info("layer of a build is not taken over", "layer", t.chain, "error", err)
				break
			}
		}
	}
	if d, ok := strings.CutPrefix(i.Name, strings.TrimSuffix(danglingPrefix, "/")+"@"); ok {
		i.Name = ""
		if d != i.Target.Digest.String() {
			return fmt.Errorf("nameless image %s is %s: %w", d, i.Target.Digest, errdefs.ErrInvalidArgument)
		}
	}
	return w.name(ctx, i)
}

// name gives a built image its name, or keeps it without one.
func (w *workNames) name(ctx context.Context, i images.Image) error {
	s := w.s
	if i.Name == "" {
		if err := errors.Join(s.keepNameless(ctx, i.Target), s.reload(ctx)); err != nil {
			return err
		}
		w.created(i.Target.Digest)
		return nil
	}
	n, err := reference.ParseNormalizedNamed(i.Name)
	if err != nil {
		return badReference(err)
	}
	n = reference.TagNameOnly(n)
	if err := s.tag(ctx, n.String(), i.Target); err != nil {
		return err
	}
	if err := s.reload(ctx); err != nil {
		return err
	}
	w.created(i.Target.Digest)
	for _, e := range s.view.Load().byName[n.String()] {
		s.publish("tag", e.img.ID, reference.FamiliarString(n))
	}
	return nil
}

// created tells that an image was built, or one for each platform.
func (w *workNames) created(target digest.Digest) {
	for _, e := range w.s.view.Load().target[target] {
		w.s.publish("create", e.img.ID, "")
	}
}

// takeOver makes a layer of the snapshot that has its files.
func (w *workNames) takeOver(ctx context.Context, t layerTask) error {
	s := w.s
	if s.layers.Has(t.chain) {
		return nil
	}
	if len(t.below) > 0 && !s.layers.Has(t.below[0]) {
		return fmt.Errorf("layer %s: %w", t.below[0], errdefs.ErrNotFound)
	}
	key, ok := w.keys.Made(ctx, t.chain)
	if !ok {
		return fmt.Errorf("no snapshot has its files: %w", errdefs.ErrNotFound)
	}
	if _, err := w.snapshots.Update(ctx, snapshots.Info{Name: key, Labels: layerLabels(t.chain)}, "labels."+snaps.LabelLayer); err != nil {
		return err
	}
	i := layers.Info{Chain: t.chain, Diff: t.diff}
	if len(t.below) > 0 {
		i.Parent = t.below[0]
	}
	if ok, err := s.snaps.Lend(i); err != nil || !ok {
		return errors.Join(err, fmt.Errorf("its snapshot is gone: %w", errdefs.ErrNotFound))
	}
	return nil
}
