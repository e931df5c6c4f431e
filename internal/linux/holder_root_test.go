package linux

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/require"
)

const holders = 32

// A holder reads its orders from this program's memory while goroutines' stacks
// grow, shrink and move.
func TestHoldersWhileStacksMove(t *testing.T) {
	require.Root(t)
	done := make(chan struct{})
	var gc sync.WaitGroup
	gc.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				runtime.GC() // it shrinks stacks
			}
		}
	})
	var deep func(n int) int
	deep = func(n int) int {
		var pad [256]byte
		if n == 0 {
			return len(pad)
		}
		return deep(n-1) + int(pad[n%len(pad)])
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				deep(200)
				err := withHolder(&holder{unshare: unix.CLONE_NEWUTS}, func(int) error { return nil })
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	close(done)
	gc.Wait()
}

// Holders end with the program, however many there are at once: none keeps another,
// or a file of the program's, open.
func TestHoldersEndWithTheProgram(t *testing.T) {
	require.Root(t)
	if os.Getenv("HULL_TEST_HOLDERS") != "" {
		for range holders {
			go func() {
				err := withHolder(&holder{flags: unix.CLONE_NEWUSER}, func(pid int) error {
					fmt.Fprintln(os.Stderr, pid)
					select {}
				})
				fmt.Fprintln(os.Stderr, "holder:", err)
			}()
		}
		time.Sleep(time.Hour) // not select: that would be a deadlock
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestHoldersEndWithTheProgram$") // #nosec: this test's own binary
	cmd.Env = append(os.Environ(), "HULL_TEST_HOLDERS=1")
	out, err := cmd.StderrPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Wait() })
	defer func() { _ = cmd.Process.Kill() }()
	lines := bufio.NewScanner(out)
	var ends []*os.File
	for len(ends) < holders && lines.Scan() {
		pid, err := strconv.Atoi(lines.Text())
		if err != nil {
			t.Fatal(lines.Text())
		}
		fd, err := unix.PidfdOpen(pid, 0)
		must(t, err)
		f := os.NewFile(uintptr(fd), "holder "+lines.Text())
		defer f.Close()
		ends = append(ends, f)
	}
	if len(ends) != holders {
		t.Fatalf("%d holders", len(ends))
	}
	must(t, cmd.Process.Kill())
	for _, f := range ends {
		fds := []unix.PollFd{{Fd: int32(FD(f)), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(time.Minute/time.Millisecond))
		for errors.Is(err, unix.EINTR) {
			n, err = unix.Poll(fds, int(time.Minute/time.Millisecond))
		}
		if n != 1 {
			t.Errorf("%s: lives on (%v)", f.Name(), err)
			_ = unix.PidfdSendSignal(FD(f), unix.SIGKILL, nil, 0)
		}
	}
	if rest, err := io.ReadAll(out); err != nil || len(rest) > 0 {
		t.Errorf("after the end: %q %v", rest, err)
	}
}
