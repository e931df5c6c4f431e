package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/diff/apply"
	"github.com/containerd/containerd/v2/pkg/gc"
	"github.com/containerd/containerd/v2/plugins/diff/walking"
	"github.com/moby/buildkit/cache/metadata"
	"github.com/moby/buildkit/cache/remotecache"
	inlineremotecache "github.com/moby/buildkit/cache/remotecache/inline"
	localremotecache "github.com/moby/buildkit/cache/remotecache/local"
	registryremotecache "github.com/moby/buildkit/cache/remotecache/registry"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/control"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	commonexptypes "github.com/moby/buildkit/exporter/exptypes"
	"github.com/moby/buildkit/frontend"
	"github.com/moby/buildkit/frontend/gateway"
	"github.com/moby/buildkit/frontend/gateway/forwarder"
	"github.com/moby/buildkit/session"
	containerdsnapshot "github.com/moby/buildkit/snapshot/containerd"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/bboltcachestorage"
	"github.com/moby/buildkit/util/archutil"
	"github.com/moby/buildkit/util/db/boltutil"
	"github.com/moby/buildkit/util/disk"
	_ "github.com/moby/buildkit/util/grpcutil/encoding/proto" // the codec of BuildKit's messages
	"github.com/moby/buildkit/util/leaseutil"
	"github.com/moby/buildkit/worker"
	"github.com/moby/buildkit/worker/base"
	wlabel "github.com/moby/buildkit/worker/label"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/grpc"

	"hull/internal/image"
	"hull/internal/linux"
)

// kit is BuildKit, open.
type kit struct {
	shop       image.Workshop
	sessions   *session.Manager
	worker     *base.Worker
	controller *control.Controller
	server     *grpc.Server
	conns      *connListener
	exec       *executor
	stop       chan struct{}
	mnt        string
	root       string
	ended      func(context.Context)
	busy       func() (end func())

	mu     sync.Mutex
	builds map[string]context.CancelCauseFunc // by the id the client gave
}

// openKit opens BuildKit. A cache that cannot be opened is dropped: it can be
// made again, and must not keep anybody from building.
func openKit(ctx context.Context, cfg Config, p Parts) (*kit, error) {
	k, err := tryKit(ctx, cfg, p)
	if err == nil {
		return k, nil
	}
	p.Log.Error("the build cache cannot be opened and is dropped", "error", err)
	if derr := dropState(cfg.Root); derr != nil {
		return nil, errors.Join(err, derr)
	}
	return tryKit(ctx, cfg, p)
}

// databases are BuildKit's own files below Config.Root.
func databases() []string { return []string{"metadata.db", "cache.db", "history.db"} }

// openIn is the file that says in which boot of the machine the builder was
// opened. Its databases wait for no disk, so one that was open when the power went
// cannot be trusted; one that was open when the engine was killed can.
const openIn = "open-in"

func unclean(root, boot string) bool {
	b, err := os.ReadFile(filepath.Join(root, openIn))
	return err == nil && strings.TrimSpace(string(b)) != boot
}

