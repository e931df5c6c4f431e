package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	"hull/internal/hull"
	"hull/internal/image/archive"
	"hull/internal/image/layers"
)

// box is a container's writable layer: ROOT/containers/ID/{upper,work}, and an
// empty file whose name holds what it stands on. A name needs no fsync of its
// own: it is in the file system's journal together with the directory.
type box struct {
	chain    digest.Digest // top of the chain, "" = an image without layers
	manifest digest.Digest
}

// boxStore keeps the containers' writable layers.
type boxStore struct {
	root   string
	layers *layers.Store
	log    *slog.Logger
	plain  bool // no ids but our own, and no mounts: an engine that is not root

	quotaMu   sync.Mutex
	quotaOnce sync.Once
	hasQuota  bool // set by quotaOnce

	boxMu sync.Mutex
	boxes map[string]box

	blocks blocks
}

const boxPrefix = "base,"

func (b box) file() string { return boxPrefix + b.chain.String() + "," + b.manifest.String() }

func parseBox(name string) (box, bool) {
	rest, ok := strings.CutPrefix(name, boxPrefix)
	if !ok {
		return box{}, false
	}
	chain, manifest, ok := strings.Cut(rest, ",")
	b := box{chain: digest.Digest(chain), manifest: digest.Digest(manifest)}
	if !ok || (b.chain != "" && b.chain.Validate() != nil) || (b.manifest != "" && b.manifest.Validate() != nil) {
		return box{}, false
	}
	return b, true
}

func (s *boxStore) boxDir(id string) string { return filepath.Join(s.root, "containers", id) }

// validID keeps container ids from being paths.
func validID(id string) error {
	if id == "" || len(id) > 128 || strings.ContainsAny(id, "/\x00") || id == "." || id == ".." {
		return fmt.Errorf("container id %q: %w", id, errdefs.ErrInvalidArgument)
	}
	return nil
}

// loadBoxes reads what containers stand on.
func (s *boxStore) loadBoxes() error {
	list, err := os.ReadDir(filepath.Join(s.root, "containers"))
	if err != nil {
		return fmt.Errorf("read writable layers: %w", err)
	}
	for _, e := range list {
		files, err := os.ReadDir(s.boxDir(e.Name()))
		if err != nil {
			return fmt.Errorf("read writable layer %s: %w", e.Name(), err)
		}
		for _, f := range files {
			if b, ok := parseBox(f.Name()); ok {
				s.boxes[e.Name()] = b
			}
		}
	}
	return nil
}

func (s *boxStore) box(id string) (box, error) {
	s.boxMu.Lock()
	defer s.boxMu.Unlock()
	b, ok := s.boxes[id]
	if !ok {
		return b, fmt.Errorf("writable layer of container %s: %w", id, errdefs.ErrNotFound)
	}
	return b, nil
}

// Prepare gives container id a writable layer on top of img: two directories and
// one empty file.
func (s *Service) Prepare(ctx context.Context, id string, img hull.Image, storageOpt map[string]string) error {
	if err := validID(id); err != nil {
		return err
	}
	size, err := diskLimit(storageOpt)
	if err != nil {
		return err
	}
	if err := s.admit(ctx, img); err != nil {
		return err
	}
	leave := s.gate.enter()
	defer leave()
	b := box{chain: chainOf(img.Layers), manifest: digest.Digest(img.Manifest)}
	if err := s.ready(ctx, b); err != nil {
		return err
	}
	if !s.plain {
		if _, err := s.scaffold(b); err != nil {
			return err
		}
	}
	dir := s.boxDir(id)
	if err := os.Mkdir(dir, 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("writable layer of container %s: %w", id, errdefs.ErrAlreadyExists)
		}
		return fmt.Errorf("make writable layer: %w", err)
	}
	err = s.limit(dir, size)
	if err == nil {
		err = s.makeBox(dir, b)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("make writable layer: %w", err), os.RemoveAll(dir))
	}
	s.boxMu.Lock()
	s.boxes[id] = b
	s.boxMu.Unlock()
	if b.chain != "" {
		s.layers.Used(b.chain)
	}
	return nil
}

func (s *boxStore) makeBox(dir string, b box) error {
	if err := s.note(filepath.Join(dir, b.file())); err != nil {
		return err
	}
	for _, d := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	// The upper directory's attributes are those of the container's "/".
	return s.likeRoot(b.chain, filepath.Join(dir, "upper"))
}

