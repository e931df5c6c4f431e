package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hull/internal/hull"
)

// noise is data that does not pack, so that its layers are large.
func noise(seed uint64, n int) string {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed)})
	for i := 0; i < n; i += 8 {
		v := r.Uint64()
		for j := i; j < min(i+8, n); j++ {
			b[j], v = byte(v), v>>8
		}
	}
	return string(b)
}

// large is an image of two layers of about 2 MiB.
func large(t testing.TB) built {
	t.Helper()
	return build(t, nil,
		layerTar(t, file{name: "a", body: noise(1, 2<<20)}),
		layerTar(t, file{name: "b", body: noise(2, 2<<20)}, file{name: "c/"}))
}

func quick(c *Config) { c.Stall, c.Retries = 300*time.Millisecond, 3 }

// clean fails when an unfinished layer or download was left behind.
func clean(t testing.TB, s *Service) {
	t.Helper()
	for _, d := range []string{"new", "trash", "content/ingest"} {
		list, err := os.ReadDir(filepath.Join(s.cfg.Root, d))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		for _, e := range list {
			t.Errorf("%s/%s was left behind", d, e.Name())
		}
	}
}

// TestBrokenLayers: what is not what the manifest says is refused, leaves
// nothing, and does not stand in the way of the next pull.
func TestBrokenLayers(t *testing.T) {
	img := large(t)
	for name, hook := range map[string]func(w http.ResponseWriter, r *http.Request, b []byte) bool{
		"one byte wrong": func(w http.ResponseWriter, r *http.Request, b []byte) bool {
			b = bytes.Clone(b)
			b[len(b)/2] ^= 1
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
			return true
		},
		"truncated": func(w http.ResponseWriter, r *http.Request, b []byte) bool {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b[:len(b)/2]))
			return true
		},
		"empty": func(w http.ResponseWriter, _ *http.Request, _ []byte) bool { return true },
		"something else": func(w http.ResponseWriter, r *http.Request, b []byte) bool {
			http.ServeContent(w, r, "", time.Time{}, strings.NewReader(noise(9, len(b))))
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := &fileRegistry{img: img}
			var bad atomic.Bool
			bad.Store(true)
			reg.hook = func(w http.ResponseWriter, r *http.Request, b []byte) bool {
				return bad.Load() && len(b) > 1<<20 && hook(w, r, b)
			}
			host := serve(t, reg)
			s := service(t, quick)
			if _, err := s.Pull(t.Context(), hull.PullRequest{Ref: host + "/x:1"}); err == nil {
				t.Fatal("pulled")
			}
			if list, _ := s.List(t.Context(), true); len(list) != 0 {
				t.Errorf("image exists: %v", list)
			}
			if l := s.layers.List(); len(l) != 0 {
				t.Errorf("layer exists: %v", l)
			}
			if list, _ := os.ReadDir(filepath.Join(s.cfg.Root, "new")); len(list) != 0 {
				t.Errorf("half a layer is left: %v", list)
			}
			bad.Store(false)
			if i, err := s.Pull(t.Context(), hull.PullRequest{Ref: host + "/x:1"}); err != nil || i.ID != img.id() {
				t.Fatal(i.ID, err)
			}
			clean(t, s)
		})
	}
}

// TestDiffMismatch: a layer that is as the manifest says, but unpacks to
// something that the configuration does not.
func TestDiffMismatch(t *testing.T) {
	img := build(t, func(c *imageConfig) { c.RootFS.DiffIDs[0] = digest.FromString("another") }, layerTar(t, file{name: "a", body: "a"}))
	s := service(t, quick)
	if _, err := s.Pull(t.Context(), hull.PullRequest{Ref: registryFiles(t, img) + "/x:1"}); !errdefs.IsDataLoss(err) {
		t.Fatal(err)
	}
	clean(t, s)
}

