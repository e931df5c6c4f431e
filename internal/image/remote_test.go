package image

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hull/internal/hull"
	"hull/internal/trust"
)

// A registry that has had enough says so on every kind of request; each is asked
// again, and not before the time it gave.
func TestRateLimit(t *testing.T) {
	img := simple(t)
	for _, verb := range []string{"pull", "all tags", "push", "distribution", "signatures", "sign"} {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			inner := registryServer(t)
			upload(t, inner, "a/b", "1", img)
			last := map[string]time.Time{} // by method and path, when it was refused
			var early atomic.Int32
			var refused atomic.Int32
			host := serve(t, limited(t, inner, func(w http.ResponseWriter, r *http.Request) bool {
				key := r.Method + r.URL.Path
				asks := r.Method == http.MethodGet || r.Method == http.MethodHead
				if !asks { // of uploads several go on at a time, each under an address of its own
					key = r.Method
				}
				at, seen := last[key]
				if !seen {
					last[key] = time.Now()
					refused.Add(1)
					w.Header().Set("Retry-After", "1")
					w.WriteHeader(http.StatusTooManyRequests)
					return true
				}
				if asks && time.Since(at) < 900*time.Millisecond {
					early.Add(1)
				}
				return false
			}))
			s := service(t, func(c *Config) { c.Retries = 20 })
			var err error
			switch verb {
			case "pull":
				_, err = s.Pull(t.Context(), hull.PullRequest{Ref: host + "/a/b:1"})
			case "all tags":
				_, err = s.Pull(t.Context(), hull.PullRequest{Ref: host + "/a/b", All: true})
			case "push":
				load(t, s, other(t), host+"/new/c:1")
				err = s.Push(t.Context(), hull.PushRequest{Ref: host + "/new/c:1"})
			case "distribution":
				_, err = s.Distribution(t.Context(), host+"/a/b:1", hull.Auth{})
			case "signatures":
				_, err = s.Signatures(t.Context(), hull.SignRequest{Ref: host + "/a/b:1", Push: true})
			case "sign":
				signRemote(t, host, "a/b", "1", img, newSigner(t, trust.Notation), 0)
			}
			if err != nil {
				t.Fatal(err)
			}
			if refused.Load() < 3 || early.Load() > 0 {
				t.Errorf("%d requests were refused, %d came again too early", refused.Load(), early.Load())
			}
		})
	}
}

// limited passes requests on to a registry, one at a time, unless first answers them.
func limited(t testing.TB, to string, first func(http.ResponseWriter, *http.Request) bool) http.Handler {
	t.Helper()
	turn := make(chan struct{}, 1)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		turn <- struct{}{}
		defer func() { <-turn }()
		if first(w, r) {
			return
		}
		r2 := r.Clone(r.Context())
		r2.RequestURI, r2.URL.Scheme, r2.URL.Host = "", "http", to
		resp, err := http.DefaultTransport.RoundTrip(r2)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		for k, v := range resp.Header {
			w.Header()[k] = v
		}
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body) // a client that has gone is its own business
	})
}

// Somebody who is told to come back tomorrow hears that at once.
func TestRateLimitOfADay(t *testing.T) {
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", time.Now().Add(20*time.Hour).UTC().Format(http.TimeFormat))
		w.WriteHeader(http.StatusTooManyRequests)
	}))
	_, err := service(t).Pull(t.Context(), hull.PullRequest{Ref: host + "/a/b:1"})
	for _, w := range []string{"429 Too Many Requests", "come back in", "hull login"} {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("lacks %q: %v", w, err)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for v, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-1": 0, "soon": 0, "99999999999999999999": 0,
		"Fri, 02 Jan 2026 03:05:05 GMT": time.Minute, "Fri, 02 Jan 2026 03:03:05 GMT": 0,
	} {
		if got := retryAfter(v, now); got != want {
			t.Errorf("%q: %s, want %s", v, got, want)
		}
	}
}

// A registry that breaks for a while is asked again, one that stays broken is named.
func TestServerErrors(t *testing.T) {
	img := simple(t)
	for _, code := range []int{500, 502, 503} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			var fails atomic.Int32
			reg := &fileRegistry{img: img, hook: func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
				if fails.Add(1) > 2 {
					return false
				}
				w.WriteHeader(code)
				return true
			}}
			if _, err := service(t, quick).Pull(t.Context(), hull.PullRequest{Ref: serve(t, reg) + "/x:1"}); err != nil {
				t.Error(err)
			}
			reg.hook = func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
				w.WriteHeader(code)
				return true
			}
			s := service(t, quick)
			_, err := s.Pull(t.Context(), hull.PullRequest{Ref: serve(t, reg) + "/x:1"})
			if err == nil || !strings.Contains(err.Error(), fmt.Sprint(code)) {
				t.Errorf("a registry that stays broken: %v", err)
			}
			empty(t, s)
		})
	}
}

