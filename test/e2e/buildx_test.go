package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hull/test/harness"
)

// features is what a Dockerfile can do, beyond what TestBuild has. HTTP and GIT are
// replaced.
const features = `# syntax-check stays with the embedded frontend
ARG BASE=busybox
FROM ${BASE} AS tools
RUN echo tool > /tool && echo other > /other

FROM parent AS made
ARG WHO=nobody NOT_GIVEN=default
ENV WHO=${WHO} PLUS=${WHO:+given} MINUS=${NONE:-none}
COPY <<one.txt <<two.txt /here/
first $WHO
one.txt
second
two.txt
RUN <<EOF sh -e
cd /here
cat one.txt two.txt > both.txt
EOF
COPY --link --from=tools --chmod=0751 --chown=7:8 /tool /linked/tool
COPY --parents tree/a/b/deep.txt tree/./c/flat.txt /parents/
COPY --exclude=**/*.log --exclude=**/b tree/ /excluded/
COPY --from=extra extra.txt /extra.txt
ADD packed.tar /unpacked/
ADD --checksum=SUM HTTP/file.txt /web.txt
ADD GIT#main:sub /git/
RUN --mount=type=secret,id=pass,required=true --mount=type=secret,id=env,env=FROM_ENV \
    test "$(cat /run/secrets/pass)" = "top secret" && test "$FROM_ENV" = "in the environment"
RUN --mount=type=ssh test -S "$SSH_AUTH_SOCK"
RUN --mount=type=bind,from=tools,source=/other,target=/bound --mount=type=tmpfs,target=/scratch \
    test "$(cat /bound)" = other && ! touch /bound && echo x > /scratch/x
RUN --network=none ! ip link show eth0
HEALTHCHECK --interval=3s --retries=2 CMD true
STOPSIGNAL SIGINT
SHELL ["/bin/sh", "-ec"]
USER 9
WORKDIR /there
LABEL from=file

FROM tools AS not-wanted
RUN exit 1
`

// featuresShow prints what features has made.
const featuresShow = `
cat /on-build /here/both.txt /linked/tool /extra.txt /web.txt /git/in-git /unpacked/packed.txt /unpacked/sub/packed.txt
stat -c '%a %u %g' /linked/tool
find /parents /excluded -type f | sort
echo "$WHO $PLUS $MINUS"
pwd; ls /run/secrets /scratch /bound 2>&1 | grep -c -i "no such"
`

const featuresWant = `came by onbuild
first me
second
tool
extra
from the web
from git
packed
packed
751 7 8
/excluded/a/top.txt
/excluded/c/flat.txt
/parents/c/flat.txt
/parents/tree/a/b/deep.txt
me given none
/there
3`

// TestBuildFeatures: each thing that a Dockerfile can do, through docker buildx and
// through hull build.
func TestBuildFeatures(t *testing.T) {
	t.Parallel()
	t.Run("buildx", func(t *testing.T) {
		t.Parallel()
		e := harness.Start(t, []string{"busybox"})
		buildFeatures(t, e, e.Buildx(), "buildx", "build")
	})
	t.Run("hull", func(t *testing.T) {
		t.Parallel()
		e := harness.Start(t, []string{"busybox"})
		buildFeatures(t, e, e.Hull(), "build")
	})
}

