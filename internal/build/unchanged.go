package build

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/source"
	srclocal "github.com/moby/buildkit/source/local"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"hull/api"
)

// contextSource takes a context that is as it was from the build cache. BuildKit's
// own source compares it file by file each time; a client that can say in one answer
// that nothing has changed (hull's) spares both of them that.
type contextSource struct {
	source.Source
	cache cache.Accessor
}

// newContextSource wraps BuildKit's source of directories of clients.
func newContextSource(c cache.Accessor) (source.Source, error) {
	s, err := srclocal.NewSource(srclocal.Opt{CacheAccessor: c})
	if err != nil {
		return nil, fmt.Errorf("source of build contexts: %w", err)
	}
	return &contextSource{s, c}, nil
}

// Resolve implements source.Source.
func (s *contextSource) Resolve(ctx context.Context, id source.Identifier, sm *session.Manager, vtx solver.Vertex) (source.SourceInstance, error) {
	one, err := s.Source.Resolve(ctx, id, sm, vtx)
	dir, ok := id.(*srclocal.LocalIdentifier)
	if err != nil || !ok || dir.MetadataOnly {
		return one, err
	}
	return &contextDir{SourceInstance: one, dir: *dir, sessions: sm, cache: s.cache}, nil
}

// contextDir is one such directory.
type contextDir struct {
	source.SourceInstance
	dir      srclocal.LocalIdentifier
	sessions *session.Manager
	cache    cache.Accessor
}

// keySum is the record, of a copy of a context, of what the client said about it. It
// goes when the copy is brought up to date, which makes another one of it.
const (
	keySum   = "hull.context"
	indexSum = keySum + ":"
)

// Snapshot implements source.SourceInstance.
func (d *contextDir) Snapshot(ctx context.Context, job solver.JobContext) (cache.ImmutableRef, error) {
	sum := d.sum(ctx)
	if sum == "" {
		return d.SourceInstance.Snapshot(ctx, job)
	}
	if ref := d.known(ctx, sum); ref != nil {
		return ref, nil
	}
	ref, err := d.SourceInstance.Snapshot(ctx, job)
	if err != nil {
		return nil, err
	}
	// Not when it changed under way: what was sent is then neither.
	if d.sum(ctx) == sum {
		if err := ref.SetString(keySum, sum, indexSum+sum); err != nil {
			return ref, nil //nolint:nilerr // it is sent again next time
		}
	}
	return ref, nil
}

// known finds the copy of a context that a sum was said about.
func (d *contextDir) known(ctx context.Context, sum string) cache.ImmutableRef {
	list, err := d.cache.Search(ctx, indexSum+sum, false)
	if err != nil {
		return nil
	}
	for _, md := range list {
		if ref, err := d.cache.Get(ctx, md.ID(), nil); err == nil {
			return ref
		}
	}
	return nil
}

// sumLimit bounds the wait for a client's session, and for its answer.
const sumLimit = time.Minute

// sum asks the client for its digest of the directory, "" = it has none.
func (d *contextDir) sum(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, sumLimit)
	defer cancel()
	caller, err := d.sessions.Get(ctx, d.dir.SessionID, false)
	if err != nil || caller == nil {
		return ""
	}
	method := session.MethodURL(api.ContextService, api.ContextSum)
	if !caller.Supports(method) {
		return ""
	}
	in, err := json.Marshal(api.ContextSelection{Name: d.dir.Name, Include: d.dir.IncludePatterns, Exclude: d.dir.ExcludePatterns, Follow: d.dir.FollowPaths})
	if err != nil {
		return ""
	}
	var out wrapperspb.StringValue
	if err := caller.Conn().Invoke(caller.Context(ctx), method, wrapperspb.Bytes(in), &out); err != nil {
		return "" // what is wrong is said by the transfer
	}
	return out.Value
}
