package build

import (
	"context"

	"github.com/moby/buildkit/snapshot"
	"github.com/opencontainers/go-digest"
)

// layerKey is what BuildKit calls the snapshot of an image layer.
func layerKey(chain digest.Digest) string { return snapshot.LayerSnapshotID(chain) }

// keyLayer is its reverse.
func keyLayer(key string) (digest.Digest, bool) { return snapshot.ParseLayerSnapshotID(key) }

// made finds the snapshot with the content of a layer chain among what was built.
// The names of BuildKit's records are its own; a test holds that they are so.
func (k *kit) made(ctx context.Context, chain digest.Digest) (string, bool) {
	list, err := k.worker.CacheMgr.Search(ctx, "chainid:"+chain.String(), false)
	if err != nil {
		return "", false
	}
	for _, r := range list {
		key := r.GetString("cache.snapshot")
		if key == "" {
			key = r.ID()
		}
		if _, err := k.worker.Snapshotter.Stat(ctx, key); err == nil {
			return key, true
		}
	}
	return "", false
}
