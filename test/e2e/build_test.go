package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/session"
	"github.com/moby/moby/client"

	"hull/test/harness"
)

// writeContext makes a build context of files.
func writeContext(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestBuild(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	c := e.Docker()
	dir := writeContext(t, map[string]string{
		"Dockerfile": `FROM busybox AS one
ARG WHO=nobody
RUN <<EOF
echo "$WHO" > /who
mkdir -p /kept && rm -r /home
EOF
RUN --mount=type=cache,target=/cache --mount=type=tmpfs,target=/scratch echo x > /cache/x && touch /scratch/y
RUN --mount=type=cache,target=/cache cat /cache/x > /from-cache

FROM one
COPY --chmod=600 data/ /data/
WORKDIR /work
HEALTHCHECK CMD true
CMD ["cat", "/who", "/from-cache", "/data/a"]
`,
		"data/a": "A\n", "data/secret": "no\n", ".dockerignore": "data/secret\n",
	})
	out := c.Run("build", "--build-arg", "WHO=me", "-t", "built", dir)
	if !strings.Contains(out, "Successfully tagged built:latest") {
		t.Errorf("build says: %s", out)
	}
	// The image is there, and runs, without a step in between.
	if got := c.Run("run", "--rm", "built"); got != "me\nx\nA" {
		t.Errorf("the built image says %q", got)
	}
	if got := c.Run("run", "--rm", "built", "sh", "-c", "pwd; ls /data; ls -d /cache /scratch /home 2>&1 | grep -c 'No such'"); got != "/work\na\n3" {
		t.Errorf("the built image holds %q", got)
	}
	// A container of it has changed nothing: mount points of steps are not in it.
	c.Run("create", "--name", "fresh", "built")
	if got := c.Run("diff", "fresh"); got != "" {
		t.Errorf("a fresh container differs: %s", got)
	}
	c.Run("rm", "fresh")

	if out := c.Run("build", "--build-arg", "WHO=me", "-t", "built", dir); strings.Count(out, "Using cache") < 4 {
		t.Errorf("the second build did work again: %s", out)
	}
	e.KillDaemon()
	e.StartDaemon()
	if out := c.Run("build", "--build-arg", "WHO=me", "-t", "again", dir); strings.Count(out, "Using cache") < 4 {
		t.Errorf("the cache did not outlive the engine: %s", out)
	}
	if got := c.Run("run", "--rm", "again"); got != "me\nx\nA" {
		t.Errorf("the image built again says %q", got)
	}
	// What it was built with may go; the image stays whole.
	c.Run("builder", "prune", "-af")
	if got := c.Run("run", "--rm", "built"); got != "me\nx\nA" {
		t.Errorf("after the cache was pruned the image says %q", got)
	}
	c.Run("rmi", "built", "again")
}

// TestBuildOnFromRemoved: the cache of a build outlives its image, whose layers are the
// cache's, too, and they go with the cache.
func TestBuildOnFromRemoved(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	c := e.Docker()
	layers := func() int {
		t.Helper()
		list, err := os.ReadDir(filepath.Join(e.Root, "images", "layers"))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	before := layers()
	for _, name := range []string{"first", "second"} {
		dir := writeContext(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo a >/a\nRUN echo b >/b\nRUN echo " + name + " >/name\n"})
		c.Run("build", "-q", "-t", name, dir)
		if got := c.Run("run", "--rm", name, "cat", "/a", "/b", "/name"); got != "a\nb\n"+name {
			t.Errorf("the %s image says %q", name, got)
		}
		c.Run("rmi", name)
	}
	if got := layers(); got != before+4 {
		t.Errorf("%d layers with the cache of two builds, %d before: want 4 more", got, before)
	}
	c.Run("builder", "prune", "-af")
	if got := layers(); got != before {
		t.Errorf("%d layers after the cache is gone, %d before it", got, before)
	}
}

// TestBuildContextsThatLookAlike: size and time of a file say nothing of what is in it.
func TestBuildContextsThatLookAlike(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	c := e.Docker()
	for _, text := range []string{"one", "two"} {
		dir := writeContext(t, map[string]string{"Dockerfile": "FROM busybox\nCOPY f /\n", "f": text})
		if err := os.Chtimes(filepath.Join(dir, "f"), time.Unix(1, 0), time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
		c.Run("build", "-q", "-t", "alike", dir)
		if got := c.Run("run", "--rm", "alike", "cat", "/f"); got != text {
			t.Errorf("built %q, want %q", got, text)
		}
	}
}

// running counts the processes of the machine with an argument.
func running(t *testing.T, arg string) int {
	t.Helper()
	list, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, p := range list {
		if b, err := os.ReadFile(p); err == nil && strings.Contains(string(b), "\x00"+arg+"\x00") {
			n++
		}
	}
	return n
}

// TestBuildAbandoned: a client that leaves cancels its build, and a killed engine's
// build ends with it; neither leaves a step running or a mount behind.
func TestBuildAbandoned(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	c, h := e.Docker(), e.Hull()
	seconds := strconv.Itoa(100_000 + os.Getpid()) // nobody else sleeps for so long
	dir := writeContext(t, map[string]string{"Dockerfile": "FROM busybox\nRUN --mount=type=cache,target=/c echo kept > /kept\nRUN --mount=type=cache,target=/c sleep " + seconds + "\n"})
	start := func(c *harness.Client) func() {
		cmd := c.Cmd("build", dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		e.Eventually("the step runs", func() error {
			if running(t, seconds) == 0 {
				return errors.New("it does not")
			}
			return nil
		})
		return func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	gone := func() {
		e.Eventually("the step ends", func() error {
			if n := running(t, seconds); n > 0 {
				return fmt.Errorf("%d processes of it run", n)
			}
			return nil
		})
	}
	for _, by := range []*harness.Client{c, h} {
		start(by)()
		gone()
	}
	leave := start(h)
	e.KillDaemon()
	leave()
	e.StartDaemon()
	gone()
	// The cache is whole.
	fixed := writeContext(t, map[string]string{"Dockerfile": "FROM busybox\nRUN --mount=type=cache,target=/c echo kept > /kept\nRUN cat /kept\n"})
	if out := c.Run("build", fixed); !strings.Contains(out, "Using cache") || !strings.Contains(out, "\nkept\n") {
		t.Errorf("the build after it says: %s", out)
	}
}

// TestBuildFromAPrivateRegistry: the client's credentials are used for FROM.
func TestBuildFromAPrivateRegistry(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	// The password is "pass"; the rest is bcrypt.
	registry := e.Registry(e.WriteFile("htpasswd", "user:$2a$05$Ege9XALrQvQy0JwISdHjluUiVylWJdoO8eG/I8rhNgha8fPbHXjEu\n"), nil)
	c := e.Docker()
	ref := registry + "/private/box:1"
	if r := c.TryStdin("pass", "login", "-u", "user", "--password-stdin", registry); r.Code != 0 {
		t.Fatalf("login: %+v", r)
	}
	c.Run("tag", "busybox", ref)
	c.Run("push", ref)
	c.Run("rmi", ref)
	dir := writeContext(t, map[string]string{"Dockerfile": "FROM " + ref + "\nRUN echo built > /b\n"})
	c.Run("build", "-t", "private", dir)
	if got := c.Run("run", "--rm", "private", "cat", "/b"); got != "built" {
		t.Errorf("it says %q", got)
	}
	c.Run("logout", registry)
	c.Run("rmi", "private")
	c.Run("builder", "prune", "-af")
	if r := c.Try("build", "--no-cache", "--pull", dir); r.Code == 0 {
		t.Errorf("built without a password: %s", r.Stdout)
	}
}

// TestBuildFailures: what went wrong, where, and what to do about it; by docker's
// classic protocol and by BuildKit's.
func TestBuildFailures(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	for name, x := range map[string]struct {
		dockerfile string
		code       int
		want       string
		hull       string // "" = the same
	}{
		"step":    {"FROM busybox\nRUN echo last words; exit 7\n", 7, "returned a non-zero code: 7", "did not complete successfully: exit code: 7"},
		"words":   {"FROM busybox\nRUN echo last words; exit 7\n", 7, "last words\n", ""},
		"debug":   {"FROM busybox\nRUN exit 7\n", 7, "To look into it: ", ""},
		"syntax":  {"FROM busybox\nRUNN true\n", 1, "unknown instruction: RUNN", ""},
		"line":    {"FROM busybox\nRUNN true\n", 1, "   1 |     FROM busybox\n   2 | >>> RUNN true\n", ""},
		"which":   {"FROM busybox\nRUN true\nRUN false\n", 1, "   3 | >>> RUN false\n", ""},
		"base":    {"FROM busybox:gone\n", 1, "busybox:gone", ""},
		"stage":   {"FROM busybox\nCOPY --from=nowhere /a /b\n", 1, "nowhere", ""},
		"file":    {"FROM busybox\nCOPY nothing /\n", 1, "not found", ""},
		"outside": {"FROM busybox\nCOPY ../../../etc/passwd /\n", 1, "not found", ""},
		"secret":  {"FROM busybox\nRUN --mount=type=secret,id=s,required=true cat /run/secrets/s\n", 1, "secret s: not found", ""},
	} {
		dir := writeContext(t, map[string]string{"Dockerfile": x.dockerfile})
		if x.hull == "" {
			x.hull = x.want
		}
		fails := func(want string, c *harness.Client, args ...string) {
			r := c.Try(args...)
			if r.Code != x.code || !strings.Contains(r.Stdout+r.Stderr, want) {
				t.Errorf("%s by %s: code %d, want %d with %q: %s%s", name, c.Name, r.Code, x.code, want, r.Stdout, r.Stderr)
			}
		}
		fails(x.want, e.Docker(), "build", dir)
		fails(x.hull, e.Hull(), "build", dir)
		fails(x.hull, e.Hull(), "build", "-q", dir)
	}
}

// TestBuildCacheDamaged: a cache that cannot be read is made again; images stay.
func TestBuildCacheDamaged(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	c := e.Docker()
	dir := writeContext(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo kept > /kept\n"})
	c.Run("build", "-t", "one", dir)
	for _, f := range []string{"metadata.db", "cache.db", "history.db"} {
		e.KillDaemon()
		if err := os.WriteFile(filepath.Join(e.Root, "build", f), []byte("no database at all"), 0o600); err != nil {
			t.Fatal(err)
		}
		e.StartDaemon()
		c.Run("build", "-t", "two", dir)
		if got := c.Run("run", "--rm", "one", "cat", "/kept") + c.Run("run", "--rm", "two", "cat", "/kept"); got != "keptkept" {
			t.Errorf("with a damaged %s the images say %q", f, got)
		}
	}
	// The power went during a build: what its databases say is not believed.
	e.KillDaemon()
	if err := os.WriteFile(filepath.Join(e.Root, "build", "open-in"), []byte("another boot\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	e.StartDaemon()
	if out := c.Run("build", "-t", "three", dir); strings.Contains(out, "Using cache") {
		t.Errorf("the cache of another boot was used: %s", out)
	}
	if got := c.Run("run", "--rm", "three", "cat", "/kept"); got != "kept" {
		t.Errorf("it says %q", got)
	}
	c.Run("rmi", "one", "two", "three")
}

// TestBuildDiskFull: the error says so, and when there is room again builds go on.
func TestBuildDiskFull(t *testing.T) {
	t.Parallel()
	e := harness.NewEngine(t)
	harness.SmallRoot(e, "96M")
	e.StartDaemon()
	e.AtEnd()
	e.Load("busybox")
	c := e.Docker()
	fill := writeContext(t, map[string]string{"Dockerfile": "FROM busybox\nRUN dd if=/dev/zero of=/big bs=1M count=200\n"})
	if r := c.Try("build", fill); r.Code == 0 || !strings.Contains(strings.ToLower(r.Stdout+r.Stderr), "no space left") {
		t.Errorf("a build that fills the disk: code %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	small := writeContext(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo small > /small\n"})
	e.Eventually("there is room again", func() error {
		if r := c.Try("build", "-t", "small", small); r.Code != 0 {
			return errors.New(r.Stderr)
		}
		return nil
	})
	if got := c.Run("run", "--rm", "small", "cat", "/small"); got != "small" {
		t.Errorf("it says %q", got)
	}
	c.Run("rmi", "small")
}

// TestBuildSentContextAndSession: clients that build with BuildKit and send the context
// as a tar have a session for credentials only.
func TestBuildSentContextAndSession(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	c := e.Docker()
	engine, err := client.New(client.WithHost(e.Host))
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	s, err := session.NewSession(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan error, 1)
	go func() {
		over <- s.Run(t.Context(), session.Dialer(func(ctx context.Context, proto string, meta map[string][]string) (net.Conn, error) {
			return engine.DialHijack(ctx, "/session", proto, meta)
		}))
	}()
	for _, said := range []string{"one", "two"} { // contexts of the same size
		dir := writeContext(t, map[string]string{"Dockerfile": "FROM busybox\nCOPY said /\nCMD [\"cat\", \"/said\"]\n", "said": said})
		files, err := exec.Command("tar", "-C", dir, "-c", ".").Output() // #nosec: a test
		if err != nil {
			t.Fatal(err)
		}
		resp, err := e.API("POST", "/build?version=2&t=sent&session="+s.ID(), bytes.NewReader(files))
		if err != nil {
			t.Fatal(err)
		}
		out, err := io.ReadAll(resp.Body)
		if err = errors.Join(err, resp.Body.Close()); err != nil || !strings.Contains(string(out), "moby.buildkit.trace") {
			t.Fatalf("build says %s, %v", out, err)
		}
		if got := c.Run("run", "--rm", "sent"); got != said {
			t.Errorf("the image says %q: %s", got, out)
		}
	}
	c.Run("rmi", "-f", "sent")
	if err := errors.Join(s.Close(), <-over); err != nil {
		t.Errorf("end the session: %v", err)
	}
}
