package monitor

import (
	"fmt"
	"math"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"hull/internal/linux"
	"hull/internal/runtime"
)

// Main is hull-monitor: it detaches from whoever started it, and serves the
// socket it was given. backends are those that pods may ask for, ahead those that
// make something before. It returns the process's exit code.
func Main(backends map[string]NewBackend, ahead map[string]Ahead) int {
	// Without the right, or on a kernel without the file, it wakes as it did.
	_ = linux.CalmSysmon()
	if err := isolate(); err != nil {
		fmt.Fprintln(os.Stderr, "hull-monitor:", err)
		return 1
	}
	if err := Serve(socketFd, Config{
		Create: Launch, Seat: runtime.NewSeat, Backends: backends, Ahead: ahead, OpenLog: openLog, WarmUp: runtime.WarmUp, OnIdle: debug.FreeOSMemory, Names: serveNames, Renew: rename,
	}); err != nil {
		fmt.Fprintln(os.Stderr, "hull-monitor:", err)
		return 1
	}
	return 0
}

// isolate leaves nothing of the parent's: no descriptors beyond the socket, no
// working directory; and makes this process unreadable for others of its user:
// a container's process that joins before its exec must not be able to trace it
// or to open its descriptors (CVE-2016-9962, CVE-2019-5736).
func isolate() error {
	if err := unix.CloseRange(socketFd+1, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close inherited descriptors: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("become non-dumpable: %w", err)
	}
	// Executed by descriptor, it would be called by the descriptor's number.
	if err := rename(0); err != nil {
		return err
	}
	unix.Umask(0o077)
	return unix.Chdir("/")
}
