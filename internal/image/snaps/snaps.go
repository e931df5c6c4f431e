// Package snaps keeps the file systems of build steps: containerd's snapshots as
// plain directories beside the image layers.
//
//	ROOT/snapshots/<n>/snap.json   what it is
//	ROOT/snapshots/<n>/fs, work    its own files, as an overlay's upper directory
//
// A snapshot may be a layer of an image instead, and then has no files of its own
// (Borrow); and the files of a committed one may become a layer's (Lend), which
// owns them from then on. So a layer is on disk once, whoever made it.
//
// Records are written without fsync: what a power cut tears is build cache.
package snaps

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"hull/internal/image/archive"
	"hull/internal/image/layers"
)

// LabelLayer on a new snapshot makes it stand for a layer of an image.
const LabelLayer = "containerd.io/snapshot/hull.layer"

// snap is one snapshot.
type snap struct {
	N       uint64 // names its directory
	Key     string
	Kind    snapshots.Kind
	Parent  string            // key
	Layer   digest.Digest     `json:",omitempty"` // its files are this layer's
	Lent    bool              `json:",omitempty"` // ... and were its own before: they are still below its directory
	Labels  map[string]string `json:",omitempty"`
	Created time.Time
	Updated time.Time

	usage *snapshots.Usage // of a committed one, once asked for
}

// Store implements snapshots.Snapshotter. Its state is read when it is first used.
type Store struct {
	root   string
	layers *layers.Store
	plain  bool

	mu     sync.Mutex
	loaded bool
	next   uint64
	snaps  map[string]*snap
}

var _ snapshots.Snapshotter = (*Store)(nil)

// New makes a store below root, which is that of the layers, too. plain leaves
// owners alone: for an engine that is not root.
func New(root string, l *layers.Store, plain bool) *Store {
	return &Store{root: root, layers: l, plain: plain, snaps: map[string]*snap{}}
}

func (s *Store) dir(n uint64) string {
	return filepath.Join(s.root, "snapshots", strconv.FormatUint(n, 10))
}

// files is where a snapshot's own files are.
func (s *Store) files(x *snap) string {
	if x.Layer != "" {
		return s.layers.Path(x.Layer)
	}
	return filepath.Join(s.dir(x.N), "fs")
}

// lock takes the lock and reads the records, if that is still to be done.
func (s *Store) lock() (unlock func(), err error) {
	s.mu.Lock()
	if !s.loaded {
		if err := s.load(); err != nil {
			s.mu.Unlock()
			return nil, err
		}
		s.loaded = true
	}
	return s.mu.Unlock, nil
}

func (s *Store) load() error {
	top := filepath.Join(s.root, "snapshots")
	if err := os.MkdirAll(top, 0o700); err != nil {
		return fmt.Errorf("make snapshot directory: %w", err)
	}
	list, err := os.ReadDir(top)
	if err != nil {
		return fmt.Errorf("read snapshots: %w", err)
	}
	for _, e := range list {
		n, err := strconv.ParseUint(e.Name(), 10, 64)
		if err != nil {
			continue
		}
		s.next = max(s.next, n)
		x, err := read(filepath.Join(top, e.Name(), "snap.json"))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			// Cut short, or only files are left that a layer owns.
			if !s.lent(n) {
				err = s.trash(s.dir(n))
			} else {
				err = nil
			}
			if err != nil {
				return err
			}
			continue
		case err != nil || x.N != n:
			if err := s.trash(s.dir(n)); err != nil {
				return err
			}
			continue
		}
		switch {
		case x.Lent && !s.layers.Has(x.Layer):
			x.Lent, x.Layer = false, ""
			if _, err := os.Lstat(s.files(x)); err != nil {
				continue
			}
		case x.Layer != "" && !s.layers.Has(x.Layer):
			continue
		}
		s.snaps[x.Key] = x
	}
	return nil
}

// lent says whether a layer owns the files of snapshot n.
func (s *Store) lent(n uint64) bool {
	dir := s.lentDir(n)
	return slices.ContainsFunc(s.layers.List(), func(i layers.Info) bool { return i.Dir == dir })
}

func (s *Store) lentDir(n uint64) string {
	return filepath.Join("snapshots", strconv.FormatUint(n, 10), "fs")
}

func read(path string) (*snap, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	x := &snap{}
	if err := json.Unmarshal(b, x); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return x, nil
}

// write replaces a snapshot's record.
func (s *Store) write(x *snap) error {
	b, err := json.Marshal(x)
	if err != nil {
		return err
	}
	path := filepath.Join(s.dir(x.N), "snap.json")
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("record snapshot: %w", err)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("record snapshot: %w", err)
	}
	return nil
}