// Refusals of a push name the repository and what to do.
func TestPushErrors(t *testing.T) {
	for code, words := range map[int]string{401: "docker login", 403: "docker login", 404: "not found", 500: "500"} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodHead {
					w.WriteHeader(http.StatusNotFound)
					return
				}
				if code == http.StatusUnauthorized {
					w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
				}
				w.WriteHeader(code)
			}))
			s := service(t, quick)
			load(t, s, simple(t), host+"/team/app:1")
			err := s.Push(t.Context(), hull.PushRequest{Ref: host + "/team/app:1"})
			if err == nil || !strings.Contains(strings.ToLower(err.Error()), words) || !strings.Contains(err.Error(), "team/app") {
				t.Errorf("%v, want %q", err, words)
			}
		})
	}
}

// Layers that are packed in another way than with gzip are unpacked, and pushed on as they are.
func TestPackings(t *testing.T) {
	host := registryServer(t)
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, pack := range map[string]func([]byte) []byte{
		"zstd": func(b []byte) []byte { return z.EncodeAll(b, nil) },
		"xz":   func(b []byte) []byte { return packXZ(t, b) },
	} {
		t.Run(name, func(t *testing.T) { packing(t, host, name, pack) })
	}
}

func packing(t *testing.T, host, name string, pack func([]byte) []byte) {
	t.Helper()
	img := simple(t)
	var m ocispec.Manifest
	if err := json.Unmarshal(img.manifest, &m); err != nil {
		t.Fatal(err)
	}
	for i, l := range img.tars {
		b := pack(l)
		m.Layers[i] = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer + "+" + name, Digest: digest.FromBytes(b), Size: int64(len(b))}
		img.blobs[m.Layers[i].Digest] = b
	}
	delete(img.blobs, img.desc.Digest)
	img.manifest = mustJSON(t, m)
	img.desc.Digest, img.desc.Size = digest.FromBytes(img.manifest), int64(len(img.manifest))
	upload(t, host, "packed/"+name, "1", img)
	s := service(t)
	got, err := s.Pull(t.Context(), hull.PullRequest{Ref: host + "/packed/" + name + ":1"})
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != img.id() {
		t.Errorf("id %s, want %s", got.ID, img.id())
	}
	if err := s.Tag(t.Context(), got.ID, host+"/again/"+name+":1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Push(t.Context(), hull.PushRequest{Ref: host + "/again/" + name + ":1"}); err != nil {
		t.Fatal(err)
	}
	d, err := s.Distribution(t.Context(), host+"/again/"+name+":1", hull.Auth{})
	if err != nil || d.Digest != img.desc.Digest.String() {
		t.Errorf("pushed on as %s, %v; it was %s", d.Digest, err, img.desc.Digest)
	}
}

