package runtime

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hull/internal/linux"
)

// Container is one set of namespaces with a main process.
type Container struct {
	init *Process
	plan *Plan
	t    *thread

	rootDir *os.File // O_PATH, the root directory with all its mounts
	pts     *os.File // O_PATH, the root of the container's devpts, nil if it has none
	oldRoot *os.File // O_PATH, the host's, between pivot and dropHost
	self    *os.File // pidfd of this process
	timeNS  *os.File // to join, while the process is made
	ids     *idMaps  // of its user namespace; nil = it has the caller's

	sources sources // while it is made
	foreign bool    // attached to, not created
	seated  Cgroup  // of a seat: the thread's children are born in it

	mu     sync.Mutex
	joined bool // the thread has joined the pid namespace of init; t only
	ended  bool
}

func create(ctx context.Context, plan *Plan, s Stdio, cg Cgroup) (*Container, error) {
	return createOn(ctx, nil, plan, s, cg)
}

// createOn creates on the thread of a seat; nil = none.
func createOn(ctx context.Context, seat *thread, plan *Plan, s Stdio, cg Cgroup) (_ *Container, err error) {
	c := &Container{plan: plan, t: seat}
	if seat == nil {
		c.t = startThread()
	} else {
		c.seated = cg
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.destroy())
		}
	}()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := c.t.do(func() error { return c.build(s, cg) }); err != nil {
		return nil, err
	}
	return c, nil
}

// build makes the container. It runs on the container's thread.
func (c *Container) build(s Stdio, cg Cgroup) error {
	p := c.plan
	if err := mayListen(p.Process.Seccomp, s.Hooks); err != nil {
		return err
	}
	if err := c.enter(); err != nil {
		return err
	}
	defer func() { linux.CloseAll(c.sources.files()); c.sources = sources{} }()
	caps, err := effectiveCaps()
	if err != nil {
		return err
	}
	if c.self, err = linux.PidfdOpen(os.Getpid()); err != nil {
		return err
	}
	groups, err := openCgroup(cg, len(c.seated.Dirs) > 0)
	if err != nil {
		return err
	}
	defer groups.close()
	conn, err := newControl()
	if err != nil {
		return err
	}
	defer conn.closeChild()
	prog := newProgram(conn.child)
	prog.leave = s.Leave
	prog.do("hide from other containers", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0)
	proc, err := hostProc(&p.Process)
	if err != nil {
		conn.close()
		return err
	}
	defer linux.CloseAll([]*os.File{proc})
	prog.labels(&p.Process, proc)
	bound := !s.Outlive && s.Gate == nil
	prog.dieWithParent(c.self)
	for _, m := range p.Mounts {
		if m.Kind == "proc" {
			prog.mountProc(m.Source, m.Data, int(m.Set))
			break
		}
	}
	if c.timeNS, err = p.openTime(); err != nil {
		conn.close()
		return err
	}
	defer func() { linux.CloseAll([]*os.File{c.timeNS}); c.timeNS = nil }()
	if c.timeNS != nil && (c.ids == nil || p.Unshare&unix.CLONE_NEWUSER != 0) {
		prog.do("join the time namespace", unix.SYS_SETNS, linux.FD(c.timeNS), unix.CLONE_NEWTIME)
	}
	prog.joinCgroups(groups)
	prog.hello()
	prog.enterRoot(p.Unshare&unix.CLONE_NEWCGROUP != 0)
	io, err := openStdio(s, &p.Process, c.ids)
	if err != nil {
		conn.close()
		return err
	}
	defer io.close()
	x := p.Process.clamped(caps)
	limits := clampRlimits(p.Process.Rlimits, caps)
	cfg := childConfig{rlimits: limits, chown: io.chown, tty: p.Process.Terminal, init: p.Init, dieWithParent: bound}
	if c.ids != nil {
		prog.becomeRoot()
		cfg.rlimits, x = nil, x.withoutScheduling()
	}
	prog.stdio(io, p.Process.Terminal)
	prog.rights(x, cfg)
	prog.ready(io, x)
	env, needHome := withHome(p.Process.Env)
	prog.finish(&p.Process, env)

	// From here on: a new user namespace belongs to its own root, not to the host's.
	if err := c.ids.become(); err != nil {
		conn.close()
		return err
	}
	child, err := c.fork(prog, conn, c.cloneFlags(), groups)
	if err != nil {
		conn.close()
		return err
	}
	child.args0 = p.Process.Args[0]
	c.init = child
	child.setGate(s)
	if c.ids != nil {
		if err := c.follow(child); err != nil {
			if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) {
				// It may have ended already, and said why.
				_, said := conn.expect(prog, stepHello)
				err = cmp.Or(said, err)
			}
			return err
		}
	}
	procMount, err := conn.expect(prog, stepHello)
	if err != nil {
		return err
	}
	if err := writeOOMScore(child.pid, p.Process.OOMScore); err != nil {
		return err
	}
	slave, err := c.mountAll(int(procMount), cg, s)
	if err != nil {
		return err
	}
	defer linux.CloseAll([]*os.File{slave})
	msg := &goMsg{root: uint64(c.rootDir.Fd())}
	if slave != nil {
		msg.tty = uint64(slave.Fd())
	}
	if err := c.resolve(&p.Process, needHome, msg); err != nil {
		return err
	}
	if !bound { // it may outlive us
		if err := c.dropHost(); err != nil {
			return err
		}
	}
	if err := conn.sendGo(msg); err != nil {
		return err
	}
	if err := c.dropHost(); err != nil {
		return err
	}
	if err := conn.ready(prog, p.Process.Seccomp, child, s.Hooks); err != nil || c.ids == nil {
		return err
	}
	return limitFromOutside(child.pid, &p.Process, limits)
}

