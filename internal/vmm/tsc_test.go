package vmm

import (
	"math"
	"testing"
)

// TestHostTSC: two measurements agree, and the rate is one that a processor has.
func TestHostTSC(t *testing.T) {
	a, b := HostTSC(), HostTSC()
	if a == 0 && b == 0 {
		t.Skip("this host has no steady time stamp counter")
	}
	if a < 100e3 || a > 20e6 {
		t.Errorf("%d kHz", a)
	}
	if d := math.Abs(float64(a-b)) / float64(a); d > 500e-6 {
		t.Errorf("%d and %d kHz differ by %.0f millionths", a, b, d*1e6)
	}
}