// hosts.toml leads to mirrors and to other names of a registry; --registry-mirror
// leads Docker Hub's images to one, whose absence is no error.
func TestMirrors(t *testing.T) {
	inner := registryServer(t)
	img := simple(t)
	upload(t, inner, "library/thing", "1", img)
	upload(t, inner, "team/app", "1", img)
	gone := serve(t, http.NotFoundHandler())
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "registry.example"), 0o755); err != nil {
		t.Fatal(err)
	}
	conf := fmt.Sprintf("server = \"http://%s\"\n[host.\"http://%s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", inner, gone)
	if err := os.WriteFile(filepath.Join(dir, "registry.example", "hosts.toml"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	s := service(t, quick, func(c *Config) {
		c.HostsDir, c.Mirrors = dir, []string{"http://" + gone, "http://" + inner}
	})
	for _, ref := range []string{"registry.example/team/app:1", "thing:1"} {
		got, err := s.Pull(t.Context(), hull.PullRequest{Ref: ref})
		if err != nil {
			t.Errorf("%s: %v", ref, err)
			continue
		}
		if got.ID != img.id() {
			t.Errorf("%s is %s, want %s", ref, got.ID, img.id())
		}
	}
	// A push goes to the registry itself, never to a mirror of it.
	if err := s.Tag(t.Context(), "thing:1", "registry.example/team/pushed:1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Push(t.Context(), hull.PushRequest{Ref: "registry.example/team/pushed:1"}); err != nil {
		t.Error(err)
	}
	if _, err := s.Distribution(t.Context(), inner+"/team/pushed:1", hull.Auth{}); err != nil {
		t.Errorf("what was pushed: %v", err)
	}
}

// Plain HTTP is for loopback and for what was named; another registry is not even
// asked without TLS.
func TestInsecureOnlyWhereAllowed(t *testing.T) {
	s := service(t, func(c *Config) { c.Insecure = []string{"10.0.0.0/8", "named.example:5000"} })
	for host, plain := range map[string]bool{"named.example:5000": true, "10.1.2.3:5000": true, "127.0.0.1:5000": true, "localhost:5000": true, "192.0.2.1:5000": false, "named.example:5001": false, "other.example": false} {
		list, err := s.registry(t.Context(), host, hull.Auth{}).hosts(host)
		if err != nil || len(list) != 1 {
			t.Fatalf("%s: %v, %v", host, list, err)
		}
		// The library goes on without TLS only by this transport, or by the scheme.
		next := list[0].Client.Transport.(throttle).next.(userAgent).next
		if got := list[0].Scheme == "http" || strings.Contains(fmt.Sprintf("%T", next), "Fallback"); got != plain {
			t.Errorf("%s: %s by %T: plain HTTP %t, want %t", host, list[0].Scheme, next, got, plain)
		}
	}
}

// Token authentication: the challenge leads to a token server, which gets the
// user's name; its token opens the registry, and only that.
func TestTokens(t *testing.T) {
	img := simple(t)
	reg := &fileRegistry{img: img}
	var scopes []string
	var realm string
	mux := http.NewServeMux()
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		if u, p, ok := r.BasicAuth(); !ok || u != "me" || p != "secret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		scopes = append(scopes, r.FormValue("scope"))
		_, _ = w.Write([]byte(`{"token":"opens"}`))
	})
	mux.HandleFunc("/v2/", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer opens" {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+realm+`",service="test",scope="repository:x:pull"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		reg.ServeHTTP(w, r)
	})
	host := serve(t, mux)
	realm = "http://" + host + "/token"
	dir := t.TempDir()
	// A credential helper has the password.
	helper := "#!/bin/sh\ncat >/dev/null\necho '{\"ServerURL\":\"" + host + "\",\"Username\":\"me\",\"Secret\":\"secret\"}'\n"
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-test"), []byte(helper), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"credHelpers":{"`+host+`":"test"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	if _, err := service(t, quick, func(c *Config) { c.DockerConfig = dir }).Pull(t.Context(), hull.PullRequest{Ref: host + "/x:1"}); err != nil {
		t.Error("credential helper:", err)
	}
	if len(scopes) == 0 || !strings.Contains(scopes[0], "repository:x:pull") {
		t.Errorf("scopes asked for: %q", scopes)
	}
	wrong := hull.Auth{Username: "me", Password: "wrong", ServerAddress: host}
	if _, err := service(t, quick).Pull(t.Context(), hull.PullRequest{Ref: host + "/x:1", Auth: wrong}); err == nil || !strings.Contains(err.Error(), "pull access denied") {
		t.Errorf("wrong password: %v", err)
	}
	if _, _, err := service(t, quick).Login(t.Context(), wrong); !errdefs.IsUnauthorized(err) {
		t.Errorf("login: %v", err)
	}
}

// The old search API, of a registry that has it and of one that has not.
func TestSearch(t *testing.T) {
	var asked string
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, ok := r.BasicAuth(); !ok || u != "me" || p != "secret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		asked = r.URL.String()
		_, _ = w.Write([]byte(`{"results":[{"name":"team/box","description":"a box","star_count":3,"is_official":true},{"name":"b"},{"name":"c"}]}`))
	}))
	s := service(t, quick)
	me := hull.Auth{Username: "me", Password: "secret", ServerAddress: host}
	got, err := s.Search(t.Context(), hull.SearchRequest{Term: host + "/a box", Limit: 2, Auth: me})
	if err != nil || len(got) != 2 || got[0] != (hull.SearchResult{Name: "team/box", Description: "a box", Stars: 3, Official: true}) {
		t.Errorf("found %+v, %v", got, err)
	}
	if asked != "/v1/search?n=2&q=a+box" {
		t.Errorf("asked %s", asked)
	}
	for term, words := range map[string]string{
		host + "/box": "401", registryServer(t) + "/box": "cannot be searched", "": "invalid search term", "http://x/y": "invalid search term",
	} {
		if _, err := s.Search(t.Context(), hull.SearchRequest{Term: term}); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%q: %v, want %q", term, err, words)
		}
	}
	if _, err := s.Search(t.Context(), hull.SearchRequest{Term: host + "/x", Limit: 101}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("101 results: %v", err)
	}
}
