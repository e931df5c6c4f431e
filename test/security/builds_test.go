package security

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	bk "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/moby/client"
)

// buildIn builds a Dockerfile in a context of files, with the attacking program
// beside them. CANARY is the host's directory.
func (f *field) buildIn(t *testing.T, dockerfile string, prepare func(dir string)) (string, int) {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "Dockerfile"), strings.ReplaceAll(dockerfile, "CANARY", f.canary))
	if strings.Contains(dockerfile, "COPY attack") {
		attack, err := os.ReadFile(f.attack)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "attack"), attack, 0o755); err != nil { //nolint:gosec // it is to be run
			t.Fatal(err)
		}
	}
	if prepare != nil {
		prepare(dir)
	}
	r := f.e.Docker().For(t).Try("build", "--no-cache", "-t", "hostile", dir)
	return r.Stdout + r.Stderr, r.Code
}

// What a Dockerfile, its steps and its context may try against the host.
func TestHostileBuilds(t *testing.T) {
	t.Parallel()
	f := newField(t)
	t.Run("Links", f.buildLinks)
	t.Run("CacheMounts", f.cacheMounts)
	t.Run("MountPoints", f.mountPoints)
	t.Run("Context", f.buildContext)
	t.Run("Entitlements", f.entitlements)
	t.Run("Steps", f.buildSteps)
	_ = f.hull.For(t).Try("rmi", "-f", "hostile")
}

// COPY and ADD out of and into trees with links that would lead to the host.
func (f *field) buildLinks(t *testing.T) {
	for name, dockerfile := range map[string]string{
		"from a stage":         "FROM busybox AS one\nRUN ln -s CANARY /l\nFROM busybox\nCOPY --from=one /l/secret /got\n",
		"a link's end":         "FROM busybox AS one\nRUN ln -s CANARY/secret /l\nFROM busybox\nCOPY --from=one /l /got\n",
		"climbing from":        "FROM busybox\nCOPY --from=busybox ../../../../../../../../..CANARY/secret /got\n",
		"from the context":     "FROM busybox\nCOPY link/secret /got\n",
		"climbing the context": "FROM busybox\nCOPY ../../../../../../../../..CANARY/secret /got\n",
	} {
		out, code := f.buildIn(t, dockerfile+"RUN cat /got\n", func(dir string) {
			if err := os.Symlink(f.canary, filepath.Join(dir, "link")); err != nil {
				t.Fatal(err)
			}
		})
		if strings.Contains(out, secret) || code == 0 {
			t.Errorf("%s: code %d: %s", name, code, out)
		}
	}
	// Writing through a link lands in the image, which then has the host's path, too.
	out, code := f.buildIn(t, "FROM busybox\nRUN mkdir -p CANARY && ln -s CANARY /l && ln -s ../../../../../../..CANARY /up\nCOPY planted /l/\nADD planted /up/second\nWORKDIR /l/deeper\nRUN ls CANARY\n", func(dir string) {
		write(t, filepath.Join(dir, "planted"), "x")
	})
	if code != 0 || !strings.Contains(out, "planted") || !strings.Contains(out, "second") {
		t.Errorf("writing through links: code %d: %s", code, out)
	}
}

// CVE-2024-23651: the source of a cache mount is, or is being swapped for, a link to
// the host.
func (f *field) cacheMounts(t *testing.T) {
	fill := "RUN --mount=type=cache,id=race,target=/c rm -rf /c/* && mkdir -p /c/real CANARY && echo inside > /c/real/secret && ln -s CANARY /c/link && ln -s CANARY /c/still && ln -s ../../../../../../../../../..CANARY /c/up\n"
	for _, source := range []string{"still", "up", "../../../../../../../..CANARY", "still/secret"} {
		out, _ := f.buildIn(t, "FROM busybox\n"+fill+"RUN --mount=type=cache,id=race,source="+source+",target=/m cat /m/secret /m; echo planted > /m/planted\n", nil)
		if strings.Contains(out, secret) {
			t.Errorf("source %s shows the host's file: %s", source, out)
		}
	}
	var steps strings.Builder
	for i := range 8 {
		fmt.Fprintf(&steps, "RUN --mount=type=cache,id=race,source=real,target=/m cat /m/secret && echo ran-%d; echo planted > /m/planted; true\n", i)
	}
	// The swapper and the steps run at the same time, as two stages.
	out, code := f.buildIn(t, "FROM busybox AS base\n"+fill+
		"FROM base AS swapper\nCOPY attack /attack\nRUN --mount=type=cache,id=race,target=/c "+attackEnv+"=swap timeout 6 /attack /c/real /c/link || true\n"+
		"FROM base AS reader\n"+steps.String()+"FROM busybox\nCOPY --from=reader /etc/passwd /a\nCOPY --from=swapper /etc/passwd /b\n", nil)
	if strings.Contains(out, secret) {
		t.Errorf("a cache mount shows the host's file: %s", out)
	}
	if !strings.Contains(out, "swapping <nil>") || !strings.Contains(out, "inside") && !strings.Contains(out, "not found") {
		t.Errorf("nothing was tried (code %d): %s", code, out)
	}
}

