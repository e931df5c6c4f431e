package runtime

import (
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"hull/internal/linux"
)

// program builds what a child runs.
type program struct {
	mem   *childMemory // of all that the child touches
	m     *machine     // in mem
	ops   []op
	steps []string
	ctl   int  // the control socket's number at this point of the program
	leave bool // see Stdio.Leave
}

// newProgram begins a program. Its memory lives as long as it can be reached.
func newProgram(ctl int) *program {
	mem := &childMemory{}
	p := &program{mem: mem, m: place(mem, machine{ctl: uintptr(ctl)}), ops: make([]op, 0, 128), steps: make([]string, 0, 64), ctl: ctl}
	runtime.AddCleanup(p, (*childMemory).release, mem)
	return p
}

// reg marks an argument as a register number.
type reg uint8

// do appends a system call. Arguments: int, uintptr, reg, string (as a C
// string), []byte (a copy of it), unsafe.Pointer to something in p.mem.
func (p *program) do(step string, nr uintptr, args ...any) *op {
	o := op{nr: nr, step: uint16(len(p.steps))}
	p.steps = append(p.steps, step)
	for i, a := range args {
		switch v := a.(type) {
		case int:
			o.arg[i] = uintptr(v)
		case uintptr:
			o.arg[i] = v
		case uint64:
			o.arg[i] = uintptr(v)
		case reg:
			o.arg[i], o.regs = uintptr(v), o.regs|1<<i
		case string:
			o.arg[i] = uintptr(p.mem.text(v))
		case []byte:
			o.arg[i] = uintptr(unsafe.Pointer(unsafe.SliceData(placeAll(p.mem, v))))
		case unsafe.Pointer:
			o.arg[i] = uintptr(v)
		default:
			panic("program: argument of another type")
		}
	}
	p.ops = append(p.ops, o)
	return &p.ops[len(p.ops)-1]
}

func (o *op) to(r uint8) *op { o.dst = r; return o }

func (o *op) allow(e ...syscall.Errno) *op {
	for i, e := range e {
		o.pass[i] = uint16(e)
	}
	return o
}

func (o *op) onlyIf(r uint8) *op { o.when = r; return o }

// argv makes a C array of strings.
func (p *program) argv(s []string) []uintptr {
	v := make([]uintptr, len(s)+1)
	for i, x := range s {
		v[i] = uintptr(p.mem.text(x))
	}
	return placeAll(p.mem, v)
}

// dieWithParent ties the child to the forking thread's life: also one that shall
// outlive it does not outlive its own creation (see rights). watch is a pidfd of
// this process, to notice that it had died before.
func (p *program) dieWithParent(watch *os.File) {
	const what = "bind to the monitor's life"
	p.do(what, unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, int(unix.SIGKILL))
	if watch == nil {
		return
	}
	fds := place(p.mem, [1]unix.PollFd{{Fd: int32(watch.Fd()), Events: unix.POLLIN}})
	now := place(p.mem, unix.Timespec{})
	p.do(what, unix.SYS_PPOLL, unsafe.Pointer(fds), 1, unsafe.Pointer(now), 0, 0).to(regTmp)
	p.do(what, unix.SYS_EXIT_GROUP, 255).onlyIf(regTmp)
}

// labels asks the host's security modules for what execve shall bring: through the
// host's proc, which nobody in the container can have replaced (CVE-2019-16884).
func (p *program) labels(x *ProcPlan, proc *os.File) {
	if proc == nil {
		return
	}
	set := func(what, file, value string) {
		p.do(what, unix.SYS_OPENAT, linux.FD(proc), file, unix.O_WRONLY|unix.O_CLOEXEC, 0).to(regTmp)
		p.do(what, unix.SYS_WRITE, reg(regTmp), []byte(value), len(value))
		p.do(what, unix.SYS_CLOSE, reg(regTmp))
	}
	if x.AppArmor != "" {
		set("apply AppArmor profile "+x.AppArmor, "self/attr/apparmor/exec", "exec "+x.AppArmor)
	}
	if x.SELinux != "" {
		set("apply SELinux label "+x.SELinux, "self/attr/exec", x.SELinux)
	}
}

// hostProc opens the host's proc for labels; nil when there are none. It is to be
// called outside of the container's mount namespace.
func hostProc(x *ProcPlan) (*os.File, error) {
	if x.AppArmor == "" && x.SELinux == "" {
		return nil, nil //nolint:nilnil // nothing to label
	}
	return os.OpenFile("/proc", unix.O_PATH|unix.O_DIRECTORY, 0)
}

