package perf

import (
	"fmt"
	"net/http"
	"time"

	"hull/internal/plot"
)

// growth is what one more costs when there are 1, 10, 100 and 1,000: linear work in
// total is a flat line here.
func growth(b *bench) {
	b.out.text = "The cost of one more, when there are so many: a flat line is a cost that does not grow."
	e, hull, _ := b.engine([]string{"busybox"})
	b.growContainers(connect(e.Host))
	b.growMembers(hull)
	b.growNetworks(hull)
	b.growPorts(hull)
	b.growLayers(hull)
}

// average is milliseconds for one call of n.
func average(n int, fn func()) float64 {
	start := time.Now()
	for range n {
		fn()
	}
	return msSince(start) / float64(n)
}

func put(l *plot.Line, x int, ms float64) { l.X, l.Y = append(l.X, float64(x)), append(l.Y, ms) }

func (b *bench) growContainers(a *api) {
	b.t.Helper()
	create, inspect := plot.Line{Label: "create"}, plot.Line{Label: "inspect"}
	list, remove := plot.Line{Label: "list, per container"}, plot.Line{Label: "remove"}
	n := 0
	must := func(method, path, body string) {
		if _, err := a.raw(method, path, body); err != nil {
			b.t.Fatal(err)
		}
	}
	name := func(i int) string { return fmt.Sprint("grow", i) }
	add := func() {
		must(http.MethodPost, "/containers/create?name="+name(n), `{"Image":"busybox","Cmd":["true"]}`)
		n++
	}
	rm := func() {
		n--
		must(http.MethodDelete, "/containers/"+name(n), "")
	}
	const sample = 10
	for _, k := range []int{1, 10, 100, 1000} {
		for n < k {
			add()
		}
		put(&create, k, average(sample, add))
		put(&remove, k, average(sample, rm))
		put(&inspect, k, average(sample, func() { must(http.MethodGet, "/containers/"+name(0)+"/json", "") }))
		put(&list, k, average(sample, func() { must(http.MethodGet, "/containers/json?all=1", "") })/float64(k))
	}
	for n > 0 {
		rm()
	}
	b.out.curves = append(b.out.curves, create, inspect, list, remove)
}

// growMembers is what one more container costs on a network that has so many. They
// run: a network knows only those.
func (b *bench) growMembers(hull *cli) {
	b.output(hull, "network", "create", "grow")
	l := plot.Line{Label: "start on a network with so many"}
	n := 0
	add := func() {
		b.output(hull, "run", "-d", "--network", "grow", "--name", fmt.Sprint("net", n), "busybox", "sleep", "10000")
		n++
	}
	for _, k := range []int{1, 10, 100} {
		for n < k {
			add()
		}
		put(&l, k, average(5, func() {
			add()
			n--
			b.output(hull, "rm", "-f", fmt.Sprint("net", n))
		}))
	}
	removeAll(hull, numbered("net", n)...)
	b.output(hull, "network", "rm", "grow")
	b.out.curves = append(b.out.curves, l)
}

// growNetworks is what one more network costs, and a run on the newest.
func (b *bench) growNetworks(hull *cli) {
	made, run := plot.Line{Label: "network create and rm"}, plot.Line{Label: "run with so many networks"}
	n := 0
	for _, k := range []int{1, 10, 100} {
		for ; n < k; n++ {
			b.output(hull, "network", "create", "--subnet", fmt.Sprintf("10.77.%d.0/24", n), fmt.Sprint("grown", n))
		}
		put(&made, k, average(5, func() {
			b.output(hull, "network", "create", "--subnet", "10.78.0.0/24", "one-more")
			b.output(hull, "network", "rm", "one-more")
		}))
		put(&run, k, average(5, func() { b.output(hull, "run", "--rm", "--network", fmt.Sprint("grown", n-1), "busybox", "true") }))
	}
	b.output(hull, append([]string{"network", "rm"}, numbered("grown", n)...)...)
	b.out.curves = append(b.out.curves, made, run)
}

// growPorts is a run with so many published ports, one by one.
func (b *bench) growPorts(hull *cli) {
	l := plot.Line{Label: "run with so many ports, per port"}
	for _, k := range []int{1, 10, 100, 1000} {
		args := []string{"run", "--rm"}
		for i := range k {
			args = append(args, "-p", fmt.Sprintf("127.0.0.1:%d:%d", 20000+i, 1000+i))
		}
		args = append(args, "busybox", "true")
		put(&l, k, average(3, func() { b.output(hull, args...) })/float64(k))
	}
	b.out.curves = append(b.out.curves, l)
}

// growLayers is a run of an image with so many layers.
func (b *bench) growLayers(hull *cli) {
	l := plot.Line{Label: "run of an image with so many layers"}
	for _, k := range []int{1, 10, 100} {
		ref := fmt.Sprint("layers:", k)
		file := "FROM busybox\n"
		for i := range k - 1 {
			file += fmt.Sprintf("COPY --chmod=644 Dockerfile /file%d\n", i)
		}
		dir := b.t.TempDir()
		b.dockerfile(dir, file)
		b.output(hull, "build", "-q", "-t", ref, dir)
		put(&l, k, average(5, func() { b.output(hull, "run", "--rm", "--network", "none", ref, "true") }))
	}
	b.out.curves = append(b.out.curves, l)
}
