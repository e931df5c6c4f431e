package linux

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/require"
)

const holders = 32

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
		if n, err := unix.Poll(fds, int(time.Minute/time.Millisecond)); n != 1 {
			t.Errorf("%s: lives on (%v)", f.Name(), err)
			_ = unix.PidfdSendSignal(FD(f), unix.SIGKILL, nil, 0)
		}
	}
	if rest, err := io.ReadAll(out); err != nil || len(rest) > 0 {
		t.Errorf("after the end: %q %v", rest, err)
	}
}
