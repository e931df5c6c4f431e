package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hull/internal/require"
	"hull/test/harness"
)

// TestVoting is the application in examples/voting: compose brings it up, votes are
// counted, the engine is killed under load and nobody notices, a service is replaced
// under load, the other compose sees the same application and takes it down, and
// nothing is left. One case has every service in a sandbox.
func TestVoting(t *testing.T) {
	t.Parallel()
	t.Run("container", func(t *testing.T) {
		t.Parallel()
		voting(t, func(v *harness.Voting) (up, down *harness.Client) { return v.Hull, v.Docker })
	})
	t.Run("sandbox", func(t *testing.T) {
		t.Parallel()
		require.Runsc(t)
		voting(t, func(v *harness.Voting) (up, down *harness.Client) { return v.Docker, v.Hull },
			"WEB_ISOLATION=sandbox", "WORKER_ISOLATION=sandbox", "REDIS_ISOLATION=sandbox", "DB_ISOLATION=sandbox")
	})
}

func voting(t *testing.T, composes func(*harness.Voting) (up, down *harness.Client), env ...string) {
	t.Helper()
	e := harness.Start(t, []string{"python", "postgres", "redis"})
	if e.Reference() {
		t.Skip("needs an engine of its own to kill")
	}
	v := e.Voting(env...)
	up, down := composes(v)
	up.Run("up", "-d", "--wait")
	for _, set := range env {
		service, isolation, _ := strings.Cut(set, "_ISOLATION=")
		if got := e.Docker().Run("inspect", "-f", "{{.HostConfig.Isolation}}", "voting-"+strings.ToLower(service)+"-1"); got != isolation {
			t.Errorf("isolation of %s: %q", service, got)
		}
	}
	v.Vote("cats", "dogs", "cats")
	v.Counted()
	if got := up.Run("exec", "-T", "db", "psql", "-qtAU", "postgres", "votes", "-c", "SELECT sum(n) FROM votes"); got != "3" {
		t.Errorf("in the database: %q", got)
	}

	// Requests go on while the engine dies and another one takes over.
	load := v.Load(2)
	load.More(20)
	e.KillDaemon()
	load.More(20)
	e.StartDaemon()
	load.More(20)

	// And while a service is replaced.
	was := e.Docker().Run("ps", "-q", "--no-trunc", "--filter", "label=com.docker.compose.service=web")
	v.Hull.Run("up", "--rollout", "--force-recreate", "web")
	load.More(20)
	if now := e.Docker().Run("ps", "-q", "--no-trunc", "--filter", "label=com.docker.compose.service=web"); now == was || strings.Contains(now, "\n") || now == "" {
		t.Errorf("web was %s, and is %s", was, now)
	}
	load.End()
	v.Counted()

	// The other compose sees the same application.
	if got := down.Run("ps", "--services", "--status", "running"); got != "db\nredis\nweb\nworker" {
		t.Errorf("ps: %q", got)
	}
	if got := down.Run("port", "web", "80"); !strings.HasSuffix(got, ":"+v.Port) {
		t.Errorf("port: %q", got)
	}
	down.Run("down", "-v", "-t", "2")
	if got := e.Docker().Run("ps", "-aq") + e.Docker().Run("volume", "ls", "-q") + e.Docker().Run("network", "ls", "-q", "--filter", "type=custom"); got != "" {
		t.Errorf("left behind: %q", got)
	}
}

const composeFile = `
name: parts
services:
  db:
    image: busybox
    command: sh -c 'touch /tmp/ready; while true; do echo tick; sleep 1; done'
    init: true
    healthcheck: {test: ["CMD", "test", "-e", "/tmp/ready"], interval: 5s, start_interval: 200ms, start_period: 60s}
    volumes: ["data:/data", "scratch:/scratch"]
  prepare:
    image: busybox
    command: sh -c 'echo prepared > /data/state'
    volumes: ["data:/data"]
  app:
    image: busybox
    command: sh -c 'cat /run/secrets/file /run/secrets/env /etc/app.conf /data/state; exec sleep 1000'
    init: true
    depends_on: {db: {condition: service_healthy}, prepare: {condition: service_completed_successfully}}
    environment: {A: "${A:-default}"}
    secrets: [file, env]
    configs: [{source: conf, target: /etc/app.conf}]
    volumes: [{type: volume, source: data, target: /data, read_only: true}, {type: image, source: busybox, target: /image}]
    networks: {default: {aliases: [www]}}
    ports: ["127.0.0.1::80"]
    develop: {watch: [{action: sync, path: ./src, target: /src}]}
  debug:
    image: busybox
    command: sleep 1000
    init: true
    profiles: [debug]
secrets: {file: {file: ./secret}, env: {environment: ENV_SECRET}}
configs: {conf: {content: "conf of ${A:-default}\n"}}
volumes:
  data: {labels: {kind: state}}
  scratch: {driver_opts: {type: tmpfs, device: tmpfs, o: size=1m}}
`