// CVE-2024-23652: a step makes a link of a directory above its mount point, which
// whoever removes the mount point by path afterwards would follow.
func (f *field) mountPoints(t *testing.T) {
	victim := filepath.Join(f.canary, "victim")
	if err := os.Mkdir(victim, 0o755); err != nil {
		t.Fatal(err)
	}
	// The directory above is in a layer below the step's own, from which a rename
	// is refused; what the step can do is empty it and try each way.
	out, code := f.buildIn(t, "FROM busybox\nRUN --mount=type=tmpfs,target=/m/victim mv /m /moved; umount /m/victim; rm -rf /m; ln -s CANARY /m; echo tried; true\n"+
		"RUN --mount=type=cache,target=/n/victim,id=n mv /n /away; rm -rf /n; ln -s CANARY /n; echo tried; true\n", nil)
	if code != 0 || strings.Count(out, "\ntried") != 2 {
		t.Errorf("nothing was tried (code %d): %s", code, out)
	}
	if err := os.Remove(victim); err != nil {
		t.Errorf("a directory of the host was removed by a build: %v", err)
	}
}

// A context whose archive climbs.
func (f *field) buildContext(t *testing.T) {
	up := "../../../../../../../../../.." + f.canary
	for name, entries := range map[string][]entry{
		"climbing":       {{name: up + "/planted", body: "x"}},
		"absolute":       {{name: f.canary + "/planted", body: "x"}},
		"through a link": {{name: "l", link: f.canary}, {name: "l/planted", body: "x"}},
		"hard link":      {{name: "h", hard: f.canary + "/secret"}, {name: "h", body: "overwritten"}},
		"dockerfile":     {{name: "Dockerfile", link: f.canary + "/secret"}},
	} {
		if name != "dockerfile" {
			entries = append(entries, entry{name: "Dockerfile", body: "FROM busybox\nCOPY . /all\nRUN cat /all/l/secret /all/h\n"})
		}
		body, err := os.ReadFile(f.archive(t, entries))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := f.e.API(http.MethodPost, "/build?t=hostile", bytes.NewReader(body))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var answer bytes.Buffer
		_, err = answer.ReadFrom(resp.Body)
		resp.Body.Close()
		if err != nil || strings.Contains(answer.String(), secret) {
			t.Errorf("%s: %v: %s", name, err, &answer)
		}
		if got := f.inCanary(t); !slices.Equal(got, []string{"secret"}) {
			t.Fatalf("%s: the host's directory has changed: %q", name, got)
		}
	}
}

// CVE-2024-23653: a frontend starts a container with all rights, though the build
// was not allowed to. The control is the same with the permission.
func (f *field) entitlements(t *testing.T) {
	engine, err := client.New(client.WithHost(f.e.Host))
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	c, err := bk.New(t.Context(), "", bk.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		return engine.DialHijack(ctx, "/grpc", "h2c", nil)
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	start := func(allowed ...string) error {
		_, err := c.Build(t.Context(), bk.SolveOpt{AllowedEntitlements: allowed}, "", func(ctx context.Context, g gateway.Client) (*gateway.Result, error) {
			def, err := llb.Image("docker.io/library/busybox:latest", llb.ResolveModePreferLocal).Marshal(ctx)
			if err != nil {
				return nil, err
			}
			res, err := g.Solve(ctx, gateway.SolveRequest{Definition: def.ToPB()})
			if err != nil {
				return nil, err
			}
			ctr, err := g.NewContainer(ctx, gateway.NewContainerRequest{Mounts: []gateway.Mount{{Dest: "/", MountType: pb.MountType_BIND, Ref: res.Ref}}})
			if err != nil {
				return nil, err
			}
			defer ctr.Release(ctx) //nolint:errcheck // it ends with the build
			p, err := ctr.Start(ctx, gateway.StartRequest{Args: []string{"/bin/true"}, Cwd: "/", SecurityMode: pb.SecurityMode_INSECURE})
			if err != nil {
				return nil, err
			}
			return res, p.Wait()
		}, nil)
		return err
	}
	if err := start(); err == nil || !strings.Contains(err.Error(), "security.insecure is not allowed") {
		t.Errorf("a container with all rights, unasked: %v", err)
	}
	if err := start("security.insecure"); err != nil {
		t.Errorf("with the permission it does not run either: %v", err)
	}
}

// CVE-2024-21626 and the rights of a step: it is isolated as a container is.
func (f *field) buildSteps(t *testing.T) {
	for _, dir := range []string{"/proc/self/fd/7", "/proc/self/fd/8", "/proc/self/fd/9/../../.."} {
		out, _ := f.buildIn(t, "FROM busybox\nWORKDIR "+dir+"\nRUN cat ../../../../../../../..CANARY/secret\n", nil)
		if strings.Contains(out, secret) {
			t.Errorf("working directory %s shows the host: %s", dir, out)
		}
	}
	out, code := f.buildIn(t, "FROM busybox\nCOPY attack /attack\nRUN "+attackEnv+"=descriptors /attack\n"+
		"RUN if [ -e CANARY ]; then exit 9; fi; awk '$3 == 4294967295 {exit 8}' /proc/self/uid_map; mknod /n b 8 0 && exit 7; grep -q 'Seccomp:.*2' /proc/self/status || exit 6\n", nil)
	if code != 0 || !strings.Contains(out, "descriptors: 0 1 2\n") {
		t.Errorf("a step is not isolated (code %d): %s", code, out)
	}
}
