package space

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"hull/internal/hull"
)

// disk is images and build cache as a list, each of 10 bytes.
type disk struct {
	images []hull.Image
	cache  []hull.BuildCache
	used   []string // images that containers stand on
	stuck  bool     // files do not go
	held   int      // how many went and still take space
}

func (d *disk) Space(context.Context) (int64, error) {
	return int64(10 * (len(d.images) + len(d.cache) + d.held)), nil
}
func (d *disk) List(context.Context, bool) ([]hull.Image, error) { return d.images, nil }
func (d *disk) Usage(context.Context) ([]hull.BuildCache, error) { return d.cache, nil }
func (d *disk) gone(n int)                                       { d.held += map[bool]int{true: n}[d.stuck] }
func (d *disk) Prune(_ context.Context, keep func(hull.Image) bool) ([]hull.ImageRemoved, int64, error) {
	before := len(d.images)
	d.images = slices.DeleteFunc(slices.Clone(d.images), func(i hull.Image) bool { return !keep(i) && !slices.Contains(d.used, i.ID) })
	d.gone(before - len(d.images))
	return nil, 0, nil
}

type cache struct{ *disk }

func (c cache) Prune(_ context.Context, p hull.BuildPrune) ([]string, int64, error) {
	before := len(c.cache)
	c.disk.cache = slices.DeleteFunc(slices.Clone(c.cache), func(b hull.BuildCache) bool { return slices.Contains(p.Filters, "id=="+b.ID) })
	c.gone(before - len(c.disk.cache))
	return nil, 0, nil
}

func (d *disk) String() string {
	var all []string
	for _, i := range d.images {
		all = append(all, i.ID)
	}
	for _, b := range d.cache {
		all = append(all, b.ID)
	}
	return strings.Join(all, " ")
}

func at(hour int) time.Time { return time.Date(2026, 1, 1, hour, 0, 0, 0, time.UTC) }

func TestSettle(t *testing.T) {
	t.Parallel()
	second := at(2)
	fresh := func() *disk {
		return &disk{
			images: []hull.Image{{ID: "i1", Size: 10, LastUsed: at(1)}, {ID: "i5", Size: 10, LastTagged: at(5)}, {ID: "i3", Size: 10, LastUsed: at(3)}},
			cache: []hull.BuildCache{
				{ID: "parent", Size: 10, CreatedAt: at(0)}, {ID: "c2", Size: 10, CreatedAt: at(0), LastUsedAt: &second, Parents: []string{"parent"}},
				{ID: "busy", Size: 10, CreatedAt: at(0), InUse: true},
			},
		}
	}
	for name, x := range map[string]struct {
		limit   int64
		change  func(*disk)
		want    string
		pending bool
	}{
		"no cap":               {0, nil, "i1 i5 i3 parent c2 busy", false},
		"room":                 {60, nil, "i1 i5 i3 parent c2 busy", false},
		"oldest first":         {50, nil, "i5 i3 parent c2 busy", false},
		"then the cache":       {40, nil, "i5 i3 parent busy", false},
		"then what it was on":  {30, nil, "i5 i3 busy", false},
		"what is in use stays": {5, func(d *disk) { d.used = []string{"i1"} }, "i1 busy", false},
		"files still held":     {50, func(d *disk) { d.stuck = true }, "i5 i3 parent c2 busy", true},
	} {
		d := fresh()
		if x.change != nil {
			x.change(d)
		}
		k := New(Config{Cap: x.limit, Log: slog.New(slog.DiscardHandler)})
		k.Keep(d, cache{d})
		pending, err := k.Settle(t.Context())
		if err != nil || d.String() != x.want || pending != x.pending {
			t.Errorf("%s: kept %q, want %q; pending %v, want %v; %v", name, d, x.want, pending, x.pending, err)
		}
	}
}
