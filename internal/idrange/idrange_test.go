package idrange

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containerd/errdefs"

	"hull/internal/hull"
)

func config(t *testing.T, subuid, subgid string) Config {
	t.Helper()
	dir := t.TempDir()
	c := Config{SubUID: filepath.Join(dir, "subuid"), SubGID: filepath.Join(dir, "subgid")}
	for path, text := range map[string]string{c.SubUID: subuid, c.SubGID: subgid} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func ranged(t *testing.T, c Config) *Ranges {
	t.Helper()
	r, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func take(t *testing.T, r *Ranges) hull.IDRange {
	t.Helper()
	x, err := r.Take()
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestEntries(t *testing.T) {
	t.Parallel()
	r := ranged(t, config(t, "# ours\nalice:100000:65536\nhull:200000:131072\n", "hull:300000:200000\n"))
	a, b := take(t, r), take(t, r)
	if a != (hull.IDRange{UID: 200000, GID: 300000, Size: Size}) || b != (hull.IDRange{UID: 265536, GID: 365536, Size: Size}) {
		t.Errorf("ranges %v, %v", a, b)
	}
	if _, err := r.Take(); !errdefs.IsResourceExhausted(err) {
		t.Errorf("a third range of two: %v", err)
	}
	r.Claim(a)
	r.Give(a)
	if _, err := r.Take(); !errdefs.IsResourceExhausted(err) {
		t.Errorf("a range that is still used by one: %v", err)
	}
	r.Give(a)
	if x := take(t, r); x != a {
		t.Errorf("what was given back is %v, got %v", a, x)
	}
}

func TestBadEntries(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]Config{
		"only one file": config(t, "hull:100000:65536\n", ""),
		"too small":     config(t, "hull:100000:65535\n", "hull:100000:65536\n"),
		"no number":     config(t, "hull:x:65536\n", "hull:100000:65536\n"),
		"root's ids":    config(t, "hull:0:65536\n", "hull:100000:65536\n"),
		"beyond":        config(t, "hull:4294901760:65536\n", "hull:100000:65536\n"),
		"no count":      config(t, "hull:100000\n", "hull:100000:65536\n"),
	} {
		if _, err := New(c); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOthersAreLeftAlone(t *testing.T) {
	t.Parallel()
	// All but three ranges are somebody's; the nonsense is nobody's.
	c := config(t, "bob:1879048192:65536\neve:1879310336:268173312\nbroken:1\n", "")
	c.InUse = func() []uint32 { return []uint32{1879113728} }
	r := ranged(t, c)
	a, b := take(t, r), take(t, r)
	for _, x := range []hull.IDRange{a, b} {
		if x.UID < 1879048192+2*65536 || x.UID >= 1879310336 || x.GID != x.UID {
			t.Errorf("range %v is somebody else's", x)
		}
	}
	if _, err := r.Take(); !errdefs.IsResourceExhausted(err) {
		t.Errorf("one more: %v", err)
	}
}

func TestClaimedAfterARestart(t *testing.T) {
	t.Parallel()
	r := ranged(t, config(t, "hull:100000:131072\n", "hull:100000:131072\n"))
	r.Claim(hull.IDRange{UID: 130000, GID: 500, Size: Size}) // from before a change of the entry: overlaps both
	if _, err := r.Take(); !errdefs.IsResourceExhausted(err) {
		t.Errorf("a range that overlaps a live one: %v", err)
	}
}

func TestNeverTwice(t *testing.T) {
	t.Parallel()
	r := ranged(t, config(t, "", ""))
	var mu sync.Mutex
	seen := map[uint32]bool{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				x, err := r.Take()
				mu.Lock()
				if err != nil || seen[x.UID] || x.UID < areaFirst || x.UID+Size > areaEnd {
					t.Errorf("range %v twice or out of place, or %v", x, err)
				}
				seen[x.UID] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if x := take(t, r); seen[x.UID] {
		t.Errorf("range %v again while it is used", x)
	}
}