// joinCgroups moves the child into the v1 cgroups. It does so itself, as a thread:
// for a whole process, or by another, the kernel waits for an RCU grace period, 5 to
// 15 ms, because it must know that nothing of the process is about to end.
func (p *program) joinCgroups(g *cgroupFiles) {
	for _, f := range g.tasks {
		p.do("join cgroup", unix.SYS_WRITE, linux.FD(f), []byte("0"), 1)
	}
}

// mountProc makes a procfs of the child's own pid namespace, attached nowhere.
func (p *program) mountProc(source string, opts []string, attrs int) {
	const what = "mount proc"
	p.do(what, unix.SYS_FSOPEN, "proc", unix.FSOPEN_CLOEXEC).to(regTmp)
	if source != "" { // what mountinfo shows
		p.do(what, unix.SYS_FSCONFIG, reg(regTmp), unix.FSCONFIG_SET_STRING, "source", source, 0)
	}
	for _, o := range opts {
		k, v := cutOption(o)
		if v == "" {
			p.do(what, unix.SYS_FSCONFIG, reg(regTmp), unix.FSCONFIG_SET_FLAG, k, 0, 0)
		} else {
			p.do(what, unix.SYS_FSCONFIG, reg(regTmp), unix.FSCONFIG_SET_STRING, k, v, 0)
		}
	}
	p.do(what, unix.SYS_FSCONFIG, reg(regTmp), unix.FSCONFIG_CMD_CREATE, 0, 0, 0)
	p.do(what, unix.SYS_FSMOUNT, reg(regTmp), unix.FSMOUNT_CLOEXEC, attrs).to(regProc)
	p.do(what, unix.SYS_CLOSE, reg(regTmp)) // the table is still the parent's
}

// hello reports the proc descriptor and waits for the parent's go.
func (p *program) hello() {
	const what = "wait for the mounts"
	m := p.m
	p.report(stepHello, regProc)
	p.do(what, unix.SYS_READ, p.ctl, unsafe.Pointer(&m.msg), int(unsafe.Sizeof(m.msg))).to(regTmp)
	p.need()
	p.load(regRoot, &m.msg.root)
	p.load(regTTY, &m.msg.tty)
}

func (p *program) load(r uint8, from *uint64) {
	p.ops = append(p.ops, op{nr: opLoad, ptr: unsafe.Pointer(from), dst: r})
}

// need ends the child quietly when the last read hit the end of file: the parent
// has died or given up.
func (p *program) need() { p.ops = append(p.ops, op{nr: opNeed, arg: [6]uintptr{regTmp}}) }

func (p *program) report(step uint16, r int) {
	p.ops = append(p.ops, op{nr: opReport, arg: [6]uintptr{uintptr(r)}, step: step})
}

// stdio puts the descriptors in place: 0, 1, 2, then extra ones, then the control
// socket and the gate, which are closed by execve; everything else is closed. The
// sources have numbers above all targets (see highFd). A terminal comes in regTTY.
func (p *program) stdio(io *stdio, tty bool) {
	const what = "set up standard streams"
	for i, fd := range io.fds {
		if tty && i < 3 {
			p.do(what, unix.SYS_DUP3, reg(regTTY), i, 0)
		} else {
			p.do(what, unix.SYS_DUP3, fd, i, 0)
		}
	}
	n := len(io.fds)
	for i, fd := range append([]int{int(p.m.ctl)}, io.gate...) {
		p.do(what, unix.SYS_DUP3, fd, n+i, unix.O_CLOEXEC)
	}
	p.ops = append(p.ops, op{nr: opCtl, arg: [6]uintptr{uintptr(n)}})
	p.ctl = n
	p.do("close what is the host's", unix.SYS_CLOSE_RANGE, n+1+len(io.gate), uintptr(maxFd), 0)
}

// step names a step without a system call of the program's own.
func (p *program) step(name string) uint16 {
	p.steps = append(p.steps, name)
	return uint16(len(p.steps) - 1)
}

