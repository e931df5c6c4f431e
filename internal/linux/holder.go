package linux

import (
	"errors"
	"os"
	"runtime"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// holder is a process that does nothing but be in new namespaces, until they are
// pinned otherwise: a thread of a Go program can neither make nor join a user
// namespace. It shares this process's memory, because to copy page tables costs more
// than all else, and never returns to Go.
type holder struct {
	flags   uintptr // CLONE_NEW* to be born in
	owner   uintptr // user to become, 0 = stay who we are
	join    uintptr // descriptor of a user namespace to join, 0 = none
	unshare uintptr // CLONE_NEW* to make then

	ready, hold [2]int     // pipes: it says that it is there; it ends when the other is closed
	keep        [4]uintptr // the descriptors it keeps, in order, after a -1
	result      byte       // errno
	stack       []byte
}

// withHolder runs fn while a holder lives. pid is the holder's.
func withHolder(h *holder, fn func(pid int) error) (err error) {
	if err := unix.Pipe2(h.ready[:], unix.O_CLOEXEC); err != nil {
		return os.NewSyscallError("pipe2", err)
	}
	if err := unix.Pipe2(h.hold[:], unix.O_CLOEXEC); err != nil {
		unix.Close(h.ready[0])
		unix.Close(h.ready[1])
		return os.NewSyscallError("pipe2", err)
	}
	// The process reads h where it was when it was cloned: on a goroutine's stack it
	// would move. Pinned it is on the heap.
	var pin runtime.Pinner
	pin.Pin(h)
	defer pin.Unpin()
	join := h.join
	if join == 0 {
		join = uintptr(h.hold[0])
	}
	h.keep = [...]uintptr{^uintptr(0), uintptr(h.ready[1]), uintptr(h.hold[0]), join}
	slices.Sort(h.keep[1:])
	runtime.LockOSThread()
	pid, errno := forkHolder(h)
	runtime.UnlockOSThread()
	unix.Close(h.ready[1])
	unix.Close(h.hold[0])
	defer unix.Close(h.ready[0])
	if errno != 0 {
		unix.Close(h.hold[1])
		return os.NewSyscallError("clone", errno)
	}
	defer func() {
		unix.Close(h.hold[1])
		var ws syscall.WaitStatus
		for {
			if _, werr := syscall.Wait4(int(pid), &ws, 0, nil); !errors.Is(werr, syscall.EINTR) {
				break
			}
		}
	}()
	var b [1]byte
	n, err := readFull(h.ready[0], b[:])
	if err != nil {
		return err
	}
	if n != 1 {
		return errors.New("enter namespaces: the process that was to do it has ended")
	}
	if b[0] != 0 {
		return os.NewSyscallError("enter namespaces", syscall.Errno(b[0]))
	}
	return fn(int(pid))
}

func readFull(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Read(fd, b)
		if !errors.Is(err, unix.EINTR) {
			return n, os.NewSyscallError("read", err)
		}
	}
}

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

// cloneArgs is struct clone_args of clone3(2).
type cloneArgs struct {
	flags, _, _, _, exitSignal, stack, stackSize, _, _, _, _ uint64 // pidfd, child_tid, parent_tid; tls, set_tid, set_tid_size, cgroup
}

//go:noescape
func cloneHolder(a *cloneArgs, h *holder) (pid, errno uintptr)

//go:nosplit
//go:norace
func holderMain(h *holder) { h.main() }

var _ = holderMain // the child of cloneHolder begins in it

//go:noinline
//go:norace
func forkHolder(h *holder) (uintptr, syscall.Errno) {
	const size = 16 << 10
	h.stack = make([]byte, size)
	a := &cloneArgs{
		flags: uint64(h.flags | unix.CLONE_VM), exitSignal: uint64(unix.SIGCHLD),
		stack: uint64(uintptr(unsafe.Pointer(&h.stack[0]))), stackSize: size,
	}
	beforeFork()
	pid, e := cloneHolder(a, h)
	afterFork()
	return pid, syscall.Errno(e)
}

//go:nosplit
//go:norace
func (h *holder) main() {
	// Nothing is executed, so nothing is closed for it: a copy of its own pipe's other
	// end, or two holders with one of each other's, would keep it alive when this
	// program dies, and with it this program's locks and clients' connections.
	var e syscall.Errno
	for i := 1; i < len(h.keep); i++ {
		if first, last := h.keep[i-1]+1, h.keep[i]; e == 0 && first < last {
			_, _, e = syscall.RawSyscall(unix.SYS_CLOSE_RANGE, first, last-1, 0)
		}
	}
	if e == 0 {
		_, _, e = syscall.RawSyscall(unix.SYS_CLOSE_RANGE, h.keep[len(h.keep)-1]+1, uintptr(^uint32(0)), 0)
	}
	if e == 0 && h.join != 0 {
		_, _, e = syscall.RawSyscall(unix.SYS_SETNS, h.join, unix.CLONE_NEWUSER, 0)
	}
	if e == 0 && h.owner != 0 {
		_, _, e = syscall.RawSyscall(unix.SYS_SETRESUID, h.owner, h.owner, h.owner)
	}
	if e == 0 && h.unshare != 0 {
		_, _, e = syscall.RawSyscall(syscall.SYS_UNSHARE, h.unshare, 0, 0)
	}
	h.result = byte(e)
	syscall.RawSyscall(syscall.SYS_WRITE, uintptr(h.ready[1]), uintptr(unsafe.Pointer(&h.result)), 1)
	syscall.RawSyscall(syscall.SYS_READ, uintptr(h.hold[0]), uintptr(unsafe.Pointer(&h.result)), 1)
	for {
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 0, 0, 0)
	}
}
