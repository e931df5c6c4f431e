// Package layers keeps unpacked layers: one directory for each chain id, made
// aside and renamed into place, so that what is there is complete.
//
//	ROOT/layers/<chain>/fs          the layer's own files, overlayfs whiteouts
//	ROOT/layers/<chain>/layer.json  Info; its time is that of the last use
//	ROOT/layers/<chain>/synced      its files are on disk, and not only in memory
//	ROOT/layers/<chain>/init        what containers of it add before they start, see Init
//	ROOT/new/<random>/...           being unpacked; emptied at start
//	ROOT/trash/<random>/...         being deleted; emptied at start
//
// A directory holds only its own layer, so layers are unpacked in parallel; its
// name is that of the chain, because attributes of directories that a layer does
// not describe come from the layers below it.
package layers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"hull/internal/linux"
)

// Info describes an unpacked layer.
type Info struct {
	Chain   digest.Digest
	Parent  digest.Digest `json:",omitempty"` // chain id, "" for the lowest
	Diff    digest.Digest // of the uncompressed tar
	Size    int64         // bytes of its files
	Entries int64
	Created time.Time
	Boot    string // of the kernel, when it was made: see Sync
	// Dir is where the files are instead of fs, relative to the root of the store:
	// those of a build step, taken over with Adopt.
	Dir string `json:",omitempty"`
}

// Store is the directory of layers. Its methods may be called concurrently.
type Store struct {
	root string
	boot string

	syncing sync.WaitGroup
	mu      sync.Mutex
	have    map[digest.Digest]Info
	inits   map[digest.Digest]bool // which init layers are known to be there
	dirs    sync.Map               // Info.Dir by chain, of the layers that have one: Path takes no lock
	added   chan struct{}          // closed when a layer was added, and replaced
}

// Open reads what is below root, and deletes what an earlier process left half done.
func Open(root string) (*Store, error) {
	s := &Store{root: root, have: map[digest.Digest]Info{}, inits: map[digest.Digest]bool{}, added: make(chan struct{})}
	var err error
	if s.boot, err = linux.BootID(); err != nil {
		return nil, fmt.Errorf("open layer store: %w", err)
	}
	for _, d := range []string{"layers", "new", "trash"} {
		// Files of layers have the ids of the container, root's set-uid programs
		// among them: nobody else may walk in here.
		if err := os.MkdirAll(filepath.Join(root, d), 0o700); err != nil {
			return nil, fmt.Errorf("make layer store: %w", err)
		}
	}
	for _, d := range []string{"new", "trash"} {
		if err := empty(filepath.Join(root, d)); err != nil {
			return nil, fmt.Errorf("clear layer store: %w", err)
		}
	}
	list, err := os.ReadDir(filepath.Join(root, "layers"))
	if err != nil {
		return nil, fmt.Errorf("read layer store: %w", err)
	}
	for _, e := range list {
		i, err := s.read(e.Name())
		if _, serr := os.Lstat(filepath.Join(root, i.Dir)); err == nil && i.Dir != "" && serr != nil {
			err = fmt.Errorf("layer %s lost its files: %w", i.Chain, errdefs.ErrDataLoss)
		}
		if err == nil && i.Boot != s.boot && !s.durable(i.Chain) {
			err = fmt.Errorf("layer %s may be torn: %w", i.Chain, errdefs.ErrDataLoss)
		}
		if err != nil {
			// Not one of ours, or torn by a power cut: it cannot be used.
			if err := s.discard(filepath.Join(root, "layers", e.Name()), i.Dir); err != nil {
				return nil, err
			}
			continue
		}
		s.put(i)
	}
	return s, nil
}

// put notes a layer. The lock is held, or nobody else has the store yet.
func (s *Store) put(i Info) {
	s.have[i.Chain] = i
	if i.Dir != "" {
		s.dirs.Store(i.Chain, i.Dir)
	}
}

func empty(dir string) error {
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) read(name string) (Info, error) {
	var i Info
	b, err := os.ReadFile(filepath.Join(s.root, "layers", name, "layer.json"))
	if err != nil {
		return i, err
	}
	if err := json.Unmarshal(b, &i); err != nil {
		return i, err
	}
	if i.Chain.Validate() != nil || i.Chain.Encoded() != name || (i.Dir != "" && !filepath.IsLocal(i.Dir)) {
		return Info{}, fmt.Errorf("layer %s: %w", name, errdefs.ErrDataLoss)
	}
	return i, nil
}