// openTime opens the time namespace that the container joins, nil = none. Only the
// child can enter it: the kernel allows that to processes of one thread.
func (p *Plan) openTime() (*os.File, error) {
	for _, j := range p.Join {
		if j.Kind == unix.CLONE_NEWTIME {
			return os.Open(j.Path)
		}
	}
	return nil, nil //nolint:nilnil // most have none
}

// enter moves the thread into the container's namespaces, except those that only
// children can be in.
func (c *Container) enter() error {
	p := c.plan
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare file system state: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	unix.Umask(0) // this thread's own since the unshare: modes of nodes and directories are exact
	for _, j := range p.Join {
		if j.Kind == unix.CLONE_NEWUSER || j.Kind == unix.CLONE_NEWTIME {
			continue // see openIDs and joinTime
		}
		if err := linux.JoinPath(j.Path, int(j.Kind)); err != nil {
			return err
		}
	}
	flags := p.Unshare &^ (unix.CLONE_NEWPID | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUSER)
	if p.userNS() {
		// The others are the user namespace's own, made with or in it: see follow.
		flags &= unix.CLONE_NEWTIME
		if err := c.openIDs(); err != nil {
			return err
		}
	}
	if err := unix.Unshare(int(flags)); err != nil {
		return fmt.Errorf("make namespaces: %w", err)
	}
	if err := p.setTimes(); err != nil || p.userNS() {
		return err
	}
	return p.setNames()
}

func (p *Plan) setTimes() error {
	if p.TimeOffsets == "" {
		return nil
	}
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/timens_offsets", unix.Gettid()), []byte(p.TimeOffsets), 0); err != nil {
		return fmt.Errorf("set time offsets: %w", err)
	}
	return nil
}

