package linux

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Stat is what /proc/PID/stat says of a process (proc_pid_stat(5)).
type Stat struct {
	Name    string // as the process calls itself, at most 15 bytes of anything
	State   byte   // 'R', 'S', ...
	TTY     int    // device number, 0 = none
	CPU     uint64 // clock ticks in user and kernel mode
	Started uint64 // clock ticks after boot; with the pid it names a process
}

// Ended says that only the process's exit code is left of it.
func (s Stat) Ended() bool { return s.State == 'Z' || s.State == 'X' }

// ReadStat reads a process's. The error is that of opening the file when there is no
// such process.
func ReadStat(pid int) (s Stat, err error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return s, err
	}
	if s, err = parseStat(b); err != nil {
		return s, fmt.Errorf("parse /proc/%d/stat: %w", pid, err)
	}
	return s, nil
}

// parseStat: the name is in parentheses and may hold anything, parentheses included.
func parseStat(b []byte) (s Stat, err error) {
	from, to := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if from < 0 || to < from {
		return s, fmt.Errorf("no name in %q", b)
	}
	f := strings.Fields(string(b[to+1:])) // from field 3, the state, on
	if len(f) < 20 {
		return s, fmt.Errorf("%d fields after the name", len(f))
	}
	number := func(field int) (n uint64) {
		if err == nil {
			n, err = strconv.ParseUint(f[field-3], 10, 64)
		}
		return n
	}
	s = Stat{Name: string(b[from+1 : to]), State: f[0][0], CPU: number(14) + number(15), Started: number(22)}
	tty, terr := strconv.Atoi(f[7-3])
	if err == nil {
		err = terr
	}
	s.TTY = tty
	return s, err
}

// MemAvailable is how many bytes of memory programs could have without swapping
// (proc_meminfo(5)).
func MemAvailable() (int64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		var kb int64
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kb); n == 1 {
			return kb << 10, nil
		}
	}
	return 0, errors.New("no MemAvailable in /proc/meminfo")
}
