package network

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"hull/internal/dns"
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

// BenchmarkCrowd measures what the five-hundredth member of a network with names
// costs, beside the first: time, and processor time of this process, which other
// work of the machine does not touch.
func BenchmarkCrowd(b *testing.B) {
	require.Root(b)
	w := newWorld(b)
	_, _, err := w.s.Create(context.Background(), hull.Network{Name: "red", EnableIPv4: true})
	must(b, err)
	const crowd, part = 500, 50
	for b.Loop() {
		var took []time.Duration
		var all []box
		var used []time.Duration // processor time up to each attach
		for i := range crowd {
			used = append(used, processorTime(b))
			start := time.Now()
			all = append(all, w.attach(fmt.Sprintf("p%d", i), hull.NetworkSpec{Mode: "red"}))
			took = append(took, time.Since(start))
		}
		b.ReportMetric(float64((used[part]-used[0]).Microseconds())/part, "first50-cpu-µs")
		b.ReportMetric(float64((used[crowd-1]-used[crowd-1-part]).Microseconds())/part, "last50-cpu-µs")
		for name, d := range map[string][]time.Duration{"first50": took[:part], "last50": took[crowd-part:]} {
			slices.Sort(d)
			b.ReportMetric(float64(d[len(d)/2].Microseconds()), name+"-p50-µs")
		}
		for _, x := range all {
			w.detach(x)
		}
	}
	b.ReportMetric(0, "ns/op")
}

// processorTime is what this process has used, in user and kernel mode.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkThousandPorts publishes a thousand ports that have other numbers inside,
// so that none can share an element: time, and processor time as in BenchmarkCrowd.
func BenchmarkThousandPorts(b *testing.B) {
	require.Root(b)
	w := newWorld(b)
	spec := hull.NetworkSpec{}
	for i := range uint16(1000) {
		spec.Ports = append(spec.Ports, port(fmt.Sprint(20000+i), 1+i, ""))
	}
	w.detach(w.attach("first", hull.NetworkSpec{}))
	var attach, detach, attachUsed, detachUsed []time.Duration
	for b.Loop() {
		start, used := time.Now(), processorTime(b)
		x := w.attach("p", spec)
		attach, attachUsed = append(attach, time.Since(start)), append(attachUsed, processorTime(b)-used)
		start, used = time.Now(), processorTime(b)
		w.detach(x)
		detach, detachUsed = append(detach, time.Since(start)), append(detachUsed, processorTime(b)-used)
	}
	for name, d := range map[string][]time.Duration{"attach-p50-ms": attach, "attach-cpu-ms": attachUsed, "detach-p50-ms": detach, "detach-cpu-ms": detachUsed} {
		slices.Sort(d)
		b.ReportMetric(float64(d[len(d)/2].Microseconds())/1000, name)
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkNames asks a pod's name server for local names, four clients at a time.
func BenchmarkNames(b *testing.B) {
	require.Root(b)
	w := newWorld(b)
	_, _, err := w.s.Create(context.Background(), hull.Network{Name: "red", EnableIPv4: true})
	must(b, err)
	a := w.attach("aa", hull.NetworkSpec{Mode: "red"})
	s, err := dns.Open(filepath.Join(a.dir, dns.ConfigName))
	must(b, err)
	s.Start()
	query := []byte("\x00\x05\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x02aa\x00\x00\x01\x00\x01")
	const clients, each = 4, 20000
	for b.Loop() {
		var wg sync.WaitGroup
		times := make([][]time.Duration, clients)
		start := time.Now()
		for i := range clients {
			var c net.Conn
			in(b, a.ns(), func() (err error) { c, err = net.Dial("udp", "127.0.0.11:53"); return err })
			wg.Go(func() {
				defer c.Close()
				buf := make([]byte, 512)
				for range each {
					at := time.Now()
					_, _ = c.Write(query)
					_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
					if n, err := c.Read(buf); err != nil || n != len(query)+16 {
						b.Errorf("%d bytes, %v", n, err)
						return
					}
					times[i] = append(times[i], time.Since(at))
				}
			})
		}
		wg.Wait()
		all := slices.Concat(times...)
		slices.Sort(all)
		b.ReportMetric(float64(len(all))/time.Since(start).Seconds(), "queries/s")
		b.ReportMetric(float64(all[len(all)/2].Microseconds()), "p50-µs")
		b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "p99-µs")
	}
	b.ReportMetric(0, "ns/op")
	s.Close()
	w.detach(a)
}
