package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hull/test/harness"
)

// freePort is a port of the engine's host that nobody has.
func freePort(t *testing.T, e *harness.Engine) string {
	t.Helper()
	l, err := e.Listen("0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // a test
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// web is an HTTP client in the engine's network, with a connection for each request.
type web struct {
	client http.Client
	base   string
}

func newWeb(e *harness.Engine, port string) *web {
	dial := func(_ context.Context, network, address string) (net.Conn, error) { return e.Dial(network, address) }
	return &web{http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}, "http://127.0.0.1:" + port}
}

func (w *web) read(resp *http.Response, err error) (string, error) {
	if err != nil {
		return "", err
	}
	defer resp.Body.Close() //nolint:errcheck // a test
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, b)
	}
	return strings.TrimSpace(string(b)), err
}

func (w *web) get(path string) (string, error) {
	return w.read(w.client.Get(w.base + path)) //nolint:noctx // ends with the test's engine
}

func (w *web) vote(choice string) error {
	_, err := w.read(w.client.PostForm(w.base+"/", url.Values{"vote": {choice}})) //nolint:noctx // as above
	return err
}

// TestVoting is the application in examples/voting: hull compose brings it up, votes
// are counted, the engine is killed under load and nobody notices, docker compose
// sees the same application and takes it down, and nothing is left.
func TestVoting(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"python", "postgres", "redis"})
	if e.Reference() {
		t.Skip("needs an engine of its own to kill")
	}
	dir, err := filepath.Abs("../../examples/voting")
	if err != nil {
		t.Fatal(err)
	}
	port := freePort(t, e)
	hull, docker := e.HullCompose(), e.Compose()
	for _, c := range []*harness.Client{hull, docker} {
		c.Dir, c.Env = dir, []string{"VOTING_PORT=" + port, "DB_PASSWORD=correct horse"}
	}
	hull.Run("up", "-d", "--wait")
	w := newWeb(e, port)
	for _, choice := range []string{"cats", "dogs", "cats"} {
		if err := w.vote(choice); err != nil {
			t.Fatal(err)
		}
	}
	counted := func(want string) {
		t.Helper()
		e.Eventually("the votes are counted: "+want, func() error {
			got, err := w.get("/result")
			if err == nil && got != want {
				err = fmt.Errorf("%q", got)
			}
			return err
		})
	}
	counted("cats=2 dogs=1")
	if got := hull.Run("exec", "-T", "db", "psql", "-qtAU", "postgres", "votes", "-c", "SELECT sum(n) FROM votes"); got != "3" {
		t.Errorf("in the database: %q", got)
	}

	// Votes go on while the engine dies and another one takes over.
	var votes atomic.Int64
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			case <-time.After(50 * time.Millisecond): // what the worker can count
			}
			if err := w.vote("dogs"); err != nil {
				done <- fmt.Errorf("vote %d: %w", votes.Load(), err)
				return
			}
			votes.Add(1)
		}
	}()
	more := func(n int64) {
		t.Helper()
		from := votes.Load()
		e.Eventually("votes go on", func() error {
			if got := votes.Load() - from; got < n {
				return fmt.Errorf("%d of %d; failed: %d", got, n, len(done))
			}
			return nil
		})
	}
	more(20)
	e.KillDaemon()
	more(20)
	e.StartDaemon()
	more(20)

	// And while a service is replaced.
	was := e.Docker().Run("ps", "-q", "--no-trunc", "--filter", "label=com.docker.compose.service=web")
	hull.Run("up", "--rollout", "--force-recreate", "web")
	more(20)
	if now := e.Docker().Run("ps", "-q", "--no-trunc", "--filter", "label=com.docker.compose.service=web"); now == was || strings.Contains(now, "\n") || now == "" {
		t.Errorf("web was %s, and is %s", was, now)
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
	counted("cats=2 dogs=" + strconv.FormatInt(1+votes.Load(), 10))

	// The other compose sees the same application.
	if got := docker.Run("ps", "--services", "--status", "running"); got != "db\nredis\nweb\nworker" {
		t.Errorf("ps: %q", got)
	}
	if got := docker.Run("port", "web", "80"); !strings.HasSuffix(got, ":"+port) {
		t.Errorf("port: %q", got)
	}
	docker.Run("down", "-v", "-t", "2")
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
