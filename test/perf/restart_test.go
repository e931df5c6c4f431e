package perf

import (
	"fmt"
	"strings"
	"time"
)

// restart is how long the engine is away when it is killed and comes back, with so
// many containers running.
func restart(b *bench) {
	e, hull, _ := b.engine([]string{"busybox"})
	n := scale(200)
	names := numbered("stay", n)
	for _, name := range names {
		b.output(hull, "run", "-d", "--name", name, "--network", "none", "busybox", "sleep", "10000")
	}
	defer removeAll(hull, names...)
	var values []float64
	for range 3 {
		e.KillDaemon()
		start := time.Now()
		e.StartDaemon()
		values = append(values, float64(time.Since(start).Milliseconds()))
		if got := len(strings.Fields(b.output(hull, "ps", "-q"))); got != n {
			b.t.Errorf("%d of %d containers after the restart", got, n)
		}
	}
	b.add(row{what: fmt.Sprintf("start of a killed engine with %d running containers, until it answers", n), who: "hull", unit: "ms", values: values})
}
