package vm

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hull/test/harness"
)

const visits = `
name: visits
services:
  web:
    image: busybox
    isolation: vm
    command: httpd -f -h /www
    ports: ["${PORT}:80"]
    configs: [{source: count, target: /www/cgi-bin/count, mode: 0755}]
    depends_on: {cache: {condition: service_healthy}}
    healthcheck: {test: ["CMD", "wget", "-qO-", "http://127.0.0.1/cgi-bin/count"], interval: 60s, timeout: 30s, start_period: 180s, start_interval: 1s}
    stop_grace_period: 1s
  cache:
    image: redis
    isolation: vm
    healthcheck: {test: ["CMD", "redis-cli", "ping"], interval: 60s, timeout: 30s, start_period: 180s, start_interval: 1s}
configs:
  count:
    content: |
      #!/bin/sh
      echo "Content-Type: text/plain"
      echo
      printf 'INCR visits\r\nQUIT\r\n' | nc cache 6379
`

// TestComposeInMachines: an application whose services are all machines comes up with
// docker compose, finds its parts by name, and hull compose replaces one of them
// while it is used.
func TestComposeInMachines(t *testing.T) {
	t.Parallel()
	w := start(t, "busybox", "redis")
	port := w.FreePort()
	up, roll := w.Compose(), w.HullCompose()
	dir := filepath.Dir(w.WriteFile("visits/compose.yaml", visits))
	for _, c := range []*harness.Client{up, roll} {
		c.Dir, c.Env = dir, []string{"PORT=" + port}
	}
	// Not Run: two machines under software emulation may take their time on a busy host.
	if out, err := up.Cmd("up", "-d", "--wait").CombinedOutput(); err != nil {
		t.Fatalf("up: %v\n%s\n%s", err, out, w.Log())
	}
	web := func() string {
		return w.c.Run("ps", "-q", "--no-trunc", "--filter", "label=com.docker.compose.service=web")
	}
	was := web()
	w.qemu(was)
	w.qemu("visits-cache-1")

	var count atomic.Int64
	visit := func() error {
		status, body, err := w.Get("http://127.0.0.1:" + port + "/cgi-bin/count")
		var n int64
		if _, scan := fmt.Sscanf(body, ":%d", &n); err == nil && (status != 200 || scan != nil || n <= count.Load()) {
			err = fmt.Errorf("status %d, %q after visit %d", status, body, count.Load())
		}
		if err == nil {
			count.Store(n)
		}
		return err
	}
	var failed error
	var visitor sync.WaitGroup
	stop := make(chan struct{})
	visitor.Go(func() {
		for failed == nil {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
				failed = visit()
			}
		}
	})
	// Not Run, as above.
	out, err := roll.Cmd("up", "--rollout", "--force-recreate", "web").CombinedOutput()
	close(stop)
	visitor.Wait()
	if err != nil || failed != nil {
		t.Fatalf("rollout: %v; a visitor, after %d visits: %v\n%s\n%s", err, count.Load(), failed, out, w.Log())
	}
	is := web()
	if is == was || strings.Contains(is, "\n") {
		t.Fatalf("web was %s, and is %s", was, is)
	}
	w.qemu(is)
	if err := visit(); err != nil {
		t.Error(err)
	}
	w.want("services that run", up.Run("ps", "--services", "--status", "running"), "cache\nweb")
	up.Run("down", "-v", "-t", "2")
}
