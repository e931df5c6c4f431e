package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hull/test/harness"
)

const reproducible = `FROM busybox AS one
RUN mkdir -p /out && date +%N > /out/gone && rm /out/gone && echo made > /out/a
FROM busybox
COPY --from=one /out /out
COPY src /src
RUN touch /src/new && ln -s /src/new /link && adduser -D me
WORKDIR /work
CMD ["cat", "/src/x"]
`

// TestReproducible: two state directories, two checkouts with other dates and
// another umask, one digest.
func TestReproducible(t *testing.T) {
	t.Parallel()
	one, two := harness.Start(t, []string{"busybox"}), harness.Start(t, []string{"busybox"})
	files := map[string]string{"Dockerfile": reproducible, "src/x": "x\n", "src/run.sh": "#!/bin/sh\n"}
	a, b := writeContext(t, files), writeContext(t, files)
	old := time.Date(2001, 2, 3, 4, 5, 6, 7, time.UTC)
	for path, mode := range map[string]os.FileMode{"src/x": 0o600, "src": 0o775, "Dockerfile": 0o664} {
		if err := os.Chmod(filepath.Join(b, path), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(filepath.Join(b, path), old, old); err != nil {
			t.Fatal(err)
		}
	}
	x, y := one.Hull(), two.Hull()
	digest := []string{"inspect", "-f", "{{.Id}} {{.Descriptor.digest}} {{.Created}}", "rep"}
	x.Env, y.Env = []string{"SOURCE_DATE_EPOCH=1700000000"}, []string{"SOURCE_DATE_EPOCH=1700000000"}
	x.Run("build", "--reproducible", "-t", "rep", a)
	y.Run("build", "--reproducible", "-t", "rep", b)
	first, second := x.Run(digest...), y.Run(digest...)
	if first != second || !strings.Contains(first, "2023-11-14T22:13:20Z") {
		t.Errorf("two builds gave\n%s\n%s", first, second)
	}
	// docker's own client gets it, too.
	two.Docker().Run("build", "--no-cache", "--build-arg", "SOURCE_DATE_EPOCH=1700000000", "-t", "rep", b)
	if third := y.Run(digest...); third != first {
		t.Errorf("docker build gave\n%s\nhull build\n%s", third, first)
	}
	if got := y.Run("run", "--rm", "rep"); got != "x" {
		t.Errorf("it says %q", got)
	}
	if out := x.Run("build", "--verify", "rep", a); !strings.Contains(out, "rep is reproduced") {
		t.Errorf("verify says: %s", out)
	}
	if err := os.WriteFile(filepath.Join(a, "src/x"), []byte("changed\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	x.Fails(1, []string{"not what the sources give now: layer 3: src/x: size is 2 and 8"}, "build", "--verify", "rep", a)

	// The date is the commit's; without one it has to be given.
	x.Env = []string{"SOURCE_DATE_EPOCH="}
	x.Fails(1, []string{"is no git checkout"}, "build", "--reproducible", a)
	x.Run("rmi", "rep")
	y.Run("rmi", "rep")
}

func TestLockFile(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	c := e.Hull()
	dir := writeContext(t, map[string]string{"Dockerfile": "FROM busybox\nCOPY x /x\n", "x": "x"})
	c.Fails(1, []string{"hull lock update makes it"}, "build", "--locked", dir)
	c.Run("lock", "update", dir)
	lock, err := os.ReadFile(filepath.Join(dir, "hull.lock"))
	if err != nil || !strings.Contains(string(lock), "pkg:docker/busybox@latest") || !strings.Contains(string(lock), "sha256:") {
		t.Fatalf("the lock file: %v\n%s", err, lock)
	}
	c.Run("build", "--locked", "-t", "locked", dir)
	if got := c.Run("run", "--rm", "locked", "cat", "/x"); got != "x" {
		t.Errorf("built with a lock it says %q", got)
	}
	if out := c.Run("lock", "update", dir); !strings.Contains(out, "is up to date") {
		t.Errorf("a second update says: %s", out)
	}
	// The base image becomes another one.
	c.Run("run", "--name", "work", "busybox", "touch", "/changed")
	c.Run("tag", "busybox", "kept")
	c.Run("commit", "work", "busybox")
	c.Run("rm", "work")
	c.Fails(1, []string{"has drifted", "pkg:docker/busybox@latest", " was sha256:", "hull lock update"}, "build", "--locked", "-t", "drifted", dir)
	if r := c.Try("inspect", "drifted"); r.Code == 0 {
		t.Error("a build that has drifted made an image")
	}
	c.Run("lock", "update", dir)
	c.Run("build", "--locked", "-t", "drifted", dir)
	c.Run("tag", "kept", "busybox")
	c.Run("rmi", "drifted", "locked", "kept")
}
