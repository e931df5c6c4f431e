package perf

import (
	"fmt"
	"os"
	"testing"
	"time"

	"hull/test/harness"
)

// settle is how long idle things are left alone before they are counted.
const (
	settle = 2 * time.Second
	// rest is the same after an engine's start; its peers had longer.
	rest = 20 * time.Second
)

// memory is what engines take: idle, and for each idle container.
func memory(b *bench) {
	b.out.text = "PSS of all of an engine's own processes (daemons, monitors, shims, proxies; not the workload)."
	e, hull, _ := b.engine([]string{"busybox"})
	time.Sleep(rest) // pools are filled, what the start took is given back
	idle := engineMemory(e)
	b.figure("engine, idle", "hull", "MiB", atMost(45), idle, "")
	for _, p := range b.peers {
		if p.Engine != nil && p.docker {
			b.figure("engine, idle", p.name, "MiB", goal{}, engineMemory(p.Engine), "")
		}
	}
	steps := []int{1, 10, 100}
	// What only a start executes of the program was given back, and is no container's.
	b.output(hull, "run", "--rm", "busybox", "true")
	time.Sleep(settle)
	idle = engineMemory(e)
	names := numbered("idle", steps[len(steps)-1])
	defer removeAll(hull, names...)
	n := 0
	for _, k := range steps {
		for ; n < k; n++ {
			b.output(hull, "run", "-d", "--name", names[n], "busybox", "sleep", "10000")
		}
		time.Sleep(settle)
		each := (engineMemory(e) - idle) / float64(k)
		g := goal{}
		if k > 1 {
			g = atMost(3)
		}
		b.figure(fmt.Sprintf("each of %d idle containers", k), "hull", "MiB", g, each, "")
	}
	for _, p := range b.peers {
		if p.Engine != nil {
			b.peerMemory(p)
		}
	}
}

func (b *bench) peerMemory(p *peer) {
	const n = 10
	what := fmt.Sprintf("each of %d idle containers", n)
	names := numbered("bench-idle", n)
	defer removeAll(&p.cli, names...)
	before := engineMemory(p.Engine)
	for _, name := range names {
		if _, err := p.try("run", "-d", "--name", name, "busybox", "sleep", "10000"); err != nil {
			b.missing(what, p.name, err.Error())
			return
		}
	}
	time.Sleep(settle)
	b.figure(what, p.name, "MiB", goal{}, (engineMemory(p.Engine)-before)/n, "")
}

// engineMemory is MiB of PSS of an engine's own processes.
func engineMemory(e *harness.Engine) float64 {
	sum := 0.0
	for _, pid := range e.Processes() {
		sum += pss(pid)
	}
	return sum / 1024
}

// pss is the proportional set size of a process, in KiB.
func pss(pid int) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0
	}
	return field(string(b), "Pss")
}

func status(t *testing.T, pid int, name string) float64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	return field(string(b), name)
}