func buildFeatures(t *testing.T, e *harness.Engine, c *harness.Client, build ...string) {
	t.Helper()
	c.Env = append(c.Env, "PASS_ENV=in the environment")
	web, git, sum := sources(t, e)
	dir := writeContext(t, map[string]string{
		"Dockerfile":        strings.NewReplacer("HTTP", web, "GIT", git, "SUM", sum).Replace(features),
		"tree/a/b/deep.txt": "deep", "tree/a/top.txt": "top", "tree/c/flat.txt": "flat", "tree/c/x.log": "log",
		"unseen/big": "never sent", ".dockerignore": "unseen\n",
	})
	extra := writeContext(t, map[string]string{"extra.txt": "extra\n"})
	writeTar(t, filepath.Join(dir, "packed.tar"), "packed.txt", "sub/packed.txt")
	secret := e.WriteFile("secret", "top secret")
	key := sshKey(t)
	parent := writeContext(t, map[string]string{"Dockerfile": "FROM busybox\nONBUILD RUN echo came by onbuild > /on-build\n"})
	c.Run("build", "-t", "parent", parent)
	args := append(slices.Clone(build),
		"--target", "made", "--build-arg", "WHO=me", "--build-context", "extra="+extra,
		"--secret", "id=pass,src="+secret, "--secret", "id=env,env=PASS_ENV", "--ssh", "default="+key,
		"--label", "from=flag", "--annotation", "manifest:org.example=yes", "-t", "features")
	c.Run(append(args, dir)...)
	if got := c.Run("run", "--rm", "-u", "0", "features", "sh", "-c", featuresShow); got != featuresWant {
		t.Errorf("the image holds\n%s\nwant\n%s", got, featuresWant)
	}
	const config = "{{.Config.User}} {{.Config.WorkingDir}} {{.Config.StopSignal}} {{json .Config.Healthcheck.Test}} {{.Config.Healthcheck.Retries}} {{json .Config.Labels}}"
	if got := c.Run("inspect", "-f", config, "features"); got != `9 /there SIGINT ["CMD-SHELL","true"] 2 {"from":"flag"}` {
		t.Errorf("its configuration: %s", got)
	}
	// All of it is in the cache; a secret that is missing is an error all the same.
	if r := c.Try(append(args, "--progress=plain", dir)...); r.Code != 0 || strings.Count(r.Stderr, " CACHED") < 10 {
		t.Errorf("the second build did work again: %s", r.Stderr)
	}
	c.Fails(1, []string{"secret pass: not found"}, append(slices.Clone(build), "--no-cache", "--target", "made", "--build-context", "extra="+extra, "--ssh", "default="+key, dir)...)
	c.Fails(1, []string{"build context extra", "no such file"}, append(slices.Clone(build), "--target", "made", "--build-context", "extra="+filepath.Join(extra, "nowhere"), dir)...)
}

// sources serves a file and a git repository in the engine's network, and gives
// their URLs and the file's digest.
func sources(t *testing.T, e *harness.Engine) (web, git, sum string) {
	t.Helper()
	repo := filepath.Join(e.Dir("git"), "repo.git")
	work := writeContext(t, map[string]string{"sub/in-git": "from git\n"})
	for _, args := range [][]string{
		{"-C", work, "init", "-q", "-b", "main"}, {"-C", work, "add", "."},
		{"-C", work, "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-q", "-m", "one"},
		{"clone", "-q", "--bare", work, repo},
	} {
		if out, err := exec.Command("git", args...).CombinedOutput(); err != nil { // #nosec: a test
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
	}
	backend, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/file.txt", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "from the web") })
	mux.Handle("/repo.git/", &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(backend)), "git-http-backend"), Dir: filepath.Dir(repo),
		Env: []string{"GIT_PROJECT_ROOT=" + filepath.Dir(repo), "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"},
	})
	web = "http://" + e.Serve("127.0.0.1:0", mux)
	return web, web + "/repo.git", fmt.Sprintf("sha256:%x", sha256.Sum256([]byte("from the web\n")))
}

