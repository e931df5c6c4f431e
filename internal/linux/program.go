package linux

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ForgetProgram takes this process's own program out of its memory: the parts that have
// not been written to (a program that can lie anywhere has its addresses written at its
// start into some that cannot be later). The kernel keeps them as it keeps any file that
// was read, and puts back what is executed next. Other mappings may be ended at any time
// by those whose they are, and are left alone.
func ForgetProgram() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("find the program: %w", err)
	}
	maps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return fmt.Errorf("find the program's memory: %w", err)
	}
	var from, to uintptr // of the mapping whose lines are read, 0 = it is to be left alone
	for line := range strings.Lines(string(maps)) {
		f := strings.Fields(line)
		switch {
		case !strings.HasSuffix(f[0], ":"): // the first line of a mapping
			from, to = 0, 0
			// A program that was replaced meanwhile is "PATH (deleted)" in both.
			if len(f) < 6 || strings.Contains(f[1], "w") || strings.Join(f[5:], " ") != exe {
				continue
			}
			if _, err := fmt.Sscanf(f[0], "%x-%x", &from, &to); err != nil {
				return fmt.Errorf("find the program's memory: %w", err)
			}
		case from != 0 && f[0] == "Anonymous:" && f[1] == "0":
			if _, _, e := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED); e != 0 {
				return os.NewSyscallError("madvise", e)
			}
		}
	}
	return nil
}
