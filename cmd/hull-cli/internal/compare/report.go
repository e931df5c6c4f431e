package compare

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"

	"hull/internal/plot"
)

// none is shown for a figure that is missing.
const none = "-"

// row is one line of the table.
type row struct {
	name string
	text func(*Figures) string
}

// WriteTable prints a report for people: isolations side by side, and below what is
// missing and why.
func (r *Report) WriteTable(w io.Writer) error {
	fmt.Fprintf(w, "%s on %s: image %s, one copy for all instances\n\n", r.Image, r.Host, bytesText(r.ImageSize))
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	head := []string{""}
	for _, f := range r.Figures {
		head = append(head, strings.ToUpper(f.Isolation))
	}
	fmt.Fprintln(t, strings.Join(head, "\t"))
	for _, x := range r.rows() {
		line := []string{x.name}
		for i := range r.Figures {
			line = append(line, x.text(&r.Figures[i]))
		}
		fmt.Fprintln(t, strings.Join(line, "\t"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	for _, f := range r.Figures {
		if f.Boundary != "" {
			fmt.Fprintf(w, "%s: %s\n", f.Isolation, f.Boundary)
		}
	}
	for _, f := range r.Figures {
		for _, what := range slices.Sorted(maps.Keys(f.Missing)) {
			fmt.Fprintf(w, "%s: %s not measured: %s\n", f.Isolation, what, f.Missing[what])
		}
	}
	_, err := fmt.Fprintln(w, r.Recommend())
	return err
}

func (r *Report) rows() []row {
	rate := func(unit string, get func(*Figures) float64) func(*Figures) string {
		return func(f *Figures) string { return rateText(get(f), unit) }
	}
	out := []row{
		{"boots in", func(f *Figures) string { return timeText(f.Boot) }},
		{"first boot", func(f *Figures) string { return timeText(f.FirstBoot) }},
		{"without volumes", func(f *Figures) string { return timeText(f.Restored) }},
		{"with a volume", func(f *Figures) string { return timeText(f.Cold) }},
		{"memory, one idle", func(f *Figures) string { return bytesText(f.Memory) }},
		{fmt.Sprintf("memory, %d idle", r.Instances), func(f *Figures) string { return bytesText(f.MemoryAll) }},
		{"disk, one more", func(f *Figures) string { return diskText(f) }},
		{"kernel", func(f *Figures) string { return kernelText(f) }},
		{"system call", func(f *Figures) string { return timeText(time.Duration(f.Inside.SyscallNS)) }},
		{"program start", func(f *Figures) string { return timeText(time.Duration(f.Inside.ProcessMS * 1e6)) }},
		{"file write", rate("MiB/s", func(f *Figures) float64 { return f.Inside.FileWrite })},
		{"file read (cached)", rate("MiB/s", func(f *Figures) float64 { return f.Inside.FileRead })},
		{"small files", rate("/s", func(f *Figures) float64 { return f.Inside.FilesPerS })},
		{"network out", rate("MiB/s", func(f *Figures) float64 { return f.Download })},
		{"round trips", rate("/s", func(f *Figures) float64 { return f.Requests })},
	}
	if len(r.Command) > 0 {
		out = append(out, row{"answers in", func(f *Figures) string { return timeText(f.Answers) }},
			row{r.commandText(), func(f *Figures) string { return rateText(f.Load, f.LoadUnit) }})
	}
	return out
}

// commandText is the command, cut where it would push the columns apart.
func (r *Report) commandText() string {
	const most = 40
	text := strings.Join(r.Command, " ")
	if runes := []rune(text); len(runes) > most {
		text = string(runes[:most-1]) + "…"
	}
	return text
}

func timeText(d time.Duration) string {
	switch {
	case d <= 0:
		return none
	case d < time.Microsecond:
		return fmt.Sprintf("%d ns", d.Nanoseconds())
	case d < time.Millisecond:
		return fmt.Sprintf("%.1f µs", float64(d)/float64(time.Microsecond))
	case d < time.Second:
		return fmt.Sprintf("%.3g ms", float64(d)/float64(time.Millisecond))
	}
	return fmt.Sprintf("%.3g s", d.Seconds())
}

func bytesText(n int64) string {
	if n <= 0 {
		return none
	}
	return units.BytesSize(float64(n))
}

func rateText(v float64, unit string) string {
	if v <= 0 {
		return none
	}
	if v < 100 {
		return fmt.Sprintf("%.3g %s", v, unit)
	}
	return fmt.Sprintf("%.0f %s", v, unit)
}

func diskText(f *Figures) string {
	if _, missing := f.Missing["disk"]; missing {
		return none
	}
	return units.BytesSize(float64(f.Disk))
}

func kernelText(f *Figures) string {
	switch {
	case f.Kernel == "":
		return none
	case f.OwnKernel:
		return "its own: " + f.Kernel
	}
	return "the host's: " + f.Kernel
}

// Limits of what Recommend calls cheap.
const (
	cheapBoot   = time.Second
	cheapMemory = 128 << 20
)

// Recommend says which boundary the figures speak for: the strongest one whose cost
// is small, for code that is not trusted.
func (r *Report) Recommend() string {
	var strongest, first *Figures
	compared := 0
	for i := range r.Figures { // in order of strength
		f := &r.Figures[i]
		if f.Isolation == FullVM {
			continue
		}
		compared++
		if f.Boot == 0 {
			continue
		}
		if first == nil {
			first = f
		}
		if f.Boot <= cheapBoot && f.Memory <= cheapMemory && len(f.Missing) == 0 {
			strongest = f
		}
	}
	switch {
	case first == nil:
		return "recommended: nothing, no isolation ran this image"
	case compared == 1:
		return "recommended: nothing, only " + first.Isolation + " was measured"
	case strongest == nil || strongest == first:
		return fmt.Sprintf("recommended: %s; a stronger boundary costs more than %v or %s for each instance here",
			first.Isolation, cheapBoot, bytesText(cheapMemory))
	}
	return fmt.Sprintf("recommended: %s for what you trust; %s for what you do not: it boots in %s and takes %s here",
		first.Isolation, strongest.Isolation, timeText(strongest.Boot), bytesText(strongest.Memory))
}

// WritePlot draws the report as SVG.
func (r *Report) WritePlot(w io.Writer) error {
	type measure struct {
		title, note string
		value       func(*Figures) float64
		text        func(*Figures) string
	}
	list := []measure{
		{"boots in", "less is better", func(f *Figures) float64 { return f.Boot.Seconds() }, func(f *Figures) string { return timeText(f.Boot) }},
		{"memory of an idle instance", "less is better", func(f *Figures) float64 { return float64(f.Memory) }, func(f *Figures) string { return bytesText(f.Memory) }},
		{fmt.Sprintf("memory of %d", r.Instances), "less is better", func(f *Figures) float64 { return float64(f.MemoryAll) }, func(f *Figures) string { return bytesText(f.MemoryAll) }},
		{"a system call", "less is better", func(f *Figures) float64 { return f.Inside.SyscallNS }, func(f *Figures) string { return timeText(time.Duration(f.Inside.SyscallNS)) }},
		{"network out", "more is better", func(f *Figures) float64 { return f.Download }, func(f *Figures) string { return rateText(f.Download, "MiB/s") }},
		{"file write", "more is better", func(f *Figures) float64 { return f.Inside.FileWrite }, func(f *Figures) string { return rateText(f.Inside.FileWrite, "MiB/s") }},
	}
	if len(r.Command) > 0 {
		list = append(list, measure{
			r.commandText(), "more is better", func(f *Figures) float64 { return f.Load },
			func(f *Figures) string { return rateText(f.Load, f.LoadUnit) },
		})
	}
	var groups []plot.Group
	for _, m := range list {
		g := plot.Group{Title: m.title, Note: m.note}
		for i := range r.Figures {
			f := &r.Figures[i]
			g.Bars = append(g.Bars, plot.Bar{Label: f.Isolation, Value: m.value(f), Text: m.text(f)})
		}
		groups = append(groups, g)
	}
	return plot.Bars(w, r.Image+" by isolation", groups)
}
