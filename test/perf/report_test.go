package perf

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"hull/internal/plot"
)

// goal is what is promised of a median.
type goal struct {
	op    string // "<=", ">="
	value float64
}

func atMost(v float64) goal  { return goal{"<=", v} }
func atLeast(v float64) goal { return goal{">=", v} }

// verdict says how a value stands to the goal.
func (g goal) verdict(v float64, unit string) string {
	if g.op == "" {
		return ""
	}
	met := v <= g.value
	if g.op == ">=" {
		met = v >= g.value
	}
	return fmt.Sprintf("%s %g %s: %s", g.op, g.value, unit, map[bool]string{true: "met", false: "**missed**"}[met])
}

// row is one line of the report: what was done, by whom, and what it took.
type row struct {
	what, who string
	unit      string
	values    []float64 // sorted; none = not measured, and note says why
	ratios    []float64 // to ours, turn by turn; sorted
	more      bool      // more is better
	goal      goal
	note      string
}

func at(values []float64, q float64) float64 { return values[int(q*float64(len(values)-1)+0.5)] }

func (r row) String() string {
	if len(r.values) == 0 {
		return fmt.Sprintf("| %s | %s | | | | | | %s |", r.what, r.who, r.note)
	}
	mid := at(r.values, 0.5)
	spread := "| "
	if len(r.values) > 1 {
		spread = fmt.Sprintf("%.4g | %.4g", at(r.values, 0), at(r.values, 0.99))
	}
	ratio := ""
	if len(r.ratios) > 0 {
		ratio = fmt.Sprintf("%.3g", at(r.ratios, 0.5))
	}
	notes := []string{}
	for _, n := range []string{r.goal.verdict(mid, r.unit), r.note} {
		if n != "" {
			notes = append(notes, n)
		}
	}
	return fmt.Sprintf("| %s | %s | %.4g %s | %s | %d | %s | %s |", r.what, r.who, mid, r.unit, spread, len(r.values), ratio, strings.Join(notes, "; "))
}

// section is a heading with its lines.
type section struct {
	name, title string
	text        string // said above the lines
	rows        []row
	curves      []plot.Line
}

// report is docs/benchmarks.md as it grows.
type report struct {
	t        *testing.T
	load     string
	start    time.Time
	peers    []string // what was found, and what was not
	sections []*section
}

func (r *report) section(name, title string) *section {
	s := &section{name: name, title: title}
	r.sections = append(r.sections, s)
	return s
}

// write leaves the report and its plots where HULL_BENCH_OUT says.
func (r *report) write() {
	r.t.Helper()
	dir := os.Getenv("HULL_BENCH_OUT")
	if dir == "" {
		return
	}
	plots := filepath.Join(dir, "plots")
	if err := os.MkdirAll(plots, 0o755); err != nil {
		r.t.Fatal(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `# Benchmarks

Written by %[1]smake bench%[1]s on %[2]s: %[3]d processors, Linux %[4]s, load average %[5]s at the start and %[6]s at the
end%[7]s. Peers do the same work in turns with hull on the same machine, each on a state directory and in a network
namespace of its own, so that ratios hold where times do not: "× hull" is the median of the ratios taken turn by turn,
of a peer's figure to hull's. What is promised: [SPECIFICATION.md](../SPECIFICATION.md); why a figure is what it is:
[performance.md](performance.md).

`, "`", time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), firstWord("/proc/sys/kernel/osrelease"), r.load, firstWord("/proc/loadavg"), scaled())
	for _, p := range r.peers {
		fmt.Fprintf(&b, "- %s\n", p)
	}
	for _, s := range r.sections {
		r.writeSection(&b, s, plots)
	}
	fmt.Fprintf(&b, "\nAll of it took %.0f s.\n", time.Since(r.start).Seconds())
	if err := os.WriteFile(filepath.Join(dir, "benchmarks.md"), []byte(b.String()), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r *report) writeSection(b *strings.Builder, s *section, plots string) {
	r.t.Helper()
	fmt.Fprintf(b, "\n## %s\n\n", s.title)
	if s.text != "" {
		fmt.Fprintf(b, "%s\n\n", s.text)
	}
	if len(s.rows) > 0 {
		fmt.Fprintln(b, "| what | who | median | min | p99 | n | × hull | |\n|---|---|---|---|---|---|---|---|")
		for _, row := range s.rows {
			fmt.Fprintln(b, row)
		}
	}
	if groups := s.bars(); len(groups) > 0 {
		r.draw(plots, s.name+".svg", func(f *os.File) error { return plot.Bars(f, s.title, groups) })
		fmt.Fprintf(b, "\n![%s](plots/%s.svg)\n", s.title, s.name)
	}
	if len(s.curves) > 0 {
		r.draw(plots, s.name+"-curves.svg", func(f *os.File) error {
			return plot.Lines(f, "Cost of one operation as work grows", "how many there are", "ms for one", s.curves)
		})
		fmt.Fprintf(b, "\n![cost curves](plots/%s-curves.svg)\n", s.name)
		writeCurves(b, s.curves)
	}
}

// writeCurves is a table of lines, each with its own steps.
func writeCurves(b *strings.Builder, curves []plot.Line) {
	fmt.Fprint(b, "\n| what | how many: ms for one |\n|---|---|\n")
	for _, c := range curves {
		var points []string
		for i := range c.X {
			points = append(points, fmt.Sprintf("%g: %.3g", c.X[i], c.Y[i]))
		}
		fmt.Fprintf(b, "| %s | %s |\n", c.Label, strings.Join(points, ", "))
	}
}

// bars draws what more than one did.
func (s *section) bars() []plot.Group {
	var groups []plot.Group
	for _, r := range s.rows {
		if len(r.values) == 0 {
			continue
		}
		i := len(groups) - 1
		if i < 0 || groups[i].Title != r.what+", "+r.unit {
			note := "median, less is better"
			if r.more {
				note = "median, more is better"
			}
			groups = append(groups, plot.Group{Title: r.what + ", " + r.unit, Note: note})
			i++
		}
		groups[i].Bars = append(groups[i].Bars, plot.Bar{Label: r.who, Value: at(r.values, 0.5), Text: fmt.Sprintf("%.3g %s", at(r.values, 0.5), r.unit)})
	}
	var out []plot.Group
	for _, g := range groups {
		if len(g.Bars) > 1 {
			out = append(out, g)
		}
	}
	return out
}

func (r *report) draw(dir, name string, fill func(*os.File) error) {
	r.t.Helper()
	f, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		r.t.Fatal(err)
	}
	if err := fill(f); err != nil {
		r.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		r.t.Fatal(err)
	}
}
