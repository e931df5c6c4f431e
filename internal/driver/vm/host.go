package vm

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"time"

	"hull/internal/hull"
)

// host adds the machine's side of a sample: CPU time of all CPUs, from the first
// line of /proc/stat in ticks of 10 ms, and how many there are.
func host(x *hull.Stats) error {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return err
	}
	for line := range bytes.Lines(b) {
		f := strings.Fields(string(line))
		switch {
		case len(f) >= 9 && f[0] == "cpu":
			for _, v := range f[1:9] { // guest times are part of user's
				n, err := strconv.ParseUint(v, 10, 64)
				if err != nil {
					return err
				}
				x.SystemCPU += n * uint64(time.Second/100)
			}
		case len(f) > 0 && strings.HasPrefix(f[0], "cpu"):
			x.OnlineCPUs++
		}
	}
	return nil
}
