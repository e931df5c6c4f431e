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
	var up, down []contender
	one := func(who string, c *harness.Client) {
		run := &cli{name: who, cmd: func(args ...string) *exec.Cmd {
			return c.Cmd(append([]string{"-f", path, "--progress", "quiet"}, args...)...)
		}}
		var took float64
		up = append(up, contender{who: who, do: func() (float64, error) {
			start := time.Now()
			_, err := run.try("up", "-d", "--wait")
			s := time.Since(start).Seconds()
			start = time.Now()
			_, derr := run.try("down", "-v", "-t", "1")
			took = time.Since(start).Seconds()
			if err == nil {
				err = derr
			}
			return s, err
		}})
		down = append(down, contender{who: who, do: func() (float64, error) { return took, nil }})
	}
	one("hull compose", e.HullCompose().Direct())
	one("docker compose on hulld", e.Compose().Direct())
	for _, p := range b.dockers() {
		if p.Engine != nil {
			one("docker compose on "+p.name, p.Compose().Direct())
		}
	}
	b.twoFigures(contest{unit: "s", n: scale(4), limit: 120 * time.Second, note: "10 services with health checks"}, "compose up -d --wait", up, "compose down -v", down)
}

// twoFigures is a race whose turns give two figures: the second contenders say what
// the first ones' turn has left.
func (b *bench) twoFigures(c contest, what string, first []contender, second string, then []contender) {
	rows := map[string][]float64{}
	for i := range first {
		do := first[i].do
		first[i].do = func() (float64, error) {
			v, err := do()
			if err == nil {
				left, _ := then[i].do()
				rows[first[i].who] = append(rows[first[i].who], left)
			}
			return v, err
		}
	}
	c.what, c.cold = what, true
	b.race(c, first...)
	own := rows[first[0].who]
	for i, f := range first {
		r := row{what: second, who: f.who, unit: c.unit, values: append([]float64(nil), rows[f.who]...), note: c.note}
		if i > 0 {
			for k := range min(len(own), len(r.values)) {
				r.ratios = append(r.ratios, r.values[k]/own[k])
			}
		}
		if len(r.values) > 0 {
			b.add(r)
		}
	}
}