// TestResume: connections that stand still or break are taken up where they ended.
func TestResume(t *testing.T) {
	img := large(t)
	for name, cut := range map[string]func(w http.ResponseWriter, r *http.Request){
		"stall": func(w http.ResponseWriter, r *http.Request) {
			w.(http.Flusher).Flush() //nolint:forcetypeassert // net/http's is one
			<-r.Context().Done()
		},
		"reset": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			sent := map[string]int{}
			ranges := 0
			reg := &fileRegistry{img: img, hook: func(w http.ResponseWriter, r *http.Request, b []byte) bool {
				if len(b) < 1<<20 {
					return false
				}
				from := 0
				if v := r.Header.Get("Range"); v != "" {
					if _, err := fmt.Sscanf(v, "bytes=%d-", &from); err != nil {
						t.Error(err)
					}
					w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(b)-1, len(b)))
				}
				mu.Lock()
				if from > 0 {
					ranges++
				}
				sent[r.URL.Path]++
				last := sent[r.URL.Path] > 3
				mu.Unlock()
				w.Header().Set("Content-Length", fmt.Sprint(len(b)-from))
				if from > 0 {
					w.WriteHeader(http.StatusPartialContent)
				}
				if last {
					_, _ = w.Write(b[from:]) //nolint:errcheck // the client may go
					return true
				}
				_, _ = w.Write(b[from:min(from+400_000, len(b))]) //nolint:errcheck // the client may go
				cut(w, r)
				return true
			}}
			s := service(t, quick)
			i, err := s.Pull(t.Context(), hull.PullRequest{Ref: serve(t, reg) + "/x:1"})
			if err != nil || i.ID != img.id() {
				t.Fatal(i.ID, err)
			}
			if ranges < 4 {
				t.Errorf("only %d requests went on in the middle", ranges)
			}
			clean(t, s)
		})
	}
}

// TestSilentRegistry: a registry that never answers is an error, in the end.
func TestSilentRegistry(t *testing.T) {
	host := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	s := service(t, func(c *Config) { c.Stall, c.Retries = 100*time.Millisecond, 2 })
	if _, err := s.Pull(t.Context(), hull.PullRequest{Ref: host + "/x:1"}); err == nil {
		t.Fatal("no error")
	}
}

// TestPullShared: pulls of the same image at once fetch each blob once.
func TestPullShared(t *testing.T) {
	img := large(t)
	var mu sync.Mutex
	got := map[string]int{}
	gate := make(chan struct{})
	reg := &fileRegistry{img: img, hook: func(_ http.ResponseWriter, r *http.Request, b []byte) bool {
		if len(b) > 1<<20 {
			mu.Lock()
			got[r.URL.Path]++
			mu.Unlock()
			<-gate
		}
		return false
	}}
	host := serve(t, reg)
	s := service(t, func(c *Config) { c.Stall = time.Minute })
	var wg sync.WaitGroup
	for n := range 4 {
		wg.Go(func() {
			if i, err := s.Pull(t.Context(), hull.PullRequest{Ref: fmt.Sprintf("%s/x:%d", host, n)}); err != nil || i.ID != img.id() {
				t.Error(i.ID, err)
			}
		})
	}
	for { // until all wait for the two layers
		s.flights.mu.Lock()
		waiting := 0
		for _, f := range s.flights.runs {
			f.mu.Lock()
			waiting += len(f.readers)
			f.mu.Unlock()
		}
		s.flights.mu.Unlock()
		if waiting == 8 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	close(gate)
	wg.Wait()
	for p, n := range got {
		if n != 1 {
			t.Errorf("%s was fetched %d times", p, n)
		}
	}
	if i, err := s.Resolve(t.Context(), img.id(), ""); err != nil || len(i.RepoTags) != 4 {
		t.Error(i.RepoTags, err)
	}
}

// TestPullCancelled: one of two callers goes away, and the other gets its image;
// when all go, the work ends.
func TestPullCancelled(t *testing.T) {
	img := large(t)
	gate, arrived := make(chan struct{}), make(chan struct{}, 10)
	reg := &fileRegistry{img: img, hook: func(_ http.ResponseWriter, r *http.Request, b []byte) bool {
		if len(b) > 1<<20 {
			arrived <- struct{}{}
			select {
			case <-gate:
			case <-r.Context().Done():
			}
		}
		return false
	}}
	host := serve(t, reg)
	s := service(t, func(c *Config) { c.Stall = time.Minute })
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := s.Pull(ctx, hull.PullRequest{Ref: host + "/x:1"})
		first <- err
	}()
	<-arrived
	second := make(chan error, 1)
	joined := make(chan struct{}, 10)
	go func() {
		_, err := s.Pull(t.Context(), hull.PullRequest{Ref: host + "/x:2", Progress: func(p hull.Progress) {
			if p.Status == "Pulling fs layer" {
				joined <- struct{}{}
			}
		}})
		second <- err
	}()
	<-joined
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(gate)
	if err := <-second; err != nil {
		t.Fatal(err)
	}
	if list, _ := os.ReadDir(filepath.Join(s.cfg.Root, "new")); len(list) != 0 {
		t.Errorf("half a layer is left: %v", list)
	}
}

