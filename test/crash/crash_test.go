// Package crash kills the engine and its monitors and looks at what is left. The
// short form runs with make test; HULL_CRASH=full does more rounds.
package crash

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hull/test/harness"
)

func full() bool { return os.Getenv("HULL_CRASH") == "full" }

func TestRunningContainersSurviveTheEngine(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	const n = 50
	writers := 8
	if full() {
		writers = n
	}
	docker := e.Docker()
	for i := range n {
		script := "echo line 1; exec sleep 100000"
		if i < writers {
			script = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.1; done"
		}
		e.Hull().Run("run", "-d", "--name", fmt.Sprint("c", i), "busybox", "sh", "-c", script)
	}
	docker.Run("run", "-d", "--name", "web", "-p", "127.0.0.1:39080:80", "busybox", "sh", "-c", "mkdir /w; echo page > /w/index.html; httpd -f -p 80 -h /w")
	pids := docker.Run("inspect", "-f", "{{.Name}} {{.State.Pid}}", "c0", "c1", "web")
	served := func() error {
		status, body, err := e.Get("http://127.0.0.1:39080/")
		if err == nil && (status != 200 || body != "page\n") {
			err = fmt.Errorf("%d %q", status, body)
		}
		return err
	}
	e.Eventually("the page is served", served)

	e.KillDaemon()
	if err := served(); err != nil {
		t.Errorf("published port without the engine: %v", err)
	}
	time.Sleep(time.Second) // containers write while nobody is there
	e.StartDaemon()

	if got := docker.Run("inspect", "-f", "{{.Name}} {{.State.Pid}}", "c0", "c1", "web"); got != pids {
		t.Errorf("pids changed:\n%s\nwere\n%s", got, pids)
	}
	if err := served(); err != nil {
		t.Errorf("published port after the restart: %v", err)
	}
	if got := strings.Count(docker.Run("ps", "--filter", "status=running", "--format", "{{.Names}}"), "c"); got != n {
		t.Errorf("%d of %d containers run", got, n)
	}
	for i := range n {
		name := fmt.Sprint("c", i)
		for j, line := range strings.Split(e.Hull().Run("logs", name), "\n") {
			if line != fmt.Sprint("line ", j+1) {
				t.Errorf("%s: line %d of the log is %q", name, j+1, line)
				break
			}
		}
	}
	if got := docker.Run("exec", "c0", "echo", "in"); got != "in" {
		t.Errorf("exec after the restart: %q", got)
	}
	if got := docker.Run("stop", "-t", "0", "c1"); got != "c1" {
		t.Errorf("stop after the restart: %q", got)
	}
	docker.Run("start", "c1")
}

func TestExitsWhileTheEngineIsAwayAreRecorded(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	docker := e.Docker()
	wait := "while [ ! -e /go/go ]; do sleep 0.05; done; "
	dir := e.Dir("go")
	docker.Run("run", "-d", "--name", "ends", "-v", dir+":/go", "busybox", "sh", "-c", wait+"echo last words; exit 9")
	docker.Run("run", "-d", "--name", "again", "--restart", "on-failure:1", "-v", dir+":/go", "busybox", "sh", "-c", wait+"echo run; exit 4")
	docker.Run("run", "-d", "--name", "gone", "--rm", "-v", dir+":/go", "busybox", "sh", "-c", wait+"exit 0")
	pid := docker.Run("inspect", "-f", "{{.State.Pid}}", "ends")
	e.KillDaemon()
	e.WriteFile("go/go", "")
	e.Eventually("the container ends", func() error {
		if _, err := os.Stat("/proc/" + pid); err == nil {
			return fmt.Errorf("pid %s is there", pid)
		}
		return nil
	})
	e.StartDaemon()
	e.Eventually("the exit is on record", func() error {
		if got := docker.Run("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "ends"); got != "exited 9" {
			return fmt.Errorf("ends: %s", got)
		}
		return nil
	})
	if got := docker.Run("logs", "ends"); got != "last words" {
		t.Errorf("log of ends: %q", got)
	}
	e.Eventually("the restart policy is applied", func() error {
		if got := docker.Run("inspect", "-f", "{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}", "again"); got != "1 exited 4" {
			return fmt.Errorf("again: %s", got)
		}
		return nil
	})
	e.Eventually("--rm is kept", func() error {
		if got := docker.Run("ps", "-aq", "--filter", "name=gone"); got != "" {
			return fmt.Errorf("gone is there: %s", got)
		}
		return nil
	})
}

// The output and the exit status of "hull run" arrive although the engine died in
// between: the streams are the monitor's, and the client asks the next engine.
func TestAClientInTheForegroundSurvivesTheEngine(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	dir := e.Dir("go")
	hull := e.Hull()
	hull.Env = []string{"HULL_RUN=" + e.Dir("elsewhere")} // not its own engine: it waits for the supervisor to start it
	cmd := hull.Cmd("run", "--name", "front", "-v", dir+":/go", "busybox", "sh", "-c",
		"echo first; while [ ! -e /go/go ]; do sleep 0.05; done; echo last; exit 7")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	e.Eventually("it runs", func() error {
		if got := e.Docker().Try("logs", "front"); got.Stdout != "first\n" {
			return fmt.Errorf("log: %+v", got)
		}
		return nil
	})
	e.KillDaemon()
	e.StartDaemon()
	e.WriteFile("go/go", "")
	_ = cmd.Wait() // the code says it
	if code := cmd.ProcessState.ExitCode(); code != 7 || out.String() != "first\nlast\n" {
		t.Errorf("exit code %d, output %q", code, &out)
	}
}

