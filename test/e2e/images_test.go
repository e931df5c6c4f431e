package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"hull/test/harness"
)

func TestPushAndPullThroughARegistry(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	registry := e.Registry("", nil)
	for _, c := range e.Clients() {
		ref := registry + "/lib/box:" + c.Name
		c.Run("run", "--name", "work-"+c.Name, "busybox", "sh", "-c", "echo made by "+c.Name+" > /note")
		c.Run("commit", "work-"+c.Name, ref)
		id := c.Run("inspect", "-f", "{{.Id}}", ref)
		if out := c.Run("push", ref); !strings.Contains(out, "digest: sha256:") {
			t.Errorf("%s push says %q", c.Name, out)
		}
		c.Run("rm", "work-"+c.Name)
		c.Run("rmi", ref)
		out := c.Run("pull", ref)
		for _, want := range []string{"Digest: sha256:", "Status: Downloaded newer image for " + ref} {
			if !strings.Contains(out, want) {
				t.Errorf("%s pull lacks %q: %s", c.Name, want, out)
			}
		}
		if got := c.Run("inspect", "-f", "{{.Id}}", ref); got != id {
			t.Errorf("%s: the image came back as %s, was %s", c.Name, got, id)
		}
		if got := c.Run("run", "--rm", ref, "cat", "/note"); got != "made by "+c.Name {
			t.Errorf("%s: %q", c.Name, got)
		}
		if out := c.Run("pull", ref); !strings.Contains(out, "Image is up to date for "+ref) {
			t.Errorf("%s second pull: %s", c.Name, out)
		}
		digest := c.Run("inspect", "-f", "{{index .RepoDigests 0}}", ref)
		if got := c.Run("run", "--rm", digest, "cat", "/note"); got != "made by "+c.Name {
			t.Errorf("%s by digest: %q", c.Name, got)
		}
		c.Fails(1, []string{"not found"}, "pull", registry+"/lib/nothing:1")
		// run pulls what is missing.
		c.Run("rmi", "-f", ref)
		if r := c.Try("run", "--rm", ref, "cat", "/note"); r.Stdout != "made by "+c.Name+"\n" || !strings.Contains(r.Stderr, "Unable to find image") {
			t.Errorf("%s run of a missing image: %+v", c.Name, r)
		}
		c.Run("rmi", "-f", ref)
	}
}

func TestRegistryWithAPassword(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	// The password is "pass"; the rest is bcrypt.
	registry := e.Registry(e.WriteFile("htpasswd", "user:$2a$05$Ege9XALrQvQy0JwISdHjluUiVylWJdoO8eG/I8rhNgha8fPbHXjEu\n"), nil)
	docker := e.Docker()
	ref := registry + "/private/box:1"
	docker.Run("tag", "busybox", ref)
	docker.Fails(1, []string{"denied"}, "push", ref)
	docker.Fails(1, []string{"unauthorized"}, "login", "-u", "user", "-p", "wrong", registry)
	for _, c := range e.Clients() {
		if r := c.TryStdin("pass", "login", "-u", "user", "--password-stdin", registry); r.Code != 0 || !strings.Contains(r.Stdout, "Login Succeeded") {
			t.Fatalf("%s login: %+v", c.Name, r)
		}
		c.Run("push", ref)
		c.Run("rmi", ref)
		c.Run("pull", ref)
		c.Run("logout", registry)
		c.Fails(1, nil, "push", ref)
	}
}

func TestPullResumesAfterAReset(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	var cut atomic.Int32
	registry := e.Registry("", func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") && r.Header.Get("Range") == "" && cut.Add(1) <= 2 {
				w = &cutWriter{ResponseWriter: w, left: 100 << 10}
			}
			next.ServeHTTP(w, r)
		})
	})
	docker := e.Docker()
	ref := registry + "/box:1"
	docker.Run("tag", "busybox", ref)
	docker.Run("push", ref)
	docker.Run("rmi", "-f", ref, "busybox")
	cut.Store(0)
	docker.Run("pull", ref)
	if got := docker.Run("run", "--rm", ref, "echo", "whole"); got != "whole" {
		t.Errorf("after a resumed pull: %q", got)
	}
	if cut.Load() == 0 {
		t.Error("the registry was not asked for a blob: the test proves nothing")
	}
}

