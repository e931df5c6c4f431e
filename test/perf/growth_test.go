package perf

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"hull/internal/plot"
	"hull/test/harness"
)

// growth measures what one more costs when there are 1, 10, 100 and 1,000: linear
// work in total is a flat line here.
func growth(tb *table, e *harness.Engine, hull *harness.Client) {
	tb.t.Helper()
	steps := []int{1, 10, 100, scale(1000)}
	create, inspect := plot.Line{Label: "create"}, plot.Line{Label: "inspect"}
	list, remove := plot.Line{Label: "list, per container"}, plot.Line{Label: "remove"}
	n := 0
	name := func(i int) string { return fmt.Sprint("grow", i) }
	one := func(method, path, body string, want int) {
		resp, err := e.API(method, "/v1.47"+path, strings.NewReader(body))
		if err != nil {
			tb.t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			tb.t.Fatalf("%s %s: %s", method, path, resp.Status)
		}
	}
	add := func() {
		one(http.MethodPost, "/containers/create?name="+name(n), `{"Image":"busybox","Cmd":["true"]}`, http.StatusCreated)
		n++
	}
	rm := func() {
		n--
		one(http.MethodDelete, "/containers/"+name(n), "", http.StatusNoContent)
	}
	const sample = 10
	for _, k := range steps {
		for n < k {
			add()
		}
		x := float64(k)
		put := func(l *plot.Line, ms float64) { l.X, l.Y = append(l.X, x), append(l.Y, ms) }
		put(&create, average(sample, add))
		put(&remove, average(sample, rm))
		put(&inspect, average(sample, func() { one(http.MethodGet, "/containers/"+name(0)+"/json", "", http.StatusOK) }))
		put(&list, average(sample, func() { one(http.MethodGet, "/containers/json?all=1", "", http.StatusOK) })/x)
	}
	for n > 0 {
		rm()
	}
	tb.curves = append(tb.curves, create, inspect, list, remove)
	tb.curves = append(tb.curves, networks(tb, hull, steps))
}

// networks is what one more container costs on a network that has so many. They run:
// a network knows only those.
func networks(tb *table, hull *harness.Client, steps []int) plot.Line {
	tb.t.Helper()
	hull.Run("network", "create", "grow")
	l := plot.Line{Label: "start on a network"}
	n := 0
	add := func() {
		hull.Run("run", "-d", "--network", "grow", "--name", fmt.Sprint("net", n), "busybox", "sleep", "10000")
		n++
	}
	for _, k := range steps {
		if k > 200 { // each is a process with its monitor
			k = 200
		}
		for n < k {
			add()
		}
		l.X, l.Y = append(l.X, float64(k)), append(l.Y, average(5, func() {
			add()
			n--
			hull.Run("rm", "-f", fmt.Sprint("net", n))
		}))
	}
	for ; n > 0; n-- {
		hull.Run("rm", "-f", fmt.Sprint("net", n-1))
	}
	hull.Run("network", "rm", "grow")
	return l
}

// average is milliseconds for one call of n.
func average(n int, fn func()) float64 {
	start := time.Now()
	for range n {
		fn()
	}
	return float64(time.Since(start).Microseconds()) / 1000 / float64(n)
}