func (s *Store) dir(chain digest.Digest) string {
	return filepath.Join(s.root, "layers", chain.Encoded())
}

// Path is the directory of a layer's files.
func (s *Store) Path(chain digest.Digest) string {
	if dir, ok := s.dirs.Load(chain); ok {
		return filepath.Join(s.root, dir.(string)) //nolint:forcetypeassert // nothing else is in it
	}
	return filepath.Join(s.dir(chain), "fs")
}

// Info tells about a layer. errdefs.ErrNotFound.
func (s *Store) Info(chain digest.Digest) (Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.have[chain]
	if !ok {
		return i, fmt.Errorf("layer %s: %w", chain, errdefs.ErrNotFound)
	}
	return i, nil
}

// Has says whether the layer is there, complete.
func (s *Store) Has(chain digest.Digest) bool {
	_, err := s.Info(chain)
	return err == nil
}

// Chain lists a chain from its top to its lowest layer, as far as it is there.
func (s *Store) Chain(top digest.Digest) []digest.Digest {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []digest.Digest
	for c := top; c != ""; {
		i, ok := s.have[c]
		if !ok {
			break
		}
		list = append(list, c)
		c = i.Parent
	}
	return list
}

// Wait returns when the layer is there.
func (s *Store) Wait(ctx context.Context, chain digest.Digest) error {
	for {
		s.mu.Lock()
		_, ok := s.have[chain]
		added := s.added
		s.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-added:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// List returns every layer, in no order.
func (s *Store) List() []Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Info, 0, len(s.have))
	for _, i := range s.have {
		list = append(list, i)
	}
	return list
}

// Used notes that the layer is being used now; LastUsed tells. Both are hints.
func (s *Store) Used(chain digest.Digest) {
	now := time.Now()
	_ = os.Chtimes(filepath.Join(s.dir(chain), "layer.json"), now, now) //nolint:errcheck // a hint
}

// LastUsed is when Used was last called, or when the layer came.
func (s *Store) LastUsed(chain digest.Digest) time.Time {
	st, err := os.Stat(filepath.Join(s.dir(chain), "layer.json"))
	if err != nil {
		return time.Time{}
	}
	return st.ModTime()
}

// Draft is a layer being made. Exactly one of Commit and Discard ends it.
type Draft struct {
	s    *Store
	path string
	root *os.File
}

// New starts a layer.
func (s *Store) New() (*Draft, error) {
	p, err := os.MkdirTemp(filepath.Join(s.root, "new"), "")
	if err != nil {
		return nil, fmt.Errorf("make layer directory: %w", err)
	}
	fsDir := filepath.Join(p, "fs")
	if err = os.Mkdir(fsDir, 0o755); err == nil {
		err = os.Chmod(fsDir, 0o755) // whatever the umask
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make layer directory: %w", err), os.RemoveAll(p))
	}
	root, err := os.Open(fsDir)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open layer directory: %w", err), os.RemoveAll(p))
	}
	return &Draft{s: s, path: p, root: root}, nil
}

// Root is the empty directory to fill. It is closed with the draft.
func (d *Draft) Root() *os.File { return d.root }

// Commit gives the layer its name. When it is there already, made by somebody
// else meanwhile, the draft is dropped and that is no error.
func (d *Draft) Commit(i Info) error {
	d.root.Close()
	i.Created, i.Boot = time.Now().UTC(), d.s.boot
	b, err := json.Marshal(i)
	if err != nil {
		return errors.Join(err, d.drop())
	}
	if err := writeNew(filepath.Join(d.path, "layer.json"), b); err != nil {
		return errors.Join(fmt.Errorf("write layer record: %w", err), d.drop())
	}
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	if _, ok := d.s.have[i.Chain]; ok {
		return d.drop()
	}
	if err := os.Rename(d.path, d.s.dir(i.Chain)); err != nil {
		return errors.Join(fmt.Errorf("name layer %s: %w", i.Chain, err), d.drop())
	}
	d.s.put(i)
	close(d.s.added)
	d.s.added = make(chan struct{})
	return nil
}

// Adopt makes a layer of files that are there already: i.Dir, relative to the
// store's root, which the layer owns from now on. It says whether it did; a layer
// that is there already stays as it is.
func (s *Store) Adopt(i Info) (bool, error) {
	if i.Dir == "" || !filepath.IsLocal(i.Dir) {
		return false, fmt.Errorf("layer files in %q: %w", i.Dir, errdefs.ErrInvalidArgument)
	}
	if s.Has(i.Chain) {
		return false, nil
	}
	d, err := s.New()
	if err != nil {
		return false, err
	}
	if err := d.Commit(i); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.have[i.Chain].Dir == i.Dir, nil
}