// TestKilledPull kills a pulling process and goes on in another.
func TestKilledPull(t *testing.T) {
	if root := os.Getenv("HULL_TEST_PULL_ROOT"); root != "" {
		s, err := New(t.Context(), Config{Root: root, SkipOwner: os.Geteuid() != 0, UserXattr: os.Geteuid() != 0, Stall: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Pull(t.Context(), hull.PullRequest{Ref: os.Getenv("HULL_TEST_PULL_REF")})
		t.Fatal("pull came to an end:", err)
	}
	img := large(t)
	half := make(chan struct{}, 10)
	var once atomic.Bool
	var ranges atomic.Int32
	reg := &fileRegistry{img: img, hook: func(w http.ResponseWriter, r *http.Request, b []byte) bool {
		if r.Header.Get("Range") != "" {
			ranges.Add(1)
		}
		if once.Load() || len(b) < 1<<20 {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		_, _ = w.Write(b[:len(b)/2]) //nolint:errcheck // the client may go
		w.(http.Flusher).Flush()     //nolint:forcetypeassert // net/http's is one
		half <- struct{}{}
		<-r.Context().Done()
		return true
	}}
	host := serve(t, reg)
	root := t.TempDir()
	child := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestKilledPull$")
	child.Env = append(os.Environ(), "HULL_TEST_PULL_ROOT="+root, "HULL_TEST_PULL_REF="+host+"/x:1")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	<-half
	<-half
	for { // until something of it is on disk
		data, _ := filepath.Glob(filepath.Join(root, "content/ingest/*/data"))
		big := 0
		for _, d := range data {
			if st, err := os.Stat(d); err == nil && st.Size() >= 1<<19 {
				big++
			}
		}
		if big == 2 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() //nolint:errcheck // killed
	once.Store(true)
	s := serviceAt(t, root, quick)
	if list, _ := os.ReadDir(filepath.Join(root, "new")); len(list) != 0 {
		t.Errorf("half a layer is left: %v", list)
	}
	i, err := s.Pull(t.Context(), hull.PullRequest{Ref: host + "/x:1"})
	if err != nil || i.ID != img.id() {
		t.Fatal(i.ID, err)
	}
	if ranges.Load() != 2 {
		t.Errorf("%d layers were resumed, want 2", ranges.Load())
	}
	clean(t, s)
}

// TestPullErrors: Docker's words, and kinds.
func TestPullErrors(t *testing.T) {
	img := simple(t)
	foreign := "riscv64"
	idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{img.desc}}
	idx.SchemaVersion = 2
	idx.Manifests[0].Platform = &ocispec.Platform{OS: "linux", Architecture: foreign}
	host := registryServer(t)
	upload(t, host, "a/b", "1", img)
	putManifest(t, host, "a/b", "foreign", idx.MediaType, mustJSON(t, idx))
	closed := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	s := service(t, quick)
	for _, c := range []struct {
		ref, platform, text string
		is                  func(error) bool
	}{
		{"Upper", "", "invalid reference format", errdefs.IsInvalidArgument},
		{host + "/a/b:none", "", "manifest for " + host + "/a/b:none not found: manifest unknown", errdefs.IsNotFound},
		{host + "/a/b:foreign", "", "no matching manifest for linux/" + hostArch, errdefs.IsNotFound},
		{host + "/a/b:1", "no/such/plat/form", "invalid platform", errdefs.IsInvalidArgument},
		{closed + "/x:1", "", "pull access denied for " + closed + "/x, repository does not exist or may require 'docker login'", errdefs.IsNotFound},
	} {
		_, err := s.Pull(t.Context(), hull.PullRequest{Ref: c.ref, Platform: c.platform})
		if err == nil || !strings.Contains(err.Error(), c.text) || !c.is(err) {
			t.Errorf("%s: %v", c.ref, err)
		}
	}
	if _, err := s.Resolve(t.Context(), "nothing", ""); err == nil || err.Error() != "No such image: nothing:latest" || !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	clean(t, s)
}

// TestLoadErrors: archives that are broken or lie.
func TestLoadErrors(t *testing.T) {
	img := simple(t)
	wrong := build(t, nil, layerTar(t, file{name: "x", body: "x"}))
	for d := range wrong.blobs {
		if d != wrong.desc.Digest {
			wrong.blobs[d] = append([]byte("z"), wrong.blobs[d]...)
		}
	}
	whole := img.oldArchive(t, "x:1")
	for name, b := range map[string][]byte{
		"noise":            []byte(noise(1, 10_000)),
		"empty":            {},
		"no manifest":      layerTar(t, file{name: "hello", body: "world"}),
		"cut off":          whole[:len(whole)/2],
		"wrong blob":       wrong.layout(t, "docker.io/library/x:1"),
		"missing layer":    layerTar(t, file{name: "c.json", body: string(img.config)}, file{name: "manifest.json", body: `[{"Config":"c.json","Layers":["no/layer.tar","no/2.tar"]}]`}),
		"missing config":   layerTar(t, file{name: "manifest.json", body: `[{"Config":"../../etc/passwd","Layers":[]}]`}),
		"layers too few":   layerTar(t, file{name: "c.json", body: string(img.config)}, file{name: "manifest.json", body: `[{"Config":"c.json","Layers":[]}]`}),
		"bad digest":       layerTar(t, file{name: "blobs/sha256/../../../etc/x", body: "x"}, file{name: "blobs/sha256/abc", body: "x"}),
		"link to nowhere":  layerTar(t, file{name: "c.json", typ: '2', link: "/etc/passwd"}, file{name: "manifest.json", body: `[{"Config":"c.json","Layers":[]}]`}),
		"link loop":        layerTar(t, file{name: "a", typ: '2', link: "b"}, file{name: "b", typ: '2', link: "a"}, file{name: "manifest.json", body: `[{"Config":"a","Layers":[]}]`}),
		"both at once":     layerTar(t, file{name: "index.json", body: `{"schemaVersion":2,"manifests":[],"layers":[{}]}`}),
		"bad index":        layerTar(t, file{name: "index.json", body: `{"manifests":[{"digest":"sha256:zz","mediaType":"application/vnd.oci.image.manifest.v1+json"}]}`}),
		"index of nothing": layerTar(t, file{name: "index.json", body: `{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":3,"digest":"` + digest.FromString("x").String() + `"}]}`}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := service(t)
			if names, err := s.Load(t.Context(), bytes.NewReader(b), nil, nil); err == nil {
				t.Errorf("loaded %v", names)
			}
			if list, _ := s.List(t.Context(), true); len(list) != 0 {
				t.Errorf("image exists: %v", list)
			}
		})
	}
}

// TestPlatforms: one name, two platforms, pulled one after the other.
func TestPlatforms(t *testing.T) {
	here := simple(t)
	there := build(t, func(c *imageConfig) { c.Architecture = "riscv64" }, layerTar(t, file{name: "there", body: "x"}))
	host := registryServer(t)
	upload(t, host, "multi", "here", here)
	upload(t, host, "multi", "there", there)
	idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{there.desc, here.desc}}
	idx.SchemaVersion = 2
	putManifest(t, host, "multi", "1", idx.MediaType, mustJSON(t, idx))
	s := service(t)
	if i, err := s.Pull(t.Context(), hull.PullRequest{Ref: host + "/multi:1"}); err != nil || i.ID != here.id() {
		t.Fatal(i.ID, err)
	}
	if _, err := s.Resolve(t.Context(), host+"/multi:1", "linux/riscv64"); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "does not match the specified platform") {
		t.Error(err)
	}
	if i, err := s.Pull(t.Context(), hull.PullRequest{Ref: host + "/multi:1", Platform: "linux/riscv64"}); err != nil || i.ID != there.id() {
		t.Fatal(i.ID, err)
	}
	for p, want := range map[string]string{"": here.id(), "linux/riscv64": there.id(), "linux/" + hostArch: here.id()} {
		if i, err := s.Resolve(t.Context(), host+"/multi:1", p); err != nil || i.ID != want {
			t.Errorf("%q: %s, %v", p, i.ID, err)
		}
	}
	var out bytes.Buffer
	if err := s.Save(t.Context(), hull.SaveRequest{Refs: []string{host + "/multi:1"}}, &out); err != nil {
		t.Fatal(err)
	}
	other := service(t)
	if _, err := other.Load(t.Context(), &out, nil, nil); err != nil {
		t.Fatal(err)
	}
	list, err := other.List(t.Context(), true)
	if err != nil || len(list) != 2 || !slices.ContainsFunc(list, func(i hull.Image) bool { return i.ID == there.id() }) {
		t.Errorf("%v, %v", list, err)
	}
	d, err := s.Distribution(t.Context(), host+"/multi:1", hull.Auth{})
	if err != nil || len(d.Platforms) != 2 || d.Digest != digest.FromBytes(mustJSON(t, idx)).String() {
		t.Errorf("%+v, %v", d, err)
	}
}

