package runtime

// The child half.
//
// A container's process is made by a raw clone of the calling program (the
// monitor), and never returns to Go: it interprets a program, a list of system
// calls that was written down before, and ends in execve of the workload. Nothing
// is allocated, no stack grows, no lock is taken, because the child is no thread
// that the Go runtime knows. Compared with a re-exec of
// ourselves (runc) this saves two program starts, needs no C (the child is a
// process of one thread, so it may join a user namespace), and no file of the host is
// ever the executable of a container's process for longer than its set-up.
//
// What takes paths is done by the parent's thread, in Go, while the child waits
// (see thread.go):
//
//	thread T of the parent                          child C
//	----------------------                          -------
//	unshare, setns
//	clone (descriptor table shared) --------------> die with the parent
//	write id maps                                   fsopen proc of its pid namespace,
//	                                                join cgroups
//	        <------------------------ hello(proc fd)
//	mount everything, pivot_root
//	        go(root fd, terminal fd, ...) --------> own descriptor table, cgroup
//	                                                namespace, stdio, session, rights
//	        <------------------------ ready         only 0,1,2 and the control socket open
//	...     start --------------------------------> seccomp, execve
//	        <------------------------ end of file, or what failed
//
// A report is 16 bytes: step, errno, value.

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// op is one instruction.
type op struct {
	nr   uintptr        // system call, or an op* below
	arg  [6]uintptr     // numbers, addresses in the arena, or register numbers
	regs uint8          // bit i: arg[i] is a register number
	dst  uint8          // register of the result, 0 = none
	when uint8          // register that must not be 0, 0 = always
	ptr  unsafe.Pointer // of opLoad and opByte
	step uint16         // for reports
	pass [2]uint16      // errnos that are no failure; the result is the errno then
}

// Pseudo instructions.
const (
	opReport = 1<<20 + iota // report success with the value arg[0]
	opLoad                  // dst = the 64-bit word at ptr
	opByte                  // fail with errno arg[2] unless the byte at ptr is arg[1]
	opNeed                  // end quietly unless register arg[0] is not 0
	opCtl                   // the control socket is arg[0] from here on
	opInit                  // become the reaping process 1; the forked child goes on
)

// Registers. 0 is always 0.
const (
	_       = iota
	regProc // the detached proc mount
	regRoot // the root directory
	regTTY  // the terminal
	regTmp
	regDir     // why the first chdir failed
	regSeccomp // the seccomp listener
	numRegs
)

// goMsg is what the parent sends when the mounts are made: what could not be
// known before the fork.
type goMsg struct {
	root, tty uint64
	path      [4096]byte // the executable
	home      [4096]byte // HOME=...
}

const (
	reportSize   = 16
	stepHello    = 0xfff0 // reports of success
	stepReady    = 0xfff1
	stepBorn     = 0xfff3
	stepListener = 0xfff4
	stepExec     = 0xfff2    // execve failed
	maxFd        = 1<<32 - 1 // for close_range
)

// machine is all that the child touches, with what it points to. It lies in the
// program's childMemory.
type machine struct {
	ops    []op
	reg    [numRegs]uintptr
	report [2]uint64
	ctl    uintptr // control socket
	msg    goMsg
	siginf [16]uint64

	initName [16]byte // what the init process is called
	cmdline  []byte   // where the kernel looks for this program's command line
	tls      [16]uint64
	status   int32
	pidfd    int32 // written by clone3

	join *joinUser // a user namespace to enter first, nil = none
}

// joinUser is how a child gets into a user namespace that exists already. Neither
// can our thread join it (a thread of a Go program cannot) nor are namespaces its
// property that were made before. So the child joins it, and clones once more with
// the namespaces that the container gets; that child is the container's process,
// and by CLONE_PARENT ours.
type joinUser struct {
	ns             uintptr // descriptor of the user namespace
	time           uintptr // of a time namespace to join before, which may be the host's own; 0 = none
	args           cloneArgs
	report         [2]uint64 // its own: the child's child may report meanwhile
	pidfd          int32
	inStep, mkStep uint16
}

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

