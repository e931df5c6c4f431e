package proc_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/driver"
	"hull/internal/driver/drivertest"
	"hull/internal/hull"
	"hull/internal/monitor"
	"hull/internal/require"
)

// BenchmarkRunRoot is a pod of one from Create to Destroy, by step.
func BenchmarkRunRoot(b *testing.B) {
	require.Root(b)
	w := newWorld(b)
	d := w.driver()
	ctx := context.Background()
	steps := map[string][]time.Duration{}
	step := func(name string, fn func() error) {
		at := time.Now()
		if err := fn(); err != nil {
			b.Fatal(name, err)
		}
		steps[name] = append(steps[name], time.Since(at))
	}
	n := 0
	for b.Loop() {
		n++
		id := fmt.Sprintf("%064x", n)
		dir, root, log := w.RunDir(id), w.Rootfs(), w.Log(id)
		time.Sleep(100 * time.Millisecond) // the pool is full again
		var box driver.Sandbox
		var p driver.Process
		step("create", func() (err error) {
			box, err = d.Create(ctx, driver.SandboxSpec{ID: id, RunDir: dir})
			return err
		})
		step("add", func() (err error) {
			p, err = box.Add(ctx, driver.ContainerSpec{ID: id, Rootfs: root, OCI: drivertest.Spec("/bin/true")}, hull.IO{Log: log})
			return err
		})
		step("start", func() error { return p.Start(ctx) })
		var x hull.Exit
		step("wait", func() (err error) {
			x, err = p.Wait(ctx)
			return err
		})
		if x.Code != 0 {
			b.Fatal(x)
		}
		steps["told"] = append(steps["told"], time.Since(x.At))
		step("destroy", func() error { return box.Destroy(ctx) })
	}
	for s, t := range steps {
		slices.Sort(t)
		b.ReportMetric(float64(t[len(t)/2].Microseconds()), s+"-p50-µs")
	}
}

// BenchmarkIdleRoot is what an idle pod's monitor takes of memory. With HULL_BIN
// it is the real one's.
func BenchmarkIdleRoot(b *testing.B) {
	require.Root(b)
	w := newWorld(b)
	ctx := context.Background()
	for b.Loop() {
		box, err := w.driver().Create(ctx, driver.SandboxSpec{ID: "pod", RunDir: w.RunDir("pod")})
		if err != nil {
			b.Fatal(err)
		}
		p, err := box.Add(ctx, driver.ContainerSpec{ID: "pod", Rootfs: w.Rootfs(), OCI: drivertest.Spec("/bin/sleep", "1000")}, hull.IO{Log: w.Log("pod")})
		if err == nil {
			err = p.Start(ctx)
		}
		if err != nil {
			b.Fatal(err)
		}
		time.Sleep(3 * time.Second) // what a start needs has been given back
		c, err := monitor.Dial(w.RunDir("pod"))
		if err != nil {
			b.Fatal(err)
		}
		for _, key := range []string{"Pss", "Private_Dirty", "Private_Clean", "Anonymous"} {
			b.ReportMetric(float64(smaps(b, c.Pid(), key)), key+"-KiB")
		}
		threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", c.Pid()))
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(threads)), "threads")
		c.Close()
		if err := box.Destroy(ctx); err != nil {
			b.Fatal(err)
		}
	}
}

// smaps is one line of a process's memory use. KiB.
func smaps(b *testing.B, pid int, key string) (kib int) {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, key+":"); ok {
			kib, err = strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(v), " kB"))
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	return kib
}

// BenchmarkOutputRoot is a container that writes 64 MiB of log lines.
func BenchmarkOutputRoot(b *testing.B) {
	require.Root(b)
	w := newWorld(b)
	ctx := context.Background()
	box, err := w.driver().Create(ctx, driver.SandboxSpec{ID: "pod", RunDir: w.RunDir("pod")})
	if err != nil {
		b.Fatal(err)
	}
	defer box.Destroy(ctx)
	const size = 64 << 20
	text := bytes.Repeat([]byte(strings.Repeat("a log line, ", 10)+"1234567\n"), size/128)
	root := w.Rootfs()
	if err := os.WriteFile(filepath.Join(root.Upper, "text"), text, 0o644); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(size)
	n := 0
	for b.Loop() {
		n++
		id := fmt.Sprint("c", n)
		log := w.Log(id)
		log.MaxSize, log.MaxFiles, log.Compress = 10<<20, 3, true
		p, err := box.Add(ctx, driver.ContainerSpec{ID: id, Rootfs: root, OCI: drivertest.Spec("/bin/cat", "/text")}, hull.IO{Log: log})
		if err == nil {
			err = p.Start(ctx)
		}
		if err != nil {
			b.Fatal(err)
		}
		if x, err := p.Wait(ctx); err != nil || x.Code != 0 {
			b.Fatal(x, err)
		}
	}
}

// BenchmarkExecRoot is an exec of /bin/true in a running container.
func BenchmarkExecRoot(b *testing.B) {
	require.Root(b)
	w := newWorld(b)
	ctx := context.Background()
	box, err := w.driver().Create(ctx, driver.SandboxSpec{ID: "pod", RunDir: w.RunDir("pod")})
	if err != nil {
		b.Fatal(err)
	}
	defer box.Destroy(ctx)
	p, err := box.Add(ctx, driver.ContainerSpec{ID: "pod", Rootfs: w.Rootfs(), OCI: drivertest.Spec("/bin/sleep", "1000")}, hull.IO{})
	if err == nil {
		err = p.Start(ctx)
	}
	if err != nil {
		b.Fatal(err)
	}
	n := 0
	spec := drivertest.Spec("/bin/true")
	spec.Process.Capabilities = &specs.LinuxCapabilities{}
	for b.Loop() {
		n++
		e, err := box.Exec(ctx, "pod", driver.ExecSpec{ID: fmt.Sprint("e", n), Process: spec.Process}, hull.IO{})
		if err == nil {
			err = e.Start(ctx)
		}
		if err != nil {
			b.Fatal(err)
		}
		if _, err := e.Wait(ctx); err != nil {
			b.Fatal(err)
		}
	}
}
