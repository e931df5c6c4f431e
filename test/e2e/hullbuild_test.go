package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hull/test/harness"
)

// TestHullBuild: where hull build takes a build from, and what it can make of it.
func TestHullBuild(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	c := e.Hull()
	dir := writeContext(t, map[string]string{"Dockerfile": "FROM busybox\nCOPY f /f\nRUN echo built > /b\n", "f": "file\n"})
	out := t.TempDir()
	at := func(name string) string { return filepath.Join(out, name) }
	says := func(want, image string, args ...string) {
		t.Helper()
		if got := c.Run(append([]string{"run", "--rm", image}, args...)...); got != want {
			t.Errorf("%s says %q, not %q", image, got, want)
		}
	}

	id := c.Run("build", "-q", "--iidfile", at("id"), "--metadata-file", at("metadata"), "-t", "one", dir)
	if b, err := os.ReadFile(at("id")); err != nil || string(b) != id || c.Run("inspect", "-f", "{{.Id}}", "one") != id {
		t.Errorf("the id is %q, in the file %q %v", id, b, err)
	}
	var said map[string]any
	if b, err := os.ReadFile(at("metadata")); err != nil || json.Unmarshal(b, &said) != nil || said["containerimage.config.digest"] != id {
		t.Errorf("metadata: %s %v", b, err)
	}
	says("file\nbuilt", "one", "cat", "/f", "/b")

	// Standard input: a Dockerfile, or a Dockerfile for a directory.
	if r := c.TryStdin("FROM one\nRUN echo two > /b\n", "build", "-t", "two", "-"); r.Code != 0 {
		t.Errorf("a Dockerfile by stdin: %s", r.Stderr)
	}
	says("two", "two", "cat", "/b")
	if r := c.TryStdin("FROM one\nCOPY f /three\n", "build", "-t", "three", "-f", "-", dir); r.Code != 0 {
		t.Errorf("a Dockerfile by stdin for a directory: %s", r.Stderr)
	}
	says("file", "three", "cat", "/three")
	c.Run("build", "-t", "four", "-f", e.WriteFile("elsewhere.Dockerfile", "FROM one\nCOPY f /four\n"), dir)
	says("file", "four", "cat", "/four")

	// Elsewhere than into the engine's images.
	c.Run("build", "-o", at("local"), dir)
	if b, err := os.ReadFile(at("local/b")); err != nil || string(b) != "built\n" {
		t.Errorf("as files: %q %v", b, err)
	}
	for _, kind := range []string{"tar", "oci", "docker"} {
		c.Run("build", "-t", "as:"+kind, "-o", "type="+kind+",dest="+at(kind), dir)
		if st, err := os.Stat(at(kind)); err != nil || st.Size() < 1000 {
			t.Errorf("as %s: %v %v", kind, st, err)
		}
	}
	c.Run("load", "-i", at("docker"))
	says("built", "as:docker", "cat", "/b")

	// From what another build left, after all else is gone.
	c.Run("build", "--cache-to", "type=local,mode=max,dest="+at("cache"), dir)
	c.Run("builder", "prune", "-af")
	if r := c.Try("build", "--cache-from", "type=local,src="+at("cache"), dir); strings.Count(r.Stderr, " CACHED") < 2 {
		t.Errorf("with a cache from elsewhere: %s", r.Stderr)
	}
	// An image from a directory.
	if err := os.MkdirAll(at("layout"), 0o755); err != nil {
		t.Fatal(err)
	}
	c.Run("build", "-o", "type=oci,tar=false,dest="+at("layout"), dir)
	based := writeContext(t, map[string]string{"Dockerfile": "FROM base\nRUN echo five >> /b\n"})
	c.Run("build", "-t", "five", "--build-context", "base=oci-layout://"+at("layout"), based)
	says("built\nfive", "five", "cat", "/b")

	if out := c.Run("build", "--check", dir); !strings.Contains(out, "no warnings found") {
		t.Errorf("check says: %s", out)
	}
	if r := c.Try("build", "--check", writeContext(t, map[string]string{"Dockerfile": "from busybox\nRUN true\n"})); r.Code != 1 || !strings.Contains(r.Stdout, "1 warning") || !strings.Contains(r.Stdout, "   1 | >>> from busybox") {
		t.Errorf("check of a Dockerfile with a warning: %+v", r)
	}
	c.Fails(1, []string{"not NAME=PATH"}, "build", "--build-context", "x", dir)
	c.Fails(1, []string{"is not known"}, "build", "--call", "x", dir)
	c.Fails(1, []string{"not found"}, "build", filepath.Join(dir, "nowhere"))
	c.Run("rmi", "five", "four", "three", "two", "one", "as:docker")
}

