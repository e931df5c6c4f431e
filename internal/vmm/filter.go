package vmm

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// filter takes from this thread, and so from QEMU, the way to more rights, and to the
// template's memory where that is mapped.
func filter(c Config) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	if c.MemoryFile == "" || c.copiesMemory() || c.MemoryShared {
		return nil // the memory is the machine's own
	}
	return keepTemplate()
}

// keepTemplate filters this thread's, and so QEMU's, system calls: punching a
// hole into a file does nothing, successfully. To give a page back that the guest
// has freed, QEMU (7.2 at least) drops its copy of it, as it should, but also
// punches a hole into the memory's file, even where it has mapped that privately:
// the file is the template of all machines. Disks are not told of discards (see
// Args), so no other hole is meant.
func keepTemplate() error {
	const hole = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	// struct seccomp_data: nr at 0, arch at 4, args[1] (mode) at 24, low half first.
	prog := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_FALLOCATE, Jt: 0, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 24},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: hole, Jt: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO}, // errno 0
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	f := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	_, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&f)))
	runtime.KeepAlive(prog)
	if e != 0 {
		return fmt.Errorf("filter system calls: %w", e)
	}
	return nil
}
