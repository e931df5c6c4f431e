package runtime

import (
	"context"
	"testing"
)

// BenchmarkRun is a container's whole life: all namespaces, overlay, seccomp.
func BenchmarkRun(b *testing.B) {
	ctx := context.Background()
	s := testSpec("/bin/busybox", "true")
	s.Linux.Seccomp = defaultProfile(b)
	p := plan(b, s, Options{Rootfs: overlayOf(b, rootfs(b))})
	for b.Loop() {
		c, err := Create(ctx, p, Stdio{}, Cgroup{})
		must(b, err)
		must(b, c.Start(ctx))
		_, err = c.Init().Wait(ctx)
		must(b, err)
		must(b, c.Destroy())
	}
}

func BenchmarkExec(b *testing.B) {
	ctx := context.Background()
	s := testSpec("sleep", "600")
	s.Linux.Seccomp = defaultProfile(b)
	c := start(b, s, Options{Rootfs: overlayOf(b, rootfs(b))})
	proc := *s.Process
	proc.Args = []string{"/bin/busybox", "true"}
	x, err := PrepareExec(s, &proc, false)
	must(b, err)
	for b.Loop() {
		p, err := c.Exec(ctx, x, Stdio{}, Cgroup{})
		must(b, err)
		must(b, p.Start(ctx))
		_, err = p.Wait(ctx)
		must(b, err)
		must(b, p.Close())
	}
}

func BenchmarkPrepare(b *testing.B) {
	s := testSpec("/bin/busybox", "true")
	s.Linux.Seccomp = defaultProfile(b)
	for b.Loop() {
		p, err := Prepare(s, Options{Rootfs: Rootfs{Dir: "/"}})
		must(b, err)
		d, err := p.MarshalBinary()
		must(b, err)
		must(b, new(Plan).UnmarshalBinary(d))
		b.ReportMetric(float64(len(d)), "bytes")
	}
}
