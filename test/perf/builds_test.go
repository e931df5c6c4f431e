package perf

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"hull/test/harness"
)

// builder is one that builds a directory.
type builder struct {
	who   string
	build func(dir string, noCache bool) error
}

// buildBy is a client's own "build".
func buildBy(c *cli) *builder {
	return &builder{c.name, func(dir string, noCache bool) error {
		args := []string{"build", "-q"}
		if noCache {
			args = append(args, "--no-cache")
		}
		_, err := c.try(append(args, dir)...)
		return err
	}}
}

// buildx is docker's client with its build plugin, as everybody installs it.
func buildx(e *harness.Engine, who string) *cli {
	return &cli{name: who, cmd: e.Buildx().Direct().Cmd}
}

// dockerfile writes a Dockerfile into a directory.
func (b *bench) dockerfile(dir, text string) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func builds(b *bench) {
	b.out.text = "`build -q`, the command line's start included: `hull build`, and `docker build` with its buildx plugin, all by BuildKit's protocol."
	e, hull, _ := b.engine([]string{"busybox"})
	all := []*builder{buildBy(hull), buildBy(buildx(e, "docker on hulld"))}
	for _, p := range b.dockers() {
		if p.Engine != nil {
			all = append(all, buildBy(buildx(p.Engine, p.name)))
		} else {
			all = append(all, buildBy(&p.cli))
		}
	}
	if x, err := b.buildkitd(e, hull); err != nil {
		b.missing("builds", "buildkitd", err.Error())
	} else {
		all = append(all, x)
	}
	b.steps(e, all)
	b.bigContext(all)
	b.runBuilt(hull)
}

// buildkitd is BuildKit without an engine. It has its base image from a registry.
func (b *bench) buildkitd(e *harness.Engine, hull *cli) (*builder, error) {
	b.t.Helper()
	p, registry, err := harness.StartBuildkitd(b.t, harness.PeerBin(b.t)+":"+os.Getenv("PATH"), e)
	if err != nil {
		return nil, err
	}
	ref := registry + "/library/busybox"
	b.output(hull, "tag", "busybox", ref)
	b.output(hull, "push", "-q", ref)
	return buildBy(&cli{name: p.Name, cmd: func(args ...string) *exec.Cmd { return p.Client.Cmd(append([]string{"buildx"}, args...)...) }}), nil
}

// turns are builds of dir, with something done before each that does not count.
func (b *bench) buildTurns(c contest, all []*builder, dir string, noCache bool, before func()) {
	b.t.Helper()
	var turns []contender
	for _, x := range all {
		turns = append(turns, after(x.who, before, func() error { return x.build(dir, noCache) }))
	}
	c.unit = "s"
	b.race(c, turns...)
}

const buildSteps = 20

func (b *bench) steps(e *harness.Engine, all []*builder) {
	dir := b.t.TempDir()
	text := "FROM busybox\n"
	for range buildSteps {
		text += "RUN true\n"
	}
	b.dockerfile(dir, text)
	b.buildTurns(contest{what: "a rebuild that changes nothing, 20 steps", n: scale(30), limit: 40 * time.Second, goal: atMost(0.15), note: "in turns"}, all, dir, false, nil)
	noop := at(b.last(all[0].who), 0.5)
	b.buildTurns(contest{what: "20 RUN true steps, --no-cache", n: scale(10), limit: 60 * time.Second, cold: true, note: "in turns"}, all, dir, true, nil)
	b.figure("one step: the difference, by 20", all[0].who, "ms", atMost(60), (at(b.last(all[0].who), 0.5)-noop)*1000/buildSteps, "")
	before := processorTime(b, e.Pid())
	if err := all[0].build(dir, true); err != nil {
		b.t.Error(err)
	}
	b.figure("hulld's processor time for one step", all[0].who, "ms", goal{}, (processorTime(b, e.Pid())-before)*1000/buildSteps, "of a build of 20")
}

// last are the values of the newest line of somebody.
func (b *bench) last(who string) []float64 {
	for i := len(b.out.rows) - 1; i >= 0; i-- {
		if r := b.out.rows[i]; r.who == who && len(r.values) > 0 {
			return r.values
		}
	}
	b.t.Fatalf("nothing was measured of %s", who)
	return nil
}

// processorTime is the seconds a process has used, with those children it has waited for.
func processorTime(b *bench, pid int) float64 {
	b.t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.t.Fatal(err)
	}
	f := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	var sum float64
	for _, i := range []int{11, 12, 13, 14} { // utime, stime, cutime, cstime
		var v float64
		_, _ = fmt.Sscan(f[i], &v)
		sum += v
	}
	return sum / 100
}

// bigContext is a context of 50,000 files: again as it is, and when one has changed.
func (b *bench) bigContext(all []*builder) {
	files := int(50000 * min(1, factor()))
	dir := b.t.TempDir()
	b.dockerfile(dir, "FROM busybox\nCOPY . /src\n")
	for i := range files {
		sub := filepath.Join(dir, fmt.Sprint("d", i/500))
		if i%500 == 0 {
			if err := os.Mkdir(sub, 0o755); err != nil {
				b.t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprint("f", i)), fmt.Appendf(nil, "file %d\n%s", i, strings.Repeat("x", i%1000)), 0o644); err != nil {
			b.t.Fatal(err)
		}
	}
	b.buildTurns(contest{what: fmt.Sprintf("a context of %d files, nothing changed", files), n: 3, limit: 60 * time.Second, note: "in turns"}, all, dir, false, nil)
	turn := 0
	b.buildTurns(contest{what: fmt.Sprintf("a context of %d files, one changed", files), n: 1, limit: 40 * time.Second, cold: true}, all, dir, false, func() {
		turn++
		if err := os.WriteFile(filepath.Join(dir, "changed"), []byte(fmt.Sprint(turn)), 0o644); err != nil {
			b.t.Fatal(err)
		}
	})
}

// runBuilt is the first run of an image that was just built, beside a run of one that
// was loaded.
func (b *bench) runBuilt(hull *cli) {
	dir := b.t.TempDir()
	turn := 0
	built := contender{who: "built a moment ago", do: func() (float64, error) {
		turn++
		b.dockerfile(dir, fmt.Sprintf("FROM busybox\nRUN echo %d > /turn\n", turn))
		if _, err := hull.try("build", "-q", "-t", "bench-fresh", dir); err != nil {
			return 0, err
		}
		return timed("", func() error { _, err := hull.try("run", "--rm", "bench-fresh", "true"); return err }).do()
	}}
	loaded := command(hull, "run", "--rm", "busybox", "true")
	loaded.who = "loaded"
	b.race(contest{what: "first run of an image", n: scale(20), limit: 20 * time.Second, note: "hull run --rm; ×: to the loaded one"}, loaded, built)
}
