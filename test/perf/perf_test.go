// Package perf measures the numbers of SPECIFICATION.md on the built binaries:
// make bench, on a quiet machine. Docker Engine, where there is one (make
// bench-peers builds the newest), is started beside it and does the same in turns
// (A, B, A, B), so that both meet the same machine; HULL_BENCH_PEER=unix://SOCKET
// names one that runs already.
package perf

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"hull/internal/plot"
	"hull/test/harness"
	"hull/test/images"
)

// row is one line of the table.
type row struct {
	what, target string
	unit         string
	values       []float64 // sorted
	note         string
}

func (r row) at(q float64) float64 { return r.values[int(q*float64(len(r.values)-1)+0.5)] }

func (r row) String() string {
	if len(r.values) == 1 {
		return fmt.Sprintf("| %s | %s | %.4g %s | | | %s |", r.what, r.target, r.values[0], r.unit, r.note)
	}
	return fmt.Sprintf("| %s | %s | %.4g %s | %.4g | %.4g | %s (n=%d) |", r.what, r.target, r.at(0.5), r.unit, r.at(0), r.at(0.99), r.note, len(r.values))
}

type table struct {
	t    *testing.T
	rows []row

	// for the report
	load   string
	bars   []plot.Group
	curves []plot.Line
}

func (tb *table) add(what, target, unit, note string, values ...float64) row {
	slices.Sort(values)
	r := row{what: what, target: target, unit: unit, values: values, note: note}
	tb.rows = append(tb.rows, r)
	fmt.Fprintln(tb.t.Output(), r)
	return r
}

// scale shortens everything for a first look: HULL_BENCH=0.1.
func scale(n int) int {
	f, err := strconv.ParseFloat(os.Getenv("HULL_BENCH"), 64)
	if err != nil || f <= 0 || f > 10 {
		f = 1
	}
	return max(int(float64(n)*f), 3)
}

func TestNumbers(t *testing.T) {
	if os.Getenv("HULL_BENCH") == "" {
		t.Skip("needs a quiet machine: make bench")
	}
	e := harness.Start(t, []string{"busybox"})
	hull, docker := e.Hull().Direct(), e.Docker().Direct()
	peer := findPeer(t, e)
	tb := &table{t: t, load: firstWord("/proc/loadavg")}
	fmt.Fprintln(t.Output(), "| what | target | median | min | p99 | |\n|---|---|---|---|---|---|")

	time.Sleep(2 * time.Second) // the engine settles: pools are filled
	tb.add("hulld idle, PSS", "<= 45 MiB", "MiB", "", pss(e.Pid())/1024)

	runs(tb, hull, docker, peer)
	execs(tb, hull, peer)
	tb.add("`hull --version`", "<= 8 ms", "ms", "", times(scale(100), func() { hull.Run("--version") })...)
	createStart(tb, e)
	hundred(tb, hull)
	idleContainers(tb, e, hull)
	thousand(tb, e, hull)
	stdout(tb, e)
	pull(tb, e)
	floor(tb, e, hull)
	podman(tb, e)
	sandboxes(tb, hull)
	restart(tb, e, hull)
	growth(tb, e, hull)
	tb.write()
}

// findPeer is Docker Engine, for the same work in turns; nil when none is here.
func findPeer(t *testing.T, e *harness.Engine) *harness.Client {
	var peer *harness.Client
	if host := os.Getenv("HULL_BENCH_PEER"); host != "" {
		peer = e.Docker().Direct()
		peer.Env = []string{"DOCKER_HOST=" + host}
		peer.Name = "docker on " + host
	} else if p := harness.StartPeer(e); p != nil {
		peer = p.Docker
	} else {
		return nil
	}
	fmt.Fprintln(t.Output(), "peer:", peer.Name)
	if peer.Try("image", "inspect", "busybox").Code != 0 {
		peer.Run("load", "-q", "-i", images.Path(t, "busybox"))
	}
	return peer
}

// times runs fn n times, after one that does not count, and returns milliseconds.
func times(n int, fn func()) []float64 {
	fn()
	out := make([]float64, 0, n)
	for range n {
		start := time.Now()
		fn()
		out = append(out, float64(time.Since(start).Microseconds())/1000)
	}
	return out
}

// turns runs a and b in turns of five.
func turns(n int, a, b func()) (ta, tb []float64) {
	for len(ta) < n {
		ta = append(ta, times(5, a)...)
		tb = append(tb, times(5, b)...)
	}
	return ta, tb
}

