package image

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/pkg/gc"
	"github.com/opencontainers/go-digest"

	"hull/internal/image/snaps"
)

// resourceLayer is our layers' type in containerd's garbage collection.
const resourceLayer gc.ResourceType = 0x10

// layerRef begins the labels by which a configuration blob refers to the
// unpacked layers of its chain ("containerd.io/gc.ref.hull.layer/3").
const (
	layerRefName = "hull.layer"
	layerRef     = "containerd.io/gc.ref." + layerRefName + "/"
)

// gate keeps garbage collection and the makers of things apart. Whoever makes
// blobs, layers or writable layers enters; collection runs when nobody is
// inside, and keeps newcomers out for its short while. When it is asked for
// while somebody is inside, the last one to leave runs it.
type gate struct {
	mu         sync.Mutex
	inside     int
	wanted     func()
	after      func()        // runs after each collection, when the gate is open again
	collecting chan struct{} // not nil while a collection runs
}

// enter waits for a collection under way. leave is to be called once.
func (g *gate) enter() (leave func()) {
	for {
		g.mu.Lock()
		c := g.collecting
		if c == nil {
			g.inside++
			g.mu.Unlock()
			return g.leave
		}
		g.mu.Unlock()
		<-c
	}
}

func (g *gate) leave() {
	g.mu.Lock()
	g.inside--
	run := g.wanted
	if g.inside > 0 || run == nil {
		g.mu.Unlock()
		return
	}
	g.wanted = nil
	g.begin()
	g.mu.Unlock()
	g.run(run)
}

// run runs a collection that has begun.
func (g *gate) run(fn func()) {
	fn()
	g.end()
	if g.after != nil {
		g.after()
	}
}

func (g *gate) begin() { g.collecting = make(chan struct{}) }

func (g *gate) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.collecting)
	g.collecting = nil
}

// collect runs fn now or, when somebody is inside, later.
func (g *gate) collect(fn func()) {
	for {
		g.mu.Lock()
		if g.inside > 0 {
			g.wanted = fn
			g.mu.Unlock()
			return
		}
		c := g.collecting
		if c == nil {
			g.begin()
			g.mu.Unlock()
			g.run(fn)
			return
		}
		g.mu.Unlock()
		<-c
	}
}

// collect removes what no name and no container needs. It is called after
// something was let go of, and reports only to the log: whatever is left is
// found by the next one.
func (s *Service) collect(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	s.gate.collect(func() {
		begin := time.Now()
		if err := collectAll(s.ns(ctx), s.db, s.snaps); err != nil {
			s.log.Error("collect image garbage", "error", err)
			return
		}
		s.log.Debug("collected image garbage", "took", time.Since(begin))
	})
}

// collectAll collects once more when snapshots were removed: the layers that they
// stood on were needed until then.
func collectAll(ctx context.Context, db *metadata.DB, made *snaps.Store) error {
	for {
		before, err := made.Layers()
		if err != nil {
			return err
		}
		if _, err := db.GarbageCollect(ctx); err != nil {
			return err
		}
		after, err := made.Layers()
		if err != nil || len(after) == len(before) {
			return err
		}
	}
}

// purge deletes the files of collected layers.
func (s *Service) purge() {
	if err := s.layers.Purge(context.Background()); err != nil {
		s.log.Error("delete removed layers", "error", err)
	}
	if err := s.sweepBlocks(s.layers.Has); err != nil {
		s.log.Error("delete block images of removed layers", "error", err)
	}
}

// collector shows layers and containers to containerd's garbage collection.
type collector struct{ s *Service }

var _ metadata.Collector = collector{}

func (c collector) StartCollection(context.Context) (metadata.CollectionContext, error) {
	lent, err := c.s.snaps.Layers()
	return &collection{s: c.s, lent: lent}, err
}

func (collector) ReferenceLabel() string { return layerRefName }

type collection struct {
	s    *Service
	lent []digest.Digest // layers that snapshots stand on
	gone []digest.Digest
}

func layerNode(chain digest.Digest) gc.Node {
	return gc.Node{Type: resourceLayer, Namespace: namespace, Key: chain.String()}
}

func (c *collection) All(fn func(gc.Node)) {
	for _, i := range c.s.layers.List() {
		fn(layerNode(i.Chain))
	}
}

// Active sends what containers stand on: their layers, and their image's
// content, so that a commit can still be pushed and saved when the image's last
// name is gone. It sends the layers of the builder's snapshots, too, since the leases
// of its cache are flat: a label of a snapshot holds nothing.
func (c *collection) Active(ns string, fn func(gc.Node)) {
	if ns != namespace {
		return
	}
	for _, top := range c.lent {
		for _, chain := range c.s.layers.Chain(top) {
			fn(layerNode(chain))
		}
	}
	c.s.boxMu.Lock()
	defer c.s.boxMu.Unlock()
	for _, b := range c.s.boxes {
		for _, chain := range c.s.layers.Chain(b.chain) {
			fn(layerNode(chain))
		}
		if b.manifest != "" {
			fn(gc.Node{Type: metadata.ResourceContent, Namespace: namespace, Key: b.manifest.String()})
		}
	}
}

func (c *collection) Leased(string, string, func(gc.Node)) {}

func (c *collection) Remove(n gc.Node) { c.gone = append(c.gone, digest.Digest(n.Key)) }

func (c *collection) Cancel() error { return nil }

// Finish removes the marked layers while the gate is still closed: the files go later.
func (c *collection) Finish() error {
	for _, chain := range c.gone {
		if err := c.s.layers.Remove(chain); err != nil {
			return fmt.Errorf("remove layer %s: %w", chain, err)
		}
	}
	return nil
}
