package e2e

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hull/test/harness"
)

// TestCacheMounts: a cache mount goes from one engine to another, as between runs of
// a CI system, and nothing that is in the archive gets out of it.
func TestCacheMounts(t *testing.T) {
	t.Parallel()
	one, two := harness.Start(t, []string{"busybox"}), harness.Start(t, []string{"busybox"})
	c, far := one.Hull(), two.Hull()
	fill := writeContext(t, map[string]string{"Dockerfile": "FROM busybox\nRUN --mount=type=cache,id=pkg,target=/c mkdir /c/d && echo kept > /c/d/f && chown 7:8 /c/d/f && ln -s d/f /c/link\nRUN --mount=type=cache,target=/named/by/target touch /named/by/target/x\n"})
	use := writeContext(t, map[string]string{"Dockerfile": "FROM busybox\nRUN --mount=type=cache,id=pkg,target=/elsewhere cat /elsewhere/link > /got && stat -c '%u %g' /elsewhere/d/f >> /got && echo more > /elsewhere/more\n"})
	if got := c.Run("builder", "cache", "ls", "-q"); got != "" {
		t.Errorf("before the first build there is %q", got)
	}
	c.Fails(1, []string{"no cache mount pkg"}, "builder", "cache", "export", "pkg")
	c.Run("build", fill)
	if got := c.Run("builder", "cache", "ls", "-q"); got != "/named/by/target\npkg" {
		t.Errorf("there are %q", got)
	}
	if got := c.Run("builder", "cache", "ls"); !strings.Contains(got, "cached mount /c from ") {
		t.Errorf("the list: %s", got)
	}
	file := filepath.Join(t.TempDir(), "pkg.tar")
	c.Run("builder", "cache", "export", "-o", file, "pkg")
	far.Run("builder", "cache", "import", "pkg", file)
	far.Run("build", "-t", "used", use)
	if got := far.Run("run", "--rm", "used", "cat", "/got"); got != "kept\n7 8" {
		t.Errorf("there it says %q", got)
	}
	// Once more, over what is there: what was not in the archive is gone.
	far.Run("builder", "cache", "import", "pkg", file)
	if got := far.Run("builder", "cache", "ls", "-q"); got != "pkg" {
		t.Errorf("a second import: %q", got)
	}
	far.Run("build", writeContext(t, map[string]string{"Dockerfile": "FROM busybox\nRUN --mount=type=cache,id=pkg,target=/c test -e /c/d/f && ! test -e /c/more\n"}))
	two.KillDaemon()
	two.StartDaemon()
	if got := far.Run("builder", "cache", "ls", "-q"); got != "pkg" {
		t.Errorf("after a restart: %q", got)
	}

	// Archives that want out.
	outside := filepath.Join(t.TempDir(), "outside")
	for name, entries := range map[string][]tar.Header{
		"a name":      {{Name: "../../../../../../../.." + outside, Typeflag: tar.TypeReg}},
		"a link":      {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: filepath.Dir(outside)}, {Name: "l/outside", Typeflag: tar.TypeReg}},
		"a hard link": {{Name: "h", Typeflag: tar.TypeLink, Linkname: "/etc/hostname"}},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range entries {
			h.Mode = 0o644
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		r := far.TryStdin(b.String(), "builder", "cache", "import", "evil", "-")
		if _, err := os.Lstat(outside); err == nil {
			t.Fatalf("%s: a file was made outside: %+v", name, r)
		}
		if r.Code == 0 && name != "a link" {
			t.Errorf("%s was taken", name)
		}
	}
	if r := far.TryStdin("no tar at all", "builder", "cache", "import", "none", "-"); r.Code != 1 {
		t.Errorf("what is no archive: %+v", r)
	}
	if got := far.Run("builder", "cache", "ls", "-q"); strings.Contains(got, "none") {
		t.Errorf("of an archive that failed something is left: %s", got)
	}
	far.Run("rmi", "used")
}
