package perf

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// patience bounds one command, and one measurement of a peer.
const patience = 90 * time.Second

// cli is a command line, with an engine behind it.
type cli struct {
	name string
	cmd  func(args ...string) *exec.Cmd
}

// try runs a command to its end, and returns what it printed.
func (c *cli) try(args ...string) (string, error) { return c.tryIn("", args...) }

func (c *cli) tryIn(stdin string, args ...string) (string, error) {
	cmd := c.cmd(args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Stdin = &out, &errOut, strings.NewReader(stdin)
	err := finish(cmd, &errOut)
	return out.String(), err
}

// finish runs a prepared command, for at most patience.
func finish(cmd *exec.Cmd, errOut *bytes.Buffer) error {
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		return err
	}
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	if !timer.Stop() {
		return fmt.Errorf("no end in %v", patience)
	}
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return fmt.Errorf("%w: %s", err, oneLine(errOut.String()))
	}
	return nil
}

// output is what a command of ours, which must succeed, printed.
func (b *bench) output(c *cli, args ...string) string {
	b.t.Helper()
	out, err := c.try(args...)
	if err != nil {
		b.t.Fatalf("%s %s: %v", c.name, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(out)
}

// oneLine is a message without its line breaks, cut where it goes on for long.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	return s[:min(len(s), 300)]
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	line := strings.TrimSpace(lines[len(lines)-1])
	return line[:min(len(line), 200)]
}

// contender is one of those that do the same work.
type contender struct {
	who string
	do  func() (float64, error) // the figure of one turn
	// rounds bounds the turns of one that takes long; 0 = as many as the others.
	rounds int
}

// timed is a contender whose figure is how long it takes, in milliseconds.
func timed(who string, do func() error) contender {
	return contender{who: who, do: func() (float64, error) {
		start := time.Now()
		err := do()
		return msSince(start), err
	}}
}

// msSince is the milliseconds since then.
func msSince(start time.Time) float64 { return float64(time.Since(start).Microseconds()) / 1000 }

// command is a contender that is one command.
func command(c *cli, args ...string) contender {
	return timed(c.name, func() error { _, err := c.try(args...); return err })
}

// contest is what is measured.
type contest struct {
	what  string
	unit  string // "" = ms
	goal  goal   // of the first contender
	more  bool   // more is better
	n     int    // turns
	limit time.Duration
	cold  bool // no turn is spent on warming up
	note  string
}

// race lets the contenders work in turns, until each has had n or the time is over.
// The first is ours: the others' ratios to it are taken turn by turn. One that fails
// is out, and its line says why; that ours fails, fails the section.
func (b *bench) race(c contest, all ...contender) {
	b.t.Helper()
	if c.unit == "" {
		c.unit = "ms"
	}
	values := make([][]float64, len(all))
	failed := make([]error, len(all))
	turn := func(i int) (float64, bool) {
		if failed[i] != nil || all[i].rounds > 0 && len(values[i]) >= all[i].rounds {
			return 0, false
		}
		v, err := all[i].do()
		failed[i] = err
		return v, err == nil
	}
	if b.late() { // ours alone, and shortly
		for _, who := range all[1:] {
			b.missing(c.what, who.who, "the time for this section was over")
		}
		all, c.n = all[:1], min(c.n, 5)
	}
	if !c.cold {
		for i := range all {
			turn(i)
		}
	}
	ratios := make([][]float64, len(all))
	end := time.Now().Add(time.Duration(float64(c.limit) * factor()))
	for n := 0; n < c.n && (n < 1 || time.Now().Before(end)); n++ {
		var own float64
		for i := range all {
			v, ok := turn(i)
			if !ok {
				continue
			}
			values[i] = append(values[i], v)
			if i == 0 {
				own = v
			} else if own > 0 && v > 0 {
				ratios[i] = append(ratios[i], v/own)
			}
		}
	}
	for i, who := range all {
		if failed[i] != nil {
			b.missing(c.what, who.who, failed[i].Error())
			if i == 0 {
				b.t.Errorf("%s, %s: %v", c.what, who.who, failed[i])
			}
			continue
		}
		r := row{what: c.what, who: who.who, unit: c.unit, values: values[i], ratios: ratios[i], more: c.more, note: c.note}
		if i == 0 {
			r.goal = c.goal
		}
		b.add(r)
	}
}

// share is how long a section's peers may take part with HULL_BENCH=1. What comes
// after it is measured without them.
const share = 8 * time.Minute

func (b *bench) late() bool {
	return time.Since(b.begin) > time.Duration(float64(share)*factor())
}

// alone measures ours, back to back.
func (b *bench) alone(c contest, who contender) {
	b.t.Helper()
	b.race(c, who)
}

// figure is one that was measured once.
func (b *bench) figure(what, who, unit string, g goal, v float64, note string) {
	b.t.Helper()
	b.add(row{what: what, who: who, unit: unit, goal: g, values: []float64{v}, note: note})
}

// missing is a line that says why there is no figure.
func (b *bench) missing(what, who, why string) {
	b.add(row{what: what, who: who, note: "not measured: " + strings.ReplaceAll(why, "|", "/")})
}

func (b *bench) add(r row) {
	slices.Sort(r.values)
	slices.Sort(r.ratios)
	b.out.rows = append(b.out.rows, r)
	fmt.Fprintln(b.t.Output(), r)
}

// field is a number of a file of lines "Name: 123".
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