// cloneArgs is struct clone_args of clone3(2).
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// clone is clone3; the child runs childMain(m) and does not return.
//
//go:noescape
func clone(a *cloneArgs, m *machine) (pid, errno uintptr)

// childStack is plenty: the interpreter's frames are a few hundred bytes.
const childStack = 32 << 10

// forkChild forks; the child runs p. It must be called on a locked thread.
//
// Sharing our memory with the child until it executes saves copying page tables
// and then every page that we touch meanwhile: about a fifth of the time that a
// container's start takes. The child writes only to p.mem, and what it gets of a
// memory that is not shared is little more than that (see leaveHeap). All signals
// are blocked in it until the program has reset them, so that no handler of Go ever
// runs there.
//
//go:noinline
//go:norace
func forkChild(p *program, a *cloneArgs, share bool) (pid uintptr, errno syscall.Errno) {
	m := p.m
	m.ops = placeAll(p.mem, p.ops)
	a.onStack(p.mem, share)
	if j := m.join; j != nil {
		j.args.onStack(p.mem, share)
	}
	// Our thread's own storage is in the heap: entering Go reads a word of it.
	a.flags |= unix.CLONE_SETTLS
	a.tls = uint64(uintptr(unsafe.Pointer(&m.tls[len(m.tls)/2])))
	if !share {
		leaveHeap()
	}
	beforeFork()
	pid, e := clone(a, m)
	afterFork()
	return pid, syscall.Errno(e)
}

// onStack gives the child a stack of its own.
func (a *cloneArgs) onStack(m *childMemory, share bool) {
	if share {
		a.flags |= unix.CLONE_VM
	}
	a.stack, a.stackSize = uint64(uintptr(unsafe.Pointer(&m.bytes(childStack)[0]))), childStack
}

//go:nosplit
//go:norace
func childMain(m *machine) {
	if m.join != nil {
		m.enterUser(m.join)
	}
	m.run()
}

// enterUser ends after it has told the pidfd of the child that goes on.
//
//go:nosplit
//go:norace
func (m *machine) enterUser(j *joinUser) {
	if j.time != 0 {
		if _, _, e := syscall.RawSyscall(unix.SYS_SETNS, j.time, unix.CLONE_NEWTIME, 0); e != 0 {
			m.fail(j.inStep, uintptr(e))
		}
	}
	if _, _, e := syscall.RawSyscall(unix.SYS_SETNS, j.ns, unix.CLONE_NEWUSER, 0); e != 0 {
		m.fail(j.inStep, uintptr(e))
	}
	_, e := cloneAgain(&j.args, m)
	if e != 0 {
		m.fail(j.mkStep, e)
	}
	j.report[0], j.report[1] = stepBorn, uint64(uint32(j.pidfd))
	syscall.RawSyscall(syscall.SYS_WRITE, m.ctl, uintptr(unsafe.Pointer(&j.report)), reportSize)
	m.exit(0)
}

// cloneAgain is clone whose child calls childRest: what calls itself cannot be
// checked against the size of its stack.
//
//go:noescape
func cloneAgain(a *cloneArgs, m *machine) (pid, errno uintptr)

//go:nosplit
//go:norace
func childRest(m *machine) { m.run() }

// run interprets the program in the child. It does not return.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (m *machine) run() {
	for i := 0; i < len(m.ops); i++ {
		o := &m.ops[i]
		if o.when != 0 && m.reg[o.when] == 0 {
			continue
		}
		switch o.nr {
		case opReport:
			m.tell(uint64(o.step), 0, uint64(m.reg[o.arg[0]]))
			continue
		case opLoad:
			m.reg[o.dst] = uintptr(*(*uint64)(o.ptr))
			continue
		case opByte:
			if *(*byte)(o.ptr) != byte(o.arg[1]) {
				m.fail(o.step, o.arg[2])
			}
			continue
		case opNeed:
			if m.reg[o.arg[0]] == 0 {
				m.exit(255)
			}
			continue
		case opCtl:
			m.ctl = o.arg[0]
			continue
		case opInit:
			if e := m.becomeInit(); e != 0 {
				m.fail(o.step, e)
			}
			continue
		}
		r, e := m.call(o)
		if e != 0 {
			if e != uintptr(o.pass[0]) && e != uintptr(o.pass[1]) {
				m.fail(o.step, e)
			}
			r = e
		}
		if o.dst != 0 {
			m.reg[o.dst] = r
		}
	}
	m.exit(255)
}

