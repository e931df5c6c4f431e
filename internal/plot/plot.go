// Package plot draws figures as SVG: bars to compare with, lines to see how a cost
// grows. What it writes needs nothing but the file, and reads on light and dark.
package plot

import (
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"strings"
)

// Bar is one bar of a group. A negative value draws nothing but the text.
type Bar struct {
	Label string
	Value float64
	Text  string // the value as people read it; "" = %.3g
}

// Group is bars of one unit.
type Group struct {
	Title string // with the unit
	Note  string // "less is better"
	Bars  []Bar
}

// Measures of the drawing, in pixels.
const (
	width   = 720
	left    = 150
	right   = 110
	barH    = 18
	gap     = 6
	titleH  = 26
	groupGp = 18
	top     = 40
)

func colours() []string {
	return []string{"#2f6fde", "#1f9d72", "#d9822b", "#a155b9", "#c23b4e", "#5f6b7a"}
}

// Bars writes groups below each other. A label has the same colour everywhere.
func Bars(w io.Writer, title string, groups []Group) error {
	height := top
	for _, g := range groups {
		height += titleH + len(g.Bars)*(barH+gap) + groupGp
	}
	d := &drawing{}
	d.open(title, width, height)
	colour := map[string]string{}
	y := top
	for _, g := range groups {
		d.text(12, y+14, "start", "600", g.Title)
		if g.Note != "" {
			d.text(width-12, y+14, "end", "400", g.Note)
		}
		y += titleH
		most := 0.0
		for _, b := range g.Bars {
			most = max(most, b.Value)
		}
		for _, b := range g.Bars {
			if _, ok := colour[b.Label]; !ok {
				all := colours()
				colour[b.Label] = all[len(colour)%len(all)]
			}
			d.text(left-8, y+13, "end", "400", b.Label)
			length := 0.0
			if most > 0 && b.Value > 0 {
				length = max(1, b.Value/most*(width-left-right))
				d.printf(`<rect x="%d" y="%d" width="%.1f" height="%d" rx="2" fill="%s"/>`, left, y, length, barH, colour[b.Label])
			}
			text := b.Text
			if text == "" {
				text = fmt.Sprintf("%.3g", b.Value)
			}
			d.text(left+int(length)+6, y+13, "start", "400", text)
			y += barH + gap
		}
		y += groupGp
	}
	return d.close(w)
}

// Line is a series of points, in order of X.
type Line struct {
	Label string
	X, Y  []float64
}

// Lines writes series into one field with logarithmic axes, so that a straight line
// at 45 degrees is a cost that grows as its cause. Values that are not positive are
// left out.
func Lines(w io.Writer, title, xTitle, yTitle string, lines []Line) error {
	const height, bottom, field = 420, 60, 60
	lowX, highX, lowY, highY := math.Inf(1), math.Inf(-1), math.Inf(1), math.Inf(-1)
	for _, l := range lines {
		for i := range l.X {
			if l.X[i] <= 0 || l.Y[i] <= 0 {
				continue
			}
			lowX, highX = min(lowX, l.X[i]), max(highX, l.X[i])
			lowY, highY = min(lowY, l.Y[i]), max(highY, l.Y[i])
		}
	}
	d := &drawing{}
	d.open(title, width, height)
	if math.IsInf(lowX, 0) {
		d.text(width/2, height/2, "middle", "400", "no figures")
		return d.close(w)
	}
	lowX, highX, lowY, highY = decade(lowX, -1), decade(highX, 1), decade(lowY, -1), decade(highY, 1)
	x := func(v float64) float64 {
		return field + math.Log10(v/lowX)/max(1, math.Log10(highX/lowX))*(width-field-right)
	}
	y := func(v float64) float64 {
		return height - bottom - math.Log10(v/lowY)/max(1, math.Log10(highY/lowY))*(height-bottom-top)
	}
	for v := lowX; v <= highX*1.01; v *= 10 {
		d.printf(`<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" class="grid"/>`, x(v), top, x(v), height-bottom)
		d.text(int(x(v)), height-bottom+18, "middle", "400", fmt.Sprintf("%g", v))
	}
	for v := lowY; v <= highY*1.01; v *= 10 {
		d.printf(`<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" class="grid"/>`, field, y(v), width-right, y(v))
		d.text(field-6, int(y(v))+4, "end", "400", fmt.Sprintf("%g", v))
	}
	d.text((field+width-right)/2, height-16, "middle", "400", xTitle)
	d.text(12, top-6, "start", "400", yTitle)
	for i, l := range lines {
		all := colours()
		c := all[i%len(all)]
		var points []string
		end := [2]float64{}
		for k := range l.X {
			if l.X[k] <= 0 || l.Y[k] <= 0 {
				continue
			}
			end = [2]float64{x(l.X[k]), y(l.Y[k])}
			points = append(points, fmt.Sprintf("%.1f,%.1f", end[0], end[1]))
			d.printf(`<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`, end[0], end[1], c)
		}
		if len(points) == 0 {
			continue
		}
		d.printf(`<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`, strings.Join(points, " "), c)
		d.text(int(end[0])+8, int(end[1])+4, "start", "400", l.Label)
	}
	return d.close(w)
}

// decade is the power of ten at or below (-1), or at or above (1) v.
func decade(v float64, side int) float64 {
	e := math.Log10(v)
	if side < 0 {
		return math.Pow(10, math.Floor(e+1e-9))
	}
	return math.Pow(10, math.Ceil(e-1e-9))
}

// drawing collects an SVG document.
type drawing struct{ b strings.Builder }

func (d *drawing) printf(format string, args ...any) { fmt.Fprintf(&d.b, format+"\n", args...) }

func (d *drawing) open(title string, w, h int) {
	d.printf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img">`, w, h, w, h)
	d.printf(`<title>%s</title>`, escape(title))
	d.printf(`<style>text{font:13px system-ui,sans-serif;fill:#24292f}.grid{stroke:#8884;stroke-width:1}.paper{fill:#fff}` +
		`@media(prefers-color-scheme:dark){text{fill:#e6edf3}.paper{fill:#0d1117}}</style>`)
	d.printf(`<rect class="paper" width="%d" height="%d"/>`, w, h)
	d.text(12, 22, "start", "700", title)
}

func (d *drawing) text(x, y int, anchor, weight, s string) {
	d.printf(`<text x="%d" y="%d" text-anchor="%s" font-weight="%s">%s</text>`, x, y, anchor, weight, escape(s))
}

func (d *drawing) close(w io.Writer) error {
	d.printf(`</svg>`)
	_, err := io.WriteString(w, d.b.String())
	return err
}

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a builder takes everything
	return b.String()
}
