// Package perf measures the numbers of SPECIFICATION.md on the built binaries:
// make bench, on a quiet machine. The peers that are here (Docker Engine as make
// bench-peers builds it and as the distribution has it, Podman, runc, crun, runsc,
// bare QEMU) are started beside it, each on a private state directory and in a
// network namespace of its own, and do the same in turns (A, B, A, B), so that all
// meet the same machine. HULL_BENCH_PEER=unix://SOCKET names an engine that runs
// already.
//
// Each section has an engine of its own: go test -run Numbers/logs measures one.
package perf

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"hull/test/harness"
)

// bench is what a section works with.
type bench struct {
	t     *testing.T // the section's own
	out   *section
	peers []*peer
	begin time.Time // of this section
}

func TestNumbers(t *testing.T) {
	if os.Getenv("HULL_BENCH") == "" {
		t.Skip("needs a quiet machine: make bench")
	}
	r := &report{t: t, load: firstWord("/proc/loadavg"), start: time.Now()}
	peers := findPeers(t, r)
	for _, s := range []struct {
		name, title string
		run         func(*bench)
	}{
		{"starts", "Starts", starts},
		{"api", "The engine alone", engineOnly},
		{"parallel", "Many at once", parallel},
		{"isolations", "Starts by isolation", isolations},
		{"bundles", "Runtimes on a bundle, without an engine", bundles},
		{"memory", "Memory", memory},
		{"many", "A thousand containers", many},
		{"logs", "Logs", logs},
		{"network", "Network", networks},
		{"compose", "Compose", compose},
		{"images", "Images", imageMoves},
		{"machines", "Machines", machines},
		{"restart", "The engine's own restart", restart},
		{"builds", "Builds", builds},
		{"growth", "As work grows", growth},
	} {
		t.Run(s.name, func(t *testing.T) {
			b := &bench{t: t, out: r.section(s.name, s.title), peers: peers, begin: time.Now()}
			defer func() {
				if t.Failed() {
					b.missing("the rest of this section", "", "it failed; the run's output says how")
				}
				r.write() // what is measured is there, whatever comes
			}()
			s.run(b)
		})
	}
}

// engine is a fresh engine of ours, with images, for this section.
func (b *bench) engine(images []string, options ...harness.Option) (e *harness.Engine, hull, docker *cli) {
	b.t.Helper()
	e = harness.Start(b.t, images, options...)
	return e, &cli{name: "hull", cmd: e.Hull().Direct().Cmd}, &cli{name: "docker on hulld", cmd: e.Docker().Direct().Cmd}
}

// factor shortens everything: HULL_BENCH=0.5.
func factor() float64 {
	f, err := strconv.ParseFloat(os.Getenv("HULL_BENCH"), 64)
	if err != nil || f <= 0 || f > 10 {
		return 1
	}
	return f
}

// scale is how many of n times something is done.
func scale(n int) int { return max(int(float64(n)*factor()), 3) }

func firstWord(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	word, _, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
	return word
}

func scaled() string {
	if s := os.Getenv("HULL_BENCH"); s != "1" {
		return fmt.Sprintf(", with %s of the usual number of runs", s)
	}
	return ""
}
