package build

import (
	"context"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/cache/remotecache"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/source"
	"github.com/moby/buildkit/source/containerimage"
	"github.com/moby/buildkit/util/resolver"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hull/internal/image"
)

// judgedSource has the trust policy look at every image that a build takes from a
// name, with the digest that it is taken by.
type judgedSource struct {
	*containerimage.Source
	shop image.Workshop
}

// Resolve implements source.Source.
func (j *judgedSource) Resolve(ctx context.Context, id source.Identifier, sm *session.Manager, vtx solver.Vertex) (source.SourceInstance, error) {
	one, err := j.Source.Resolve(ctx, id, sm, vtx)
	img, ok := id.(*containerimage.ImageIdentifier)
	if err != nil || !ok {
		return one, err
	}
	return &judgedImage{SourceInstance: one, shop: j.shop, ref: img.Reference.String(), sessions: sm}, nil
}

// judgedImage is one of them.
type judgedImage struct {
	source.SourceInstance
	shop     image.Workshop
	ref      string
	sessions *session.Manager
}

// CacheKey implements source.SourceInstance. It comes before everything else, also
// when the steps that follow are in the cache.
func (j *judgedImage) CacheKey(ctx context.Context, job solver.JobContext, index int) (key, pin string, opts solver.CacheOpts, done bool, err error) {
	if key, pin, opts, done, err = j.SourceInstance.CacheKey(ctx, job, index); err != nil {
		return "", "", nil, false, err
	}
	if err := admit(ctx, j.shop, j.ref, pin, j.sessions, job); err != nil {
		return "", "", nil, false, err
	}
	return key, pin, opts, done, nil
}

func admit(ctx context.Context, shop image.Workshop, ref, pin string, sm *session.Manager, job solver.JobContext) error {
	var g session.Group
	if job != nil {
		g = job.Session()
	}
	return admitFor(ctx, shop, ref, pin, sm, g)
}

func admitFor(ctx context.Context, shop image.Workshop, ref, pin string, sm *session.Manager, g session.Group) error {
	from := resolver.DefaultPool.GetResolver(shop.Hosts, ref, resolver.ScopeType{}, sm, g).WithImageStore(shop.Images, resolver.ResolveModeDefault)
	return shop.Admit(ctx, ref, digest.Digest(pin), from)
}

// judgedCache has the policy look at a registry's cache before anything of it is used.
// A build whose cache is refused does the work itself.
func judgedCache(resolve remotecache.ResolveCacheImporterFunc, shop image.Workshop, sm *session.Manager) remotecache.ResolveCacheImporterFunc {
	return func(ctx context.Context, g session.Group, attrs map[string]string) (remotecache.Importer, ocispec.Descriptor, error) {
		importer, desc, err := resolve(ctx, g, attrs)
		if err != nil {
			return nil, desc, err
		}
		name, err := reference.ParseNormalizedNamed(attrs["ref"])
		if err != nil {
			return nil, desc, err
		}
		if err := admitFor(ctx, shop, reference.TagNameOnly(name).String(), desc.Digest.String(), sm, g); err != nil {
			return nil, desc, err
		}
		return importer, desc, nil
	}
}

// ResolveSourceMetadata implements worker.Worker: what a frontend reads of an
// image is judged as well, and it is the first to ask.
func (w *sharedWorker) ResolveSourceMetadata(ctx context.Context, op *pb.SourceOp, opt sourceresolver.Opt, sm *session.Manager, job solver.JobContext) (*sourceresolver.MetaResponse, error) {
	r, err := w.Worker.ResolveSourceMetadata(ctx, op, opt, sm, job)
	if err != nil || r.Image == nil || r.Image.Digest == "" {
		return r, err
	}
	id, err := w.ParseSource(op, nil)
	if err != nil {
		return nil, err
	}
	if img, ok := id.(*containerimage.ImageIdentifier); ok {
		if err := admit(ctx, w.shop, img.Reference.String(), r.Image.Digest.String(), sm, job); err != nil {
			return nil, err
		}
	}
	return r, nil
}
