package e2e

import (
	"strings"
	"testing"

	"hull/internal/require"
	"hull/test/harness"
)

// TestBuildIsolation: steps of a build run behind the boundary that is asked for, by
// each client, and what they leave is the same image.
func TestBuildIsolation(t *testing.T) {
	t.Parallel()
	require.Runsc(t)
	e := harness.Start(t, []string{"busybox"})
	c := e.Hull()
	c.Env = []string{"SOURCE_DATE_EPOCH=1700000000"}
	secret := e.WriteFile("secret", "hidden\n")
	dir := writeContext(t, map[string]string{"f": "file\n", "Dockerfile": `FROM busybox AS base
RUN echo one > /one && mkdir /d && ln /one /d/hard && ln -s /one /d/soft && rm /etc/group && chown 1000:1000 /d && chmod 4755 /one && echo t > /tmp/t
FROM base AS other
RUN echo other > /o
FROM base
RUN --mount=type=cache,target=/cache --mount=type=secret,id=s --mount=type=tmpfs,target=/t --mount=source=f,target=/f --mount=from=other,target=/other,rw \
  cat /run/secrets/s /f /other/o > /got && touch /cache/x /t/x /other/x && rm /tmp/t
USER 1000
WORKDIR /home/x
RUN id -u > me
`})
	ids := map[string]string{}
	for _, isolation := range []string{"container", "sandbox"} {
		ids[isolation] = c.Run("build", "-q", "--reproducible", "--isolation", isolation, "--secret", "id=s,src="+secret, dir)
	}
	if ids["container"] != ids["sandbox"] || !strings.HasPrefix(ids["sandbox"], "sha256:") {
		t.Errorf("not the same image: %v", ids)
	}
	if got := c.Run("run", "--rm", ids["sandbox"], "cat", "/got", "me", "/d/soft"); got != "hidden\nfile\nother\n1000\none" {
		t.Errorf("the image has %q", got)
	}

	asks := writeContext(t, map[string]string{"Dockerfile": "FROM busybox\nRUN dmesg | grep -q gVisor && echo in a sandbox\n"})
	for _, one := range []struct {
		by   *harness.Client
		args []string
	}{
		{c, []string{"build", "--isolation", "sandbox", asks}},
		{e.Docker(), []string{"build", "--isolation", "sandbox", asks}},
		{e.Buildx(), []string{"buildx", "build", "--no-cache", "--build-arg", "HULL_ISOLATION=sandbox", asks}},
	} {
		if r := one.by.Try(one.args...); r.Code != 0 || !strings.Contains(r.Stdout+r.Stderr, "in a sandbox") {
			t.Errorf("%v: %s%s", one.args, r.Stdout, r.Stderr)
		}
	}
	// What ran otherwise is not taken for it.
	if r := c.Try("build", "--isolation", "container", asks); r.Code == 0 {
		t.Errorf("a step that cannot work in a container was taken from the cache: %s", r.Stderr)
	}

	c.Fails(1, []string{`invalid isolation "jail"`}, "build", "--isolation", "jail", asks)
	ssh := writeContext(t, map[string]string{"Dockerfile": "FROM busybox\nRUN --mount=type=ssh true\n"})
	key := sshKey(t)
	c.Fails(1, []string{"a socket of the host cannot be used in isolation sandbox"}, "build", "--isolation", "sandbox", "--ssh", "default="+key, ssh)
	c.Run("build", "--isolation", "container", "--ssh", "default="+key, ssh)
}
