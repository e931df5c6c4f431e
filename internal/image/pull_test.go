package image

import (
	"bytes"
	"net/http"
	"net/url"

	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"hull/internal/hull"
)

// upload puts an image into a registry with plain requests: the test's registry
// content does not depend on our own push.
func upload(t testing.TB, host, repo, tag string, img built) {
	t.Helper()
	for d, b := range img.blobs {
		if d == img.desc.Digest {
			continue
		}
		resp := request(t, http.MethodPost, "http://"+host+"/v2/"+repo+"/blobs/uploads/", "", nil)
		loc, err := url.Parse(resp.Header.Get("Location"))
		if err != nil {
			t.Fatal(err)
		}
		q := loc.Query()
		q.Set("digest", d.String())
		loc.RawQuery = q.Encode()
		if resp := request(t, http.MethodPut, loc.String(), "application/octet-stream", b); resp.StatusCode != http.StatusCreated {
			t.Fatalf("upload of %s: %s", d, resp.Status)
		}
	}
	putManifest(t, host, repo, tag, img.desc.MediaType, img.manifest)
}

func putManifest(t testing.TB, host, repo, tag, mediaType string, b []byte) {
	t.Helper()
	if resp := request(t, http.MethodPut, "http://"+host+"/v2/"+repo+"/manifests/"+tag, mediaType, b); resp.StatusCode != http.StatusCreated {
		t.Fatalf("upload of manifest %s: %s", tag, resp.Status)
	}
}

func request(t testing.TB, method, u, mediaType string, body []byte) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, u, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", mediaType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp
}

func simple(t testing.TB) built {
	t.Helper()
	return build(t, nil,
		layerTar(t, file{name: "bin/"}, file{name: "bin/sh", body: "#!shell", mode: 0o755}, file{name: "etc/"}, file{name: "etc/a", body: "a"}),
		layerTar(t, file{name: "etc/"}, file{name: "etc/.wh.a"}, file{name: "etc/b", body: "b"}))
}

func TestPull(t *testing.T) {
	host := registryServer(t)
	img := simple(t)
	upload(t, host, "library/thing", "1", img)
	s := service(t)
	var said []string
	got, err := s.Pull(t.Context(), hull.PullRequest{Ref: host + "/library/thing:1", Progress: func(p hull.Progress) { said = append(said, p.ID+": "+p.Status) }})
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != img.id() {
		t.Errorf("id %s, want %s", got.ID, img.id())
	}
	if d := cmp.Diff([]string{host + "/library/thing:1"}, got.RepoTags); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{host + "/library/thing@" + img.desc.Digest.String()}, got.RepoDigests); d != "" {
		t.Error(d)
	}
	for _, want := range []string{"1: Pulling from library/thing", ": Digest: " + img.desc.Digest.String(), ": Status: Downloaded newer image for " + host + "/library/thing:1"} {
		if !strings.Contains(strings.Join(said, "\n"), want) {
			t.Errorf("progress lacks %q:\n%s", want, strings.Join(said, "\n"))
		}
	}
	// Under another name it is all here: nothing is said of its layers.
	upload(t, host, "library/thing", "2", img)
	said = nil
	if _, err := s.Pull(t.Context(), hull.PullRequest{Ref: host + "/library/thing:2", Progress: func(p hull.Progress) { said = append(said, p.ID+": "+p.Status) }}); err != nil {
		t.Fatal(err)
	}
	want := []string{"2: Pulling from library/thing", ": Digest: " + img.desc.Digest.String(), ": Status: Downloaded newer image for " + host + "/library/thing:2"}
	if d := cmp.Diff(want, said); d != "" {
		t.Error(d)
	}
	if err := s.Prepare(t.Context(), "c1", got, nil); err != nil {
		t.Fatal(err)
	}
	fs, release, err := s.Mount(t.Context(), "c1", []hull.RootfsKind{hull.RootfsOverlay})
	if err != nil {
		t.Fatal(err)
	}
	defer release(t.Context())
	n := len(fs.Lower)
	if n < 2 {
		t.Fatalf("lower %v", fs.Lower)
	}
	top, low := tree(t, fs.Lower[n-2]), tree(t, fs.Lower[n-1])
	if d := cmp.Diff(map[string]string{"etc": "/", "etc/b": "b", "etc/a": "Dc---------"}, top); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(map[string]string{"bin": "/", "bin/sh": "#!shell", "etc": "/", "etc/a": "a"}, low); d != "" {
		t.Error(d)
	}
	for _, ref := range []string{img.id(), digest.Digest(img.id()).Encoded()[:12], host + "/library/thing:1", host + "/library/thing@" + img.desc.Digest.String(), host + "/library/thing:1@" + img.desc.Digest.String()} {
		if i, err := s.Resolve(t.Context(), ref, ""); err != nil || i.ID != img.id() {
			t.Errorf("resolve %s: %s, %v", ref, i.ID, err)
		}
	}
	if err := s.Discard(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
}

func TestLoad(t *testing.T) {
	img := simple(t)
	for name, b := range map[string][]byte{
		"layout":         img.layout(t, "docker.io/library/thing:1"),
		"old archive":    img.oldArchive(t, "thing:1"),
		"packed archive": gz(t, img.oldArchive(t, "thing:1")),
		"xz":             packXZ(t, img.layout(t, "docker.io/library/thing:1")),
	} {
		t.Run(name, func(t *testing.T) {
			s := service(t)
			names, err := s.Load(t.Context(), bytes.NewReader(b), nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff([]string{"thing:1"}, names); d != "" {
				t.Error(d)
			}
			list, err := s.List(t.Context(), false)
			if err != nil || len(list) != 1 || list[0].ID != img.id() {
				t.Fatalf("list %v, %v", list, err)
			}
		})
	}
}
