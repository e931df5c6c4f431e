package monitor

import (
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

const (
	// maxRenewals bounds what a mistake may pile up in one process, and the length of
	// its name.
	maxRenewals = 99
	// cleanLimit is how long the descriptors of an ended pod may take to close.
	cleanLimit = 200 * time.Millisecond
)

// name is what the first pod's monitor is called.
const name = "hull-monitor"

// ProcessName is what a monitor is called while it serves its nth pod after the
// first, or waits for it. With its pid and start time it tells which pod a process
// serves: a monitor outlives its pods.
func ProcessName(n int) string {
	if n == 0 {
		return name
	}
	return name + "~" + strconv.Itoa(n)
}

// Renewals is n of ProcessName; 0 for any other name, as that of a process that has
// just been started.
func Renewals(comm string) int {
	number, ok := strings.CutPrefix(comm, name+"~")
	n, err := strconv.Atoi(number)
	if !ok || err != nil {
		return 0
	}
	return n
}

// rename gives this process its name. Not by prctl(2), which names the calling
// thread: that need not be the first one.
func rename(n int) error {
	if err := os.WriteFile("/proc/self/comm", []byte(ProcessName(n)), 0); err != nil {
		return fmt.Errorf("set process name: %w", err)
	}
	return nil
}

// renew makes this process one without a pod again, the nth time, and tells the
// engine. It does not if the engine did not ask for that, or if the process holds
// more than when it came: then it ends, and the kernel cleans up.
func (s *server) renew(n, clean int) bool {
	s.mu.Lock()
	wanted := s.wanted && s.podErr == nil && s.backend == nil && s.cfg.Renew != nil && n <= maxRenewals
	var others []*conn
	for c := range s.conns {
		if c != s.engine {
			others = append(others, c)
		}
	}
	s.mu.Unlock()
	if !wanted || debug.SetCrashOutput(nil, debug.CrashOptions{}) != nil {
		return false
	}
	for _, c := range others {
		s.drop(c)
	}
	for limit := time.Now().Add(cleanLimit); ; time.Sleep(time.Millisecond) {
		if open, err := openFiles(); err != nil || open != clean && time.Now().After(limit) {
			return false
		} else if open == clean {
			break
		}
	}
	if s.cfg.Renew(n) != nil {
		return false
	}
	var e enc
	e.u32(uint32(n))
	return s.engine.send(kindReady, 0, e.b) == nil
}

// openFiles is how many descriptors this process has.
func openFiles() (int, error) {
	d, err := os.Open("/proc/self/fd")
	if err != nil {
		return 0, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	return len(names), err
}