// trash moves a directory to where Purge of the layers deletes it.
func (s *Store) trash(path string) error {
	to, err := os.MkdirTemp(filepath.Join(s.root, "trash"), "")
	if err != nil {
		return fmt.Errorf("remove snapshot: %w", err)
	}
	if err := os.Rename(path, filepath.Join(to, "snapshot")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove snapshot: %w", err)
	}
	return nil
}

func (s *Store) get(key string) (*snap, error) {
	x, ok := s.snaps[key]
	if !ok {
		return nil, fmt.Errorf("snapshot %s: %w", key, errdefs.ErrNotFound)
	}
	return x, nil
}

func (x *snap) info() snapshots.Info {
	return snapshots.Info{
		Kind: x.Kind, Name: x.Key, Parent: x.Parent, Labels: maps.Clone(x.Labels), Created: x.Created, Updated: x.Updated,
	}
}

// Stat implements snapshots.Snapshotter.
func (s *Store) Stat(_ context.Context, key string) (snapshots.Info, error) {
	unlock, err := s.lock()
	if err != nil {
		return snapshots.Info{}, err
	}
	defer unlock()
	x, err := s.get(key)
	if err != nil {
		return snapshots.Info{}, err
	}
	return x.info(), nil
}

// Update implements snapshots.Snapshotter: labels change.
func (s *Store) Update(_ context.Context, in snapshots.Info, fieldpaths ...string) (snapshots.Info, error) {
	unlock, err := s.lock()
	if err != nil {
		return snapshots.Info{}, err
	}
	defer unlock()
	x, err := s.get(in.Name)
	if err != nil {
		return snapshots.Info{}, err
	}
	next := *x
	next.Labels, next.Updated = maps.Clone(x.Labels), time.Now().UTC()
	if next.Labels == nil {
		next.Labels = map[string]string{}
	}
	all := len(fieldpaths) == 0
	for _, p := range fieldpaths {
		k, ok := strings.CutPrefix(p, "labels.")
		switch {
		case p == "labels":
			all = true
		case !ok:
			return snapshots.Info{}, fmt.Errorf("snapshot field %q cannot change: %w", p, errdefs.ErrInvalidArgument)
		case in.Labels[k] == "":
			delete(next.Labels, k)
		default:
			next.Labels[k] = in.Labels[k]
		}
	}
	if all {
		next.Labels = maps.Clone(in.Labels)
	}
	if err := s.write(&next); err != nil {
		return snapshots.Info{}, err
	}
	*x = next
	return x.info(), nil
}

// Usage implements snapshots.Snapshotter. Files that a layer owns are the layer's.
func (s *Store) Usage(_ context.Context, key string) (snapshots.Usage, error) {
	unlock, err := s.lock()
	if err != nil {
		return snapshots.Usage{}, err
	}
	x, err := s.get(key)
	if err != nil || x.usage != nil || x.Layer != "" {
		defer unlock()
		switch {
		case err != nil:
			return snapshots.Usage{}, err
		case x.Layer != "":
			i, err := s.layers.Info(x.Layer)
			return snapshots.Usage{Size: i.Size, Inodes: i.Entries}, err
		}
		return *x.usage, nil
	}
	path, done := s.files(x), x.Kind == snapshots.KindCommitted
	unlock()
	f, err := os.Open(path)
	if err != nil {
		return snapshots.Usage{}, fmt.Errorf("measure snapshot: %w", err)
	}
	defer f.Close()
	size, err := archive.Size(f)
	if err != nil {
		return snapshots.Usage{}, fmt.Errorf("measure snapshot %s: %w", key, err)
	}
	u := snapshots.Usage{Size: size}
	if done {
		s.mu.Lock()
		x.usage = &u
		s.mu.Unlock()
	}
	return u, nil
}

// Space is the bytes of all files that no layer owns.
func (s *Store) Space(ctx context.Context) (int64, error) {
	unlock, err := s.lock()
	if err != nil {
		return 0, err
	}
	var keys []string
	for key, x := range s.snaps {
		if x.Layer == "" {
			keys = append(keys, key)
		}
	}
	unlock()
	var sum int64
	for _, key := range keys {
		u, err := s.Usage(ctx, key)
		if err != nil {
			if errdefs.IsNotFound(err) || errors.Is(err, fs.ErrNotExist) {
				continue // removed meanwhile
			}
			return 0, err
		}
		sum += u.Size
	}
	return sum, nil
}

