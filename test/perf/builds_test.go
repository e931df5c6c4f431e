package perf

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// dockerfile writes a Dockerfile into a directory.
func (b *bench) dockerfile(dir, text string) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// builds are `docker build` as everybody has it, without a plugin.
func builds(b *bench) {
	b.out.text = "`docker build` without the buildx plugin: hulld executes with BuildKit, Docker Engine with its classic builder."
	_, hull, docker := b.engine([]string{"busybox"})
	steps := func(n int) string {
		text := "FROM busybox\nARG TURN\n"
		for range n {
			text += "RUN true $TURN\n"
		}
		return text
	}
	run := func(what string, c contest, prepare func(turn int) string, args ...string) {
		c.what = what
		dir := b.t.TempDir()
		one := func(c *cli) contender {
			turn := 0
			return after(c.name, func() {
				turn++
				if prepare != nil {
					b.dockerfile(dir, prepare(turn))
				}
			}, func() error { _, err := c.try(append(append([]string{"build", "-q"}, args...), dir)...); return err })
		}
		all := []contender{one(hull), one(docker)}
		for _, p := range b.dockers() {
			all = append(all, one(&p.cli))
		}
		b.race(c, all...)
	}
	run("a rebuild that changes nothing, 20 steps", contest{unit: "s", n: scale(20), limit: 40 * time.Second, goal: atMost(0.15)},
		func(int) string { return strings.ReplaceAll(steps(20), " $TURN", "") })
	salt := time.Now().UnixNano()
	run("1 RUN step", contest{unit: "s", n: scale(10), limit: 20 * time.Second}, func(turn int) string {
		return strings.ReplaceAll(steps(1), "$TURN", fmt.Sprint(salt, turn))
	})
	run("11 RUN steps", contest{unit: "s", n: scale(10), limit: 40 * time.Second, note: "less 1 step, by 10: <= 0.06 for a step"}, func(turn int) string {
		return strings.ReplaceAll(steps(11), "$TURN", fmt.Sprint(salt, turn))
	})
	b.bigContext(hull, docker)
}

// bigContext is a context of 50,000 files: sent whole, and again when one has changed.
func (b *bench) bigContext(hull, docker *cli) {
	const files = 50000
	dir := b.t.TempDir()
	b.dockerfile(dir, "FROM busybox\nCOPY . /src\n")
	for i := range files {
		sub := filepath.Join(dir, fmt.Sprint("d", i/500))
		if i%500 == 0 {
			if err := os.Mkdir(sub, 0o755); err != nil {
				b.t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprint("f", i)), []byte(fmt.Sprintf("file %d\n%s", i, strings.Repeat("x", i%1000))), 0o644); err != nil {
			b.t.Fatal(err)
		}
	}
	turn := 0
	one := func(c *cli) contender {
		return after(c.name, func() {
			turn++
			if err := os.WriteFile(filepath.Join(dir, "changed"), []byte(fmt.Sprint(turn)), 0o644); err != nil {
				b.t.Fatal(err)
			}
		}, func() error { _, err := c.try("build", "-q", dir); return err })
	}
	all := []contender{one(hull), one(docker)}
	for _, p := range b.dockers() {
		all = append(all, one(&p.cli))
	}
	b.race(contest{what: "a context of 50,000 files, one of which has changed", unit: "s", n: 3, limit: 60 * time.Second, cold: true}, all...)
}