// TestSquash: one layer above the base image's, with the same files.
func TestSquash(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	c := e.Hull()
	dir := writeContext(t, map[string]string{"Dockerfile": "FROM busybox AS plain\nENV A=b\nRUN echo a > /a && echo gone > /gone\nRUN rm -r /gone /home && echo b > /b\nRUN echo more >> /a\nFROM scratch AS bare\nCOPY --from=plain /a /a\nCOPY --from=plain /b /b\n"})
	const show = "cat /a /b; ls -d /gone /home 2>&1 | grep -c 'No such'; echo $A"
	layers := func(image string) string { return c.Run("inspect", "-f", "{{len .RootFS.Layers}}", image) }
	c.Run("build", "-t", "plain", "--target", "plain", dir)
	c.Run("build", "-t", "squashed", "--target", "plain", "--squash", dir)
	plain, squashed := c.Run("run", "--rm", "plain", "sh", "-c", show), c.Run("run", "--rm", "squashed", "sh", "-c", show)
	if plain != "a\nmore\nb\n2\nb" || squashed != plain {
		t.Errorf("with layers: %s\nsquashed: %s", plain, squashed)
	}
	if base, got := layers("busybox"), layers("squashed"); base != "1" || got != "2" || layers("plain") != "4" {
		t.Errorf("%s layers above %s", got, base)
	}
	if got := c.Run("history", "--format", "{{.CreatedBy}}", "squashed"); !strings.Contains(got, "echo more") || !strings.HasPrefix(got, "the layers of") {
		t.Errorf("its history: %s", got)
	}
	// It is an image like others: it is saved, and built on, when the rest is gone.
	c.Run("rmi", "plain")
	c.Run("builder", "prune", "-af")
	file := filepath.Join(t.TempDir(), "saved.tar")
	c.Run("save", "-o", file, "squashed")
	c.Run("rmi", "squashed")
	c.Run("load", "-i", file)
	c.Run("build", "-q", "-t", "on", writeContext(t, map[string]string{"Dockerfile": "FROM squashed\nRUN cat /a > /c\n"}))
	if got := c.Run("run", "--rm", "on", "cat", "/c"); got != "a\nmore" {
		t.Errorf("built on it: %s", got)
	}
	// Without a base image.
	c.Run("build", "-t", "bare", "--squash", dir)
	if got := layers("bare"); got != "1" {
		t.Errorf("from scratch there are %s layers", got)
	}
	c.Run("rmi", "on", "squashed", "bare")
}

// TestUnchangedContext: what is known of a context is used as long as it is as it was,
// by its files' attributes, and not longer.
func TestUnchangedContext(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	c := e.Hull()
	dir := writeContext(t, map[string]string{"Dockerfile": "FROM busybox\nCOPY . /src\nRUN cat /src/d/f > /f\n", "d/f": "one", "d/other": "x", ".dockerignore": "ignored\n"})
	build := func(want string) {
		t.Helper()
		c.Run("build", "-q", "-t", "known", dir)
		if got := c.Run("run", "--rm", "known", "cat", "/f"); got != want {
			t.Errorf("built with %q, not %q", got, want)
		}
		r := c.Try("build", "--progress=plain", dir)
		if r.Code != 0 || strings.Contains(r.Stderr, "transferring context") {
			t.Errorf("an unchanged context was compared again: %s", r.Stderr)
		}
	}
	file := filepath.Join(dir, "d/f")
	build("one")
	// Of the same size, at another time.
	if err := os.WriteFile(file, []byte("two"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(file, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	build("two")
	if err := os.Remove(filepath.Join(dir, "d/other")); err != nil {
		t.Fatal(err)
	}
	build("two")
	if got := c.Run("run", "--rm", "known", "ls", "/src/d"); got != "f" {
		t.Errorf("a file that is gone is in it: %s", got)
	}
	// What is not sent is not looked at.
	if err := os.WriteFile(filepath.Join(dir, "ignored"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	build("two")
	// Another directory of the same name is another one.
	other := filepath.Join(t.TempDir(), filepath.Base(dir))
	if err := os.Rename(dir, other); err != nil {
		t.Fatal(err)
	}
	dir = other
	build("two")
	// With dates that are all one, contents count.
	c.Env = append(c.Env, "SOURCE_DATE_EPOCH=1700000000")
	for _, text := range []string{"six", "ten"} {
		if err := os.WriteFile(filepath.Join(dir, "d/f"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		c.Run("build", "-q", "--reproducible", "-t", "known", dir)
		if got := c.Run("run", "--rm", "known", "cat", "/f"); got != text {
			t.Errorf("built with %q, not %q", got, text)
		}
	}
	e.KillDaemon()
	e.StartDaemon()
	c.Run("build", "-q", "--reproducible", "-t", "known", dir)
	if got := c.Run("run", "--rm", "known", "cat", "/f"); got != "ten" {
		t.Errorf("after a restart it was built with %q", got)
	}
	c.Run("rmi", "known")
}