// joinUser has the child enter a user namespace and then clone with args' flags.
func (p *program) joinUser(ns, timeNS *os.File, args *cloneArgs) {
	j := place(p.mem, joinUser{ns: ns.Fd(), inStep: p.step("join the user namespace"), mkStep: p.step("make namespaces")})
	if timeNS != nil {
		j.time = timeNS.Fd()
	}
	const first = unix.CLONE_INTO_CGROUP | unix.CLONE_PIDFD | unix.CLONE_FILES // of both
	j.args = cloneArgs{
		flags: args.flags&^unix.CLONE_INTO_CGROUP | unix.CLONE_PARENT,
		pidfd: uint64(uintptr(unsafe.Pointer(&j.pidfd))),
	}
	args.flags &= first
	p.m.join = j
}

// becomeRoot makes the child root of its user namespace, where that has one: what
// it opens and makes on its way is not the host's root's.
func (p *program) becomeRoot() {
	const what = "become root of the user namespace"
	p.do(what, unix.SYS_SETRESGID, 0, 0, 0).allow(unix.EINVAL)
	p.do(what, unix.SYS_SETRESUID, 0, 0, 0).allow(unix.EINVAL)
	// A change of the user unbinds.
	p.do("bind to the monitor's life", unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, int(unix.SIGKILL))
}

// join puts the child into its own cgroup namespace and descriptor table, and
// into the root that the parent's thread made.
func (p *program) enterRoot(cgroupNS bool) {
	if cgroupNS {
		p.do("make a cgroup namespace", unix.SYS_UNSHARE, unix.CLONE_NEWCGROUP)
	}
	p.do("unshare descriptors", unix.SYS_UNSHARE, unix.CLONE_FILES)
	p.do("enter the root directory", unix.SYS_FCHDIR, reg(regRoot))
	p.do("enter the root directory", unix.SYS_CHROOT, ".")
}

// rights takes away what the process shall not have, and waits for Start. The
// order matters: seccomp without no_new_privs needs CAP_SYS_ADMIN, changing the
// user clears the death signal and (without keepcaps) the capabilities.
func (p *program) rights(x *ProcPlan, c childConfig) {
	p.signals()
	if x.Umask >= 0 {
		p.do("set umask", unix.SYS_UMASK, x.Umask)
	}
	p.scheduling(x)
	for _, r := range c.rlimits {
		lim := place(p.mem, unix.Rlimit{Cur: r.Soft, Max: r.Hard})
		p.do("set resource limit", unix.SYS_PRLIMIT64, 0, r.Resource, unsafe.Pointer(lim), 0)
	}
	for i := range 3 {
		if c.chown[i] {
			p.do("own standard streams", unix.SYS_FCHOWN, i, int(x.UID), ^uintptr(0)).allow(unix.EPERM, unix.EINVAL)
		}
	}
	// Without one of its own the workload would search the monitor's keyring.
	if !x.KeepKeyring {
		p.do("join a new session keyring", unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0).allow(unix.ENOSYS, unix.EDQUOT)
	}
	// As root first: the directory may be closed to the user, as in runc.
	p.do("chdir to "+x.Cwd, unix.SYS_CHDIR, x.Cwd).to(regDir).allow(unix.EACCES)
	if x.Seccomp != nil && !x.NoNewPrivs {
		p.seccomp(x.Seccomp)
	}
	p.credentials(x)
	p.do("chdir to "+x.Cwd, unix.SYS_CHDIR, x.Cwd).onlyIf(regDir)
	p.insideRoot()
	after := 0
	if c.dieWithParent {
		after = int(unix.SIGKILL)
	}
	p.do("bind to the monitor's life", unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, after)
	if c.init {
		copy(p.m.initName[:], "docker-init")
		p.m.cmdline = cmdline()
		p.do("start the init process", opInit)
	}
	p.do("make a session", unix.SYS_SETSID).allow(unix.EPERM)
	if c.tty {
		p.do("take the terminal", unix.SYS_IOCTL, 0, unix.TIOCSCTTY, 0)
	}
}

// cmdline is the memory of this program's arguments, nil where they are not what
// it was started with. Only a child with a memory of its own may write there.
func cmdline() []byte {
	if len(os.Args) == 0 {
		return nil
	}
	first, last := unsafe.StringData(os.Args[0]), os.Args[len(os.Args)-1]
	n := 0
	for _, a := range os.Args {
		n += len(a) + 1
	}
	if uintptr(unsafe.Pointer(unsafe.StringData(last)))+uintptr(len(last))+1-uintptr(unsafe.Pointer(first)) != uintptr(n) {
		return nil
	}
	return unsafe.Slice(first, n)
}

