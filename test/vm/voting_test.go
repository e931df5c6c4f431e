package vm

import (
	"strings"
	"testing"

	"hull/internal/require"
)

// TestVotingInMachines is the application of examples/voting with services behind
// different boundaries: a machine, a sandbox and containers that find each other by name. It
// comes up, counts, and nobody who votes notices that the engine is killed and started
// again.
func TestVotingInMachines(t *testing.T) {
	require.Runsc(t)
	w := start(t, "python", "postgres", "redis")
	env := strings.Fields("REDIS_ISOLATION=vm WEB_ISOLATION=sandbox WORKER_ISOLATION=container")
	v := w.Voting(env...)
	// Not Run: a machine under software emulation may take its time on a busy host.
	if out, err := v.Hull.Cmd("up", "-d", "--wait").CombinedOutput(); err != nil {
		t.Fatalf("up: %v\n%s\n%s", err, out, w.Log())
	}
	for _, set := range env {
		service, isolation, _ := strings.Cut(set, "_ISOLATION=")
		w.want("isolation of "+service, w.c.Run("inspect", "-f", "{{.HostConfig.Isolation}}", "voting-"+strings.ToLower(service)+"-1"), isolation)
	}
	v.Vote("cats", "dogs", "cats")
	v.Counted()
	load := v.Load(1)
	load.More(10)
	w.KillDaemon()
	load.More(10)
	w.StartDaemon()
	load.More(10)
	load.End()
	v.Counted()
	v.Docker.Run("down", "-v", "-t", "2")
}