func runs(tb *table, hull, docker, peer *harness.Client) {
	for _, network := range []struct{ name, target string }{{"bridge", "<= 25 ms"}, {"none", "<= 18 ms"}} {
		args := []string{"run", "--rm", "--network", network.name, "busybox", "true"}
		own := tb.add("`hull run --rm` "+network.name, network.target, "ms", "", times(scale(200), func() { hull.Run(args...) })...)
		group := map[string]string{"bridge": "run, bridge", "none": "run, no network"}[network.name]
		tb.bar(group, "hull", own)
		if network.name == "none" {
			tb.bar("run, no network, by isolation", "container", own)
		}
		if peer == nil {
			tb.add("`docker run --rm` "+network.name+" on hulld", "", "ms", "", times(scale(50), func() { docker.Run(args...) })...)
			continue
		}
		a, b := turns(scale(30), func() { docker.Run(args...) }, func() { peer.Run(args...) })
		ra := tb.add("`docker run --rm` "+network.name+" on hulld", "<= 1/4 of the peer", "ms", "in turns", a...)
		rb := tb.add("`docker run --rm` "+network.name+" on the peer", "", "ms", "in turns", b...)
		tb.bar(group, "docker on hulld", ra)
		tb.bar(group, "docker", rb)
		tb.add("peer / hulld, docker, "+network.name, ">= 4", "x", "", rb.at(0.5)/ra.at(0.5))
		tb.add("peer / `hull run`, "+network.name, ">= 8", "x", "", rb.at(0.5)/own.at(0.5))
	}
}

func execs(tb *table, hull, peer *harness.Client) {
	hull.Run("run", "-d", "--name", "exec", "busybox", "sleep", "10000")
	own := tb.add("`hull exec`", "<= 9 ms", "ms", "", times(scale(200), func() { hull.Run("exec", "exec", "true") })...)
	tb.bar("exec", "hull", own)
	hull.Run("rm", "-f", "exec")
	if peer != nil {
		peer.Run("run", "-d", "--name", "hull-bench-exec", "busybox", "sleep", "10000")
		theirs := tb.add("`docker exec` on the peer", "", "ms", "", times(scale(30), func() { peer.Run("exec", "hull-bench-exec", "true") })...)
		tb.bar("exec", "docker", theirs)
		peer.Run("rm", "-f", "hull-bench-exec")
	}
}

// createStart is the engine alone: one connection, no command line.
func createStart(tb *table, e *harness.Engine) {
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", strings.TrimPrefix(e.Host, "unix://"))
	}}}
	call := func(method, path, body string, want int) map[string]any {
		req, err := http.NewRequest(method, "http://e/v1.47"+path, strings.NewReader(body))
		if err != nil {
			tb.t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			tb.t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != want {
			tb.t.Fatalf("%s %s: %s %s (%v)", method, path, resp.Status, b, err)
		}
		var v map[string]any
		_ = json.Unmarshal(b, &v) // some have no body
		return v
	}
	var values []float64
	for range scale(200) {
		start := time.Now()
		id := call(http.MethodPost, "/containers/create", `{"Image":"busybox","Cmd":["sleep","100"]}`, 201)["Id"].(string)
		call(http.MethodPost, "/containers/"+id+"/start", "", 204)
		values = append(values, float64(time.Since(start).Microseconds())/1000)
		call(http.MethodDelete, "/containers/"+id+"?force=1", "", 204)
	}
	tb.add("create + start through the API", "p50 <= 10 ms, p99 <= 25 ms", "ms", "bridge, durable", values...)
}

func hundred(tb *table, hull *harness.Client) {
	tb.add("100 x `hull run --rm`, 8 at a time", "<= 2.5 s", "s", "", func() float64 {
		work := make(chan struct{}, 100)
		for range 100 {
			work <- struct{}{}
		}
		close(work)
		start := time.Now()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range work {
					hull.Run("run", "--rm", "busybox", "true")
				}
			})
		}
		wg.Wait()
		return time.Since(start).Seconds()
	}())
}

func idleContainers(tb *table, e *harness.Engine, hull *harness.Client) {
	const n = 20
	before := pss(e.Pid())
	var ids []string
	for range n {
		ids = append(ids, hull.Run("run", "-d", "busybox", "sleep", "10000"))
	}
	time.Sleep(2 * time.Second)
	var monitors float64
	for _, id := range ids {
		pid, err := strconv.Atoi(hull.Run("inspect", "-f", "{{.State.Pid}}", id))
		if err != nil {
			tb.t.Fatal(err)
		}
		monitors += pss(parent(tb.t, pid))
	}
	tb.add("engine-side PSS per idle container", "<= 3 MiB", "MiB", "its monitor and its share of hulld's growth",
		(monitors+max(0, pss(e.Pid())-before))/n/1024)
	hull.Run(append([]string{"rm", "-f"}, ids...)...)
}

