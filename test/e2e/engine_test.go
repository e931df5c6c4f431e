package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hull/test/harness"
)

func TestHullStartsTheEngineByItself(t *testing.T) {
	t.Parallel()
	e := harness.NewEngine(t)
	h := e.Hull()
	h.Env = []string{"HULL_HOST=", "DOCKER_HOST="}
	out := h.Run("version", "--format", "{{.Server.APIVersion}}")
	if !strings.HasPrefix(out, "1.") {
		t.Errorf("version says %q", out)
	}
	e.Adopt()
}

// TestDoctor: an engine that runs says that containers can be had, and of each thing
// that it looked at what it is.
func TestDoctor(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, nil)
	out := e.Hull().Run("doctor")
	for _, want := range []string{"kernel ", "cgroups ", "overlayfs ", "nftables ", "disk space ", "isolation container available", "isolation sandbox ", "isolation vm "} {
		if !strings.Contains(out, want) {
			t.Errorf("nothing about %s:\n%s", want, out)
		}
	}
	if strings.Contains(out, "BROKEN") {
		t.Error(out)
	}
}

func TestTwoEnginesNeverMeet(t *testing.T) {
	t.Parallel()
	a := harness.Start(t, []string{"busybox"})
	b := harness.Start(t, []string{"busybox"})
	a.Docker().Run("run", "-d", "--name", "same", "busybox", "sleep", "600")
	b.Docker().Run("run", "-d", "--name", "same", "busybox", "sleep", "600")
	a.Docker().Run("rm", "-f", "same")
	if got := b.Docker().Run("inspect", "-f", "{{.State.Running}}", "same"); got != "true" {
		t.Errorf("the other engine's container: running is %s", got)
	}
}

func TestAHundredContainersEightAtATime(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	work := make(chan int)
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]bool{}
	for range 8 {
		wg.Go(func() {
			for i := range work {
				r := e.Hull().Try("run", "--rm", "busybox", "sh", "-c", fmt.Sprintf("echo %d; hostname -i", i))
				f := strings.Fields(r.Stdout)
				if r.Code != 0 || len(f) < 2 || f[0] != fmt.Sprint(i) || net.ParseIP(f[1]) == nil {
					t.Errorf("container %d: %+v", i, r)
				}
				mu.Lock()
				seen[f0(f)] = true
				mu.Unlock()
			}
		})
	}
	for i := range 100 {
		work <- i
	}
	close(work)
	wg.Wait()
	if len(seen) != 100 {
		t.Errorf("%d different outputs of 100 containers", len(seen))
	}
}

func f0(f []string) string {
	if len(f) == 0 {
		return ""
	}
	return f[0]
}

func TestTheAPIRefusesBadInput(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	for _, c := range []struct {
		method, path, body string
		status             int
		message            string
	}{
		{http.MethodPost, "/v1.47/containers/create", `{"Image":`, 400, ""},
		{http.MethodPost, "/v1.47/containers/create", ``, 400, ""},
		{http.MethodPost, "/v1.47/containers/create", `[]`, 400, ""},
		{http.MethodPost, "/v1.47/containers/create", `{"Image":"nosuchimage:1"}`, 404, "No such image: nosuchimage:1"},
		{http.MethodPost, "/v1.47/containers/create", `{"Image":"busybox","Unknown":{"deep":[1]}}`, 201, ""},
		{http.MethodPost, "/v1.47/containers/create?name=a/b", `{"Image":"busybox"}`, 400, "Invalid container name"},
		{http.MethodPost, "/v1.47/containers/create", `{"Image":"` + strings.Repeat("a", 1<<20) + `"}`, 400, ""},
		{http.MethodGet, "/v1.47/containers/nosuch/json", "", 404, "No such container: nosuch"},
		{http.MethodPost, "/v1.47/containers/nosuch/start", "", 404, "No such container: nosuch"},
		{http.MethodGet, "/v9.99/info", "", 400, "too new"},
		{http.MethodGet, "/v1.10/info", "", 400, "too old"},
		{http.MethodGet, "/v1.47/nosuch", "", 404, "page not found"},
		{http.MethodGet, "/v1.47/containers/json?filters=broken", "", 400, ""},
		{http.MethodGet, "/v1.47/swarm", "", 503, "not a swarm manager"},
		{http.MethodGet, "/v1.47/services", "", 503, "not a swarm manager"},
	} {
		resp, err := e.API(c.method, c.path, strings.NewReader(c.body))
		if err != nil {
			t.Errorf("%s %s: %v", c.method, c.path, err)
			continue
		}
		var body struct{ Message string }
		err = json.NewDecoder(resp.Body).Decode(&body)
		resp.Body.Close()
		if resp.StatusCode != c.status || (c.status >= 400 && (err != nil || !strings.Contains(body.Message, c.message) || body.Message == "")) {
			t.Errorf("%s %s %.60s: %d %q (%v), want %d %q", c.method, c.path, c.body, resp.StatusCode, body.Message, err, c.status, c.message)
		}
	}
}

