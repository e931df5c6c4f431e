package e2e

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"hull/test/harness"
)

// serveRegistry runs "hull registry serve" in the engine's network until the test
// ends, and returns its URL.
func serveRegistry(t *testing.T, e *harness.Engine, args ...string) string {
	t.Helper()
	cmd := e.Hull().Cmd(append([]string{"registry", "serve", "--root", e.Dir("team-registry")}, args...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("hull registry serve ends with %v", err)
		}
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if _, url, ok := strings.Cut(lines.Text(), " at http"); ok {
			return "http" + url
		}
	}
	t.Fatalf("hull registry serve says nothing: %v", lines.Err())
	return ""
}

// otherEngine starts a second engine, and an ssh program that leads to it.
func otherEngine(t *testing.T, e *harness.Engine) (far *harness.Engine, path string) {
	t.Helper()
	far = harness.Start(t, nil)
	ssh := e.WriteFile("path/ssh", fmt.Sprintf(`#!/bin/sh
# stands for ssh: the far host is this one, with another engine
while [ "$1" != -- ]; do shift; done
[ "$2" = far.example ] || exit 255
shift 2
HULL_HOST=%s DOCKER_HOST=%[1]s exec sh -c "$*"
`, far.Host))
	if err := os.Chmod(ssh, 0o755); err != nil {
		t.Fatal(err)
	}
	return far, "PATH=" + filepath.Dir(ssh) + ":" + e.BinDir() + ":" + os.Getenv("PATH")
}

func TestShareThroughARegistry(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	c := e.Hull()
	address := strings.TrimPrefix(serveRegistry(t, e, "-l", "127.0.0.1:0"), "http://")
	c.Run("tag", "busybox", address+"/team/box:1")
	pushed := c.Run("push", address+"/team/box:1")
	copied := c.Run("image", "copy", address+"/team/box:1", address+"/team/again:2")
	if !strings.Contains(copied, "Mounted from team/box") {
		t.Errorf("a copy within a registry sent blobs: %s", copied)
	}
	digest := func(out string) string {
		_, d, _ := strings.Cut(out, "digest: ")
		d, _, _ = strings.Cut(d, " ")
		return d
	}
	if digest(copied) == "" || digest(copied) != digest(pushed) {
		t.Errorf("pushed %q, copied %q", digest(pushed), digest(copied))
	}
	if got := c.Run("run", "--rm", address+"/team/again:2", "echo", "hello"); got != "hello" {
		t.Errorf("the copy says %q", got)
	}
	// To another registry, where nothing can be mounted.
	other := e.Registry("", nil)
	if out := c.Run("image", "copy", address+"/team/again:2", other+"/x"); digest(out) != digest(pushed) || !strings.Contains(out, "Copied") {
		t.Errorf("copy to another registry: %s", out)
	}
	c.Fails(1, []string{"not found"}, "image", "copy", address+"/team/nothing", other+"/y")
	c.Run("rmi", "-f", address+"/team/again:2", address+"/team/box:1")
}

func TestRegistryServeRefusals(t *testing.T) {
	t.Parallel()
	e := harness.NewEngine(t)
	c := e.Hull().Direct()
	c.Fails(1, []string{"--tls"}, "registry", "serve", "-l", "0.0.0.0:0")
	c.Fails(1, []string{"in the clear"}, "registry", "serve", "-l", "0.0.0.0:0", "--insecure", "--htpasswd", "x")
	c.Fails(1, []string{"file of users"}, "registry", "serve", "-l", "127.0.0.1:0", "--htpasswd", "/nowhere")
	c.Fails(1, []string{"needed together"}, "registry", "serve", "--tls-cert", "x")
}

