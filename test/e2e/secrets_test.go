package e2e

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hull/internal/require"
	"hull/test/harness"
)

// TestSecrets: a secret's value is in the file that the container sees, and nowhere
// else that anybody but root looks at.
func TestSecrets(t *testing.T) {
	t.Parallel()
	const value = "XYZZY-the-value-of-a-secret"
	e := harness.Start(t, []string{"busybox"}, harness.TmpfsRun())
	hull, docker := e.Hull(), e.Docker()
	is := func(want, got string) {
		t.Helper()
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	is("pw", strings.TrimSpace(hull.TryStdin(value, "secret", "create", "-l", "for=tests", "pw").Stdout))
	hull.Run("secret", "create", "other", e.WriteFile("other", "another\n"))
	is("other\npw", hull.Run("secret", "ls", "-q"))
	if got := hull.Run("secret", "inspect", "pw"); !strings.Contains(got, `"for": "tests"`) || strings.Contains(got, value) {
		t.Errorf("inspect: %s", got)
	}
	hull.Fails(1, []string{"already exists"}, "secret", "create", "pw", e.WriteFile("again", "x"))
	hull.Fails(1, []string{"invalid secret name"}, "secret", "create", "../pw", e.WriteFile("again", "x"))
	hull.Fails(1, []string{"262144"}, "secret", "create", "big", e.WriteFile("big", strings.Repeat("x", 256<<10+1)))
	hull.Fails(1, []string{"no such secret: nope"}, "secret", "rm", "nope")
	hull.Fails(125, []string{"no such secret: nope"}, "run", "--rm", "--secret", "nope", "busybox", "true")
	hull.Fails(125, []string{"unknown option"}, "run", "--rm", "--secret", "pw,color=red", "busybox", "true")
	docker.Fails(1, []string{"swarm"}, "secret", "ls")

	// Owner, mode and place; by hull's flag and by docker's --mount.
	const show = "cat $1; stat -c ' %a %u:%g' $1; touch $1 2>&1; mount | grep -o 'tmpfs on '$1"
	shown := func(want string, c *harness.Client, path string, args ...string) {
		t.Helper()
		got := c.Try(append(append([]string{"run", "--rm"}, args...), "busybox", "sh", "-c", show, "sh", path)...)
		if !strings.HasPrefix(got.Stdout, want+"\n") || !strings.Contains(got.Stdout, "Read-only") {
			t.Errorf("%s %q: %q %s, want %q", c.Name, args, got.Stdout, got.Stderr, want)
		}
	}
	shown(value+" 444 0:0", hull, "/run/secrets/pw", "--secret", "pw")
	shown(value+" 400 70:71", hull, "/etc/key", "--secret", "pw,target=/etc/key,uid=70,gid=71,mode=0400")
	shown(value+" 440 0:7", docker, "/run/secrets/it", "--mount", `type=secret,"source=pw,gid=7,mode=440",target=it`)
	shown(value+" 400 70:71", hull, "/run/secrets/pw", "--userns", "host", "--secret", "pw,uid=70,gid=71,mode=0400")
	require.Runsc(t)
	shown(value+" 400 70:71", hull, "/run/secrets/pw", "--isolation", "sandbox", "--secret", "pw,uid=70,gid=71,mode=0400")

	// Compose, in hull's program: a secret that the project does not bring.
	dir := filepath.Dir(e.WriteFile("app/compose.yaml", `
name: app
services:
  web:
    image: busybox
    command: sleep 1000
    init: true
    secrets: [db, {source: own}, {source: db, target: /etc/key, uid: "70", mode: 0400}]
  plain: {image: busybox, command: sleep 1000, init: true}
secrets: {db: {external: true, name: pw}, own: {file: ./own}}
`))
	e.WriteFile("app/own", "mine")
	compose := e.HullCompose()
	compose.Dir = dir
	compose.Run("up", "-d")
	is(value+"mine"+value, compose.Run("exec", "-T", "web", "cat", "/run/secrets/db", "/run/secrets/own", "/etc/key"))
	is("400 70", compose.Run("exec", "-T", "web", "stat", "-c", "%a %u", "/etc/key"))
	is(dir+"/compose.yaml", docker.Run("inspect", "-f", `{{index .Config.Labels "com.docker.compose.project.config_files"}}`, "app-web-1"))
	id := docker.Run("inspect", "-f", "{{.Id}}", "app-web-1")
	compose.Run("up", "-d")
	is(id, docker.Run("inspect", "-f", "{{.Id}}", "app-web-1"))
	hull.Fails(1, []string{"in use by container app-web-1"}, "secret", "rm", "pw")

	// A run that goes on over the engine's death, and the next one.
	e.KillDaemon()
	e.StartDaemon()
	is(value, docker.Run("exec", "app-web-1", "cat", "/run/secrets/db"))
	docker.Run("restart", "-t", "1", "app-web-1")
	is(value, docker.Run("exec", "app-web-1", "cat", "/run/secrets/db"))

	// Nobody is told.
	for _, args := range [][]string{
		{"inspect", "app-web-1"}, {"exec", "app-web-1", "env"}, {"logs", "app-web-1"}, {"diff", "app-web-1"},
		{"events", "--since", "1h", "--until", "-2s"}, {"ps", "-a", "--no-trunc"}, {"commit", "app-web-1", "copy"}, {"history", "--no-trunc", "copy"}, {"system", "df", "-v"},
	} {
		if r := docker.Try(args...); strings.Contains(r.Stdout+r.Stderr, value) {
			t.Errorf("docker %q tells the value", args)
		}
	}
	if got := docker.Try("run", "--rm", "copy", "cat", "/run/secrets/db"); strings.Contains(got.Stdout, value) {
		t.Error("the value is in an image made of the container")
	}
	if strings.Contains(e.Log(), value) {
		t.Error("the value is in the engine's log")
	}
	if kept := holding(t, e.Root, value); len(kept) > 0 {
		t.Errorf("the value is in %q", kept)
	}
	shownIn := map[string]bool{}
	for _, file := range holding(t, e.Run, value) {
		shownIn[filepath.Dir(file)] = true
		if !strings.HasPrefix(filepath.Base(file), "secret-") { // what the container sees
			t.Errorf("the value is in %s", file)
		}
	}
	if st, err := os.Stat(filepath.Join(e.Root, "secrets", "pw")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the secret's file: %v, %v", st, err)
	}
	if len(shownIn) != 1 {
		t.Errorf("the value is shown in %v", shownIn)
	}
	compose.Run("down", "-t", "1")
	if left := holding(t, e.Run, value); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	is("pw", hull.Run("secret", "rm", "pw"))
	is("other", hull.Run("secret", "ls", "-q"))
}

// holding are the files below root that contain text. Secrets' own hold values in
// base64.
func holding(t *testing.T, root, text string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil //nolint:nilerr // gone meanwhile
		}
		b, err := os.ReadFile(path)
		if err == nil && bytes.Contains(b, []byte(text)) {
			found = append(found, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
