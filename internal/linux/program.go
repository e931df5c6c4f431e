package linux

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ForgetProgram takes this process's own program out of its memory: the parts that are
// never written to. The kernel keeps them as it keeps any file that was read, and puts
// back what is executed next. Other mappings may be ended at any time by those whose
// they are, and are left alone.
func ForgetProgram() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("find the program: %w", err)
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("find the program's memory: %w", err)
	}
	for line := range strings.Lines(string(maps)) {
		f := strings.Fields(line)
		// A program that was replaced meanwhile is "PATH (deleted)" in both.
		if len(f) < 6 || strings.Contains(f[1], "w") || strings.Join(f[5:], " ") != exe {
			continue
		}
		var from, to uintptr
		if _, err := fmt.Sscanf(f[0], "%x-%x", &from, &to); err != nil {
			return fmt.Errorf("find the program's memory: %w", err)
		}
		if _, _, e := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED); e != 0 {
			return os.NewSyscallError("madvise", e)
		}
	}
	return nil
}