// setNames readies fresh network and UTS namespaces, in which the thread is.
func (p *Plan) setNames() error {
	if p.Unshare&unix.CLONE_NEWNET != 0 {
		if err := loopbackUp(); err != nil {
			return fmt.Errorf("set the loopback interface up: %w", err)
		}
	}
	if p.Hostname != "" {
		if err := unix.Sethostname([]byte(p.Hostname)); err != nil {
			return fmt.Errorf("set host name %q: %w", p.Hostname, err)
		}
	}
	if p.Domainname != "" {
		if err := unix.Setdomainname([]byte(p.Domainname)); err != nil {
			return fmt.Errorf("set domain name %q: %w", p.Domainname, err)
		}
	}
	return nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

// fork starts a child that runs prog. It runs on the container's thread. The
// process owns conn from then on.
func (c *Container) fork(prog *program, conn *control, flags uintptr, g *cgroupFiles) (*Process, error) {
	args := &cloneArgs{
		flags: uint64(flags | unix.CLONE_PIDFD | unix.CLONE_FILES), exitSignal: uint64(unix.SIGCHLD),
		pidfd: uint64(uintptr(unsafe.Pointer(&prog.m.pidfd))),
	}
	if g.v2 != nil {
		// Born in its cgroup, where the kernel can do that.
		args.flags |= unix.CLONE_INTO_CGROUP
		args.cgroup = uint64(g.v2.Fd())
	}
	// Memory is shared only with the first process of a new pid namespace: nobody of
	// the container can see it while it waits. An exec's process could be traced by
	// one with CAP_SYS_PTRACE, and the OOM killer of a full container kills all who
	// share a victim's memory. A time namespace cannot be entered with shared
	// memory, and our own process 1 lives on and must not hold ours.
	share := flags&unix.CLONE_NEWPID != 0 && !c.plan.Init && c.plan.Namespaces()&unix.CLONE_NEWTIME == 0
	if c.init == nil && c.ids != nil && c.plan.Unshare&unix.CLONE_NEWUSER == 0 {
		prog.joinUser(c.ids.ns, c.timeNS, args)
	}
	pid, errno := forkChild(prog, args, share)
	runtime.KeepAlive(prog)
	if errno != 0 {
		return nil, fmt.Errorf("clone: %w", errno)
	}
	if prog.m.join != nil {
		return conn.grandchild(int(pid), prog)
	}
	return newProcess(int(pid), int(prog.m.pidfd), conn, prog), nil
}

// cgroupFiles are a Cgroup's open files: the v2 directory, to be born in, and
// the v1 tasks.
type cgroupFiles struct {
	v2    *os.File
	tasks []*os.File
}

// openCgroup opens them; seated = the forking thread is where a seat is already.
func openCgroup(cg Cgroup, seated bool) (*cgroupFiles, error) {
	g := &cgroupFiles{}
	for _, d := range cg.Dirs {
		var err error
		if d.Hierarchy == "" || d.Hierarchy == unified {
			g.v2, err = os.OpenFile(d.Path, unix.O_PATH|unix.O_DIRECTORY, 0)
		} else if !seated || !d.seats() {
			var f *os.File
			if f, err = os.OpenFile(d.Path+"/tasks", os.O_WRONLY, 0); err == nil {
				g.tasks = append(g.tasks, f)
			}
		}
		if err != nil {
			g.close()
			return nil, fmt.Errorf("open cgroup: %w", err)
		}
	}
	return g, nil
}

func (g *cgroupFiles) close() { linux.CloseAll(append(g.tasks, g.v2)) }

// writeOOMScore sets oom_score_adj. Without CAP_SYS_RESOURCE the kernel refuses
// to go below the value we have: then that one stays.
func writeOOMScore(pid int, score *int) error {
	if score == nil {
		return nil
	}
	err := writeProc(pid, "oom_score_adj", strconv.Itoa(*score))
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		return nil
	}
	return err
}

func writeProc(pid int, file, value string) error {
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/%s", pid, file), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s of process %d: %w", file, pid, err)
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(value)); err != nil {
		return fmt.Errorf("write %q to %s of process %d: %w", value, file, pid, err)
	}
	return nil
}

// clamped leaves out capabilities that we do not have ourselves.
func (x *ProcPlan) clamped(have uint64) *ProcPlan {
	y := *x
	k := &y.Caps
	for _, s := range []*uint64{&k.Bounding, &k.Effective, &k.Permitted, &k.Inheritable, &k.Ambient} {
		*s &= have
	}
	return &y
}

// clampRlimits lowers what may not be raised here.
func clampRlimits(in []Rlimit, caps uint64) []Rlimit {
	const sysResource = 1 << 24
	out := make([]Rlimit, 0, len(in))
	for _, r := range in {
		var cur unix.Rlimit
		if err := unix.Getrlimit(r.Resource, &cur); err == nil {
			if r.KeepHard {
				r.Hard = cur.Max
			}
			if caps&sysResource == 0 {
				r.Hard = min(r.Hard, cur.Max)
			}
		}
		r.Soft = min(r.Soft, r.Hard)
		out = append(out, r)
	}
	return out
}

