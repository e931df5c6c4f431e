package runtime

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"testing"
	"unsafe"
)

// TestHeapStaysAtHome: what an exec's process has of our memory until it executes
// holds nothing of Go's heap, where other processes' environments lie.
func TestHeapStaysAtHome(t *testing.T) {
	ctx := context.Background()
	s := testSpec("sleep", "600")
	c := start(t, s, Options{Rootfs: overlayOf(t, rootfs(t))})
	proc := *s.Process
	proc.Args = []string{"/bin/busybox", "true"}
	x, err := PrepareExec(s, &proc, false)
	must(t, err)
	p, err := c.Exec(ctx, x, Stdio{}, Cgroup{})
	must(t, err)
	here := new([64]byte)
	if !mapped(t, os.Getpid(), uintptr(unsafe.Pointer(here))) {
		t.Error("our own heap is not found")
	}
	if !mapped(t, p.Pid(), uintptr(unsafe.Pointer(p.prog.m))) {
		t.Error("the process has not got its program")
	}
	if mapped(t, p.Pid(), uintptr(unsafe.Pointer(here))) {
		t.Error("the process has a copy of the heap")
	}
	must(t, p.Start(ctx))
	_, err = p.Wait(ctx)
	must(t, err)
	must(t, p.Close())
}

// mapped says whether a process has memory at an address.
func mapped(t *testing.T, pid int, at uintptr) bool {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	must(t, err)
	defer f.Close()
	n := 0
	for sc := bufio.NewScanner(f); sc.Scan(); n++ {
		var from, to uintptr
		if _, err := fmt.Sscanf(sc.Text(), "%x-%x", &from, &to); err != nil {
			t.Fatalf("%q: %v", sc.Text(), err)
		}
		if from <= at && at < to {
			return true
		}
	}
	if n == 0 {
		t.Fatalf("process %d has no memory", pid)
	}
	return false
}
