package network

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"hull/internal/hull"
	"hull/internal/require"
)

// BenchmarkAttach measures what stands in the way of a start and of a stop.
func BenchmarkAttach(b *testing.B) {
	require.Root(b)
	ports := publishing(port("8080", 80, ""))
	for _, c := range []struct {
		name string
		spec hull.NetworkSpec
		pool int
		gap  time.Duration // between runs, in which the pool is filled
	}{
		{"bridge", hull.NetworkSpec{}, 0, 30 * time.Millisecond},
		{"bridge with a port", ports, 0, 30 * time.Millisecond},
		{"none", hull.NetworkSpec{Mode: None}, 0, 30 * time.Millisecond},
		{"bridge without pool", hull.NetworkSpec{}, -1, 30 * time.Millisecond},
		{"bridge back to back", hull.NetworkSpec{}, 0, 0},
	} {
		b.Run(c.name, func(b *testing.B) {
			w := newWorld(b)
			must(b, w.s.Close())
			w.cfg.Pool = c.pool
			w.start()
			w.detach(w.attach("first", c.spec))
			time.Sleep(100 * time.Millisecond)
			var attach, detach []time.Duration
			for i := 0; b.Loop(); i++ {
				start := time.Now()
				x := w.attach(fmt.Sprintf("p%d", i), c.spec)
				attach = append(attach, time.Since(start))
				start = time.Now()
				must(b, x.release(context.Background()))
				detach = append(detach, time.Since(start))
				time.Sleep(c.gap)
			}
			for name, d := range map[string][]time.Duration{"attach": attach, "detach": detach} {
				slices.Sort(d)
				b.ReportMetric(float64(d[len(d)/2].Microseconds()), name+"-p50-µs")
				b.ReportMetric(float64(d[0].Microseconds()), name+"-min-µs")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}