func (c *Container) root() (*os.File, error) {
	fd, err := unix.FcntlInt(c.rootDir.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), "/"), nil
}

// attachTo joins the namespaces of a running container with a thread.
func attachTo(ctx context.Context, pid int, unshare uintptr) (_ *Container, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := linux.PidfdOpen(pid)
	if errors.Is(err, unix.ESRCH) {
		return nil, fmt.Errorf("the container has ended: %w", errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	c := &Container{plan: &Plan{Unshare: unshare}, t: startThread(), joined: true, foreign: true}
	c.init = foreignProcess(pid, f)
	if unshare&unix.CLONE_NEWUSER != 0 {
		if c.ids, err = idsOf(pid); err != nil {
			return nil, errors.Join(err, c.destroy())
		}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.destroy())
		}
	}()
	return c, c.t.do(func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
		if err := unix.Setns(linux.FD(f), int(unshare&^(unix.CLONE_NEWUSER|unix.CLONE_NEWTIME|unix.CLONE_NEWCGROUP))); err != nil {
			return fmt.Errorf("join the container's namespaces: %w", err)
		}
		unix.Umask(0)
		if err := c.ids.become(); err != nil {
			return err
		}
		var err error
		if c.rootDir, err = os.OpenFile("/", unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
			return err
		}
		pts, err := linux.OpenNoSymlinks(c.rootDir, "/dev/pts", unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return nil // no terminals, then
		}
		var st unix.Statfs_t
		if err := unix.Fstatfs(linux.FD(pts), &st); err != nil || st.Type != unix.DEVPTS_SUPER_MAGIC {
			return pts.Close()
		}
		c.pts = pts
		return nil
	})
}

func (c *Container) destroy() error {
	c.mu.Lock()
	ended := c.ended
	c.ended = true
	c.mu.Unlock()
	if ended {
		return nil
	}
	var err error
	if c.init != nil && !c.foreign {
		err = c.init.end()
	}
	// Only now: the thread's end would kill the process without our noticing.
	c.t.end()
	linux.CloseAll([]*os.File{c.rootDir, c.pts, c.self, c.oldRoot})
	c.ids.close()
	if c.init != nil {
		err = errors.Join(err, c.init.Close())
	}
	return err
}

func (c *Container) exec(ctx context.Context, plan *ExecPlan, s Stdio, cg Cgroup) (*Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	gone := fmt.Errorf("the container has ended: %w", errdefs.ErrNotFound)
	c.mu.Lock()
	ended := c.ended
	c.mu.Unlock()
	if ended || c.init.ended() {
		return nil, gone
	}
	p, err := c.startExec(&plan.Process, s, cg)
	if err != nil && (errors.Is(err, errThreadEnded) || c.init.ended()) {
		return nil, gone
	}
	return p, err
}

