package image

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// TestDisks: images as machines see them count, and go when no container stands on
// them and nobody has for a time.
func TestDisks(t *testing.T) {
	s := service(t)
	img := build(t, nil, layerTar(t, file{name: "a", body: "a"}))
	load(t, s, img, "docker.io/library/a:1")
	before, err := s.Space(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir := s.blocks.dir
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	used := chainOf(resolve(t, s, "a:1").Layers)
	other, fresh := digest.FromString("other"), digest.FromString("fresh")
	keep := []string{"empty-1.ext4", "blank.x.y.erofs", "none.erofs"}
	names := append([]string{blockName(used), blockName(other), blockName(fresh)}, keep...)
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, 4096), 0o600); err != nil {
			t.Fatal(err)
		}
		last := time.Now()
		if name != blockName(fresh) {
			last = last.Add(-time.Hour)
		}
		if err := os.Chtimes(filepath.Join(dir, name), last, last); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Prepare(t.Context(), "c1", resolve(t, s, "a:1"), nil); err != nil {
		t.Fatal(err)
	}
	list, err := DisksOf(s).Usage(t.Context())
	if err != nil || len(list) != 3 {
		t.Fatalf("%+v %v", list, err)
	}
	var sum int64
	for _, d := range list {
		if d.InUse != (d.ID == used.String()) || d.Size < 4096 || d.LastUsedAt.After(time.Now()) {
			t.Errorf("%+v", d)
		}
		sum += d.Size
	}
	if n, err := s.Space(t.Context()); err != nil || n-before < sum {
		t.Errorf("space %d with %d of disks, %d before (%v)", n, sum, before, err)
	}

	prune := func(unused time.Duration, want ...digest.Digest) {
		t.Helper()
		ids, bytes, err := DisksOf(s).Prune(t.Context(), unused)
		if err != nil || len(ids) != len(want) || bytes < int64(4096*len(want)) {
			t.Fatalf("pruned %q, %d bytes, %v", ids, bytes, err)
		}
		for i, d := range want {
			if _, err := os.Stat(filepath.Join(dir, blockName(d))); ids[i] != d.String() || err == nil {
				t.Errorf("pruned %s, not %s (%v)", ids[i], d, err)
			}
		}
	}
	prune(2 * time.Hour)
	prune(time.Minute, other)
	prune(0, fresh)
	prune(0)
	for _, name := range append(keep, blockName(used)) {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
}

// TestFormerBlanks: what machines rehearsed with before goes, whole or not, and nothing else.
func TestFormerBlanks(t *testing.T) {
	t.Parallel()
	b := blocks{dir: t.TempDir()}
	for _, name := range []string{"blank.1.erofs", "blank.2.erofs.new", "blank.3/etc/passwd", "empty-1.ext4", "none.erofs"} {
		path := filepath.Join(b.dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.removeBlanks(); err != nil {
		t.Fatal(err)
	}
	all, err := filepath.Glob(filepath.Join(b.dir, "*"))
	if err != nil || len(all) != 2 {
		t.Errorf("left: %q (%v)", all, err)
	}
}
