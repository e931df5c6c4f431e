package build

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/snapshot"

	"hull/internal/hull"
	"hull/internal/image/archive"
	"hull/internal/image/packed"
)

// The names of BuildKit's records of cache mounts (RUN --mount=type=cache) are its
// own; a test holds that they are so.
// The Dockerfile frontend puts the user's name after a namespace, which is empty but
// for BUILDKIT_CACHE_MOUNT_NS, and a slash.
const (
	keyCacheDir    = "cache-dir"
	indexCacheDir  = keyCacheDir + ":"
	cacheNamespace = "/"
)

// CacheMounts lists the cache mounts of all builds, by name.
func (s *Service) CacheMounts(ctx context.Context) ([]hull.CacheMount, error) {
	if !s.used() {
		return nil, nil
	}
	k, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	usage, err := k.worker.DiskUsage(ctx, client.DiskUsageInfo{Filter: []string{"type==" + string(client.UsageRecordTypeCacheMount)}})
	if err != nil {
		return nil, fmt.Errorf("size of cache mounts: %w", err)
	}
	names := map[string]string{}
	found, err := k.worker.CacheMgr.Search(ctx, indexCacheDir, true)
	if err != nil {
		return nil, fmt.Errorf("list cache mounts: %w", err)
	}
	for _, md := range found {
		names[md.ID()] = strings.TrimPrefix(md.GetString(keyCacheDir), cacheNamespace)
	}
	var out []hull.CacheMount
	for _, u := range usage {
		if name, ok := names[u.ID]; ok {
			out = append(out, hull.CacheMount{Name: name, Description: u.Description, Size: u.Size, InUse: u.InUse, CreatedAt: u.CreatedAt, LastUsedAt: u.LastUsedAt})
		}
	}
	slices.SortFunc(out, func(a, b hull.CacheMount) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// ExportCacheMount writes the files of a cache mount as a tar. While it is read, no
// build uses it.
func (s *Service) ExportCacheMount(ctx context.Context, name string, w io.Writer) (err error) {
	if !s.used() {
		return noCacheMount(name)
	}
	k, err := s.open(ctx)
	if err != nil {
		return err
	}
	ref, err := k.cacheMount(ctx, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ref.Release(context.WithoutCancel(ctx))) }()
	return within(ctx, ref, true, func(root *os.File) error {
		out := bufio.NewWriterSize(w, 128<<10)
		if err := archive.Pack(ctx, out, root); err != nil {
			return fmt.Errorf("pack cache mount %s: %w", name, err)
		}
		return out.Flush()
	})
}

// ImportCacheMount makes a cache mount of a tar, compressed or not. It takes the place
// of one that is there when all of it has come. What is in the tar stays in the mount:
// no name and no link in it leads out.
func (s *Service) ImportCacheMount(ctx context.Context, name string, tar io.Reader) error {
	if name == "" {
		return errdefs.ErrInvalidArgument.WithMessage("a cache mount needs a name")
	}
	k, err := s.open(ctx)
	if err != nil {
		return err
	}
	done := k.shop.Work()
	defer done() //nolint:errcheck // says only that work has ended
	made, err := k.worker.CacheMgr.New(ctx, nil, nil, cache.WithRecordType(client.UsageRecordTypeCacheMount),
		cache.WithDescription(fmt.Sprintf("cached mount %s, imported", name)), cache.CachePolicyRetain)
	if err != nil {
		return fmt.Errorf("make cache mount %s: %w", name, err)
	}
	release := func() error { return made.Release(context.WithoutCancel(ctx)) }
	err = within(ctx, made, false, func(root *os.File) error {
		plain, _, err := packed.Decompress(tar)
		if err != nil {
			return err
		}
		_, err = archive.Unpack(ctx, bufio.NewReaderSize(plain, 128<<10), root, archive.Options{Plain: true})
		return errors.Join(err, plain.Close())
	})
	if err != nil {
		// It is in no index, and without the policy its release removes it.
		return errors.Join(fmt.Errorf("unpack cache mount %s: %w", name, err), made.SetCachePolicyDefault(), release())
	}
	old, err := k.cacheMount(ctx, name)
	switch {
	case err == nil:
		err = errors.Join(old.ClearValueAndIndex(keyCacheDir, indexCacheDir), old.SetCachePolicyDefault(), old.Release(context.WithoutCancel(ctx)))
	case errdefs.IsNotFound(err):
		err = nil
	}
	if err != nil {
		return errors.Join(err, made.SetCachePolicyDefault(), release())
	}
	key := cacheNamespace + name
	return errors.Join(made.SetString(keyCacheDir, key, indexCacheDir+key), release())
}

// cacheMount takes a cache mount, for nobody else to use until it is released.
func (k *kit) cacheMount(ctx context.Context, name string) (cache.MutableRef, error) {
	list, err := k.worker.CacheMgr.Search(ctx, indexCacheDir, true)
	if err != nil {
		return nil, fmt.Errorf("find cache mount %s: %w", name, err)
	}
	for _, md := range list {
		if strings.TrimPrefix(md.GetString(keyCacheDir), cacheNamespace) != name {
			continue
		}
		ref, err := k.worker.CacheMgr.GetMutable(ctx, md.ID())
		switch {
		case err == nil:
			return ref, nil
		case errors.Is(err, cache.ErrLocked):
			return nil, errdefs.ErrConflict.WithMessage(fmt.Sprintf("cache mount %s is in use by a build: wait for its end", name))
		}
	}
	return nil, noCacheMount(name)
}

func noCacheMount(name string) error {
	return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("no cache mount %s: 'hull builder cache ls' lists them", name))
}

// within mounts a reference, and opens its directory for fn.
func within(ctx context.Context, ref cache.MutableRef, readonly bool, fn func(root *os.File) error) (err error) {
	m, err := ref.Mount(ctx, readonly, nil)
	if err != nil {
		return err
	}
	lm := snapshot.LocalMounter(m)
	dir, err := lm.Mount()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lm.Unmount()) }()
	root, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return fn(root)
}
