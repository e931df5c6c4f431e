package crash

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"hull/test/harness"
)

// TestBootOrder: the power goes, and comes back. A compose project's services start in
// the order that it was given, each when what it depends on is healthy, and a service
// that has done its work is not done again.
func TestBootOrder(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	c, docker := e.Compose(), e.Docker()
	c.Dir = filepath.Dir(e.WriteFile("compose.yaml", `
name: boot
services:
  edge: {image: busybox, command: sleep 1000, restart: always, depends_on: [app]}
  app:
    image: busybox
    command: sleep 1000
    restart: unless-stopped
    depends_on: {db: {condition: service_healthy}, prepare: {condition: service_completed_successfully}}
  prepare: {image: busybox, command: "true", depends_on: {db: {condition: service_healthy}}}
  db:
    image: busybox
    command: sh -c 'rm -f /tmp/ready; sleep 1; touch /tmp/ready; exec sleep 1000'
    restart: always
    healthcheck: {test: ["CMD", "test", "-e", "/tmp/ready"], interval: 5s, start_interval: 200ms, start_period: 60s}
`))
	c.Run("up", "-d", "--wait")
	var pids []int
	for _, name := range []string{"boot-edge-1", "boot-app-1", "boot-db-1"} {
		n, err := strconv.Atoi(parent(t, docker.Run("inspect", "-f", "{{.State.Pid}}", name)))
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, n)
	}
	ended := docker.Run("inspect", "-f", "{{.State.FinishedAt}}", "boot-prepare-1")
	e.KillDaemon()
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	e.StartDaemon()
	e.Eventually("all services run again", func() error {
		if got := docker.Run("inspect", "-f", "{{.State.Status}}", "boot-edge-1", "boot-app-1", "boot-db-1"); got != "running\nrunning\nrunning" {
			return fmt.Errorf("%q", got)
		}
		return nil
	})
	events := strings.Split(docker.Run("events", "--since", "1h", "--until", "-2s", "--filter", "type=container", "--format", "{{.Actor.Attributes.name}} {{.Action}}"), "\n")
	last := -1
	for _, want := range []string{"boot-db-1 start", "boot-db-1 health_status: healthy", "boot-app-1 start", "boot-edge-1 start"} {
		i := slices.Index(events, want)
		if i <= last {
			t.Fatalf("%q is not after what it depends on: %q", want, events)
		}
		last = i
	}
	if again := docker.Run("inspect", "-f", "{{.State.FinishedAt}}", "boot-prepare-1"); again != ended {
		t.Errorf("prepare ended at %s, and again at %s", ended, again)
	}
	c.Run("down", "-t", "1")
}