// TestComposeVerbs goes through compose's verbs with docker's own program.
func TestComposeVerbs(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	c := e.Compose()
	c.Dir = filepath.Dir(e.WriteFile("compose.yaml", composeFile))
	c.Env = []string{"ENV_SECRET=from-env\n"}
	e.WriteFile("secret", "from-file\n")

	c.Run("up", "-d", "--wait", "app", "db")
	e.Eventually("what app was given", func() error {
		got := c.Run("logs", "--no-color", "--no-log-prefix", "app")
		if strings.TrimSpace(got) != "from-file\nfrom-env\nconf of default\nprepared" {
			return fmt.Errorf("%q", got)
		}
		return nil
	})
	is := func(want string, args ...string) {
		t.Helper()
		if got := c.Run(args...); !strings.Contains(got, want) {
			t.Errorf("%s: %q lacks %q", strings.Join(args, " "), got, want)
		}
	}
	is("prepare", "config", "--services")
	is("bin", "exec", "-T", "app", "ls", "/image")
	is("default", "exec", "-T", "app", "printenv", "A")
	is("hello", "run", "--rm", "-T", "--no-deps", "app", "echo", "hello")
	is("127.0.0.11", "exec", "-T", "db", "nslookup", "www")
	is("sleep 1000", "top", "app")
	is("parts-app-1", "stats", "--no-stream")
	is("parts-db-1", "images")
	is("parts", "ls")
	e.WriteFile("new", "copied")
	c.Run("cp", "new", "db:/tmp/new")
	is("copied", "exec", "-T", "db", "cat", "/tmp/new")
	c.Run("--profile", "debug", "up", "-d", "debug")
	is("debug", "ps", "--services")
	c.Run("rm", "-sf", "debug")
	c.Run("up", "-d", "--scale", "db=3", "--no-recreate")
	is("parts-db-3", "ps", "-a")
	c.Run("scale", "db=1")
	is("127.0.0.1:", "port", "app", "80")
	// Compose takes the end of what it asked for as an error.
	if got := c.Try("events", "--since", "1h", "--until", "0s"); !strings.Contains(got.Stdout, "container die") {
		t.Errorf("events: %+v", got)
	}
	watch(t, e, c)
	c.Run("pause", "db")
	is("paused", "ps", "db", "--all", "--format", "{{.State}}")
	c.Run("unpause", "db")
	c.Run("restart", "-t", "1", "app")
	c.Run("stop", "-t", "1", "app")
	c.Run("start", "app")
	// What changed is made again, the rest is left alone.
	before := e.Docker().Run("inspect", "-f", "{{.Id}}", "parts-db-1")
	c.Env = append(c.Env, "A=changed")
	c.Run("up", "-d", "-t", "1")
	is("changed", "exec", "-T", "app", "printenv", "A")
	if after := e.Docker().Run("inspect", "-f", "{{.Id}}", "parts-db-1"); after != before {
		t.Error("a service that did not change was made again")
	}
	c.Run("kill", "app")
	c.Run("down", "-v", "-t", "1")
	if got := e.Docker().Run("volume", "ls", "-q"); got != "" {
		t.Errorf("volumes are left: %q", got)
	}
}

// watch has compose copy what changes on the host into the container.
func watch(t *testing.T, e *harness.Engine, c *harness.Client) {
	t.Helper()
	e.WriteFile("src/before", "x")
	cmd := c.Cmd("watch", "--no-up")
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var written time.Time
	e.Eventually("a changed file is in the container", func() error {
		// Again, until compose watches; but it waits until nothing has changed for half a
		// second.
		if time.Since(written) > 3*time.Second {
			written = time.Now()
			e.WriteFile("src/changed", fmt.Sprint("version ", written))
		}
		if got := c.Try("exec", "-T", "app", "cat", "/src/changed"); !strings.HasPrefix(got.Stdout, "version ") {
			return fmt.Errorf("%+v", got)
		}
		return nil
	})
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // as it says when it is interrupted
	if t.Failed() {
		t.Log(said.String())
	}
}
