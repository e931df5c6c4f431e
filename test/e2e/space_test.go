package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"hull/test/harness"
)

// onDisk is what images and build cache take, as du sees it.
func onDisk(t *testing.T, e *harness.Engine) int64 {
	t.Helper()
	var sum int64
	for _, d := range []string{"content/blobs", "layers", "snapshots"} {
		out, err := exec.Command("du", "-s", "-B1", filepath.Join(e.Root, "images", d)).Output() // #nosec: a test
		if err != nil {
			t.Fatalf("du %s: %v", d, err)
		}
		n, err := strconv.ParseInt(strings.Fields(string(out))[0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	return sum
}

// TestSpaceCap: builds past the cap on images and build cache: it holds, the
// oldest goes, and what a container uses stays.
func TestSpaceCap(t *testing.T) {
	t.Parallel()
	const limit = 60_000_000
	e := harness.Start(t, []string{"busybox"}, harness.Args("--max-storage", "60MB"))
	c := e.Hull()
	build := func(i int) string {
		name := fmt.Sprintf("filled:%d", i)
		dir := writeContext(t, map[string]string{"Dockerfile": fmt.Sprintf("FROM busybox\nRUN echo %d; dd if=/dev/urandom of=/data bs=1M count=8\n", i)})
		c.Run("build", "-q", "-t", name, dir)
		return name
	}
	used := build(0)
	c.Run("create", "--name", "keeps", used)
	for i := 1; i <= 8; i++ {
		build(i)
		e.Eventually("the cap holds", func() error {
			if n := onDisk(t, e); n > limit {
				return fmt.Errorf("%d bytes after build %d", n, i)
			}
			return nil
		})
	}
	names := c.Run("images", "--format", "{{.Repository}}:{{.Tag}}")
	for name, want := range map[string]bool{used: true, "filled:8": true, "filled:1": false} {
		if strings.Contains(names+"\n", name+"\n") != want {
			t.Errorf("image %s is kept: %v, want %v: %s", name, !want, want, names)
		}
	}
	if got := c.Run("run", "--rm", used, "ls", "/data"); got != "/data" {
		t.Errorf("the image in use says %q", got)
	}
	if out := c.Run("info"); !strings.Contains(out, "of 60MB") {
		t.Errorf("info does not tell the cap: %s", out)
	}
	c.Run("rm", "keeps")
}
