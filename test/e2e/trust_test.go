package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hull/test/harness"
)

// TestTrust: a team's rule says that its images are signed. What is not is neither
// pulled, nor built on, nor run; and what is signed by the command line is.
func TestTrust(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	policy := filepath.Join(dir, "trust.toml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(policy, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("default = \"accept\"\n")
	e := harness.Start(t, []string{"busybox"}, harness.Args("--trust-policy", policy))
	c := e.Hull()
	c.Env = append(c.Env, "HULL_KEY_PASSWORD=secret")
	c.Run("trust", "key", "generate", "--dir", dir, "team")
	c.Run("trust", "key", "generate", "--dir", dir, "--notation", "legal")
	c.Fails(1, []string{"is there already"}, "trust", "key", "generate", "--dir", dir, "team")

	host := e.Registry("", nil)
	app, doc := host+"/team/app:1", host+"/legal/doc:1"
	for _, ref := range []string{app, doc} {
		c.Run("tag", "busybox", ref)
		c.Run("push", ref)
	}
	write(fmt.Sprintf(`default = "accept"
[[rule]]
match = "%[1]s/team"
require = "cosign"
keys = ["team.pub"]
[[rule]]
match = "%[1]s/legal"
require = "notation"
certificates = ["legal.crt"]
`, host))
	context := writeContext(t, map[string]string{"Dockerfile": "FROM " + app + "\nRUN echo built > /built\n"})
	refused := []string{"refused by the trust policy " + policy, host + "/team", "team.pub"}
	c.Fails(125, refused, "run", "--rm", app, "true")
	c.Fails(1, refused, "build", "-t", "derived", context)
	c.Fails(1, refused, "image", "verify", app)
	c.Run("rmi", app, doc)
	c.Fails(1, refused, "pull", app)
	c.Fails(125, refused, "run", "--rm", app, "true")
	c.Fails(1, refused, "build", "-t", "derived", context)
	c.Fails(1, []string{host + "/legal", "legal.crt"}, "pull", doc)
	if out := c.Run("images", "-q", host+"/team/app"); out != "" {
		t.Errorf("something of a refused image is here: %s", out)
	}

	wrong := c.Try("image", "sign", "--push", "--key", filepath.Join(dir, "nothing.key"), app)
	if wrong.Code == 0 {
		t.Errorf("signed without a key: %+v", wrong)
	}
	c.Run("image", "sign", "--push", "--key", filepath.Join(dir, "team.key"), app)
	c.Run("image", "sign", "--push", "--key", filepath.Join(dir, "legal.key"), "--certificate", filepath.Join(dir, "legal.crt"), "--envelope", "cose", "--expires", "24h", doc)
	c.Run("build", "-t", "derived", context) // from the registry
	c.Run("pull", app)
	c.Run("pull", doc)
	for _, ref := range []string{app, doc, "derived"} {
		if got := c.Run("run", "--rm", ref, "echo", "hello"); got != "hello" {
			t.Errorf("%s says %q", ref, got)
		}
	}
	c.Run("build", "--no-cache", "-t", "derived", context) // from what is here
	if out := c.Run("image", "verify", app); !strings.Contains(out, "is accepted") {
		t.Errorf("verify: %s", out)
	}
	if out := c.Run("image", "verify", "--registry", "--key", filepath.Join(dir, "team.pub"), app); !strings.Contains(out, "signed by") {
		t.Errorf("verify: %s", out)
	}
	if out := c.Run("image", "verify", "--certificate", filepath.Join(dir, "legal.crt"), doc); !strings.Contains(out, "CN=legal") {
		t.Errorf("verify: %s", out)
	}
	c.Fails(1, []string{"not verified"}, "image", "verify", "--key", filepath.Join(dir, "team.pub"), doc)

	// Content that is trusted under one name is refused under a name whose rule says no.
	c.Run("tag", app, host+"/team/else:1")
	c.Run("tag", "busybox", "rejected.example/box:1")
	write(fmt.Sprintf("default = \"accept\"\n[[rule]]\nmatch = \"rejected.example\"\nrequire = \"reject\"\n[[rule]]\nmatch = \"%s/team\"\nrequire = \"cosign\"\nkeys = [\"team.pub\"]\n", host))
	for _, ref := range []string{"rejected.example/box:1", host + "/team/else:1"} {
		c.Fails(1, []string{"refused by the trust policy"}, "build", "-t", "derived", writeContext(t, map[string]string{"Dockerfile": "FROM " + ref + "\n"}))
		c.Fails(125, []string{"refused by the trust policy"}, "run", "--rm", ref, "true")
	}
	c.Run("rmi", "rejected.example/box:1", host+"/team/else:1")

	// A broken policy accepts nothing, and containers that are there can be handled.
	id := c.Run("create", app, "true")
	write("default = \"accept\"\n[[rule\n")
	c.Fails(125, []string{policy, "line 2", "no image is"}, "run", "--rm", "busybox", "true")
	c.Run("rm", id)
	write("default = \"accept\"\n")
	c.Run("rmi", "-f", app, doc, "derived")
}

// TestTrustedCache: a registry's build cache falls under the policy, and a build whose
// cache is refused does the work itself.
func TestTrustedCache(t *testing.T) {
	t.Parallel()
	policy := filepath.Join(t.TempDir(), "trust.toml")
	if err := os.WriteFile(policy, []byte("default = \"accept\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	e := harness.Start(t, []string{"busybox"}, harness.Args("--trust-policy", policy))
	c, host := e.Hull(), e.Registry("", nil)
	cache := "type=registry,ref=" + host + "/team/cache:1"
	dir := writeContext(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo made > /made\n"})
	c.Run("build", "--cache-to", cache+",mode=max", dir)
	for _, x := range []struct {
		require, want string
		cached        int
	}{{"accept", "importing cache manifest", 1}, {"reject", "refused by the trust policy", 0}} {
		rule := fmt.Sprintf("default = \"accept\"\n[[rule]]\nmatch = \"%s/team\"\nrequire = %q\n", host, x.require)
		if err := os.WriteFile(policy, []byte(rule), 0o600); err != nil {
			t.Fatal(err)
		}
		c.Run("builder", "prune", "-af")
		r := c.Try("build", "--cache-from", cache, dir)
		if n := strings.Count(r.Stderr, " CACHED"); r.Code != 0 || n != x.cached || !strings.Contains(r.Stderr, x.want) {
			t.Errorf("%s: code %d, %d from the cache, not %d, or without %q: %s", x.require, r.Code, n, x.cached, x.want, r.Stderr)
		}
	}
}