// Discard drops the draft.
func (d *Draft) Discard() error {
	d.root.Close()
	return d.drop()
}

func (d *Draft) drop() error { return os.RemoveAll(d.path) }

func writeNew(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}

// Whole says whether a chain is there with all that is below it.
func (s *Store) Whole(top digest.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := top; c != ""; {
		i, ok := s.have[c]
		if !ok {
			return false
		}
		c = i.Parent
	}
	return true
}

// durable says whether a layer's files are known to be on disk.
func (s *Store) durable(chain digest.Digest) bool {
	_, err := os.Stat(filepath.Join(s.dir(chain), "synced"))
	return err == nil
}

// Sync writes new layers to disk, in the background: nobody waits for the disk
// to have them, because a power cut before that costs nothing but unpacking them
// once more. A layer from before the last boot that was not marked as synced is
// dropped by Open; its blob was synced when it was stored.
func (s *Store) Sync() {
	var fresh []digest.Digest
	for _, i := range s.List() {
		if !s.durable(i.Chain) {
			fresh = append(fresh, i.Chain)
		}
	}
	if len(fresh) == 0 {
		return
	}
	s.syncing.Go(func() {
		d, err := os.Open(s.root)
		if err != nil {
			return
		}
		err = unix.Syncfs(int(d.Fd()))
		d.Close()
		if err != nil {
			return // not marked: to be unpacked again after a reboot
		}
		for _, c := range fresh {
			if f, err := os.OpenFile(filepath.Join(s.dir(c), "synced"), os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
				f.Close()
			}
		}
	})
}

// Close waits for what runs in the background.
func (s *Store) Close() { s.syncing.Wait() }

// Init is the directory of a chain's init layer ("" = that of images without layers), made by fill when it is not
// there: fill gets an empty directory, beside which it may use others whose
// names begin with its own. It goes with the layer.
func (s *Store) Init(chain digest.Digest, fill func(dir string) error) (string, error) {
	at := filepath.Join(s.root, "init-empty")
	if chain != "" {
		at = filepath.Join(s.dir(chain), "init")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inits[chain] {
		return at, nil
	}
	if _, err := os.Stat(at); err == nil {
		s.inits[chain] = true
		return at, nil
	}
	tmp, err := os.MkdirTemp(filepath.Join(s.root, "new"), "")
	if err != nil {
		return "", fmt.Errorf("make init layer: %w", err)
	}
	defer os.RemoveAll(tmp)
	dir := filepath.Join(tmp, "init")
	if err = os.Mkdir(dir, 0o755); err == nil {
		if err = os.Chmod(dir, 0o755); err == nil {
			err = fill(dir)
		}
	}
	if err == nil {
		err = os.Rename(dir, at)
	}
	if err != nil {
		return "", fmt.Errorf("make init layer of %s: %w", chain, err)
	}
	s.inits[chain] = true
	return at, nil
}

// Remove deletes a layer. It is out of sight when Remove returns; the files go
// with the next Purge. An unknown one is no error.
func (s *Store) Remove(chain digest.Digest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.have[chain]; !ok {
		return nil
	}
	if err := s.discard(s.dir(chain), s.have[chain].Dir); err != nil {
		return err
	}
	delete(s.have, chain)
	s.dirs.Delete(chain)
	delete(s.inits, chain)
	return nil
}

// discard moves a layer to the trash; files is its Info.Dir.
func (s *Store) discard(path, files string) error {
	to, err := os.MkdirTemp(filepath.Join(s.root, "trash"), "")
	if err != nil {
		return fmt.Errorf("remove layer: %w", err)
	}
	// The files first: a record without files is noticed, files without a record are not.
	if files != "" {
		if err := os.Rename(filepath.Join(s.root, files), filepath.Join(to, "files")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove layer: %w", err)
		}
	}
	if err := os.Rename(path, filepath.Join(to, "layer")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove layer: %w", err)
	}
	return nil
}

// Purge deletes the files of removed layers.
func (s *Store) Purge(ctx context.Context) error {
	list, err := os.ReadDir(filepath.Join(s.root, "trash"))
	if err != nil {
		return fmt.Errorf("empty the trash: %w", err)
	}
	var errs []error
	for _, e := range list {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		errs = append(errs, os.RemoveAll(filepath.Join(s.root, "trash", e.Name())))
	}
	return errors.Join(errs...)
}