func writeTar(t *testing.T, path string, names ...string) {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, n := range names {
		if err := w.WriteHeader(&tar.Header{Name: n, Mode: 0o644, Size: 7, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("packed\n")); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestBuildx: what docker buildx has beside build.
func TestBuildx(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	c, registry := e.Buildx(), e.Registry("", nil)
	dir := writeContext(t, map[string]string{
		"Dockerfile":      "FROM busybox AS one\nRUN echo one > /one\nFROM busybox\nCOPY --from=one /one /\nCOPY f /\nARG N=0\nRUN echo $N > /n\n",
		"f":               "f\n",
		"warns":           "from busybox AS Stage\nRUN true\n",
		"docker-bake.hcl": "group \"default\" { targets = [\"a\", \"b\"] }\ntarget \"a\" {\n  args = { N = 1 }\n  tags = [\"baked:a\"]\n}\ntarget \"b\" {\n  inherits = [\"a\"]\n  args = { N = 2 }\n  tags = [\"baked:b\"]\n}\n",
	})
	c.Dir = dir

	if out := c.Run("buildx", "inspect"); !strings.Contains(out, "Status:           running") || !strings.Contains(out, "BuildKit version: v0.") {
		t.Errorf("buildx inspect: %s", out)
	}
	if out := c.Run("buildx", "build", "--check", "."); !strings.Contains(out, "no warnings found") {
		t.Errorf("check: %s", out)
	}
	c.Fails(1, nil, "buildx", "build", "--check", "-f", "warns", ".")

	c.Run("buildx", "bake")
	if got := c.Run("run", "--rm", "baked:a", "cat", "/n") + c.Run("run", "--rm", "baked:b", "cat", "/n"); got != "12" {
		t.Errorf("bake made %q", got)
	}
	e.Eventually("both images' making is told", func() error {
		if got := c.Run("events", "--since", "0", "--until", "0s", "--filter", "type=image", "--filter", "event=create", "--format", "{{.Action}}"); strings.Count(got, "create") != 2 {
			return fmt.Errorf("events: %s", got)
		}
		return nil
	})
	outputs(t, c, registry)
	caches(t, c, registry)

	if out := c.Run("buildx", "du", "--verbose"); !strings.Contains(out, "Total:") || !strings.Contains(out, "RUN") {
		t.Errorf("du: %s", out)
	}
	if out := c.Run("buildx", "history", "ls"); !strings.Contains(out, "Completed") {
		t.Errorf("history: %s", out)
	}
	c.Run("buildx", "prune", "-af")
	if out := c.Run("buildx", "du"); strings.Contains(out, "RECLAIMABLE") && strings.Contains(out, "true") {
		t.Errorf("after prune: %s", out)
	}
	if got := c.Run("run", "--rm", "baked:a", "cat", "/one"); got != "one" {
		t.Errorf("after prune the image says %q", got)
	}
}

// outputs: each place a result can go to.
func outputs(t *testing.T, c *harness.Client, registry string) {
	t.Helper()
	out := t.TempDir()
	at := func(name string) string { return filepath.Join(out, name) }
	c.Run("buildx", "build", "-o", "type=local,dest="+at("local"), ".")
	if b, err := os.ReadFile(at("local/one")); err != nil || string(b) != "one\n" {
		t.Errorf("output local: %q %v", b, err)
	}
	for kind, file := range map[string]string{"tar": "one", "oci": "oci-layout", "docker": "manifest.json"} {
		c.Run("buildx", "build", "-o", "type="+kind+",dest="+at(kind), ".")
		if list, err := exec.Command("tar", "-tf", at(kind)).CombinedOutput(); err != nil || !strings.Contains("\n"+string(list), "\n"+file+"\n") {
			t.Errorf("output %s: %v: %s", kind, err, list)
		}
	}
	// What the engine made can be loaded into an engine.
	c.Run("load", "-i", at("oci"))
	c.Run("buildx", "build", "-o", "type=image,name=by-image", ".")
	c.Run("run", "--rm", "by-image", "cat", "/one")
	c.Run("buildx", "build", "--push", "-t", registry+"/pushed:1", "--platform", "linux/amd64,linux/arm64", "--provenance=mode=max", ".")
	inspect := c.Run("buildx", "imagetools", "inspect", registry+"/pushed:1")
	for _, want := range []string{"linux/amd64", "linux/arm64", "attestation-manifest"} {
		if !strings.Contains(inspect, want) {
			t.Errorf("pushed to a registry: no %s: %s", want, inspect)
		}
	}
	c.Run("buildx", "imagetools", "create", "-t", registry+"/pushed:2", registry+"/pushed:1")
	if again := c.Run("buildx", "imagetools", "inspect", registry+"/pushed:2"); strings.Count(again, "attestation-manifest") != 2 {
		t.Errorf("imagetools create: %s", again)
	}
}

// caches: what one builder did, another one need not do.
func caches(t *testing.T, c *harness.Client, registry string) {
	t.Helper()
	dir := t.TempDir()
	ref := registry + "/cache"
	for _, x := range []struct{ to, from string }{
		{"type=local,mode=max,dest=" + dir, "type=local,src=" + dir},
		{"type=registry,mode=max,ref=" + ref + ":max", "type=registry,ref=" + ref + ":max"},
		{"type=inline", "type=registry,ref=" + ref + ":image"},
	} {
		c.Run("buildx", "build", "--push", "--cache-to", x.to, "-t", ref+":image", ".")
		c.Run("buildx", "prune", "-af")
		r := c.Try("buildx", "build", "--progress=plain", "--cache-from", x.from, ".")
		if r.Code != 0 || strings.Count(r.Stderr, " CACHED") < 3 {
			t.Errorf("cache from %s: code %d: %s", x.from, r.Code, r.Stderr)
		}
	}
}

// scanner is a stand-in for a program that lists what is in an image.
const scanner = `FROM busybox
COPY --chmod=755 <<'EOF' /scan
#!/bin/sh
n=$(find "$BUILDKIT_SCAN_SOURCE" -type f | wc -l)
cat > "$BUILDKIT_SCAN_DESTINATION/sbom.spdx.json" <<END
{"_type": "https://in-toto.io/Statement/v0.1", "predicateType": "https://spdx.dev/Document",
 "predicate": {"SPDXID": "SPDXRef-DOCUMENT", "spdxVersion": "SPDX-2.3", "comment": "$n files"}}
END
EOF
CMD ["/scan"]
`

// TestAttestations: they are kept, pushed, saved and loaded with their image.
func TestAttestations(t *testing.T) {
	t.Parallel()
	e, far := harness.Start(t, []string{"busybox"}), harness.Start(t, nil)
	c, registry := e.Buildx(), e.Registry("", nil)
	generator := registry + "/scanner:1"
	c.Run("build", "--provenance=false", "--push", "-t", generator, writeContext(t, map[string]string{"Dockerfile": scanner}))
	dir := writeContext(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo x > /x\n"})
	ref := registry + "/attested:1"
	c.Run("build", "--provenance=mode=max", "--sbom=generator="+generator, "-t", ref, dir)
	if got := c.Run("run", "--rm", ref, "cat", "/x"); got != "x" {
		t.Errorf("the image says %q", got)
	}
	c.Run("buildx", "prune", "-af") // the statements are the image's
	c.Run("push", ref)
	for format, want := range map[string]string{"{{json .Provenance}}": "echo x", "{{json .SBOM}}": " files"} {
		if got := c.Run("buildx", "imagetools", "inspect", ref, "--format", format); !strings.Contains(got, want) {
			t.Errorf("%s in the registry lacks %q: %s", format, want, got)
		}
	}
	// As a file to another engine, and from there to a registry: the same digest.
	file := filepath.Join(t.TempDir(), "saved.tar")
	c.Run("save", "-o", file, ref)
	fc := far.Docker()
	fc.Run("load", "-i", file)
	if here, there := c.Run("inspect", "-f", identity, ref), fc.Run("inspect", "-f", identity, ref); here != there {
		t.Errorf("saved %s, loaded %s", here, there)
	}
	again := far.Registry("", nil) + "/again:1"
	fc.Run("tag", ref, again)
	fc.Run("push", again)
	fb := far.Buildx()
	if got := fb.Run("buildx", "imagetools", "inspect", again, "--format", "{{json .SBOM}}"); !strings.Contains(got, " files") {
		t.Errorf("the statement went lost on the way: %s", got)
	}
	// The default scanner is an image of Docker Hub.
	c.Fails(1, []string{"buildkit-syft-scanner"}, "build", "--sbom=true", "-t", "none", dir)
}

// TestBuildForAnotherMachine: nothing of it has to run here; where something has
// to, the error says so.
func TestBuildForAnotherMachine(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	c := e.Buildx()
	dir := writeContext(t, map[string]string{
		"Dockerfile": "FROM --platform=$BUILDPLATFORM busybox AS build\nARG TARGETARCH\nRUN echo made on $(uname -m) for $TARGETARCH > /note\nFROM scratch\nCOPY --from=build /note /\n",
		"foreign":    "FROM scratch\nCOPY --chmod=755 prog /prog\nRUN [\"/prog\"]\n",
	})
	var elf bytes.Buffer // the header of a program for arm64
	elf.WriteString("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	for _, v := range []any{uint16(2), uint16(183), uint32(1), uint64(0x400000), uint64(64), uint64(0), uint32(0), uint16(64), uint16(56), uint16(0), uint16(64), uint16(0), uint16(0)} {
		if err := binary.Write(&elf, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "prog"), elf.Bytes(), 0o755); err != nil { //nolint:gosec // it is to be run
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out")
	c.Run("buildx", "build", "--platform", "linux/arm64", "-o", out, dir)
	if b, err := os.ReadFile(filepath.Join(out, "note")); err != nil || !strings.Contains(string(b), "for arm64") {
		t.Errorf("cross built: %q %v", b, err)
	}
	c.Fails(1, []string{"exec format error"}, "buildx", "build", "--platform", "linux/arm64", "-f", filepath.Join(dir, "foreign"), dir)
}

// sshKey makes a key that ssh's agent could have.
func sshKey(t *testing.T) string {
	t.Helper()
	key := filepath.Join(t.TempDir(), "id")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	return key
}