func thousand(tb *table, e *harness.Engine, hull *harness.Client) {
	n := scale(1000)
	var ids []string
	for i := range n {
		resp, err := e.API(http.MethodPost, fmt.Sprintf("/v1.47/containers/create?name=many%d", i), strings.NewReader(`{"Image":"busybox","Cmd":["true"]}`))
		if err != nil {
			tb.t.Fatal(err)
		}
		resp.Body.Close()
		ids = append(ids, fmt.Sprint("many", i))
	}
	tb.add(fmt.Sprintf("`hull ps -a` with %d containers", n), "<= 30 ms", "ms", "", times(scale(50), func() { hull.Run("ps", "-a") })...)
	for chunk := range slices.Chunk(ids, 100) {
		hull.Run(append([]string{"rm"}, chunk...)...)
	}
}

// stdout writes 1 GiB of text lines through the default log driver.
func stdout(tb *table, e *harness.Engine) {
	line := strings.Repeat("the quick brown fox jumps over the lazy dog; ", 2) + "\n"
	e.WriteFile("text/text", strings.Repeat(line, 64<<20/len(line)))
	memory := pss(e.Pid())
	run := func(shell string) float64 {
		e.Docker().Direct().Run("run", "-d", "--name", "loud", "-v", e.Dir("text")+":/d", "busybox", "sh", "-c", shell)
		start := time.Now()
		e.Docker().Direct().Run("wait", "loud")
		d := time.Since(start).Seconds()
		e.Docker().Direct().Run("rm", "loud")
		return d
	}
	n := max(1, scale(16))
	mib := float64(n*64) / run(fmt.Sprintf("sleep 0.5; i=0; while [ $i -lt %d ]; do cat /d/text; i=$((i+1)); done", n)+"; exit 0")
	tb.add(fmt.Sprintf("%d MiB of text to stdout", n*64), ">= 300 MiB/s", "MiB/s", "json-file, 0.5 s of start and sleep included", mib)
	tb.add("hulld's growth meanwhile", "flat", "MiB", "", (pss(e.Pid())-memory)/1024)
}

// pull fetches ten layers of 50 MiB from a registry of this process.
func pull(tb *table, e *harness.Engine) {
	e.Load("tenlayers")
	registry := e.Registry("", nil)
	docker := e.Docker()
	ref := registry + "/tenlayers:1"
	docker.Run("tag", "tenlayers", ref)
	docker.Run("push", "-q", ref)
	docker.Run("rmi", "-f", "tenlayers", ref)

	// The bound: decompressing the same blobs, two at a time, and nothing else.
	blobs, err := filepath.Glob(filepath.Join(e.Dir("registry"), "docker/registry/v2/blobs/sha256/*/*/data"))
	if err != nil {
		tb.t.Fatal(err)
	}
	start := time.Now()
	var wg sync.WaitGroup
	gate := make(chan struct{}, 2)
	for _, b := range blobs {
		wg.Go(func() {
			gate <- struct{}{}
			defer func() { <-gate }()
			f, err := os.Open(b)
			if err != nil {
				tb.t.Error(err)
				return
			}
			defer f.Close()
			z, err := gzip.NewReader(f)
			if err != nil {
				return // a manifest or a configuration
			}
			if _, err := io.Copy(io.Discard, z); err != nil { // #nosec: our own file
				tb.t.Error(err)
			}
		})
	}
	wg.Wait()
	bound := time.Since(start).Seconds()

	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", e.Pid()), []byte("5"), 0); err != nil {
		tb.t.Fatal(err)
	}
	start = time.Now()
	docker.Run("pull", "-q", ref)
	took := time.Since(start).Seconds()
	tb.add("pull of 10 layers, 500 MiB", "bound by decompression", "s", fmt.Sprintf("decompression alone: %.2f s, %.0f %% of it", bound, 100*bound/took), took)
	tb.add("hulld's peak memory in a pull", "<= 100 MiB", "MiB", "RSS", status(tb.t, e.Pid(), "VmHWM")/1024)
	if out, err := exec.Command("ps", "-o", "rss=,args=", "--ppid", strconv.Itoa(e.Pid())).Output(); err == nil && len(bytes.TrimSpace(out)) > 0 {
		fmt.Fprintf(tb.t.Output(), "children of hulld after the pull:\n%s", out)
	}
}

// pss is the proportional set size of a process, in KiB.
func pss(pid int) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0
	}
	return field(string(b), "Pss")
}

func status(t *testing.T, pid int, name string) float64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	return field(string(b), name)
}

func field(text, name string) float64 {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == name+":" {
			v, _ := strconv.ParseFloat(f[1], 64)
			return v
		}
	}
	return 0
}

func parent(t *testing.T, pid int) int {
	t.Helper()
	return int(status(t, pid, "PPid"))
}