// note makes an empty file whose name says all: another name of the one that all
// containers have, because a file system may take longer to find a new inode than to
// do all the rest (docs/performance.md).
func (s *boxStore) note(path string) error {
	blank := filepath.Join(s.root, "blank")
	err := os.Link(blank, path)
	if errors.Is(err, fs.ErrNotExist) {
		if err = createEmpty(blank); err == nil || errors.Is(err, fs.ErrExist) {
			err = os.Link(blank, path)
		}
	}
	if err != nil { // it has as many names as it can have, or there are no links here
		return createEmpty(path)
	}
	return nil
}

func createEmpty(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// likeRoot gives a directory the owner and mode of a chain's root.
func (s *boxStore) likeRoot(chain digest.Digest, dir string) error {
	if chain == "" {
		return os.Chmod(dir, 0o755) // whatever the umask
	}
	return archive.CopyOwnerMode(s.layers.Path(chain), dir, s.plain)
}

// chainOf is the chain id of all layers together.
func chainOf(diffs []string) digest.Digest {
	ids := make([]digest.Digest, len(diffs))
	for i, d := range diffs {
		ids[i] = digest.Digest(d)
	}
	if len(ids) == 0 {
		return ""
	}
	return identity.ChainID(ids)
}

// Discard removes what Prepare made. An unknown id is no error.
func (s *Service) Discard(ctx context.Context, id string) error {
	if err := validID(id); err != nil {
		return err
	}
	dir := s.boxDir(id)
	free := s.limitOf(dir)
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove writable layer of container %s: %w", id, err)
	}
	if err := free(); err != nil {
		return fmt.Errorf("remove disk limit of container %s: %w", id, err)
	}
	s.boxMu.Lock()
	b, ok := s.boxes[id]
	delete(s.boxes, id)
	s.boxMu.Unlock()
	if ok && !s.view.Load().hasManifest(b.manifest) {
		s.collect(ctx) // the image was removed by force while the container stood on it
	}
	return nil
}

// Mount describes the root file system of container id. Nothing is mounted; the
// layers are held by the writable layer's existence.
func (s *Service) Mount(ctx context.Context, id string, want []hull.RootfsKind) (hull.Rootfs, hull.Release, error) {
	kind := slices.IndexFunc(want, func(k hull.RootfsKind) bool { return k == hull.RootfsOverlay || k == hull.RootfsBlock })
	if kind < 0 {
		return hull.Rootfs{}, nil, fmt.Errorf("root file system of kind %v: %w", want, errdefs.ErrNotImplemented)
	}
	b, err := s.mounted(ctx, id)
	if err != nil {
		return hull.Rootfs{}, nil, err
	}
	if want[kind] == hull.RootfsBlock {
		root, err := s.mountBlock(ctx, id, b)
		return root, func(context.Context) error { return nil }, err
	}
	lower, err := s.lower(b)
	if err != nil {
		return hull.Rootfs{}, nil, err
	}
	dir := s.boxDir(id)
	return hull.Rootfs{
		Kind: hull.RootfsOverlay, Lower: lower,
		Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work"),
	}, func(context.Context) error { return nil }, nil
}

// lower lists the directories below a writable layer, topmost first.
func (s *boxStore) lower(b box) ([]string, error) {
	dirs, err := s.lowerOf(b.chain)
	if err != nil || s.plain {
		return dirs, err
	}
	init, err := s.scaffold(b)
	if err != nil {
		return nil, err
	}
	return append([]string{init}, dirs...), nil
}

// lowerOf lists the directories of a chain, topmost first; an image without
// layers has one that is empty.
func (s *boxStore) lowerOf(chain digest.Digest) ([]string, error) {
	if chain == "" {
		return []string{filepath.Join(s.root, "empty")}, nil
	}
	var dirs []string
	for c := chain; c != ""; {
		i, err := s.layers.Info(c)
		if err != nil {
			return nil, fmt.Errorf("root file system is incomplete: %w", err)
		}
		dirs = append(dirs, s.layers.Path(c))
		c = i.Parent
	}
	return dirs, nil
}

// Sweep discards the writable layers of containers that keep denies.
func (s *Service) Sweep(ctx context.Context, keep func(containerID string) bool) error {
	list, err := os.ReadDir(filepath.Join(s.root, "containers"))
	if err != nil {
		return fmt.Errorf("list writable layers: %w", err)
	}
	var errs []error
	for _, e := range list {
		id, _, _ := strings.Cut(e.Name(), hull.ImageMountInfix)
		if !keep(id) {
			errs = append(errs, s.Discard(ctx, e.Name()))
		}
	}
	return errors.Join(errs...)
}
