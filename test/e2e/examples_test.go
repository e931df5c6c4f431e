package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hull/test/harness"
)

// example is an application in examples/: what it is built from, and how it is
// seen to run.
type example struct {
	name, base string
	port       string   // in the container
	path, want string   // a request, and what is in the answer
	args       []string // of run
}

func examples() []example {
	return []example{
		{name: "guestbook", base: "golang", port: "8080", path: "/version", want: "dev"},
		{name: "notebook", base: "jupyter", port: "8888", path: "/api/contents/summary.txt?token=rain", want: "Bergen 846", args: []string{"-e", "JUPYTER_TOKEN=rain"}},
		{name: "quotes", base: "node", port: "3000", path: "/?author=Knuth", want: "Premature optimization"},
	}
}

// TestExamples: every tool makes the same image of an example, it runs, and a
// second machine gets it in three ways, always the same digest.
func TestExamples(t *testing.T) {
	t.Parallel()
	var bases []string
	for _, x := range examples() {
		bases = append(bases, x.base)
	}
	f := &fair{one: harness.Start(t, bases), two: harness.Start(t, nil)}
	f.registry = f.one.Registry("", nil, f.two)
	for _, x := range examples() {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			dir := checkout(t, x.name)
			want := f.build(t, x, dir)
			f.runs(t, x, f.one, x.name+":hull")
			if x.name == "guestbook" { // the others' bases are large
				f.attested(t, x, want)
			}
			ref := f.pull(t, x, want)
			f.two.Load(x.base) // its layers are there
			f.two.Docker().For(t).Run("rmi", ref)
			f.delta(t, x, want)
			f.locked(t, x, dir, want)
		})
	}
}

// fair is two machines and a registry between them.
type fair struct {
	one, two *harness.Engine
	registry string
}

// checkout copies an example, as a fresh checkout would have it.
func checkout(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("../../examples", name))); err != nil {
		t.Fatal(err)
	}
	return dir
}

const (
	examplesEpoch = "SOURCE_DATE_EPOCH=1700000000"
	identity      = "{{.Id}} {{.Descriptor.digest}}"
)

// client is a command line whose builds have a date.
func (f *fair) client(t *testing.T, c *harness.Client) *harness.Client {
	t.Helper()
	c = c.For(t)
	c.Env = append(c.Env, examplesEpoch)
	return c
}

// build makes the image with every tool, each without the cache, and returns what
// it is.
func (f *fair) build(t *testing.T, x example, dir string) string {
	t.Helper()
	f.client(t, f.one.Hull()).Run("build", "--reproducible", "--no-cache", "-t", x.name+":hull", dir)
	f.client(t, f.one.Docker()).Run("build", "--no-cache", "--build-arg", "SOURCE_DATE_EPOCH", "-t", x.name+":docker", dir)
	f.client(t, f.one.Buildx()).Run("build", "--no-cache", "--provenance=false", "-t", x.name+":buildkit", dir)
	f.client(t, f.one.Buildx()).Run("buildx", "build", "--no-cache", "--provenance=mode=max", "-t", x.name+":buildx", dir)
	c := f.one.Docker().For(t)
	want := c.Run("inspect", "-f", identity, x.name+":hull")
	for _, tag := range []string{"docker", "buildkit"} {
		if got := c.Run("inspect", "-f", identity, x.name+":"+tag); got != want {
			t.Errorf("made by %s it is %s, by hull build %s", tag, got, want)
		}
	}
	// With a statement of how it was built it is an index of the same image.
	id, _, _ := strings.Cut(want, " ")
	if got := c.Run("inspect", "-f", "{{.Id}}", x.name+":buildx"); got != id {
		t.Errorf("made by buildx it is %s, by hull build %s", got, id)
	}
	return want
}

// runs starts an image, asks it and removes the container.
func (f *fair) runs(t *testing.T, x example, e *harness.Engine, image string) {
	t.Helper()
	c, port := e.Docker().For(t), e.FreePort()
	c.Run(slices.Concat([]string{"run", "-d", "--name", x.name, "-p", port + ":" + x.port}, x.args, []string{image})...)
	e.Eventually(x.name+" answers", func() error {
		status, got, err := e.Get("http://127.0.0.1:" + port + x.path)
		if err == nil && (status != http.StatusOK || !strings.Contains(got, x.want)) {
			err = fmt.Errorf("%d: %q", status, got)
		}
		return err
	})
	c.Run("rm", "-f", x.name)
}

