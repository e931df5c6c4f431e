package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containerd/log"
	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/ulikunitz/xz"
)

const hostArch = runtime.GOARCH

// file is one entry of a test layer.
type file struct {
	name string
	body string
	link string
	typ  byte
	mode int64
	pax  map[string]string
}

// layerTar makes a layer's tar. Everything belongs to the caller, so that the
// tests run without root.
func layerTar(t testing.TB, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Linkname: f.link, Typeflag: f.typ, Mode: f.mode, Size: int64(len(f.body)),
			Uid: os.Getuid(), Gid: os.Getgid(), ModTime: time.Unix(1_600_000_000, 0), PAXRecords: f.pax, Format: tar.FormatPAX}
		if f.typ == 0 {
			h.Typeflag = tar.TypeReg
			if strings.HasSuffix(f.name, "/") {
				h.Typeflag = tar.TypeDir
			}
		}
		if f.mode == 0 {
			h.Mode = 0o644
			if h.Typeflag == tar.TypeDir {
				h.Mode = 0o755
			}
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gz(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// built is an image in memory.
type built struct {
	config   []byte
	manifest []byte
	desc     ocispec.Descriptor
	tars     [][]byte
	blobs    map[digest.Digest][]byte
}

func (b built) id() string { return digest.FromBytes(b.config).String() }

// build makes an image of uncompressed layer tars. with may change the configuration.
func build(t testing.TB, with func(*imageConfig), tars ...[]byte) built {
	t.Helper()
	created := time.Unix(1_650_000_000, 0).UTC()
	c := imageConfig{Created: &created, Config: runConfig{Env: []string{"PATH=/bin"}, Cmd: stringList{"/bin/true"}}, RootFS: rootFS{Type: "layers"}}
	c.OS, c.Architecture = "linux", hostArch
	img := built{blobs: map[digest.Digest][]byte{}, tars: tars}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}
	m.SchemaVersion = 2
	for _, l := range tars {
		z := gz(t, l)
		d := digest.FromBytes(z)
		img.blobs[d] = z
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: d, Size: int64(len(z))})
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.FromBytes(l))
		c.History = append(c.History, ocispec.History{Created: &created, CreatedBy: "ADD layer"})
	}
	if with != nil {
		with(&c)
	}
	img.config = mustJSON(t, c)
	m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(img.config), Size: int64(len(img.config))}
	img.blobs[m.Config.Digest] = img.config
	img.manifest = mustJSON(t, m)
	img.desc = ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(img.manifest), Size: int64(len(img.manifest)),
		Platform: &ocispec.Platform{OS: c.OS, Architecture: c.Architecture, Variant: c.Variant}}
	img.blobs[img.desc.Digest] = img.manifest
	return img
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// layout is an OCI layout in a tar; names are full references.
func (b built) layout(t testing.TB, names ...string) []byte {
	t.Helper()
	idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
	idx.SchemaVersion = 2
	for _, n := range names {
		d := b.desc
		d.Annotations = map[string]string{annotationName: n}
		idx.Manifests = append(idx.Manifests, d)
	}
	if len(names) == 0 {
		idx.Manifests = append(idx.Manifests, b.desc)
	}
	files := []file{{name: "oci-layout", body: `{"imageLayoutVersion":"1.0.0"}`}}
	for d, c := range b.blobs {
		files = append(files, file{name: "blobs/sha256/" + d.Encoded(), body: string(c)})
	}
	files = append(files, file{name: "index.json", body: string(mustJSON(t, idx))})
	return layerTar(t, files...)
}

// oldArchive is a docker-archive as docker save wrote it before version 25.
func (b built) oldArchive(t testing.TB, tags ...string) []byte {
	t.Helper()
	dm := dockerManifest{Config: digest.FromBytes(b.config).Encoded() + ".json", RepoTags: tags}
	files := []file{{name: dm.Config, body: string(b.config)}}
	for _, l := range b.tars {
		dir := digest.FromBytes(l).Encoded()
		files = append(files, file{name: dir + "/"}, file{name: dir + "/VERSION", body: "1.0"}, file{name: dir + "/json", body: "{}"},
			file{name: dir + "/layer.tar", body: string(l)})
		dm.Layers = append(dm.Layers, dir+"/layer.tar")
	}
	files = append(files, file{name: "manifest.json", body: string(mustJSON(t, []dockerManifest{dm}))})
	return layerTar(t, files...)
}

func TestMain(m *testing.M) {
	if err := log.SetLevel("panic"); err != nil { // containerd's and the registry's
		panic(err)
	}
	os.Exit(m.Run())
}

// service opens an image service on a fresh directory.
func service(t testing.TB, with ...func(*Config)) *Service {
	t.Helper()
	return serviceAt(t, t.TempDir(), with...)
}

func serviceAt(t testing.TB, root string, with ...func(*Config)) *Service {
	t.Helper()
	cfg := Config{Root: root, SkipOwner: os.Geteuid() != 0, UserXattr: os.Geteuid() != 0, Stall: 20 * time.Second,
		Log: slog.New(slog.NewTextHandler(testWriter{t}, nil))}
	for _, w := range with {
		w(&cfg)
	}
	s, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func packXZ(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := xz.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// registryServer runs a registry in this process and returns its host:port.
func registryServer(t testing.TB) string {
	t.Helper()
	conf := &configuration.Configuration{}
	conf.Storage = configuration.Storage{"inmemory": configuration.Parameters{}, "delete": configuration.Parameters{"enabled": true}}
	conf.Log.Level = "panic"
	conf.Log.AccessLog.Disabled = true
	app := handlers.NewApp(t.Context(), conf)
	srv := httptest.NewServer(app)
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

// tree lists what is below a directory: path -> content (directories "/",
// links "-> target").
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		switch {
		case d.IsDir():
			got[rel] = "/"
		case d.Type()&os.ModeSymlink != 0:
			to, err := os.Readlink(p)
			got[rel] = "-> " + to
			return err
		case d.Type().IsRegular():
			b, err := os.ReadFile(p)
			got[rel] = string(b)
			return err
		default:
			got[rel] = d.Type().String()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}