// clean says that the databases, which are closed, are on disk.
func clean(root string) error {
	for _, f := range databases() {
		if err := syncFile(filepath.Join(root, f)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("sync build cache: %w", err)
		}
	}
	if err := os.Remove(filepath.Join(root, openIn)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// dropState forgets the build cache; what its leases kept is garbage then.
func dropState(root string) error {
	for _, f := range databases() {
		if err := os.RemoveAll(filepath.Join(root, f)); err != nil {
			return fmt.Errorf("drop build cache: %w", err)
		}
	}
	return unmountAll(filepath.Join(root, "mnt"))
}

func tryKit(ctx context.Context, cfg Config, p Parts) (_ *kit, err error) {
	if err := os.MkdirAll(cfg.Root, 0o700); err != nil {
		return nil, fmt.Errorf("make builder state: %w", err)
	}
	boot, err := linux.BootID()
	if err != nil {
		boot = "unknown"
	}
	if unclean(cfg.Root, boot) {
		p.Log.Warn("the machine went down during a build: the build cache may be damaged and is dropped")
		if err := dropState(cfg.Root); err != nil {
			return nil, err
		}
	}
	if err := linux.WriteFile(filepath.Join(cfg.Root, openIn), []byte(boot+"\n"), 0o600, true); err != nil {
		return nil, fmt.Errorf("note that the builder is open: %w", err)
	}
	k := &kit{root: cfg.Root, ended: p.Ended, busy: p.Busy, mnt: filepath.Join(cfg.Root, "mnt"), stop: make(chan struct{}), builds: map[string]context.CancelCauseFunc{}, conns: newConnListener()}
	var opened []func() error
	defer func() {
		if err != nil {
			for i := len(opened) - 1; i >= 0; i-- {
				err = errors.Join(err, opened[i]())
			}
		}
	}()
	fresh := true
	for _, f := range databases() {
		if _, err := os.Stat(filepath.Join(cfg.Root, f)); err == nil {
			fresh = false
		}
	}
	if err := mountPoints(k.mnt); err != nil {
		return nil, err
	}
	opened = append(opened, func() error { return unmountAll(k.mnt) })
	// BuildKit makes its mount points and small files where TMPDIR says.
	if err := os.Setenv("TMPDIR", filepath.Join(k.mnt, "tmp")); err != nil {
		return nil, err
	}

	k.shop = p.Images.Workshop(image.Keys{Key: layerKey, Layer: keyLayer, Made: k.made})
	if fresh {
		if err := k.dropLeases(ctx); err != nil {
			return nil, err
		}
	}
	k.exec = newExecutor(cfg, p, k.mnt)
	md, err := metadata.NewStore(filepath.Join(cfg.Root, "metadata.db"))
	if err != nil {
		return nil, fmt.Errorf("open records of build cache: %w", err)
	}
	opened = append(opened, md.Close)
	if db, ok := md.DB().(*bolt.DB); ok {
		db.NoSync = true // as BuildKit's other databases: see unclean
	}
	if k.worker, err = base.NewWorker(ctx, k.workerOpt(cfg, md)); err != nil {
		return nil, fmt.Errorf("start build worker: %w", err)
	}
	k.worker.SourceManager.Register(&judgedSource{Source: k.worker.ImageSource, shop: k.shop})
	contexts, err := newContextSource(k.worker.CacheMgr)
	if err != nil {
		return nil, err
	}
	k.worker.SourceManager.Register(contexts)
	if k.sessions, err = session.NewManager(); err != nil {
		return nil, fmt.Errorf("start build sessions: %w", err)
	}
	cacheStore, err := bboltcachestorage.NewStore(filepath.Join(cfg.Root, "cache.db"))
	if err != nil {
		return nil, fmt.Errorf("open build cache: %w", err)
	}
	opened = append(opened, cacheStore.Close)
	history, err := boltutil.SafeOpen(filepath.Join(cfg.Root, "history.db"), 0o600, &bolt.Options{FreelistType: bolt.FreelistMapType, NoSync: true})
	if err != nil {
		return nil, fmt.Errorf("open build history: %w", err)
	}
	opened = append(opened, history.Close)

	wc := &worker.Controller{}
	if err := wc.Add(&sharedWorker{Worker: k.worker, shop: k.shop}); err != nil {
		return nil, fmt.Errorf("add build worker: %w", err)
	}
	gw, err := gateway.NewGatewayFrontend(wc.Infos(), nil)
	if err != nil {
		return nil, fmt.Errorf("start gateway frontend: %w", err)
	}
	hosts, entries := k.shop.Hosts, int64(50)
	k.controller, err = control.NewController(control.Opt{
		SessionManager:   k.sessions,
		WorkerController: wc,
		Frontends: map[string]frontend.Frontend{
			"dockerfile.v0": forwarder.NewGatewayForwarder(wc.Infos(), k.exec.frontend),
			"gateway.v0":    gw,
		},
		CacheManager: solver.NewCacheManager(ctx, "local", cacheStore, worker.NewCacheResultStorage(wc)),
		ResolveCacheExporterFuncs: map[string]remotecache.ResolveCacheExporterFunc{
			"registry": registryremotecache.ResolveCacheExporterFunc(k.sessions, hosts),
			"local":    localremotecache.ResolveCacheExporterFunc(k.sessions),
			"inline":   inlineremotecache.ResolveCacheExporterFunc(),
		},
		ResolveCacheImporterFuncs: map[string]remotecache.ResolveCacheImporterFunc{
			"registry": judgedCache(registryremotecache.ResolveCacheImporterFunc(k.sessions, k.worker.ContentStore(), hosts), k.shop, k.sessions),
			"local":    localremotecache.ResolveCacheImporterFunc(k.sessions),
		},
		Entitlements:   []string{"network.host", "security.insecure"},
		HistoryDB:      history,
		CacheStore:     cacheStore,
		LeaseManager:   k.worker.LeaseManager(),
		ContentStore:   k.worker.ContentStore(),
		HistoryConfig:  &config.HistoryConfig{MaxAge: config.Duration{Duration: 48 * time.Hour}, MaxEntries: &entries},
		GarbageCollect: k.worker.GarbageCollect,
		GracefulStop:   k.stop,
	})
	if err != nil {
		return nil, fmt.Errorf("start build controller: %w", err)
	}
	k.serve()
	return k, nil
}

// workerOpt puts the worker together from what the image service shares.
func (k *kit) workerOpt(cfg Config, md *metadata.Store) base.WorkerOpt {
	content := containerdsnapshot.NewContentStore(k.shop.Content, k.shop.Namespace)
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return base.WorkerOpt{
		ID:   "hull",
		Root: cfg.Root,
		Labels: map[string]string{
			wlabel.Executor: "hull", wlabel.Snapshotter: k.shop.SnapshotterName, wlabel.Hostname: host, wlabel.Network: "hull",
		},
		Platforms:       append([]ocispec.Platform{k.shop.Platform}, emulated(k.shop.Platform)...),
		GCPolicy:        policy(cfg),
		BuildkitVersion: client.BuildkitVersion{Package: "github.com/moby/buildkit", Version: "v0.33.1", Revision: "hull " + cfg.Version},
		Executor:        k.exec,
		Snapshotter:     containerdsnapshot.NewSnapshotter(k.shop.SnapshotterName, k.shop.Snapshots, k.shop.Namespace, nil),
		ContentStore:    content,
		Applier:         apply.NewFileSystemApplier(content),
		Differ:          walking.NewWalkingDiff(content),
		ImageStore:      k.shop.Images,
		RegistryHosts:   k.shop.Hosts,
		LeaseManager:    leaseutil.WithNamespace(k.shop.Leases, k.shop.Namespace),
		GarbageCollect: func(ctx context.Context) (gc.Stats, error) {
			k.shop.Collect(ctx)
			return nil, nil //nolint:nilnil // nobody looks at the figures
		},
		MetadataStore: md,
		MountPoolRoot: filepath.Join(k.mnt, "pool"),
	}
}

// emulated are the other platforms that this kernel runs, through binfmt_misc.
func emulated(own ocispec.Platform) []ocispec.Platform {
	var list []ocispec.Platform
	for _, p := range archutil.SupportedPlatforms(true) {
		if p.OS != own.OS || p.Architecture != own.Architecture {
			list = append(list, p)
		}
	}
	return list
}

// policy keeps the cache under its cap, least recently used first to go.
func policy(cfg Config) []client.PruneInfo {
	limit := cfg.Cache
	if limit == 0 {
		limit = 2e9
		if d, err := disk.GetDiskStat(cfg.Root); err == nil {
			limit = max(limit, d.Total/10)
		}
	}
	return []client.PruneInfo{
		{Filter: []string{"type==source.local,type==exec.cachemount,type==source.git.checkout"}, KeepDuration: 48 * time.Hour, MaxUsedSpace: limit / 4},
		{KeepDuration: 60 * 24 * time.Hour, MaxUsedSpace: limit},
		{MaxUsedSpace: limit},
		{All: true, MaxUsedSpace: limit},
	}
}

// dropLeases removes what an earlier cache kept alive. The image service itself
// keeps nothing by leases.
func (k *kit) dropLeases(ctx context.Context) error {
	for _, ns := range []string{k.shop.Namespace, k.shop.Namespace + "_history"} {
		lm := leaseutil.WithNamespace(k.shop.Leases, ns)
		list, err := lm.List(ctx)
		if err != nil {
			return fmt.Errorf("list leases: %w", err)
		}
		for _, l := range list {
			if err := lm.Delete(ctx, l); err != nil {
				return fmt.Errorf("drop lease %s: %w", l.ID, err)
			}
		}
		if len(list) > 0 {
			k.shop.Collect(ctx)
		}
	}
	return nil
}

func (k *kit) close() error {
	close(k.stop)
	k.server.Stop()
	k.exec.close()
	if err := k.controller.Close(); err != nil {
		return err
	}
	return clean(k.root)
}

// sharedWorker answers Docker's own exporter, "moby": the image goes into the
// image service and can be run at once, even without a name. Its exporters of images
// can squash.
type sharedWorker struct {
	*base.Worker
	shop image.Workshop
}

// Exporter implements worker.Worker.
func (w *sharedWorker) Exporter(name string, sm *session.Manager) (exporter.Exporter, error) {
	switch name {
	case "moby":
		e, err := w.Worker.Exporter(client.ExporterImage, sm)
		if err != nil {
			return nil, err
		}
		return &squashExporter{&mobyExporter{Exporter: e, prefix: w.shop.DanglingPrefix}, w.Worker}, nil
	case client.ExporterImage, client.ExporterOCI, client.ExporterDocker:
		e, err := w.Worker.Exporter(name, sm)
		if err != nil {
			return nil, err
		}
		return &squashExporter{e, w.Worker}, nil
	}
	return w.Worker.Exporter(name, sm)
}

type mobyExporter struct {
	exporter.Exporter
	prefix string
}

// Resolve implements exporter.Exporter.
func (e *mobyExporter) Resolve(ctx context.Context, id int, attrs map[string]string) (exporter.ExporterInstance, error) {
	opt := map[string]string{string(exptypes.OptKeyDanglingPrefix): e.prefix, string(exptypes.OptKeyDanglingEmptyOnly): "true"}
	for k, v := range attrs {
		opt[k] = v
	}
	delete(opt, "unpack") // a named image's layers are taken over as they are
	if opt[string(commonexptypes.OptKeySourceDateEpoch)] != "" && opt[string(exptypes.OptKeyRewriteTimestamp)] == "" {
		opt[string(exptypes.OptKeyRewriteTimestamp)] = "true" // who gives a date wants the same digest again
	}
	return e.Exporter.Resolve(ctx, id, opt)
}