// TestRegistryServeTLS: a certificate that is made, trusted through hosts.toml,
// and users.
func TestRegistryServeTLS(t *testing.T) {
	t.Parallel()
	trust := t.TempDir()
	e := harness.Start(t, []string{"busybox"}, harness.Args("--registry-hosts", trust))
	c := e.Hull()
	// The password is "pass"; the rest is bcrypt.
	users := e.WriteFile("users", "user:$2a$05$Ege9XALrQvQy0JwISdHjluUiVylWJdoO8eG/I8rhNgha8fPbHXjEu\n")
	url := serveRegistry(t, e, "-l", "127.0.0.1:0", "--tls", "--htpasswd", users)
	address, ok := strings.CutPrefix(url, "https://")
	if !ok {
		t.Fatalf("served at %s", url)
	}
	c.Run("tag", "busybox", address+"/box")
	dir := filepath.Join(trust, address)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	trusts := func(text string) {
		if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	trusts(fmt.Sprintf("server = %q\n", url)) // the system's own authorities
	c.Fails(1, []string{"certificate"}, "push", address+"/box")
	trusts(fmt.Sprintf("server = %q\nca = %q\n", url, filepath.Join(e.Dir("team-registry"), "tls", "ca.crt")))
	c.Fails(1, []string{"denied"}, "push", address+"/box")
	if r := c.TryStdin("pass", "login", "-u", "user", "--password-stdin", address); r.Code != 0 {
		t.Fatalf("login: %+v", r)
	}
	c.Run("push", address+"/box")
	// Copying reads and writes with the user's password.
	c.Run("image", "copy", address+"/box", address+"/box:copy")
	c.Run("logout", address)
	c.Fails(1, []string{"denied"}, "image", "copy", address+"/box", address+"/box:third")
	c.Run("rmi", address+"/box")
}

func TestShareOverSSH(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	far, path := otherEngine(t, e)
	c := e.Hull().Direct()
	c.Env = append(c.Env, path)
	if out := c.Run("push", "ssh://me@far.example", "busybox"); !strings.Contains(out, "1 of 1 layers are missing") || !strings.Contains(out, "Loaded image: busybox:latest") {
		t.Errorf("first push over ssh: %s", out)
	}
	e.Hull().Run("run", "--name", "work", "busybox", "sh", "-c", "echo changed > /note")
	c.Run("commit", "work", "changed")
	c.Run("rm", "work")
	if out := c.Run("push", "ssh://me@far.example", "changed"); !strings.Contains(out, "1 of 2 layers are missing") {
		t.Errorf("second push over ssh: %s", out)
	}
	if got := far.Hull().Run("run", "--rm", "changed", "cat", "/note"); got != "changed" {
		t.Errorf("far away it says %q", got)
	}
	format := []string{"inspect", "-f", "{{.Id}}", "changed"}
	if here, there := c.Run(format...), far.Hull().Run(format...); here != there {
		t.Errorf("it is %s here and %s there", here, there)
	}
	// And back.
	c.Run("rmi", "changed")
	if out := c.Run("pull", "ssh://far.example", "changed"); !strings.Contains(out, "Loaded image: changed:latest") {
		t.Errorf("pull over ssh: %s", out)
	}
	c.Fails(1, []string{"no such image: nothing"}, "push", "ssh://far.example", "nothing")
	if r := c.Try("push", "ssh://elsewhere.example", "busybox"); r.Code == 0 {
		t.Error("a push to nowhere went through")
	}
	c.Fails(1, []string{"a path is not supported"}, "push", "ssh://far.example/busybox", "busybox")
	c.Run("rmi", "changed")
	far.Hull().Run("rmi", "changed")
}

func TestDelta(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	far := harness.Start(t, []string{"busybox"})
	c := e.Hull()
	c.Run("run", "--name", "work", "busybox", "sh", "-c", "echo changed > /note")
	c.Run("commit", "work", "changed")
	c.Run("rm", "work")
	file := filepath.Join(e.Dir("delta"), "delta.tar")
	c.Run("image", "save", "--delta-from", "busybox", "-o", file, "changed")
	st, err := os.Stat(file)
	if err != nil || st.Size() > 64<<10 {
		t.Fatalf("the delta of one small file: %v %v", st, err)
	}
	if out := far.Hull().Run("load", "-i", file); !strings.Contains(out, "Loaded image: changed:latest") {
		t.Errorf("load of a delta: %s", out)
	}
	if got := far.Hull().Run("run", "--rm", "changed", "cat", "/note"); got != "changed" {
		t.Errorf("far away it says %q", got)
	}
	// Without what it is a delta from it is of no use, and says so.
	far.Hull().Run("rmi", "changed")
	far.Hull().Run("rmi", "busybox")
	far.Hull().Fails(1, []string{"needs the image that it was made on top of"}, "load", "-i", file)
	c.Fails(1, []string{"no such image"}, "save", "--delta-from", "nothing", "-o", file, "changed")
	if _, err := os.Stat(file); err != nil {
		t.Errorf("a failed save took an older file away: %v", err)
	}
	c.Run("rmi", "changed")
}
