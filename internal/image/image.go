// Package image is the image service: it pulls, pushes, loads, saves, names and
// removes images, unpacks their layers, and gives containers their writable ones.
//
// containerd's libraries keep the content in this process: blobs in its local
// content store, names and labels in its bbolt metadata, which also says what is
// garbage. Unpacked layers are our own (package layers), known to the same
// garbage collection as a resource of its own kind; docs/adr tells why.
//
//	ROOT/meta.db       names, labels            ROOT/content/    blobs, downloads under way
//	ROOT/layers/ ...   unpacked layers          ROOT/containers/ID/{upper,work,base...}
//
// The run path (Resolve, Prepare, Mount, Discard) reads memory and makes plain
// directories: no transaction, no fsync.
package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"hull/internal/hull"
	"hull/internal/image/archive"
	"hull/internal/image/layers"
	"hull/internal/image/packed"
	"hull/internal/image/snaps"
	"hull/internal/linux"
	"hull/internal/trust"
)

// namespace is the containerd namespace of everything we store.
const namespace = "hull"

// Config is the image service's own configuration. Zero values are defaults.
type Config struct {
	Root         string         // state directory of the service
	HostsDir     string         // containerd's hosts.toml tree; "" = none
	DockerConfig string         // directory of a config.json with credentials; "" = none
	Insecure     []string       // registries to reach by plain HTTP or unverified TLS: host[:port] or CIDR
	Mirrors      []string       // URLs to ask before docker.io
	Platform     string         // default platform, "" = the host's
	Limits       archive.Limits // of one layer
	Downloads    int            // layers at a time, per pull; default 8
	Stall        time.Duration  // a transfer that stands still for so long is retried; default 20 s
	Retries      int            // in a row without progress; default 5
	SkipOwner    bool           // files get our own owner: for an engine that is not root
	UserXattr    bool           // whiteouts as an overlay in a user namespace reads them
	// Unpack makes a layer's files below root, as packed.Layer does, which is the
	// default: in this process. Its input is hostile.
	Unpack func(ctx context.Context, r io.Reader, root *os.File, o archive.Options) (archive.Result, digest.Digest, error)
	Events func(hull.Event)
	// Busy is called when a pull or a load begins, and what it returns when that has
	// ended; nil = nobody wants to know.
	Busy func() (end func())
	Log  *slog.Logger

	Trust     string // policy file; "" = every image may be used
	TrustMust bool   // the policy file has to be there
	// Ask puts a question about signatures, as trust.Ask does.
	Ask func(ctx context.Context, q trust.Request) (trust.Reply, error)
}

// Service is the image service. Its methods may be called concurrently.
type Service struct {
	*store
	*boxStore
	*layerMaker
	*registries
	*notary

	cfg     Config
	log     *slog.Logger
	journal *journal
	db      *metadata.DB
	layers  *layers.Store
	snaps   *snaps.Store
	gate    gate
	flights flights
}

// New opens the service's state below cfg.Root, and clears what an earlier
// process left half done.
func New(ctx context.Context, cfg Config) (_ *Service, err error) {
	if cfg.Downloads == 0 {
		cfg.Downloads = 8
	}
	if cfg.Unpack == nil {
		cfg.Unpack = packed.Layer
	}
	if cfg.Stall == 0 {
		cfg.Stall = 20 * time.Second
	}
	if cfg.Retries == 0 {
		cfg.Retries = 5
	}
	if cfg.Busy == nil {
		cfg.Busy = func() func() { return func() {} }
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	host := platforms.DefaultSpec()
	if cfg.Platform != "" {
		if host, err = platforms.Parse(cfg.Platform); err != nil {
			return nil, fmt.Errorf("default platform: %w", err)
		}
	}
	for _, d := range []string{"", "containers", "empty"} {
		if err := os.MkdirAll(filepath.Join(cfg.Root, d), 0o700); err != nil {
			return nil, fmt.Errorf("make image state: %w", err)
		}
	}
	cs, err := local.NewStore(filepath.Join(cfg.Root, "content"))
	if err != nil {
		return nil, fmt.Errorf("open content store: %w", err)
	}
	ls, err := layers.Open(cfg.Root)
	if err != nil {
		return nil, err
	}
	boot, err := linux.BootID()
	if err != nil {
		return nil, fmt.Errorf("open image database: %w", err)
	}
	bdb, err := openJournal(cfg.Root, boot, &bolt.Options{
		Timeout: 5 * time.Second, NoFreelistSync: true, FreelistType: bolt.FreelistMapType,
	})
	if err != nil {
		return nil, fmt.Errorf("open image database (is another hulld using %s?): %w", cfg.Root, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, bdb.Close())
		}
	}()
	steps := snaps.New(cfg.Root, ls, cfg.SkipOwner)
	db := metadata.NewDB(bdb, cs, map[string]snapshots.Snapshotter{snapshotterName: steps})
	if err := db.Init(ctx); err != nil {
		return nil, fmt.Errorf("open image database: %w", err)
	}
	boxes := &boxStore{root: cfg.Root, layers: ls, log: cfg.Log, plain: cfg.SkipOwner, boxes: map[string]box{}, blocks: blocks{dir: filepath.Join(cfg.Root, "block")}}
	s := &Service{
		cfg: cfg, log: cfg.Log, journal: bdb, db: db, layers: ls, snaps: steps,
		store: &store{
			content: db.ContentStore(), names: metadata.NewImageStore(db), layers: ls, steps: steps,
			host: platforms.Normalize(host), log: cfg.Log, parsed: map[digest.Digest]*parsed{}, settle: bdb.settle,
		},
		boxStore:   boxes,
		layerMaker: &layerMaker{cfg: cfg, writable: boxes, layers: ls, blobs: db.ContentStore()},
		registries: &registries{cfg: cfg, log: cfg.Log},
	}
	s.notary = &notary{s: s, guard: &guard{path: cfg.Trust, must: cfg.TrustMust, ask: cfg.Ask}}
	s.gate.after = s.purge
	db.RegisterCollectibleResource(resourceLayer, collector{s})
	if err := s.loadBoxes(); err != nil {
		return nil, err
	}
	if err := s.reload(s.ns(ctx)); err != nil {
		return nil, err
	}
	return s, nil
}

// Close ends the service. Calls under way must have ended.
func (s *Service) Close() error {
	s.layers.Close()
	if err := s.journal.Close(); err != nil {
		return fmt.Errorf("close image database: %w", err)
	}
	return nil
}

// ns puts the namespace into ctx, where containerd's libraries look for it.
func (s *store) ns(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, namespace)
}

// publish tells the world about an image, with its labels where id is its id.
func (s *Service) publish(action, id, name string) {
	if s.cfg.Events == nil {
		return
	}
	e := hull.Event{Type: "image", Action: action, Actor: id, Scope: "local", Time: time.Now(), Attrs: map[string]string{}}
	if known := s.view.Load().byID[digest.Digest(id)]; known != nil {
		maps.Copy(e.Attrs, known.img.Config.Labels)
	}
	if name != "" {
		e.Attrs["name"] = name
	}
	s.cfg.Events(e)
}