//go:nosplit
//go:norace
func (m *machine) call(o *op) (uintptr, uintptr) {
	a := o.arg
	for j := range 6 {
		if o.regs&(1<<j) != 0 {
			a[j] = m.reg[a[j]]
		}
	}
	for {
		r, _, e := syscall.RawSyscall6(o.nr, a[0], a[1], a[2], a[3], a[4], a[5])
		if e != syscall.EINTR {
			return r, uintptr(e)
		}
	}
}

//go:nosplit
//go:norace
func (m *machine) tell(step, errno, value uint64) {
	m.report[0] = step | errno<<32
	m.report[1] = value
	syscall.RawSyscall(syscall.SYS_WRITE, m.ctl, uintptr(unsafe.Pointer(&m.report)), reportSize)
}

//go:nosplit
//go:norace
func (m *machine) fail(step uint16, errno uintptr) {
	m.tell(uint64(step), uint64(errno), 0)
	m.exit(255)
}

//go:nosplit
//go:norace
func (m *machine) exit(code uintptr) {
	for {
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, code, 0, 0)
	}
}

// becomeInit forks once more. The new child goes on with the program; this
// process stays as process 1: it reaps, hands signals on to the workload, and
// ends with the workload's status. It takes no memory of its own to speak of and
// runs no file of the host.
//
//go:nosplit
//go:norace
func (m *machine) becomeInit() (errno uintptr) {
	// All signals blocked: they are taken by rt_sigtimedwait below. The workload's
	// mask is restored in the child.
	set, none := ^uint64(0), uint64(0)
	syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&set)), 0, 8, 0, 0)
	pid, _, e := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	if e != 0 {
		return uintptr(e) // and not told here: on arm64 the stack would not do
	}
	if pid == 0 {
		syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&none)), 0, 8, 0, 0)
		// The workload is its own session, so that it may own the terminal.
		return 0
	}
	// What ps shows of it. The command line is this process's copy of the monitor's.
	syscall.RawSyscall(syscall.SYS_PRCTL, unix.PR_SET_NAME, uintptr(unsafe.Pointer(&m.initName)), 0)
	for i := range m.cmdline {
		m.cmdline[i] = 0
		if i < len(m.initName) {
			m.cmdline[i] = m.initName[i]
		}
	}
	// Only the workload keeps descriptors: a pipe ends when it does.
	syscall.RawSyscall(unix.SYS_CLOSE_RANGE, 0, maxFd, 0)
	for {
		sig, _, _ := syscall.RawSyscall6(syscall.SYS_RT_SIGTIMEDWAIT, uintptr(unsafe.Pointer(&set)), uintptr(unsafe.Pointer(&m.siginf)), 0, 8, 0, 0)
		if sig == uintptr(syscall.SIGCHLD) {
			for {
				p, _, e := syscall.RawSyscall6(syscall.SYS_WAIT4, ^uintptr(0), uintptr(unsafe.Pointer(&m.status)), syscall.WNOHANG, 0, 0, 0)
				if e == syscall.EINTR {
					continue
				}
				if e != 0 || p == 0 {
					break
				}
				if p == pid {
					m.exitLike(m.status)
				}
			}
			continue
		}
		if int(sig) > 0 && sig <= 64 {
			syscall.RawSyscall(syscall.SYS_KILL, pid, sig, 0)
		}
	}
}

// exitLike ends with the code that a shell would give for a wait status.
//
//go:nosplit
//go:norace
func (m *machine) exitLike(status int32) {
	if sig := status & 0x7f; sig != 0 {
		m.exit(uintptr(128 + sig))
	}
	m.exit(uintptr(status>>8) & 0xff)
}