// insideRoot refuses a working directory that is not below the root
// (CVE-2024-21626): the kernel then says "(unreachable)/...".
func (p *program) insideRoot() {
	buf := p.mem.bytes(4096)
	p.do("find the working directory", unix.SYS_GETCWD, unsafe.Pointer(&buf[0]), len(buf)).allow(unix.ERANGE)
	p.steps = append(p.steps, "working directory is outside of the container")
	p.ops = append(p.ops, op{
		nr: opByte, step: uint16(len(p.steps) - 1),
		ptr: unsafe.Pointer(&buf[0]), arg: [6]uintptr{0, '/', uintptr(unix.EXDEV)},
	})
}

// signals gives every signal its default meaning (an engine started under nohup
// must not make workloads deaf to SIGHUP), and only then lets them in.
func (p *program) signals() {
	act := unsafe.Pointer(&p.mem.bytes(32)[0])
	for sig := 1; sig <= 64; sig++ {
		if s := syscall.Signal(sig); s == unix.SIGKILL || s == unix.SIGSTOP {
			continue
		}
		p.do("reset signals", unix.SYS_RT_SIGACTION, sig, act, 0, 8)
	}
	p.do("unblock signals", unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, act, 0, 8) // all zero
}

func (p *program) scheduling(x *ProcPlan) {
	// All that the cgroup allows, whatever the caller is bound to. (EINVAL: no
	// processor in common with the cgroup's.)
	cpus := x.CPUs
	if cpus == nil {
		cpus = allCPUs
	}
	p.do("set CPU affinity", unix.SYS_SCHED_SETAFFINITY, 0, 8*len(cpus), unsafe.Pointer(&placeAll(p.mem, cpus)[0])).allow(unix.EINVAL)
	if s := x.Sched; s != nil {
		a := place(p.mem, unix.SchedAttr{
			Size: unix.SizeofSchedAttr, Policy: uint32(s.Policy), Nice: s.Nice, Flags: s.Flags,
			Priority: s.Priority, Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period,
		})
		what := "set scheduler"
		if s.Pinned {
			what += ": process scheduler can't be used together with AllowedCPUs"
		}
		p.do(what, unix.SYS_SCHED_SETATTR, 0, unsafe.Pointer(a), 0)
	}
	if x.IOPrio != 0 {
		p.do("set I/O priority", unix.SYS_IOPRIO_SET, 1, 0, x.IOPrio)
	}
	if x.Person != nil {
		p.do("set personality", unix.SYS_PERSONALITY, *x.Person)
	}
	if m := x.MemPolicy; m != nil {
		var nodes unsafe.Pointer
		if len(m.Nodes) > 0 {
			nodes = unsafe.Pointer(&placeAll(p.mem, m.Nodes)[0])
		}
		p.do("set memory policy", unix.SYS_SET_MEMPOLICY, m.Mode, nodes, 64*len(m.Nodes)+1)
	}
}

func (p *program) seccomp(f *Filter) {
	filter := placeAll(p.mem, f.Program)
	b := place(p.mem, unix.SockFprog{Len: uint16(len(filter) / 8), Filter: (*unix.SockFilter)(unsafe.Pointer(&filter[0]))})
	p.do("load the seccomp filter", unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, int(f.Flags), unsafe.Pointer(b)).to(regSeccomp)
	if !f.listens() {
		return
	}
	// The parent takes its own copy of the listener. From here on calls may have to
	// wait for the agent, which has it then.
	buf := make([]byte, 8)
	p.report(stepListener, regSeccomp)
	p.do("wait for the seccomp agent", unix.SYS_READ, p.ctl, buf, 1).to(regTmp)
	p.need()
	p.do("close the seccomp listener", unix.SYS_CLOSE, reg(regSeccomp))
}

