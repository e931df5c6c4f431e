package perf

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"hull/internal/plot"
)

// write leaves the table as docs/benchmarks.md and its plots beside it, where
// HULL_BENCH_OUT names a directory.
func (tb *table) write() {
	tb.t.Helper()
	dir := os.Getenv("HULL_BENCH_OUT")
	if dir == "" || tb.t.Failed() {
		return
	}
	plots := filepath.Join(dir, "plots")
	if err := os.MkdirAll(plots, 0o755); err != nil {
		tb.t.Fatal(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `# Benchmarks

Written by %[1]smake bench%[1]s on %[2]s: %[3]d processors, Linux %[4]s, load average %[5]s at the start and %[6]s at the
end%[7]s. Medians, minima and 99th percentiles of n runs; peers do the same in turns on the same machine, so that the
ratios hold where the times do not. Why a figure is what it is: [performance.md](performance.md); what is promised:
[SPECIFICATION.md](../SPECIFICATION.md).

`, "`", time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), firstWord("/proc/sys/kernel/osrelease"), tb.load, firstWord("/proc/loadavg"), scaled())
	fmt.Fprintln(&b, "| what | target | median | min | p99 | |\n|---|---|---|---|---|---|")
	for _, r := range tb.rows {
		fmt.Fprintln(&b, r)
	}
	if len(tb.bars) > 0 {
		tb.draw(plots, "starts.svg", func(f *os.File) error { return plot.Bars(f, "Starts", tb.bars) })
		fmt.Fprintln(&b, "\n![starts, beside the peers](plots/starts.svg)")
	}
	if len(tb.curves) > 0 {
		tb.draw(plots, "growth.svg", func(f *os.File) error {
			return plot.Lines(f, "Cost of one operation as work grows", "how many there are", "ms for one", tb.curves)
		})
		fmt.Fprint(&b, "\n## As work grows\n\nThe cost of one more, when there are so many: a flat line is a cost that does not grow.\n\n![cost curves](plots/growth.svg)\n\n| what |")
		for _, x := range tb.curves[0].X {
			fmt.Fprintf(&b, " %g |", x)
		}
		fmt.Fprint(&b, "\n|---|", strings.Repeat("---|", len(tb.curves[0].X)), "\n")
		for _, c := range tb.curves {
			fmt.Fprintf(&b, "| %s |", c.Label)
			for _, y := range c.Y {
				fmt.Fprintf(&b, " %.3g ms |", y)
			}
			fmt.Fprintln(&b)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "benchmarks.md"), []byte(b.String()), 0o644); err != nil {
		tb.t.Fatal(err)
	}
}

func (tb *table) draw(dir, name string, fill func(*os.File) error) {
	tb.t.Helper()
	f, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		tb.t.Fatal(err)
	}
	if err := fill(f); err != nil {
		tb.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		tb.t.Fatal(err)
	}
}

// bar adds a row's median to the drawing of starts.
func (tb *table) bar(group, label string, r row) {
	for i := range tb.bars {
		if tb.bars[i].Title == group {
			tb.bars[i].Bars = append(tb.bars[i].Bars, plot.Bar{Label: label, Value: r.at(0.5), Text: fmt.Sprintf("%.3g %s", r.at(0.5), r.unit)})
			return
		}
	}
	tb.bars = append(tb.bars, plot.Group{Title: group, Note: "median, less is better"})
	tb.bar(group, label, r)
}

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
		return ", with " + s + " of the usual number of runs"
	}
	return ""
}
