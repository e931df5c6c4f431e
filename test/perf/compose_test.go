package perf

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"hull/test/harness"
)

// compose is ten services with health checks, up and down.
func compose(b *bench) {
	e, _, _ := b.engine([]string{"busybox"})
	dir := b.t.TempDir()
	var file strings.Builder
	file.WriteString("name: bench\nservices:\n")
	for i := range 10 {
		fmt.Fprintf(&file, `  s%d:
    image: busybox
    command: sh -c 'touch /tmp/ready; exec sleep 10000'
    stop_signal: SIGKILL
    healthcheck: {test: ["CMD", "test", "-e", "/tmp/ready"], interval: 5s, start_interval: 100ms, start_period: 60s}
    volumes: ["data%d:/data"]
`, i, i%2)
	}
	file.WriteString("volumes: {data0: {}, data1: {}}\n")
	path := filepath.Join(dir, "compose.yaml")
	if err := os.WriteFile(path, []byte(file.String()), 0o600); err != nil {
		b.t.Fatal(err)
	}
	one := func(who string, c *harness.Client) upDown {
		run := &cli{name: who, cmd: func(args ...string) *exec.Cmd {
			return c.Cmd(append([]string{"-f", path, "--progress", "quiet"}, args...)...)
		}}
		return upDown{who: who, do: func() (up, down float64, err error) {
			start := time.Now()
			_, err = run.try("up", "-d", "--wait")
			up = time.Since(start).Seconds()
			start = time.Now()
			_, derr := run.try("down", "-v", "-t", "1")
			return up, time.Since(start).Seconds(), cmp.Or(err, derr)
		}}
	}
	all := []upDown{one("hull compose", e.HullCompose().Direct()), one("docker compose on hulld", e.Compose().Direct())}
	for _, p := range b.dockers() {
		if p.Engine != nil {
			all = append(all, one("docker compose on "+p.name, p.Compose().Direct()))
		}
	}
	b.upsAndDowns(contest{unit: "s", n: scale(4), limit: 120 * time.Second, cold: true, note: "10 services with health checks"}, all)
}

// upDown is a contender whose turn gives two figures.
type upDown struct {
	who string
	do  func() (up, down float64, err error)
}

// upsAndDowns is a race for the first figure, and a line of the second ones from the
// same turns.
func (b *bench) upsAndDowns(c contest, all []upDown) {
	downs := make([][]float64, len(all))
	var ups []contender
	for i, x := range all {
		ups = append(ups, contender{who: x.who, do: func() (float64, error) {
			up, down, err := x.do()
			if err == nil {
				downs[i] = append(downs[i], down)
			}
			return up, err
		}})
	}
	c.what = "compose up -d --wait"
	b.race(c, ups...)
	for i, x := range all {
		r := row{what: "compose down -v", who: x.who, unit: c.unit, values: slices.Clone(downs[i]), note: c.note}
		if i > 0 {
			for k := range min(len(downs[0]), len(r.values)) {
				r.ratios = append(r.ratios, r.values[k]/downs[0][k])
			}
		}
		if len(r.values) > 0 {
			b.add(r)
		}
	}
}