// startExec forks a process into the container. Only what needs the container's
// namespaces runs on its thread: that sees the container's files, not the host's.
func (c *Container) startExec(x *ProcPlan, s Stdio, cg Cgroup) (_ *Process, err error) {
	if err := mayListen(x.Seccomp, s.Hooks); err != nil {
		return nil, err
	}
	seated := len(cg.Dirs) == 0
	if seated {
		cg = c.seated
	}
	groups, err := openCgroup(cg, seated)
	if err != nil {
		return nil, err
	}
	defer groups.close()
	conn, err := newControl()
	if err != nil {
		return nil, err
	}
	defer conn.closeChild()
	io, err := openStdio(s, x, c.ids)
	if err != nil {
		conn.close()
		return nil, err
	}
	defer io.close()
	proc, err := hostProc(x)
	if err != nil {
		conn.close()
		return nil, err
	}
	defer linux.CloseAll([]*os.File{proc})

	var p *Process
	var prog *program
	var slave *os.File
	var limits []Rlimit
	msg := &goMsg{root: uint64(c.rootDir.Fd())}
	err = c.t.do(func() error {
		if err := c.joinInit(); err != nil {
			return err
		}
		var master *os.File
		if x.Terminal {
			if master, slave, err = c.openTTY(x, s); err != nil {
				return err
			}
			msg.tty = uint64(slave.Fd())
		}
		env, needHome := withHome(x.Env)
		if err := c.resolve(x, needHome, msg); err != nil {
			linux.CloseAll([]*os.File{master})
			return err
		}
		caps, err := effectiveCaps()
		if err == nil {
			limits = clampRlimits(x.Rlimits, caps)
			prog = c.execProgram(x, conn, io, proc, caps, env, groups, s.Outlive || s.Gate != nil)
			prog.leave = s.Leave
			p, err = c.forkOn(x.FirstCPUs, prog, conn, groups)
		}
		if err != nil {
			linux.CloseAll([]*os.File{master})
			return err
		}
		p.console, p.args0 = master, x.Args[0]
		p.setGate(s)
		return nil
	})
	defer linux.CloseAll([]*os.File{slave})
	if p == nil {
		conn.close()
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.end(), p.Close())
		}
	}()
	if _, err := conn.expect(prog, stepHello); err != nil {
		return nil, err
	}
	if err := writeOOMScore(p.pid, x.OOMScore); err != nil {
		return nil, err
	}
	if err := conn.sendGo(msg); err != nil {
		return nil, err
	}
	if err := conn.ready(prog, x.Seccomp, p, s.Hooks); err != nil {
		return nil, err
	}
	if c.ids != nil {
		return p, c.t.do(func() error { return limitFromOutside(p.pid, x, limits) })
	}
	return p, nil
}

func (c *Container) execProgram(x *ProcPlan, conn *control, io *stdio, hostProc *os.File, caps uint64, env []string, g *cgroupFiles, outlive bool) *program {
	prog := newProgram(conn.child)
	prog.do("hide from other containers", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0)
	prog.labels(x, hostProc)
	bound := c.self != nil && !outlive
	prog.dieWithParent(c.self)
	if c.foreign && c.plan.Unshare&unix.CLONE_NEWTIME != 0 {
		prog.do("join the time namespace", unix.SYS_SETNS, c.init.pidfd, unix.CLONE_NEWTIME)
	}
	if c.plan.Unshare&unix.CLONE_NEWCGROUP != 0 {
		// Only now: a cgroup2 with nsdelegate, as systemd mounts it, lets nobody in a
		// cgroup namespace bring a process from outside into the groups of it
		// (cgroups(7)), and the monitor's thread is outside.
		prog.do("join the cgroup namespace", unix.SYS_SETNS, c.init.pidfd, unix.CLONE_NEWCGROUP)
	}
	prog.joinCgroups(g)
	prog.hello()
	y := x.clamped(caps)
	cfg := childConfig{rlimits: clampRlimits(x.Rlimits, caps), chown: io.chown, tty: x.Terminal, dieWithParent: bound}
	if c.ids != nil {
		prog.do("join the user namespace", unix.SYS_SETNS, linux.FD(c.ids.ns), unix.CLONE_NEWUSER)
		prog.becomeRoot()
		cfg.rlimits, y = nil, y.withoutScheduling()
	}
	prog.enterRoot(false)
	prog.stdio(io, x.Terminal)
	prog.rights(y, cfg)
	prog.ready(io, x)
	prog.finish(x, env)
	return prog
}

// joinInit lets the thread's children be born in init's pid namespace.
func (c *Container) joinInit() error {
	if c.joined {
		return nil
	}
	if c.plan.Unshare&unix.CLONE_NEWPID != 0 {
		if err := unix.Setns(c.init.pidfd, unix.CLONE_NEWPID); err != nil {
			return fmt.Errorf("join the container's pid namespace: %w", err)
		}
	}
	c.joined = true
	return nil
}

// forkOn is fork for an exec, whose process starts on the given processors, nil =
// all, before it joins its cgroups.
func (c *Container) forkOn(cpus CPUMask, prog *program, conn *control, g *cgroupFiles) (*Process, error) {
	if cpus != nil {
		if err := setAffinity(cpus); err != nil {
			return nil, fmt.Errorf("set the first CPU affinity: %w", err)
		}
		defer setAffinity(allCPUs) //nolint:errcheck // what the thread had, or more
	}
	return c.fork(prog, conn, 0, g)
}
