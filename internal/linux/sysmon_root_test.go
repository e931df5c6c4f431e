package linux

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/require"
)

func slackOf(t *testing.T, tid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/timerslack_ns")
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(n)
}

// The thread that is calmed is sysmon: it is the one that sleeps by nanosleep, or
// waits, and never runs Go code of ours.
func TestCalmSysmon(t *testing.T) {
	require.Root(t)
	tid, err := secondThread()
	if err != nil || tid == 0 {
		t.Fatalf("second thread %d, %v", tid, err)
	}
	before := slackOf(t, tid)
	if err := CalmSysmon(); err != nil {
		t.Fatal(err)
	}
	if got := slackOf(t, tid); got != sysmonSlack {
		t.Errorf("slack of thread %d is %v, was %v", tid, got, before)
	}
	if got := slackOf(t, os.Getpid()); got == sysmonSlack {
		t.Error("the first thread has got the slack of sysmon")
	}
}

func TestResetSlack(t *testing.T) {
	const others = 77 * time.Microsecond
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with its slack
		for set, want := range map[time.Duration]time.Duration{sysmonSlack: usualSlack, others: others} {
			if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(set), 0, 0, 0); err != nil {
				t.Error(err)
				return
			}
			ResetSlack()
			v, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
			if err != nil || time.Duration(v) != want {
				t.Errorf("%v has become %v (%v), want %v", set, time.Duration(v), err, want)
			}
		}
	}()
	<-done
}
