package vmm

import (
	"math"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// tscSpan is how long the host's clock is watched.
const tscSpan = 20 * time.Millisecond

// HostTSC measures the rate of the host's time stamp counter in kHz, to some
// millionths; 0 = it has none that counts time. Under TCG a guest reads the host's,
// and has no other clock of use: what it can calibrate is lost while it waits for a
// processor, and a guest that counts ticks loses each one that came too late.
func HostTSC() int {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil || !strings.Contains(string(b), " constant_tsc") && !strings.Contains(string(b), " hypervisor") {
		return 0
	}
	t0, n0 := readTSC()
	if t0 == 0 {
		return 0
	}
	<-time.After(tscSpan)
	t1, n1 := readTSC()
	return int(math.Round(float64(t1-t0) / float64(n1-n0) * 1e6))
}

// readTSC reads the counter and the host's clock, in nanoseconds, as near to each
// other as can be: of some tries the one that was interrupted least.
func readTSC() (ticks, ns uint64) {
	best := uint64(math.MaxUint64)
	for range 64 {
		var ts unix.Timespec
		a := rdtsc()
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_RAW, &ts); err != nil {
			return 0, 0
		}
		b := rdtsc()
		if b-a < best {
			best, ticks, ns = b-a, a+(b-a)/2, uint64(ts.Nano())
		}
	}
	return ticks, ns
}