func (p *program) noNewPrivs() {
	p.do("set no_new_privs", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
}

// credentials changes groups, ids and capabilities.
func (p *program) credentials(x *ProcPlan) {
	if !x.Caps.Keep {
		for i := range capNames {
			if x.Caps.Bounding&(1<<i) == 0 {
				p.do("drop CAP_"+capNames[i]+" from the bounding set", unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, i)
			}
		}
		p.do("keep capabilities", unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1)
	}
	groups := make([]byte, 4*max(1, len(x.Groups)))
	for i, g := range x.Groups {
		*(*uint32)(unsafe.Pointer(&groups[4*i])) = g
	}
	p.do("set additional groups", unix.SYS_SETGROUPS, len(x.Groups), groups)
	p.do("set group id", unix.SYS_SETGID, int(x.GID))
	p.do("set user id", unix.SYS_SETUID, int(x.UID))
	if x.Caps.Keep {
		return
	}
	p.do("keep capabilities", unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 0)
	hdr := place(p.mem, unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3})
	data := place(p.mem, [2]unix.CapUserData{})
	for i := range data {
		s := 32 * i
		data[i] = unix.CapUserData{
			Effective: uint32(x.Caps.Effective >> s), Permitted: uint32(x.Caps.Permitted >> s), Inheritable: uint32(x.Caps.Inheritable >> s),
		}
	}
	p.do("set capabilities", unix.SYS_CAPSET, unsafe.Pointer(hdr), unsafe.Pointer(data))
	p.do("clear ambient capabilities", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0).allow(unix.EINVAL)
	for i := range capNames {
		if x.Caps.Ambient&(1<<i) != 0 {
			p.do("raise ambient capability", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, i, 0, 0)
		}
	}
}

// ready reports that everything but the last steps is done, and waits for start.
func (p *program) ready(io *stdio, x *ProcPlan) {
	if x.NoNewPrivs && x.Seccomp.listens() {
		// Its listener leaves through the control socket.
		p.noNewPrivs()
		p.seccomp(x.Seccomp)
	}
	buf := make([]byte, 8)
	p.report(stepReady, 0)
	if io.gate != nil {
		// From here on the gate is the control socket.
		p.do("close the control socket", unix.SYS_CLOSE, p.ctl)
		p.ctl++
	}
	if io.gate != nil && (x.Seccomp == nil || x.NoNewPrivs && !x.Seccomp.listens()) {
		p.waitMortal() // no filter is there yet that could forbid it
	}
	p.do("wait for start", unix.SYS_READ, p.ctl, buf, 1).to(regTmp)
	p.need()
	if io.gate != nil {
		p.ops = append(p.ops, op{nr: opCtl, arg: [6]uintptr{uintptr(p.ctl + 1)}})
	}
}

// waitMortal waits until the gate is open, and ends on the signals that ask for
// that: the first process of a pid namespace is deaf to them as long as it has no
// handlers. Blocked they are kept, and read from a descriptor.
func (p *program) waitMortal() {
	const what = "wait for start"
	var set uint64
	for _, s := range []syscall.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM} {
		set |= 1 << (s - 1)
	}
	mask, none := place(p.mem, set), place(p.mem, uint64(0))
	sfd := p.ctl - 1 // the control socket's number: the lowest that is free
	fds := place(p.mem, [2]unix.PollFd{{Fd: int32(p.ctl), Events: unix.POLLIN}, {Fd: int32(sfd), Events: unix.POLLIN}})
	now := place(p.mem, unix.Timespec{})
	p.do(what, unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, unsafe.Pointer(mask), 0, 8)
	p.do(what, unix.SYS_SIGNALFD4, -1, unsafe.Pointer(mask), 8, unix.SFD_CLOEXEC)
	p.do(what, unix.SYS_PPOLL, unsafe.Pointer(fds), 2, 0, 0, 0)
	p.do(what, unix.SYS_PPOLL, unsafe.Pointer(&fds[1]), 1, unsafe.Pointer(now), 0, 0).to(regTmp)
	p.do(what, unix.SYS_EXIT_GROUP, 128+int(unix.SIGTERM)).onlyIf(regTmp)
	p.do(what, unix.SYS_CLOSE, sfd)
	p.do(what, unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, unsafe.Pointer(none), 0, 8)
}

// finish is what comes after Start. env holds "" where HOME of the go message goes.
func (p *program) finish(x *ProcPlan, env []string) {
	if x.NoNewPrivs && !x.Seccomp.listens() {
		p.noNewPrivs()
		if x.Seccomp != nil {
			p.seccomp(x.Seccomp)
		}
	}
	argv, envv := p.argv(x.Args), p.argv(env)
	for i, e := range env {
		if e == "" {
			envv[i] = uintptr(unsafe.Pointer(&p.m.msg.home))
		}
	}
	p.do("exec", unix.SYS_EXECVE, unsafe.Pointer(&p.m.msg.path), unsafe.Pointer(&argv[0]), unsafe.Pointer(&envv[0])).step = stepExec
}

// childConfig is what the program needs beyond the process's plan.
type childConfig struct {
	rlimits       []Rlimit
	chown         [3]bool // standard streams that become the user's
	tty           bool
	init          bool
	dieWithParent bool
}
