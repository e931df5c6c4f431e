package plot

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strconv"
	"strings"
	"testing"
)

// widths reads an SVG and gives the widths of its coloured rectangles.
func widths(t *testing.T, r io.Reader) (out []float64) {
	t.Helper()
	for d := xml.NewDecoder(r); ; {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		e, ok := tok.(xml.StartElement)
		if !ok || e.Name.Local != "rect" {
			continue
		}
		var w float64
		coloured := false
		for _, a := range e.Attr {
			switch a.Name.Local {
			case "fill":
				coloured = true
			case "width":
				w, _ = strconv.ParseFloat(a.Value, 64)
			}
		}
		if coloured {
			out = append(out, w)
		}
	}
}

func TestBars(t *testing.T) {
	var b bytes.Buffer
	err := Bars(&b, "a < b", []Group{{Title: "t", Note: "less", Bars: []Bar{{"x", 10, ""}, {"y", 20, "twenty & more"}, {"none", 0, "-"}, {"neg", -3, "?"}}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"a &lt; b", "twenty &amp; more", ">10<"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q", want)
		}
	}
	w := widths(t, &b)
	if len(w) != 2 || math.Abs(w[1]-2*w[0]) > 0.2 {
		t.Errorf("widths %v", w)
	}
}

func TestLines(t *testing.T) {
	var b bytes.Buffer
	err := Lines(&b, "cost", "containers", "ms", []Line{{"ps", []float64{1, 10, 100, 0}, []float64{1, 9, 110, 5}}, {"empty", nil, nil}})
	if err != nil {
		t.Fatal(err)
	}
	s := b.String()
	if n := strings.Count(s, "<circle"); n != 3 {
		t.Errorf("%d points", n)
	}
	if strings.Contains(s, "NaN") || strings.Contains(s, "Inf") {
		t.Error(s)
	}
	widths(t, &b)
	b.Reset()
	if err := Lines(&b, "cost", "x", "y", nil); err != nil || !strings.Contains(b.String(), "no figures") {
		t.Errorf("%v %s", err, b.String())
	}
	b.Reset()
	if err := Lines(&b, "one", "x", "y", []Line{{"p", []float64{10}, []float64{10}}}); err != nil || strings.Contains(b.String(), "NaN") {
		t.Errorf("%v %s", err, b.String())
	}
}
