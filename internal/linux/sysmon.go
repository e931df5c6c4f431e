package linux

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// usualSlack is the kernel's default: how late a timer may be in a process that
	// has set nothing.
	usualSlack = 50 * time.Microsecond
	// sysmonSlack is what CalmSysmon sets. Few set just this, see ResetSlack.
	sysmonSlack = 503 * time.Microsecond
)

// CalmSysmon lets the Go runtime's own supervisor sleep longer. It is a thread
// that wakes every 20 µs plus the timer slack as long as any goroutine runs: on a
// processor that has work each wake-up interrupts it twice, a tenth of the time of
// a start. What it does (take the processor away from a goroutine in a long system
// call, or that runs for 10 ms) need not be done so soon.
//
// To be called early in main: sysmon is the first thread that the runtime makes.
// Threads that it makes inherit the slack, and so do processes forked from these;
// GoOnThread's, on which workloads are started, do not.
func CalmSysmon() error {
	tid, err := secondThread()
	if err != nil || tid == 0 {
		return err
	}
	// By the thread's own number: the kernel shows this file in no task directory.
	return os.WriteFile(fmt.Sprintf("/proc/%d/timerslack_ns", tid), strconv.AppendInt(nil, sysmonSlack.Nanoseconds(), 10), 0)
}

// ResetSlack gives the calling thread, and what it forks, the kernel's default
// back if it has inherited what CalmSysmon set.
func ResetSlack() {
	if v, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err != nil || v != int(sysmonSlack) {
		return
	}
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(usualSlack), 0, 0, 0) // a number that is always taken
}

// secondThread is the oldest thread but the first one, 0 if there is none. The
// kernel gives numbers in turn, and begins anew when it has come to the last one.
func secondThread() (int, error) {
	d, err := os.Open("/proc/self/task")
	if err != nil {
		return 0, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return 0, err
	}
	const last = 1 << 22 // PID_MAX_LIMIT
	second, pid := 0, os.Getpid()
	age := func(tid int) int { return (tid - pid + last) % last }
	for _, n := range names {
		tid, err := strconv.Atoi(n)
		if err != nil || tid == pid {
			continue
		}
		if second == 0 || age(tid) < age(second) {
			second = tid
		}
	}
	return second, nil
}