// TestGuestbook: the example with its database, built and brought up by docker compose
// and by hull compose.
func TestGuestbook(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"golang", "postgres"})
	docker := e.Compose()
	docker.Env = e.Buildx().Env // with docker's build plugin it builds by that
	for _, c := range []*harness.Client{docker, e.HullCompose()} {
		dir, port := checkout(t, "guestbook"), e.FreePort()
		c.Env = append(c.Env, "GUESTBOOK_PORT="+port)
		file := filepath.Join(dir, "compose.yaml")
		c.Run("-f", file, "build", "--build-arg", "VERSION=2")
		c.Run("-f", file, "up", "-d", "--wait")
		base := "http://127.0.0.1:" + port
		if status, got, err := e.Get(base + "/version"); err != nil || status != http.StatusOK || got != "2\n" {
			t.Errorf("built by %s its version is %d %q %v", c.Name, status, got, err)
		}
		if status, got, err := post(e, base+"/", url.Values{"name": {"ada"}}); err != nil || status != http.StatusOK || got != "1 ada\n" {
			t.Errorf("%s: the first entry: %d %q %v", c.Name, status, got, err)
		}
		// Its entries outlive both of its containers.
		c.Run("-f", file, "down")
		c.Run("-f", file, "up", "-d", "--wait")
		if status, got, err := e.Get(base + "/"); err != nil || status != http.StatusOK || got != "1 ada\n" {
			t.Errorf("%s: after a restart: %d %q %v", c.Name, status, got, err)
		}
		c.Run("-f", file, "down", "-v", "--rmi", "local")
	}
}

// post sends a form in an engine's network, and returns status and body.
func post(e *harness.Engine, address string, form url.Values) (int, string, error) {
	c := http.Client{Timeout: time.Minute, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(_ context.Context, network, address string) (net.Conn, error) { return e.Dial(network, address) },
	}}
	resp, err := c.PostForm(address, form) //nolint:noctx // the client has a limit
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// attested: what is said about the image is pushed with it, and can be read there.
func (f *fair) attested(t *testing.T, x example, want string) {
	t.Helper()
	c := f.one.Buildx().For(t)
	ref := f.registry + "/attested/" + x.name
	c.Run("tag", x.name+":buildx", ref)
	c.Run("push", "-q", ref)
	_, manifest, _ := strings.Cut(want, " ")
	if got := c.Run("buildx", "imagetools", "inspect", ref); !strings.Contains(got, manifest) || !strings.Contains(got, "attestation-manifest") {
		t.Errorf("the registry has no %s with an attestation: %s", manifest, got)
	}
	if got := c.Run("buildx", "imagetools", "inspect", ref, "--format", "{{json .Provenance}}"); !strings.Contains(got, x.base) {
		t.Errorf("the provenance does not name %s: %s", x.base, got)
	}
}

// pull: through a registry.
func (f *fair) pull(t *testing.T, x example, want string) (ref string) {
	t.Helper()
	c, far := f.one.Docker().For(t), f.two.Docker().For(t)
	ref = f.registry + "/" + x.name + ":1"
	c.Run("tag", x.name+":hull", ref)
	c.Run("push", "-q", ref)
	far.Run("pull", "-q", ref)
	id, _, _ := strings.Cut(want, " ")
	here, there := c.Run("inspect", "-f", "{{.Id}} {{json .RepoDigests}}", ref), far.Run("inspect", "-f", "{{.Id}} {{json .RepoDigests}}", ref)
	if !strings.HasPrefix(there, id) {
		t.Errorf("pulled it is %s, built %s", there, id)
	}
	_, digest, ok := strings.Cut(there, "@")
	if !ok || !strings.Contains(here, digest[:71]) {
		t.Errorf("pushed %s, pulled %s", here, there)
	}
	f.runs(t, x, f.two, ref)
	return ref
}

// delta: as a file with only what the other machine lacks.
func (f *fair) delta(t *testing.T, x example, want string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "delta.tar")
	f.one.Hull().For(t).Run("image", "save", "--delta-from", x.base, "-o", file, x.name+":hull")
	if st, err := os.Stat(file); err != nil || st.Size() > 16<<20 {
		t.Errorf("the delta: %v %v", st, err)
	}
	far := f.two.Hull().For(t)
	far.Run("load", "-i", file)
	if got := far.Run("inspect", "-f", identity, x.name+":hull"); got != want {
		t.Errorf("loaded from a delta it is %s, built %s", got, want)
	}
	far.Run("rmi", x.name+":hull")
}

// locked: built again from the same sources, pinned by a lock file.
func (f *fair) locked(t *testing.T, x example, dir, want string) {
	t.Helper()
	f.client(t, f.one.Hull()).Run("lock", "update", dir)
	far := f.client(t, f.two.Hull())
	far.Run("build", "--locked", "--reproducible", "-t", x.name, dir)
	if got := far.Run("inspect", "-f", identity, x.name); got != want {
		t.Errorf("built from the lock file it is %s, the first %s", got, want)
	}
}