// Layers are those that snapshots have their files from.
func (s *Store) Layers() ([]digest.Digest, error) {
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	var list []digest.Digest
	for _, x := range s.snaps {
		if x.Layer != "" {
			list = append(list, x.Layer)
		}
	}
	return list, nil
}

// Prepare implements snapshots.Snapshotter.
func (s *Store) Prepare(_ context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return s.create(snapshots.KindActive, key, parent, opts)
}

// View implements snapshots.Snapshotter.
func (s *Store) View(_ context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return s.create(snapshots.KindView, key, parent, opts)
}

func (s *Store) create(kind snapshots.Kind, key, parent string, opts []snapshots.Opt) ([]mount.Mount, error) {
	var in snapshots.Info
	for _, o := range opts {
		if err := o(&in); err != nil {
			return nil, err
		}
	}
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if s.snaps[key] != nil {
		return nil, fmt.Errorf("snapshot %s: %w", key, errdefs.ErrAlreadyExists)
	}
	if parent != "" {
		p, err := s.get(parent)
		if err != nil {
			return nil, fmt.Errorf("parent: %w", err)
		}
		if p.Kind != snapshots.KindCommitted {
			return nil, fmt.Errorf("parent %s is not committed: %w", parent, errdefs.ErrInvalidArgument)
		}
	}
	now := time.Now().UTC()
	x := &snap{
		N: s.next + 1, Key: key, Kind: kind, Parent: parent, Labels: in.Labels,
		Layer: digest.Digest(in.Labels[LabelLayer]), Created: now, Updated: now,
	}
	if x.Layer != "" && !s.layers.Has(x.Layer) {
		return nil, fmt.Errorf("layer %s: %w", x.Layer, errdefs.ErrNotFound)
	}
	if err := s.make(x); err != nil {
		return nil, errors.Join(fmt.Errorf("make snapshot %s: %w", key, err), os.RemoveAll(s.dir(x.N)))
	}
	s.next++
	s.snaps[key] = x
	return s.mounts(x)
}

// make makes a snapshot's directory.
func (s *Store) make(x *snap) error {
	if err := os.Mkdir(s.dir(x.N), 0o700); err != nil {
		return err
	}
	if x.Layer == "" && x.Kind == snapshots.KindActive {
		dir := s.files(x)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		if err := os.Mkdir(filepath.Join(s.dir(x.N), "work"), 0o711); err != nil {
			return err
		}
		like := ""
		if x.Parent != "" {
			like = s.files(s.snaps[x.Parent])
		}
		if err := s.likeRoot(like, dir); err != nil {
			return err
		}
	}
	return s.write(x)
}

// likeRoot gives a directory the owner and mode of another.
func (s *Store) likeRoot(like, dir string) error {
	if like == "" {
		return os.Chmod(dir, 0o755) // whatever the umask
	}
	return archive.CopyOwnerMode(like, dir, s.plain)
}

// Mounts implements snapshots.Snapshotter.
func (s *Store) Mounts(_ context.Context, key string) ([]mount.Mount, error) {
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	x, err := s.get(key)
	if err != nil {
		return nil, err
	}
	return s.mounts(x)
}

func (s *Store) mounts(x *snap) ([]mount.Mount, error) {
	var lower []string
	for key := x.Parent; key != ""; {
		p, err := s.get(key)
		if err != nil {
			return nil, fmt.Errorf("parent: %w", err)
		}
		lower = append(lower, s.files(p))
		key = p.Parent
	}
	if x.Kind == snapshots.KindCommitted {
		lower = append([]string{s.files(x)}, lower...)
	}
	own := filepath.Join(s.dir(x.N), "fs")
	switch {
	case x.Kind == snapshots.KindActive && len(lower) == 0:
		return []mount.Mount{{Type: "bind", Source: s.files(x), Options: []string{"rw", "rbind"}}}, nil
	case x.Kind == snapshots.KindActive:
		if x.Layer != "" {
			own = s.files(x)
		}
		return []mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{
			"index=off", "redirect_dir=off", // not "metacopy=off", which this implies: BuildKit would not know it and compare whole trees
			"workdir=" + filepath.Join(s.dir(x.N), "work"), "upperdir=" + own, "lowerdir=" + strings.Join(lower, ":"),
		}}}, nil
	case len(lower) == 0:
		if err := os.Mkdir(own, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("empty snapshot: %w", err)
		}
		lower = []string{own}
	}
	if len(lower) == 1 {
		return []mount.Mount{{Type: "bind", Source: lower[0], Options: []string{"ro", "rbind"}}}, nil
	}
	return []mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{
		"index=off", "redirect_dir=off", "lowerdir=" + strings.Join(lower, ":"),
	}}}, nil
}