func TestAKilledMonitorIsNoticed(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	docker := e.Docker()
	docker.Run("run", "-d", "--name", "once", "busybox", "sleep", "600")
	docker.Run("run", "-d", "--name", "again", "--restart", "always", "busybox", "sleep", "600")
	docker.Run("run", "-d", "--name", "other", "busybox", "sleep", "600")
	for _, name := range []string{"once", "again"} {
		pid := docker.Run("inspect", "-f", "{{.State.Pid}}", name)
		monitor := parent(t, pid)
		if comm, err := os.ReadFile("/proc/" + monitor + "/comm"); err != nil || !strings.HasPrefix(string(comm), "hull-monitor") {
			t.Fatalf("the parent of %s is %q (%v)", name, comm, err)
		}
		n, err := strconv.Atoi(monitor)
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(n, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		e.Eventually("the container ends with its monitor", func() error {
			if _, err := os.Stat("/proc/" + pid); err == nil {
				return fmt.Errorf("pid %s is there", pid)
			}
			return nil
		})
	}
	e.Eventually("the exit is recorded", func() error {
		if got := docker.Run("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "once"); got != "exited 137" {
			return fmt.Errorf("once: %s", got)
		}
		return nil
	})
	e.Eventually("the restart policy is applied", func() error {
		if got := docker.Run("inspect", "-f", "{{.State.Running}} {{.RestartCount}}", "again"); got != "true 1" {
			return fmt.Errorf("again: %s", got)
		}
		return nil
	})
	if got := docker.Run("exec", "other", "echo", "fine"); got != "fine" {
		t.Errorf("another pod: %q", got)
	}
	docker.Run("start", "once")
}

func parent(t *testing.T, pid string) string {
	t.Helper()
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))[1]
}

// The engine is killed at random moments while clients start, stop and remove
// containers; afterwards every record is true and everything can be removed.
func TestKilledAtRandomMoments(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	rounds := 6
	if full() {
		rounds = 60
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for round := range rounds {
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for w := range 3 {
			wg.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					name := fmt.Sprintf("r%dw%di%d", round, w, i)
					e.Docker().Try("run", "-d", "--name", name, "busybox", "sleep", "600")
					if i%2 == 0 {
						e.Docker().Try("rm", "-f", name)
					}
				}
			})
		}
		time.Sleep(time.Duration(50+rnd.IntN(400)) * time.Millisecond)
		e.KillDaemon()
		close(stop)
		wg.Wait()
		e.StartDaemon()
		checkRecords(t, e)
	}
	if ids := strings.Fields(e.Docker().Run("ps", "-aq")); len(ids) > 0 {
		e.Docker().Run(append([]string{"rm", "-f"}, ids...)...)
	}
	e.CheckLeaks()
}

// checkRecords holds every record to the kernel's facts.
func checkRecords(t *testing.T, e *harness.Engine) {
	t.Helper()
	docker := e.Docker()
	for _, id := range strings.Fields(docker.Run("ps", "-aq", "--no-trunc")) {
		f := strings.Fields(docker.Run("inspect", "-f", "{{.State.Status}} {{.State.Pid}}", id))
		if len(f) != 2 {
			t.Fatalf("inspect %s: %q", id, f)
		}
		_, err := os.Stat("/proc/" + f[1])
		switch {
		case f[0] == "running" && (err != nil || f[1] == "0"):
			t.Errorf("%s: running, but pid %s is gone", id, f[1])
		case f[0] != "running" && f[1] != "0":
			t.Errorf("%s: %s, but has pid %s", id, f[0], f[1])
		case f[0] == "running":
			if got := docker.Run("exec", id, "echo", "in"); got != "in" {
				t.Errorf("%s: exec says %q", id, got)
			}
		default:
			docker.Run("start", id)
		}
	}
}

func TestTheEngineStopsInOrder(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	docker := e.Docker()
	docker.Run("run", "-d", "--name", "stays", "busybox", "sleep", "600")
	pid := docker.Run("inspect", "-f", "{{.State.Pid}}", "stays")
	follower, err := e.API(http.MethodGet, "/v1.47/containers/stays/logs?follow=1&stdout=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer follower.Body.Close()
	e.StopDaemon()
	if _, err := os.Stat("/proc/" + pid); err != nil {
		t.Errorf("a container ended with the engine: %v", err)
	}
	e.StartDaemon()
	if got := docker.Run("inspect", "-f", "{{.State.Pid}}", "stays"); got != pid {
		t.Errorf("pid %s, was %s", got, pid)
	}
}