// TestPullMemory: a pull's memory does not grow with the image. It is measured
// in a process of its own.
func TestPullMemory(t *testing.T) {
	if root := os.Getenv("HULL_TEST_MEMORY_ROOT"); root != "" {
		s, err := New(t.Context(), Config{Root: root, SkipOwner: os.Geteuid() != 0, UserXattr: os.Geteuid() != 0})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Pull(t.Context(), hull.PullRequest{Ref: os.Getenv("HULL_TEST_PULL_REF")}); err != nil {
			t.Fatal(err)
		}
		fmt.Printf("peak=%d\n", peakRSS(t))
		return
	}
	if testing.Short() {
		t.Skip("160 MiB are pulled")
	}
	var tars [][]byte
	for i := range 10 {
		tars = append(tars, layerTar(t, file{name: fmt.Sprint("f", i), body: noise(uint64(i), 16<<20)}))
	}
	host := registryFiles(t, build(t, nil, tars...))
	child := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestPullMemory$")
	child.Env = append(os.Environ(), "HULL_TEST_MEMORY_ROOT="+t.TempDir(), "HULL_TEST_PULL_REF="+host+"/x:1")
	out, err := child.CombinedOutput()
	if err != nil {
		t.Fatal(err, string(out))
	}
	var peak int64
	_, rest, _ := strings.Cut(string(out), "peak=")
	if _, err := fmt.Sscan(rest, &peak); err != nil {
		t.Fatal(err, string(out))
	}
	t.Logf("peak resident size: %d MiB", peak>>20)
	if peak > 100<<20 {
		t.Errorf("a pull took %d MiB", peak>>20)
	}
}
