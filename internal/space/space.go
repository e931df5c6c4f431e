// Package space keeps images and build cache together under one cap of bytes: what
// was used least recently goes first, and what a container or a build uses stays.
package space

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"hull/internal/hull"
)

// Images is what the keeper needs of the image service.
type Images interface {
	List(ctx context.Context, all bool) ([]hull.Image, error)
	// Prune deletes the images that keep denies and no container needs.
	Prune(ctx context.Context, keep func(hull.Image) bool) ([]hull.ImageRemoved, int64, error)
	// Space is the bytes that images and build cache take on the disk.
	Space(ctx context.Context) (int64, error)
}

// Builder is what the keeper needs of the builder.
type Builder interface {
	Usage(ctx context.Context) ([]hull.BuildCache, error)
	Prune(ctx context.Context, p hull.BuildPrune) (ids []string, bytes int64, err error)
}

// Config is the keeper's own configuration.
type Config struct {
	Cap int64 // bytes; 0 = none
	Log *slog.Logger
}

// again is how long the keeper waits for files to go that somebody still held.
const again = 300 * time.Millisecond

// Keeper keeps the cap.
type Keeper struct {
	cfg     Config
	images  Images
	builder Builder

	mu   sync.Mutex // one settling at a time
	poke chan struct{}
}

// New makes a keeper, which can be poked; Keep has to be called before anything else.
func New(cfg Config) *Keeper {
	return &Keeper{cfg: cfg, poke: make(chan struct{}, 1)}
}

// Keep says what is kept. Those are made after the keeper, which they poke.
func (k *Keeper) Keep(i Images, b Builder) { k.images, k.builder = i, b }

// Cap is the cap, 0 = none; used what is taken now.
func (k *Keeper) Cap(ctx context.Context) (limit, used int64, err error) {
	if k.cfg.Cap == 0 {
		return 0, 0, nil
	}
	used, err = k.images.Space(ctx)
	return k.cfg.Cap, used, err
}

// Poke says that something has come. It does not wait.
func (k *Keeper) Poke() {
	if k.cfg.Cap == 0 {
		return
	}
	select {
	case k.poke <- struct{}{}:
	default:
	}
}

// Run settles whenever it is poked, until ctx is done.
func (k *Keeper) Run(ctx context.Context) {
	k.Poke()
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.poke:
		}
		for k.try(ctx) && ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-time.After(again):
			}
		}
	}
}

// Now settles before it returns, and leaves to Run what is pending then.
func (k *Keeper) Now(ctx context.Context) {
	if k.try(ctx) {
		k.Poke()
	}
}

// try is Settle with its error in the log.
func (k *Keeper) try(ctx context.Context) (pending bool) {
	pending, err := k.Settle(ctx)
	if err != nil && ctx.Err() == nil {
		k.cfg.Log.Error("keep images and build cache under their cap", "error", err)
	}
	return pending
}

// victim is something that may go.
type victim struct {
	image bool
	id    string
	used  time.Time
	size  int64 // bytes; what is shared goes only with its last user
	level int   // how much stands on it
	busy  bool  // a build uses it, or something that stands on it
}

// tree is the build cache by what stands on what: a record was used when what
// stands on it was, and goes after it.
type tree struct {
	records map[string]hull.BuildCache
	above   map[string][]string
	seen    map[string]victim
}

func newTree(cache []hull.BuildCache) tree {
	t := tree{map[string]hull.BuildCache{}, map[string][]string{}, map[string]victim{}}
	for _, c := range cache {
		t.records[c.ID] = c
		for _, p := range c.Parents {
			t.above[p] = append(t.above[p], c.ID)
		}
	}
	return t
}

func (t tree) victim(id string) victim {
	if v, ok := t.seen[id]; ok {
		return v
	}
	c := t.records[id]
	v := victim{id: id, used: c.CreatedAt, size: c.Size, busy: c.InUse}
	if c.LastUsedAt != nil {
		v.used = *c.LastUsedAt
	}
	t.seen[id] = v
	for _, a := range t.above[id] {
		on := t.victim(a)
		v.busy = v.busy || on.busy
		v.level = max(v.level, on.level+1)
		if on.used.After(v.used) {
			v.used = on.used
		}
	}
	t.seen[id] = v
	return v
}

// Settle removes what was used least recently until the rest is below the cap, or
// nothing more may go. pending: something was let go of whose files are not gone
// yet, because somebody works on images.
func (k *Keeper) Settle(ctx context.Context) (pending bool, err error) {
	if k.cfg.Cap == 0 {
		return false, nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	tried := map[string]bool{}
	used, err := k.images.Space(ctx)
	for err == nil && used > k.cfg.Cap {
		var list []victim
		if list, err = k.victims(ctx, tried); err != nil {
			break
		}
		if len(list) == 0 {
			k.cfg.Log.Warn("images and build cache that are in use take more than their cap", "bytes", used, "cap", k.cfg.Cap)
			return false, nil
		}
		need := used - k.cfg.Cap
		n := 0
		for ; n < len(list) && need > 0; n++ {
			v := list[n]
			tried[v.id] = true
			need -= v.size
			k.cfg.Log.Info("removed for the cap on images and build cache", "image", v.image, "id", v.id, "used", v.used)
		}
		err = k.remove(ctx, list[:n])
		before := used
		if err == nil {
			used, err = k.images.Space(ctx)
		}
		if err == nil && used >= before && need <= 0 {
			return true, nil
		}
	}
	if err != nil {
		return false, fmt.Errorf("make room: %w", err)
	}
	return false, nil
}

// victims lists what may go, least recently used first.
func (k *Keeper) victims(ctx context.Context, tried map[string]bool) ([]victim, error) {
	cache, err := k.builder.Usage(ctx)
	if err != nil {
		return nil, err
	}
	var list []victim
	t := newTree(cache)
	for _, c := range cache {
		if v := t.victim(c.ID); !v.busy && !tried[c.ID] {
			list = append(list, v)
		}
	}
	images, err := k.images.List(ctx, true)
	if err != nil {
		return nil, err
	}
	for _, i := range images {
		if tried[i.ID] {
			continue
		}
		v := victim{image: true, id: i.ID, used: i.LastUsed, size: i.Size}
		if i.LastTagged.After(v.used) {
			v.used = i.LastTagged
		}
		list = append(list, v)
	}
	slices.SortFunc(list, func(a, b victim) int {
		return cmp.Or(a.used.Compare(b.used), cmp.Compare(a.level, b.level), cmp.Compare(a.id, b.id))
	})
	return list, nil
}

// remove deletes victims, all of a kind at once: each Prune looks at everything there
// is, and collects garbage.
func (k *Keeper) remove(ctx context.Context, list []victim) error {
	images := map[string]bool{}
	var records []string
	for _, v := range list {
		if v.image {
			images[v.id] = true
		} else {
			records = append(records, "id=="+v.id)
		}
	}
	if len(images) > 0 {
		if _, _, err := k.images.Prune(ctx, func(i hull.Image) bool { return !images[i.ID] }); err != nil {
			return err
		}
	}
	if len(records) > 0 {
		if _, _, err := k.builder.Prune(ctx, hull.BuildPrune{All: true, Filters: records}); err != nil {
			return err
		}
	}
	return nil
}