func TestAClientThatGoesAwayMidAttach(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	docker := e.Docker()
	cmd := docker.Cmd("run", "-i", "--name", "yes", "busybox", "yes")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	// The container goes on writing: nobody waits for the client that left.
	before := docker.Run("exec", "yes", "cat", "/proc/1/io")
	e.Eventually("the container goes on", func() error {
		if docker.Run("exec", "yes", "cat", "/proc/1/io") == before {
			return fmt.Errorf("it writes nothing more: %s", before)
		}
		return nil
	})
	docker.Run("rm", "-f", "yes")
}

func TestManyFollowers(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	e.Docker().Run("run", "-d", "--name", "src", "busybox", "sh", "-c", "while [ ! -e /go ]; do sleep 0.1; done; seq 1 1000")
	const followers = 100
	var wg sync.WaitGroup
	for i := range followers {
		wg.Go(func() {
			resp, err := e.API(http.MethodGet, "/v1.47/containers/src/logs?follow=1&stdout=1", nil)
			if err != nil {
				t.Errorf("follower %d: %v", i, err)
				return
			}
			defer resp.Body.Close()
			n := 0
			buf := make([]byte, 64<<10)
			for {
				m, err := resp.Body.Read(buf)
				n += strings.Count(string(buf[:m]), "\n")
				if err != nil {
					break
				}
			}
			if n < 1000 { // stream headers may hold a 0x0a byte as well
				t.Errorf("follower %d saw %d lines of 1000", i, n)
			}
		})
	}
	time.Sleep(500 * time.Millisecond) // most of them are there before the first line
	e.Docker().Run("exec", "src", "touch", "/go")
	wg.Wait()
}

func TestAFullDiskIsSaidAndSurvived(t *testing.T) {
	t.Parallel()
	e := harness.NewEngine(t)
	harness.SmallRoot(e, "48m")
	e.StartDaemon()
	e.Load("busybox")
	e.AtEnd()
	docker := e.Docker()
	docker.Run("create", "--name", "small", "busybox", "sh", "-c", "echo in > /x; cat /x")
	r := docker.Try("run", "--name", "hog", "busybox", "dd", "if=/dev/urandom", "of=/big", "bs=1M")
	if r.Code == 0 || !strings.Contains(r.Stderr, "No space left") {
		t.Errorf("filling the disk: %+v", r)
	}
	if r := docker.Try("commit", "hog", "toobig"); r.Code == 0 || !strings.Contains(strings.ToLower(r.Stderr), "no space left") {
		t.Errorf("commit on a full disk: %+v", r)
	}
	docker.Run("ps", "-a")
	docker.Run("rm", "hog")
	if got := docker.Run("start", "-a", "small"); got != "in" {
		t.Errorf("after making room: %q", got)
	}
}

func TestSocketPermissions(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, nil)
	info, err := os.Stat(filepath.Join(e.Run, "hull.sock"))
	if err != nil {
		t.Fatal(err)
	}
	if m := info.Mode().Perm(); m&0o007 != 0 {
		t.Errorf("the socket has mode %o: everybody is root", m)
	}
}
