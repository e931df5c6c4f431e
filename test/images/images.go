// Package images makes real images from Debian packages for tests and the demo:
// busybox, debian, redis, postgres, nginx, python, jupyter, golang, node and a
// synthetic one of many layers. They are cached outside the tree ($HULL_CACHE/images, default
// ~/.cache/hull/images), named from the content of their recipe, and made once
// whoever asks first; several test processes may ask at the same time.
//
// An image is one tar that is a docker-archive and an OCI layout at once, as
// `docker save` writes it.
package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"hull/test/images/internal/layer"
)

// Path returns the archive of the image, made first if the cache lacks it.
// Making one needs root, mmdebstrap and Debian's mirror.
func Path(t testing.TB, name string) string {
	t.Helper()
	file, err := Make(t.Context(), name)
	if err != nil {
		t.Fatalf("make image %s: %v", name, err)
	}
	return file
}

// Names lists what can be made.
func Names() []string {
	var names []string
	for _, r := range recipes() {
		names = append(names, r.name)
	}
	return names
}

// Ref is the reference an image is tagged with in its archive.
func Ref(name string) string { return name + ":latest" }

// Make returns the path of the archive of image name.
func Make(ctx context.Context, name string) (string, error) {
	r, err := find(name)
	if err != nil {
		return "", err
	}
	dir, err := CacheDir()
	if err != nil {
		return "", err
	}
	key, err := r.key()
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "images", name+"-"+key+".tar")
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	layers, err := makeLayers(ctx, dir, r)
	if err != nil {
		return "", err
	}
	unlock, err := lock(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	if err := layer.WriteArchive(file, Ref(name), r.config, layers); err != nil {
		return "", err
	}
	return file, removeOld(dir, name, file)
}

// makeLayers returns the layer tars of r, lowest first.
func makeLayers(ctx context.Context, dir string, r recipe) ([]string, error) {
	var below []string
	if r.base != "" {
		base, err := find(r.base)
		if err != nil {
			return nil, err
		}
		if below, err = makeLayers(ctx, dir, base); err != nil {
			return nil, err
		}
	}
	key, err := r.key()
	if err != nil {
		return nil, err
	}
	out := filepath.Join(dir, "layers", r.name+"-"+key)
	unlock, err := lock(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := os.Stat(out); errors.Is(err, fs.ErrNotExist) {
		work, err := os.MkdirTemp(dir, ".work-")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(work)
		fmt.Fprintf(os.Stderr, "making image %s (cached afterwards)\n", r.name)
		if err := r.build(ctx, build{cache: dir, work: work, below: below, recipe: r}); err != nil {
			return nil, fmt.Errorf("make layer of %s: %w", r.name, err)
		}
		if err := os.Rename(filepath.Join(work, "layers"), out); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	own, err := filepath.Glob(filepath.Join(out, "*.tar"))
	if err != nil {
		return nil, err
	}
	slices.Sort(own)
	return append(below, own...), nil
}

// removeOld drops archives of former recipes of the same image.
func removeOld(dir, name, keep string) error {
	old, err := filepath.Glob(filepath.Join(dir, "images", name+"-????????????.tar"))
	if err != nil {
		return err
	}
	for _, file := range old {
		if file != keep {
			if err := os.Remove(file); err != nil {
				return err
			}
		}
	}
	return nil
}

// CacheDir is where images and tools are kept: $HULL_CACHE, else ~/.cache/hull.
func CacheDir() (string, error) {
	dir := os.Getenv("HULL_CACHE")
	if dir == "" {
		home, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(home, "hull")
	}
	for _, sub := range []string{"images", "layers", "apt/archives/partial", "apt/lists/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// lock takes the cache's lock between processes.
func lock(ctx context.Context, file string) (func(), error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	// Blocking in the kernel is fine: only a test process waits here, and
	// whoever holds the lock ends by itself.
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", file, err)
	}
	return func() { f.Close() }, nil
}

// key names the content of a recipe and of everything below it.
func (r recipe) key() (string, error) {
	h := sha256.New()
	if r.base != "" {
		base, err := find(r.base)
		if err != nil {
			return "", err
		}
		k, err := base.key()
		if err != nil {
			return "", err
		}
		fmt.Fprintln(h, k)
	}
	conf, err := json.Marshal(r.config)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(h, "%s\n%s\n", r.name, conf)
	for _, f := range r.files {
		b, err := recipeFiles.ReadFile("recipes/" + f)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s %d\n%s", f, len(b), b)
	}
	return hex.EncodeToString(h.Sum(nil))[:12], nil
}

func find(name string) (recipe, error) {
	for _, r := range recipes() {
		if r.name == name {
			return r, nil
		}
	}
	return recipe{}, fmt.Errorf("no recipe for image %q (there are %v)", name, Names())
}
