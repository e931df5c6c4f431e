package image

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// fileRegistry serves one image from memory, read-only, as "bench:1" or any
// other name, with ranges. Blobs go through hook first.
type fileRegistry struct {
	img  built
	hook func(w http.ResponseWriter, r *http.Request, b []byte) bool // true = answered
}

func (f *fileRegistry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(r.URL.Path, "/")
	last := parts[len(parts)-1]
	switch {
	case r.URL.Path == "/v2/":
	case strings.Contains(r.URL.Path, "/manifests/"):
		d := digest.Digest(last)
		b, ok := f.img.blobs[d]
		if !ok {
			b, d = f.img.manifest, f.img.desc.Digest
		}
		w.Header().Set("Content-Type", f.img.desc.MediaType)
		w.Header().Set("Docker-Content-Digest", d.String())
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	case strings.Contains(r.URL.Path, "/blobs/"):
		b, ok := f.img.blobs[digest.Digest(last)]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		if f.hook == nil || !f.hook(w, r, b) {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
		}
	default:
		http.NotFound(w, r)
	}
}

// registryFiles serves img read-only.
func registryFiles(t testing.TB, img built) string {
	t.Helper()
	return serve(t, &fileRegistry{img: img})
}

func serve(t testing.TB, h http.Handler) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

// peakRSS is the largest resident size this process has had.
func peakRSS(t testing.TB) int64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.SplitSeq(string(b), "\n") {
		if v, ok := strings.CutPrefix(l, "VmHWM:"); ok {
			n, err := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}