// Commit implements snapshots.Snapshotter.
func (s *Store) Commit(_ context.Context, name, key string, opts ...snapshots.Opt) error {
	var in snapshots.Info
	for _, o := range opts {
		if err := o(&in); err != nil {
			return err
		}
	}
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	x, err := s.get(key)
	if err != nil {
		return err
	}
	if x.Kind != snapshots.KindActive {
		return fmt.Errorf("snapshot %s is not active: %w", key, errdefs.ErrFailedPrecondition)
	}
	if s.snaps[name] != nil {
		return fmt.Errorf("snapshot %s: %w", name, errdefs.ErrAlreadyExists)
	}
	next := *x
	next.Key, next.Kind, next.Updated = name, snapshots.KindCommitted, time.Now().UTC()
	if len(in.Labels) > 0 {
		next.Labels = in.Labels
	}
	if in.Parent != "" && x.Parent == "" {
		next.Parent = in.Parent
	}
	if err := s.write(&next); err != nil {
		return err
	}
	delete(s.snaps, key)
	s.snaps[name] = &next
	return nil
}

// Remove implements snapshots.Snapshotter. The files go with the next Purge of
// the layers; those that a layer owns stay.
func (s *Store) Remove(_ context.Context, key string) error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	x, err := s.get(key)
	if err != nil {
		return err
	}
	for _, o := range s.snaps {
		if o.Parent == key {
			return fmt.Errorf("snapshot %s has children: %w", key, errdefs.ErrFailedPrecondition)
		}
	}
	if x.Lent && s.layers.Has(x.Layer) {
		err = os.Remove(filepath.Join(s.dir(x.N), "snap.json"))
	} else {
		err = s.trash(s.dir(x.N))
	}
	if err != nil {
		return fmt.Errorf("remove snapshot %s: %w", key, err)
	}
	delete(s.snaps, key)
	return nil
}

// Walk implements snapshots.Snapshotter.
func (s *Store) Walk(ctx context.Context, fn snapshots.WalkFunc, fs ...string) error {
	filter, err := filters.ParseAll(fs...)
	if err != nil {
		return err
	}
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	var list []snapshots.Info
	for _, x := range s.snaps {
		list = append(list, x.info())
	}
	unlock()
	for _, i := range list {
		if !filter.Match(adapt(i)) {
			continue
		}
		if err := fn(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

// adapt shows a snapshot to containerd's filters.
func adapt(i snapshots.Info) filters.Adaptor {
	return filters.AdapterFunc(func(path []string) (string, bool) {
		switch {
		case len(path) == 1 && path[0] == "name":
			return i.Name, true
		case len(path) == 1 && path[0] == "parent":
			return i.Parent, i.Parent != ""
		case len(path) == 1 && path[0] == "kind":
			return i.Kind.String(), true
		case len(path) > 1 && path[0] == "labels":
			v, ok := i.Labels[strings.Join(path[1:], ".")]
			return v, ok
		}
		return "", false
	})
}

// Lend makes the files of the committed snapshot that carries LabelLayer = i.Chain
// that layer's. It says whether it did.
func (s *Store) Lend(i layers.Info) (bool, error) {
	unlock, err := s.lock()
	if err != nil {
		return false, err
	}
	defer unlock()
	for _, x := range s.snaps {
		if x.Labels[LabelLayer] != i.Chain.String() || x.Layer != "" || x.Kind != snapshots.KindCommitted {
			continue
		}
		f, err := os.Open(s.files(x))
		if err != nil {
			return false, fmt.Errorf("measure layer: %w", err)
		}
		i.Size, err = archive.Size(f)
		f.Close()
		if err != nil {
			return false, fmt.Errorf("measure layer: %w", err)
		}
		return s.lend(x, i)
	}
	return false, nil
}

// lend notes the new owner first: a crash in between leaves files too many, and
// not a layer whose files somebody removes.
func (s *Store) lend(x *snap, i layers.Info) (bool, error) {
	next := *x
	next.Layer, next.Lent = i.Chain, true
	if err := s.write(&next); err != nil {
		return false, err
	}
	i.Dir = s.lentDir(x.N)
	ok, err := s.layers.Adopt(i)
	if !ok || err != nil {
		return false, errors.Join(err, s.write(x))
	}
	*x = next
	return true, nil
}

// Close implements snapshots.Snapshotter.
func (s *Store) Close() error { return nil }