// cutWriter ends the connection after some bytes.
type cutWriter struct {
	http.ResponseWriter
	left int
}

func (c *cutWriter) Write(b []byte) (int, error) {
	if len(b) > c.left {
		panic(http.ErrAbortHandler)
	}
	c.left -= len(b)
	return c.ResponseWriter.Write(b)
}

func TestPullRefusesAWrongDigest(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	var bad atomic.Bool
	registry := e.Registry("", func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if bad.Load() && r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
				w = flipWriter{w}
			}
			next.ServeHTTP(w, r)
		})
	})
	docker := e.Docker()
	ref := registry + "/box:1"
	docker.Run("tag", "busybox", ref)
	docker.Run("push", ref)
	docker.Run("rmi", "-f", ref, "busybox")
	bad.Store(true)
	if r := docker.Try("pull", ref); r.Code == 0 {
		t.Fatalf("a corrupt image was accepted: %+v", r)
	}
	if r := docker.Try("image", "inspect", ref); r.Code == 0 {
		t.Error("a corrupt image is in the store")
	}
	bad.Store(false)
	docker.Run("pull", ref)
	docker.Run("run", "--rm", ref, "true")
}

type flipWriter struct{ http.ResponseWriter }

func (f flipWriter) Write(b []byte) (int, error) {
	c := append([]byte{}, b...)
	if len(c) > 0 {
		c[len(c)/2] ^= 1
	}
	return f.ResponseWriter.Write(c)
}

func TestSaveIntoLoad(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	for _, c := range e.Clients() {
		ref := "saved-" + c.Name + ":1"
		c.Run("run", "--name", "w-"+c.Name, "busybox", "sh", "-c", "echo x > /saved")
		c.Run("commit", "w-"+c.Name, ref)
		save := c.Cmd("save", ref)
		stream, err := save.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := save.Start(); err != nil {
			t.Fatal(err)
		}
		archive, err := io.ReadAll(stream)
		if err != nil {
			t.Fatal(err)
		}
		if err := save.Wait(); err != nil {
			t.Fatal(err)
		}
		c.Run("rm", "w-"+c.Name)
		c.Run("rmi", ref)
		if r := c.TryStdin(string(archive), "load"); r.Code != 0 || !strings.Contains(r.Stdout, "Loaded image: "+ref) {
			t.Fatalf("%s load: %+v", c.Name, r)
		}
		if got := c.Run("run", "--rm", ref, "cat", "/saved"); got != "x" {
			t.Errorf("%s: %q", c.Name, got)
		}
		if r := c.TryStdin(string(archive[:len(archive)/2]), "load"); r.Code == 0 {
			t.Errorf("%s: half an archive was loaded: %+v", c.Name, r)
		}
		if r := c.TryStdin("not a tar", "load"); r.Code == 0 {
			t.Errorf("%s: garbage was loaded: %+v", c.Name, r)
		}
	}
}

func TestSkopeoReadsWhatWeSave(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("skopeo"); err != nil {
		t.Skip("skopeo is not installed")
	}
	e := harness.Start(t, []string{"busybox"})
	file := e.Dir("out") + "/busybox.tar"
	e.Docker().Run("save", "-o", file, "busybox")
	for _, kind := range []string{"docker-archive:", "oci-archive:"} {
		if out, err := e.HostCommand("skopeo", "inspect", kind+file).CombinedOutput(); err != nil {
			t.Errorf("skopeo %s: %v: %s", kind, err, out)
		}
	}
}

