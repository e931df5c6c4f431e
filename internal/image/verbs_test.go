package image

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"hull/internal/hull"
)

func nobody(string) []hull.Container { return nil }

// load puts an image into a service under a name.
func load(t testing.TB, s *Service, img built, names ...string) {
	t.Helper()
	if _, err := s.Load(t.Context(), bytes.NewReader(img.layout(t, names...)), nil, nil); err != nil {
		t.Fatal(err)
	}
}

func resolve(t testing.TB, s *Service, ref string) hull.Image {
	t.Helper()
	i, err := s.Resolve(t.Context(), ref, "")
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// TestPushCompresses: layers that were loaded plain are pushed compressed, once,
// and always under the same digests.
func TestPushCompresses(t *testing.T) {
	host := registryServer(t)
	big := layerTar(t, file{name: "zeros", body: strings.Repeat("0", 1<<20)})
	img := build(t, nil, big, layerTar(t, file{name: "b", body: "b"}), big) // one twice
	s := service(t)
	if _, err := s.Load(t.Context(), bytes.NewReader(img.oldArchive(t, "thing:1")), nil, nil); err != nil {
		t.Fatal(err)
	}
	push := func(ref string) (said []string, res PushResult) {
		t.Helper()
		if err := s.Tag(t.Context(), "thing:1", ref); err != nil {
			t.Fatal(err)
		}
		if err := s.Push(t.Context(), hull.PushRequest{Ref: ref, Progress: func(p hull.Progress) {
			said = append(said, p.Status)
			if r, ok := p.Aux.(PushResult); ok {
				res = r
			}
		}}); err != nil {
			t.Fatal(err)
		}
		return said, res
	}
	_, first := push(host + "/a/one:x")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+host+"/v2/a/one/manifests/x", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", images.MediaTypeDockerSchema2Manifest)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	if digest.FromBytes(b).String() != first.Digest || len(m.Layers) != 3 || m.Layers[0].Digest != m.Layers[2].Digest {
		t.Fatalf("pushed %s", b)
	}
	for _, l := range m.Layers {
		if l.MediaType != images.MediaTypeDockerSchema2LayerGzip || l.Size > 1<<16 {
			t.Errorf("layer %+v", l)
		}
	}
	said, again := push(host + "/a/one:y")
	if again.Digest != first.Digest || !slices.Contains(said, "Layer already exists") || slices.Contains(said, "Pushed") {
		t.Errorf("second push: %s, then %s: %q", first.Digest, again.Digest, said)
	}
	if said, r := push(host + "/a/two:x"); r.Digest != first.Digest || !slices.Contains(said, "Mounted from a/one") || slices.Contains(said, "Pushed") {
		t.Errorf("push to another repository: %s %q", r.Digest, said)
	}
	if i, err := service(t).Pull(t.Context(), hull.PullRequest{Ref: host + "/a/two:x"}); err != nil || i.ID != img.id() {
		t.Errorf("pull back: %s, %v", i.ID, err)
	}
	if i := resolve(t, s, "thing:1"); i.ID != img.id() || !slices.Contains(i.RepoDigests, host+"/a/one@"+first.Digest) {
		t.Errorf("image after the push: %s %q", i.ID, i.RepoDigests)
	}
	// What was made for the push goes with the image.
	if _, err := s.Remove(t.Context(), img.id(), true, true, nobody); err != nil {
		t.Fatal(err)
	}
	if err := s.content.Walk(s.ns(t.Context()), func(i content.Info) error {
		t.Errorf("left: %s %v", i.Digest, i.Labels)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestPushAndPullBack(t *testing.T) {
	host := registryServer(t)
	img := simple(t)
	s := service(t)
	load(t, s, img, "docker.io/library/thing:1")
	push := func(ref string) (said []string, last hull.Progress) {
		t.Helper()
		if err := s.Tag(t.Context(), "thing:1", ref); err != nil {
			t.Fatal(err)
		}
		if err := s.Push(t.Context(), hull.PushRequest{Ref: ref, Progress: func(p hull.Progress) {
			said = append(said, p.Status)
			if p.Aux != nil {
				last = p
			}
		}}); err != nil {
			t.Fatal(err)
		}
		return said, last
	}
	said, last := push(host + "/a/one:x")
	for _, want := range []string{"The push refers to repository [" + host + "/a/one]", "Preparing", "Pushed"} {
		if !slices.Contains(said, want) {
			t.Errorf("first push lacks %q: %q", want, said)
		}
	}
	if d := cmp.Diff(PushResult{Tag: "x", Digest: img.desc.Digest.String(), Size: int64(len(img.manifest))}, last.Aux); d != "" {
		t.Error(d)
	}
	if said, _ := push(host + "/a/one:y"); !slices.Contains(said, "Layer already exists") || slices.Contains(said, "Pushed") {
		t.Errorf("second push: %q", said)
	}
	if said, _ := push(host + "/a/two:x"); !slices.Contains(said, "Mounted from a/one") || slices.Contains(said, "Pushed") {
		t.Errorf("push to another repository: %q", said)
	}
	other := service(t)
	for _, ref := range []string{"/a/one:x", "/a/one:y", "/a/two:x", "/a/two@" + img.desc.Digest.String()} {
		if i, err := other.Pull(t.Context(), hull.PullRequest{Ref: host + ref}); err != nil || i.ID != img.id() {
			t.Errorf("%s: %s, %v", ref, i.ID, err)
		}
	}
	if _, err := other.Pull(t.Context(), hull.PullRequest{Ref: host + "/a/one", All: true}); err != nil {
		t.Error(err)
	}
	if err := s.Push(t.Context(), hull.PushRequest{Ref: "nothing:1"}); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}

func TestSaveAndLoad(t *testing.T) {
	a, b := simple(t), build(t, nil, layerTar(t, file{name: "other", body: "x"}))
	s := service(t)
	load(t, s, a, "docker.io/library/a:1", "docker.io/library/a:2")
	load(t, s, b)
	var out, again bytes.Buffer
	for _, w := range []io.Writer{&out, &again} {
		if err := s.Save(t.Context(), hull.SaveRequest{Refs: []string{"a", b.id()}}, w); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(out.Bytes(), again.Bytes()) {
		t.Error("saving twice gave different archives")
	}
	var names []string
	tr := tar.NewReader(bytes.NewReader(out.Bytes()))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
	for _, want := range []string{"index.json", "manifest.json", "oci-layout", "repositories", blobPath(a.desc.Digest), blobPath(digest.FromBytes(b.config))} {
		if !slices.Contains(names, want) {
			t.Errorf("archive lacks %s: %q", want, names)
		}
	}
	other := service(t)
	got, err := other.Load(t.Context(), &out, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	if d := cmp.Diff([]string{"a:1", "a:2", b.id()}, got); d != "" {
		t.Error(d)
	}
	if i := resolve(t, other, "a:2"); i.ID != a.id() || i.Manifest != a.desc.Digest.String() {
		t.Errorf("%s %s", i.ID, i.Manifest)
	}
}

// TestCommitAndImport: what a container wrote becomes a layer that others can
// pull, and a root file system's tar an image.
func TestCommitAndImport(t *testing.T) {
	s := service(t)
	base := simple(t)
	load(t, s, base, "docker.io/library/base:1")
	img := resolve(t, s, "base:1")
	if err := s.Prepare(t.Context(), "c1", img, nil); err != nil {
		t.Fatal(err)
	}
	upper := filepath.Join(s.boxDir("c1"), "upper")
	if err := os.WriteFile(filepath.Join(upper, "new"), []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	changes, err := s.Changes(t.Context(), "c1")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]hull.Change{{Path: "/new", Kind: 1}}, changes); d != "" {
		t.Error(d)
	}
	if rw, root, err := s.Size(t.Context(), "c1"); err != nil || rw != 5 || root != 5+img.Size {
		t.Error(rw, root, err)
	}
	conf := img.Config
	conf.Cmd = []string{"run"}
	id, err := s.Commit(t.Context(), "c1", hull.CommitRequest{Ref: "made:1", Author: "me", Comment: "why", Changes: []string{`ENV A="b c" D=e`, "LABEL x=y", "EXPOSE 80 53/udp", "WORKDIR /w", "USER 5", "CMD c d", `ENTRYPOINT ["a","b"]`, "VOLUME /v", "STOPSIGNAL SIGINT", "HEALTHCHECK --interval=5s --retries=2 CMD test", "ONBUILD RUN x"}}, conf)
	if err != nil {
		t.Fatal(err)
	}
	made := resolve(t, s, "made:1")
	if made.ID != id || made.Parent != img.ID || made.Author != "me" || made.Comment != "why" || len(made.Layers) != len(img.Layers)+1 {
		t.Errorf("%+v", made)
	}
	want := hull.ImageConfig{
		Env: []string{"PATH=/bin", "A=b c", "D=e"}, Labels: map[string]string{"x": "y"}, WorkingDir: "/w", User: "5",
		ExposedPorts: map[string]struct{}{"80/tcp": {}, "53/udp": {}}, Volumes: map[string]struct{}{"/v": {}},
		Entrypoint: []string{"a", "b"}, Cmd: []string{"/bin/sh", "-c", "c d"}, StopSignal: "SIGINT",
		Healthcheck: &hull.HealthSpec{Test: []string{"CMD-SHELL", "test"}, Interval: 5e9, Retries: 2}, OnBuild: []string{"RUN x"},
	}
	if d := cmp.Diff(want, made.Config); d != "" {
		t.Error(d)
	}
	if got := tree(t, s.layers.Path(chainOf(made.Layers))); got["new"] != "hello" {
		t.Errorf("layer holds %v", got)
	}
	h, err := s.History(t.Context(), "made:1", "")
	if err != nil || len(h) != 3 || h[0].ID != id || h[1].ID != img.ID || h[2].ID != "<missing>" || h[0].Comment != "why" || h[0].Size != 5 {
		t.Errorf("%+v, %v", h, err)
	}
	host := registryServer(t)
	if err := s.Tag(t.Context(), id, host+"/made:1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Push(t.Context(), hull.PushRequest{Ref: host + "/made:1"}); err != nil {
		t.Fatal(err)
	}
	other := service(t)
	if i, err := other.Pull(t.Context(), hull.PullRequest{Ref: host + "/made:1"}); err != nil || i.ID != id {
		t.Error(i.ID, err)
	}
	if _, err := s.Commit(t.Context(), "c1", hull.CommitRequest{Changes: []string{"FROM x"}}, conf); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}

	for name, b := range map[string][]byte{"plain": layerTar(t, file{name: "f", body: "x"}), "packed": gz(t, layerTar(t, file{name: "f", body: "x"})), "xz": packXZ(t, layerTar(t, file{name: "f", body: "x"}))} {
		id, err := s.Import(t.Context(), hull.ImportRequest{Ref: "imported:" + name, Message: "from tar", Changes: []string{"CMD x"}}, bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		i := resolve(t, s, "imported:"+name)
		if i.ID != id || i.Size != 1 || i.Comment != "from tar" || i.OS != "linux" || len(i.Layers) != 1 {
			t.Errorf("%+v", i)
		}
	}
	if _, err := s.Import(t.Context(), hull.ImportRequest{}, strings.NewReader(noise(3, 5000))); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	clean(t, s)
}

// TestRemove goes through Docker's rules.
func TestRemove(t *testing.T) {
	img := simple(t)
	id12 := digest.Digest(img.id()).Encoded()[:12]
	running := func(string) []hull.Container {
		return []hull.Container{{ID: strings.Repeat("c", 64), Status: hull.Status{Phase: hull.Running}}}
	}
	halted := func(string) []hull.Container {
		return []hull.Container{{ID: strings.Repeat("c", 64), Status: hull.Status{Phase: hull.Stopped}}}
	}
	gone := []hull.ImageRemoved{{Deleted: img.id()}}
	diffs := resolve(t, func() *Service { s := service(t); load(t, s, img, "docker.io/library/a:1"); return s }(), "a:1").Layers
	for i := len(diffs); i > 0; i-- {
		gone = append(gone, hull.ImageRemoved{Deleted: chainOf(diffs[:i]).String()})
	}
	for name, c := range map[string]struct {
		names    []string
		ref      string
		force    bool
		users    func(string) []hull.Container
		want     []hull.ImageRemoved
		conflict string
		left     int // images
	}{
		"last name":                   {[]string{"a:1"}, "a:1", false, nobody, append([]hull.ImageRemoved{{Untagged: "a:1"}}, gone...), "", 0},
		"one of two names":            {[]string{"a:1", "b:1"}, "a:1", false, nobody, []hull.ImageRemoved{{Untagged: "a:1"}}, "", 1},
		"by id":                       {[]string{"a:1"}, id12, false, nobody, append([]hull.ImageRemoved{{Untagged: "a:1"}}, gone...), "", 0},
		"by id, two repositories":     {[]string{"a:1", "b:1"}, id12, false, nobody, nil, "conflict: unable to delete " + id12 + " (must be forced) - image is referenced in multiple repositories", 1},
		"by id, forced":               {[]string{"a:1", "b:1"}, id12, true, nobody, append([]hull.ImageRemoved{{Untagged: "a:1"}, {Untagged: "b:1"}}, gone...), "", 0},
		"used by a running container": {[]string{"a:1"}, "a:1", false, running, nil, "conflict: unable to remove repository reference \"a:1\" (must force) - container cccccccccccc is using its referenced image " + id12, 1},
		"running, by id, forced":      {[]string{"a:1"}, id12, true, running, nil, "conflict: unable to delete " + id12 + " (cannot be forced) - image is being used by running container cccccccccccc", 1},
		"running, by name, forced":    {[]string{"a:1"}, "a:1", true, running, []hull.ImageRemoved{{Untagged: "a:1"}}, "", 1},
		"stopped, by id":              {[]string{"a:1"}, id12, false, halted, nil, "conflict: unable to delete " + id12 + " (must be forced) - image is being used by stopped container cccccccccccc", 1},
		"stopped, forced":             {[]string{"a:1"}, id12, true, halted, append([]hull.ImageRemoved{{Untagged: "a:1"}}, gone...), "", 0},
		"used, one of two names":      {[]string{"a:1", "a:2"}, "a:1", false, running, []hull.ImageRemoved{{Untagged: "a:1"}}, "", 1},
		"unknown":                     {[]string{"a:1"}, "z:1", false, nobody, nil, "No such image: z:1", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := service(t)
			for _, n := range c.names {
				load(t, s, img, "docker.io/library/"+n)
			}
			got, err := s.Remove(t.Context(), c.ref, c.force, true, c.users)
			if c.conflict != "" && (err == nil || err.Error() != c.conflict) || c.conflict == "" && err != nil {
				t.Errorf("error %v, want %q", err, c.conflict)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
			list, _ := s.List(t.Context(), true)
			if len(list) != c.left {
				t.Errorf("%d images left, want %d", len(list), c.left)
			}
			files, _ := filepath.Glob(filepath.Join(s.cfg.Root, "content/blobs/sha256/*"))
			if (len(files) == 0) != (c.left == 0) || (len(s.layers.List()) == 0) != (c.left == 0) {
				t.Errorf("%d blobs and %d layers are left with %d images", len(files), len(s.layers.List()), c.left)
			}
			clean(t, s)
		})
	}
}

// TestGarbage: layers are shared, and live as long as an image or a container
// needs them; a restart changes nothing of that.
func TestGarbage(t *testing.T) {
	root := t.TempDir()
	shared := layerTar(t, file{name: "shared", body: "s"})
	a := build(t, nil, shared, layerTar(t, file{name: "a", body: "a"}))
	b := build(t, nil, shared, layerTar(t, file{name: "b", body: "b"}))
	s, err := New(t.Context(), Config{Root: root, SkipOwner: os.Geteuid() != 0, UserXattr: os.Geteuid() != 0})
	if err != nil {
		t.Fatal(err)
	}
	load(t, s, a, "docker.io/library/a:1")
	load(t, s, b, "docker.io/library/b:1")
	if n := len(s.layers.List()); n != 3 {
		t.Fatalf("%d layers, want 3", n)
	}
	u, err := s.Usage(t.Context())
	if err != nil || u.LayersSize != 3 || u.Size[a.id()] != 2 || u.Shared[a.id()] != 1 {
		t.Errorf("%+v, %v", u, err)
	}
	if err := s.Prepare(t.Context(), "c1", resolve(t, s, "a:1"), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Remove(t.Context(), "a:1", true, true, nobody); err != nil {
		t.Fatal(err)
	}
	if n := len(s.layers.List()); n != 3 {
		t.Errorf("%d layers, want 3: a container stands on them", n)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = serviceAt(t, root)
	s.collect(t.Context())
	if _, _, err := s.Mount(t.Context(), "c1", []hull.RootfsKind{hull.RootfsOverlay}); err != nil {
		t.Error(err)
	}
	if _, err := s.Commit(t.Context(), "c1", hull.CommitRequest{Ref: "again:1"}, hull.ImageConfig{}); err != nil {
		t.Error("commit on an image that was removed:", err)
	}
	if _, err := s.Remove(t.Context(), "again:1", false, true, nobody); err != nil {
		t.Error(err)
	}
	if err := s.Discard(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Discard(t.Context(), "c1"); err != nil {
		t.Error("second discard:", err)
	}
	got, bytes, err := s.Prune(t.Context(), func(i hull.Image) bool { return len(i.RepoTags) > 0 })
	if err != nil || len(got) != 0 || bytes != 0 {
		t.Errorf("pruned %v, %d, %v", got, bytes, err)
	}
	if n := len(s.layers.List()); n != 2 {
		t.Errorf("%d layers, want 2", n)
	}
	if _, bytes, err = s.Prune(t.Context(), func(hull.Image) bool { return false }); err != nil || bytes != 2 {
		t.Errorf("pruned %d bytes, %v", bytes, err)
	}
	files, _ := filepath.Glob(filepath.Join(root, "content/blobs/sha256/*"))
	if n := len(s.layers.List()); n != 0 || len(files) != 0 {
		t.Errorf("%d layers, %v", n, files)
	}
	clean(t, s)
}

// TestMovedTag: the image a tag named before stays, without a name.
func TestMovedTag(t *testing.T) {
	a, b := simple(t), build(t, nil, layerTar(t, file{name: "b", body: "b"}))
	s := service(t)
	load(t, s, a, "docker.io/library/x:1")
	load(t, s, b, "docker.io/library/x:1")
	if i := resolve(t, s, "x:1"); i.ID != b.id() {
		t.Error("tag did not move")
	}
	if i := resolve(t, s, a.id()); len(i.Names) != 0 {
		t.Error(i.Names)
	}
	if _, _, err := s.Prune(t.Context(), func(i hull.Image) bool { return len(i.RepoTags) > 0 }); err != nil {
		t.Fatal(err)
	}
	if list, _ := s.List(t.Context(), true); len(list) != 1 || list[0].ID != b.id() {
		t.Error(list)
	}
}

// TestLayersComeBack: layers that somebody deleted are unpacked again.
func TestLayersComeBack(t *testing.T) {
	root := t.TempDir()
	img := simple(t)
	s, err := New(t.Context(), Config{Root: root, SkipOwner: os.Geteuid() != 0, UserXattr: os.Geteuid() != 0})
	if err != nil {
		t.Fatal(err)
	}
	load(t, s, img, "docker.io/library/x:1")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	torn, _ := filepath.Glob(filepath.Join(root, "layers/*/layer.json"))
	for _, f := range torn {
		if err := os.Truncate(f, 3); err != nil {
			t.Fatal(err)
		}
	}
	s = serviceAt(t, root)
	if err := s.Prepare(t.Context(), "c1", resolve(t, s, "x:1"), nil); err != nil {
		t.Fatal(err)
	}
	fs, _, err := s.Mount(t.Context(), "c1", []hull.RootfsKind{hull.RootfsOverlay})
	if err != nil {
		t.Fatal(err)
	}
	if got := tree(t, fs.Lower[len(fs.Lower)-1]); got["bin/sh"] != "#!shell" {
		t.Error(got)
	}
}

func TestLoginAndAuth(t *testing.T) {
	img := simple(t)
	reg := &fileRegistry{img: img}
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("me:secret"))
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != want {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		reg.ServeHTTP(w, r)
	}))
	s := service(t, quick)
	good := hull.Auth{Username: "me", Password: "secret", ServerAddress: host}
	bad := hull.Auth{Username: "me", Password: "wrong", ServerAddress: host}
	elsewhere := hull.Auth{Username: "me", Password: "secret", ServerAddress: "other.example"}
	if status, _, err := s.Login(t.Context(), good); err != nil || status != "Login Succeeded" {
		t.Error(status, err)
	}
	if _, _, err := s.Login(t.Context(), bad); !errdefs.IsUnauthorized(err) {
		t.Error(err)
	}
	for _, a := range []hull.Auth{bad, {}, elsewhere} {
		if _, err := s.Pull(t.Context(), hull.PullRequest{Ref: host + "/x:1", Auth: a}); err == nil || !strings.Contains(err.Error(), "pull access denied") {
			t.Errorf("%+v: %v", a, err)
		}
	}
	if _, err := s.Pull(t.Context(), hull.PullRequest{Ref: host + "/x:1", Auth: good}); err != nil {
		t.Error(err)
	}
	dir := t.TempDir()
	conf := `{"auths":{"` + host + `":{"auth":"` + base64.StdEncoding.EncodeToString([]byte("me:secret")) + `"}}}`
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	s = service(t, quick, func(c *Config) { c.DockerConfig = dir })
	if _, err := s.Pull(t.Context(), hull.PullRequest{Ref: host + "/x:1"}); err != nil {
		t.Error("credentials of config.json:", err)
	}
}

// TestDeltaArchive: an archive without layers that the receiver has, and what is
// said when it has them not.
func TestDeltaArchive(t *testing.T) {
	below := layerTar(t, file{name: "base", body: "below"})
	base := build(t, nil, below)
	top := build(t, nil, below, layerTar(t, file{name: "top", body: "above"}))
	s := service(t)
	load(t, s, base, "docker.io/library/base:1")
	load(t, s, top, "docker.io/library/top:1")
	layers, err := s.Layers(t.Context(), []string{"top:1"}, nil)
	if err != nil || len(layers) != 2 {
		t.Fatalf("%v %v", layers, err)
	}
	var delta bytes.Buffer
	if err := s.Save(t.Context(), hull.SaveRequest{Refs: []string{"top:1"}, Since: []string{"base:1"}}, &delta); err != nil {
		t.Fatal(err)
	}
	other := service(t)
	lacking, err := other.Lacking(t.Context(), []string{layers[0].Digest, layers[1].Digest})
	if err != nil || len(lacking) != 2 {
		t.Errorf("an empty engine lacks %v %v", lacking, err)
	}
	if _, err := other.Lacking(t.Context(), []string{"sha256:../../etc"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a digest that is none: %v", err)
	}
	if _, err := other.Load(t.Context(), bytes.NewReader(delta.Bytes()), nil, nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a delta without its base: %v", err)
	}
	load(t, other, base, "docker.io/library/base:1")
	if lacking, err = other.Lacking(t.Context(), []string{layers[0].Digest, layers[1].Digest}); err != nil || len(lacking) != 1 {
		t.Errorf("with the base it lacks %v %v", lacking, err)
	}
	if _, err := other.Load(t.Context(), bytes.NewReader(delta.Bytes()), nil, nil); err != nil {
		t.Fatal(err)
	}
	if i := resolve(t, other, "top:1"); i.ID != top.id() || i.Manifest != top.desc.Digest.String() {
		t.Errorf("it arrived as %s %s", i.ID, i.Manifest)
	}
}

func TestCopy(t *testing.T) {
	a, b := registryServer(t), registryServer(t)
	s := service(t)
	img := simple(t)
	load(t, s, img, a+"/lib/one:1")
	if err := s.Push(t.Context(), hull.PushRequest{Ref: a + "/lib/one:1"}); err != nil {
		t.Fatal(err)
	}
	var last any
	progress := func(p hull.Progress) {
		if p.Aux != nil {
			last = p.Aux
		}
	}
	if err := s.Copy(t.Context(), hull.CopyRequest{Source: a + "/lib/one:1", Target: b + "/two", Progress: progress}); err != nil {
		t.Fatal(err)
	}
	want, err := s.Distribution(t.Context(), a+"/lib/one:1", hull.Auth{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Distribution(t.Context(), b+"/two:1", hull.Auth{})
	if err != nil {
		t.Fatal(err)
	}
	if want.Digest != got.Digest {
		t.Errorf("copied as %s, was %s", got.Digest, want.Digest)
	}
	if r, ok := last.(PushResult); !ok || r.Tag != "1" || r.Digest != want.Digest {
		t.Errorf("the end is %+v", last)
	}
	other := service(t)
	if i, err := other.Pull(t.Context(), hull.PullRequest{Ref: b + "/two:1"}); err != nil || i.ID != img.id() {
		t.Errorf("pulled the copy as %v, %v", i.ID, err)
	}
	for name, r := range map[string]hull.CopyRequest{
		"source":   {Source: "No", Target: b + "/x"},
		"target":   {Source: a + "/lib/one:1", Target: "x:y:z"},
		"digest":   {Source: a + "/lib/one:1", Target: b + "/x@" + want.Digest},
		"platform": {Source: a + "/lib/one:1", Target: b + "/x", Platform: "no/such/thing/at/all"},
	} {
		if err := s.Copy(t.Context(), r); err == nil && name != "platform" {
			t.Errorf("%s: no error", name)
		}
	}
	if err := s.Copy(t.Context(), hull.CopyRequest{Source: a + "/lib/none:1", Target: b + "/x"}); !errdefs.IsNotFound(err) {
		t.Errorf("a source that is not there: %v", err)
	}
}

func TestCompare(t *testing.T) {
	s := service(t)
	base := layerTar(t, file{name: "a", body: "1"}, file{name: "b", body: "2"})
	for name, img := range map[string]built{
		"one": build(t, nil, base), "same": build(t, nil, base),
		"content": build(t, nil, layerTar(t, file{name: "a", body: "1"}, file{name: "b", body: "3"})),
		"more":    build(t, nil, layerTar(t, file{name: "a", body: "1"}, file{name: "b", body: "2"}, file{name: "c", body: "2"})),
		"layers":  build(t, nil, base, base),
		"config":  build(t, func(c *imageConfig) { c.Config.Env = []string{"X=1"} }, base),
	} {
		load(t, s, img, "docker.io/library/"+name+":1")
	}
	for ref, want := range map[string]string{
		"same": "", "content": "layer 1: b: content is ", "more": "layer 1: c is only in the second", "layers": "1 layers and 2", "config": "configuration: config is ",
	} {
		got, err := s.Compare(t.Context(), "one:1", ref+":1")
		if err != nil || want == "" && got != "" || !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q, %v", ref, got, err)
		}
	}
	if _, err := s.Compare(t.Context(), "one:1", "none:1"); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}