func TestManyImagesOfSharedLayers(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"debian", "redis", "nginx"})
	docker := e.Docker()
	for _, name := range []string{"debian", "redis", "nginx"} {
		if got := docker.Run("run", "--rm", "--entrypoint", "", name, "sh", "-c", ". /etc/os-release; echo $VERSION_CODENAME"); got != "bookworm" {
			t.Errorf("%s: %q", name, got)
		}
	}
	first := docker.Run("image", "inspect", "-f", "{{index .RootFS.Layers 0}}", "debian", "redis", "nginx")
	if f := strings.Fields(first); len(f) != 3 || f[0] != f[1] || f[1] != f[2] {
		t.Fatalf("the base layer is not shared: %q", first)
	}
	docker.Run("rmi", "debian")
	if got := docker.Run("run", "--rm", "--entrypoint", "", "redis", "cat", "/etc/debian_version"); !strings.HasPrefix(got, "12") {
		t.Errorf("redis without debian: %q", got)
	}
	docker.Run("rmi", "redis", "nginx")
	if got := docker.Run("images", "-q"); got != "" {
		t.Errorf("images left: %q", got)
	}
	if df := docker.Run("system", "df", "--format", "{{.Type}}={{.Size}}"); !strings.Contains(df, "Images=0B") {
		t.Errorf("disk use without images: %s", df)
	}
}

// TestProxy: hulld's registry is behind a proxy, whose address is in the
// environment; what NO_PROXY names is reached directly.
func TestProxy(t *testing.T) {
	t.Parallel()
	var seen, direct atomic.Int32
	// The engine's port is not known before the engine is there: a fixed one of its own
	// network namespace.
	const proxy = "10.255.255.1:3128"
	e := harness.NewEngine(t, harness.Args("--insecure-registry", "registry.test:5000", "--insecure-registry", "10.255.255.1:5001"),
		harness.Env("HTTP_PROXY=http://"+proxy, "HTTPS_PROXY=http://"+proxy, "NO_PROXY=10.255.255.1:5001"))
	if out, err := e.HostCommand("ip", "address", "add", "10.255.255.1/32", "dev", "lo").CombinedOutput(); err != nil {
		t.Fatalf("an address for the proxy: %v: %s", err, out)
	}
	e.StartDaemon()
	e.AtEnd()
	e.Load("busybox")
	files := e.RegistryHandler()
	backend := httptest.NewTLSServer(files)
	t.Cleanup(backend.Close)
	e.Serve(proxy, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Host != "registry.test:5000" {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		seen.Add(1)
		tunnel(t, w, backend.Listener.Addr().String())
	}))
	e.Serve("10.255.255.1:5001", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		direct.Add(1)
		files.ServeHTTP(w, r)
	}))
	c := e.Hull()
	for ref, count := range map[string]*atomic.Int32{"registry.test:5000/box": &seen, "10.255.255.1:5001/box": &direct} {
		c.Run("tag", "busybox", ref)
		c.Run("push", ref)
		c.Run("rmi", ref)
		c.Run("pull", ref)
		if count.Load() == 0 {
			t.Errorf("%s was not reached by the way it should be", ref)
		}
		c.Run("rmi", ref)
	}
}

// tunnel answers CONNECT: what the client sends goes to an address of this process's
// own network, and back.
func tunnel(t *testing.T, w http.ResponseWriter, to string) {
	t.Helper()
	far, err := new(net.Dialer).DialContext(t.Context(), "tcp", to)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer far.Close()
	near, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		t.Errorf("proxy: %v", err)
		return
	}
	defer near.Close()
	if _, err := io.WriteString(near, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(far, near)
		_ = far.Close()
	}()
	_, _ = io.Copy(near, far)
	_ = near.Close()
	<-done
}

// TestReadersLeaveTheContainerWhole: what reads the files of a running container does
// not take from it what it writes with.
func TestReadersLeaveTheContainerWhole(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	c := e.Docker()
	c.Run("run", "-d", "--name", "busy", "busybox", "sleep", "1000")
	readers := [][]string{{"export", "-o", filepath.Join(t.TempDir(), "tar"), "busy"}, {"diff", "busy"}, {"commit", "busy", "kept"}, {"cp", "busy:/etc/passwd", "-"}, {"ps", "-s"}}
	for i, args := range readers {
		c.Run(args...)
		// A file of the image's that is written to, one that is removed, a new directory.
		write := fmt.Sprintf("echo %d >> /etc/passwd && mkdir /usr/%d && rm /bin/%s && tail -n 1 /etc/passwd", i, i, []string{"yes", "xxd", "wc", "who", "watch"}[i])
		if got := c.Run("exec", "busy", "sh", "-c", write); got != strconv.Itoa(i) {
			t.Errorf("after %v: %q", args, got)
		}
	}
	c.Run("rm", "-f", "busy")
}
