package runtime

// User namespaces. A container's other namespaces belong to its user namespace, so
// they are made by a process that is in it: with it, by clone, when it is new; in
// it, when it is there already (see joinUser). The thread then follows the process
// into them. It keeps the host's user namespace and so all rights, mounts
// everything, and acts on files as the container's root (become), so that what it
// makes belongs to that.

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"hull/internal/linux"
)

// idMaps is a container's user namespace and its mappings.
type idMaps struct {
	ns       *os.File
	uid, gid []IDMap
}

func (m *idMaps) close() {
	if m != nil && m.ns != nil {
		m.ns.Close()
	}
}

// user and group are the host's ids of the container's. Without a user namespace
// they are the same; an id that is not mapped becomes the overflow id, which
// nobody of the container is.
func (m *idMaps) user(id uint32) uint32 {
	if m == nil {
		return id
	}
	return toHost(m.uid, id)
}

func (m *idMaps) group(id uint32) uint32 {
	if m == nil {
		return id
	}
	return toHost(m.gid, id)
}

func toHost(maps []IDMap, id uint32) uint32 {
	const overflow = 65534
	for _, x := range maps {
		if id >= x.Container && id-x.Container < x.Size {
			return x.Host + (id - x.Container)
		}
	}
	return overflow
}

// openIDs opens the user namespace that the container joins; one to be made is
// opened by follow.
func (c *Container) openIDs() error {
	p := c.plan
	c.ids = &idMaps{uid: p.UIDMap, gid: p.GIDMap}
	for _, j := range p.Join {
		if j.Kind != unix.CLONE_NEWUSER {
			continue
		}
		var err error
		if c.ids.ns, err = linux.OpenUserNS(j.Path); err != nil {
			return fmt.Errorf("join user namespace: %w", err)
		}
	}
	return nil
}

// idsOf are those of a running process.
func idsOf(pid int) (_ *idMaps, err error) {
	m := &idMaps{}
	if m.uid, err = readMap(pid, "uid_map"); err != nil {
		return nil, err
	}
	if m.gid, err = readMap(pid, "gid_map"); err != nil {
		return nil, err
	}
	if m.ns, err = os.Open(fmt.Sprintf("/proc/%d/ns/user", pid)); err != nil {
		return nil, err
	}
	return m, nil
}

func readMap(pid int, file string) ([]IDMap, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		return nil, err
	}
	var out []IDMap
	for line := range bytes.Lines(b) {
		var x IDMap
		if _, err := fmt.Sscan(string(line), &x.Container, &x.Host, &x.Size); err != nil {
			return nil, fmt.Errorf("read %s of process %d: %w", file, pid, err)
		}
		out = append(out, x)
	}
	return out, nil
}

// cloneFlags are the namespaces that the process is born into.
func (c *Container) cloneFlags() uintptr {
	if c.ids == nil {
		return c.plan.Unshare & unix.CLONE_NEWPID
	}
	return c.plan.Unshare &^ (unix.CLONE_NEWCGROUP | unix.CLONE_NEWTIME)
}

// follow gives a fresh user namespace its mappings and takes the thread into the
// process's namespaces. What the container gets of the host's files is cloned
// before: in the new mount namespace the kernel guards what the host has mounted.
func (c *Container) follow(proc *Process) error {
	p := c.plan
	if p.Unshare&unix.CLONE_NEWUSER != 0 {
		if err := linux.WriteIDMaps(proc.pid, p.UIDMap, p.GIDMap); err != nil {
			return fmt.Errorf("map ids: %w", err)
		}
		var err error
		if c.ids.ns, err = os.Open(fmt.Sprintf("/proc/%d/ns/user", proc.pid)); err != nil {
			return err
		}
	} else if len(c.ids.uid) == 0 {
		m, err := idsOf(proc.pid)
		if err != nil {
			return err
		}
		m.ns.Close()
		c.ids.uid, c.ids.gid = m.uid, m.gid
		if err := c.ids.become(); err != nil {
			return err
		}
	}
	if p.Unshare&unix.CLONE_NEWNET != 0 {
		if err := unix.Setns(proc.pidfd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("join the container's network namespace: %w", err)
		}
	}
	var err error
	if c.sources, err = p.openSources(c.ids); err != nil {
		return err
	}
	if made := p.Unshare & (unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC); made != 0 {
		if err := unix.Setns(proc.pidfd, int(made)); err != nil {
			return fmt.Errorf("join the container's namespaces: %w", err)
		}
		unix.Umask(0)
	}
	return p.setNames()
}

// become makes the calling thread act on files as the container's root, with all
// its rights: what it makes is that root's. A user namespace without mappings of the
// plan's has them only when somebody is in it.
func (m *idMaps) become() error {
	if m == nil || len(m.uid) == 0 {
		return nil
	}
	return linux.ActAs(m.user(0), m.group(0))
}

// option translates ids in a file system's options: they are read as the host's,
// because the thread mounts it.
func (m *idMaps) option(key, value string) string {
	if m == nil || key != "uid" && key != "gid" {
		return value
	}
	id, err := strconv.ParseUint(value, 10, 32)
	if err != nil {
		return value // the kernel refuses it
	}
	host := m.user(uint32(id))
	if key == "gid" {
		host = m.group(uint32(id))
	}
	return strconv.FormatUint(uint64(host), 10)
}

// sources are what is cloned of the host's mounts before the container's mount
// namespace is entered.
type sources struct {
	mounts []*os.File // by index of Plan.Mounts; nil = none
	layers []layer
}

// layer is a directory of the root file system's layers, idmapped, to be attached
// over itself.
type layer struct {
	dir  string
	tree *os.File
}

func (s sources) files() []*os.File {
	out := s.mounts
	for _, l := range s.layers {
		out = append(out, l.tree)
	}
	return out
}

func (p *Plan) openSources(ids *idMaps) (s sources, err error) {
	defer func() {
		if err != nil {
			linux.CloseAll(s.files())
		}
	}()
	s.mounts = make([]*os.File, len(p.Mounts))
	for i := range p.Mounts {
		mp := &p.Mounts[i]
		switch {
		case mp.Kind == "bind" && p.inRootfs(mp.Source):
			// Of what earlier mounts have made of it.
		case mp.Kind == "bind":
			if s.mounts[i], err = mp.open(ids); err == nil && p.Propagation&unix.MS_SHARED == 0 {
				// Cloned from the host's mount namespace, it is a peer of the host's mounts:
				// what the container mounts on it would appear there.
				err = unix.MountSetattr(linux.FD(s.mounts[i]), "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Propagation: unix.MS_SLAVE})
			}
		case mp.Type == "sysfs" && mp.Kind == "fs":
			// Of the thread's network namespace. In the container's mount namespace it
			// would depend on what the host has mounted below its own /sys.
			s.mounts[i], err = newFS("sysfs", mp.Source, mp.Data, ids, int(mp.Set|mp.RecSet))
		}
		if err != nil {
			return s, fmt.Errorf("mount %s: %w", mp.Dest, err)
		}
	}
	for _, dir := range p.Rootfs.layerDirs() {
		tree, err := linux.CloneIDMapped(dir, ids.ns)
		if err != nil {
			return s, fmt.Errorf("root file system: %w", err)
		}
		s.layers = append(s.layers, layer{dir, tree})
	}
	return s, nil
}

// layerDirs are the directories to map so that all layers are: one common parent
// of the read-only ones, when they have one, and of the writable one and its work
// directory, which the kernel wants in one mount.
func (r *Rootfs) layerDirs() []string {
	if r.Dir != "" {
		return nil // the caller's files, owned as the caller wants them
	}
	var out []string
	add := func(dirs []string) {
		if p := commonParent(dirs); p != "" {
			dirs = []string{p}
		}
		out = append(out, dirs...)
	}
	add(r.Lower)
	if r.Upper != "" {
		add([]string{r.Upper, r.Work})
	}
	return out
}

// commonParent is the directory that all dirs are directly in, "" when there is
// none or one of them is a mount of its own: a clone of the parent would show what
// that hides.
func commonParent(dirs []string) string {
	if len(dirs) < 2 {
		return ""
	}
	parent := dirs[0][:max(1, strings.LastIndexByte(dirs[0], '/'))]
	id, ok := mountID(parent)
	if !ok || parent == "/" {
		return ""
	}
	for _, d := range dirs {
		if d[:max(1, strings.LastIndexByte(d, '/'))] != parent {
			return ""
		}
		if x, ok := mountID(d); !ok || x != id {
			return ""
		}
	}
	return parent
}

func mountID(path string) (uint64, bool) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &st)
	return st.Mnt_id, err == nil
}

// open clones a bind mount's source and gives it its mapping.
func (mp *MountPlan) open(ids *idMaps) (*os.File, error) {
	src, err := openSource(mp.Source, mp.Rec)
	if err != nil || mp.IDMap == "" {
		return src, err
	}
	ns := (*os.File)(nil)
	if ids != nil {
		ns = ids.ns
	}
	if len(mp.UIDMap) > 0 {
		if ns, err = linux.NewUserNS(mp.UIDMap, mp.GIDMap); err == nil {
			defer ns.Close()
		}
	}
	if err == nil {
		err = idMapTree(src, mp.Source, ns, mp.IDMap == "ridmap")
	}
	if err != nil {
		src.Close()
		return nil, err
	}
	return src, nil
}

// idMapTree maps a detached tree of mounts.
func idMapTree(tree *os.File, source string, ns *os.File, rec bool) error {
	err := linux.SetIDMap(tree, ns, rec)
	if err == nil || !rec {
		return err
	}
	// Something below refuses: /proc and /sys, as a rule, in a mount of a whole host.
	// The rest gets its mapping one by one; the top must.
	if err := linux.SetIDMap(tree, ns, false); err != nil {
		return err
	}
	below, err := linux.MountsBelow(source)
	if err != nil {
		return err
	}
	for _, rel := range below {
		m, err := linux.OpenNoSymlinks(tree, rel, unix.O_PATH, 0)
		if err != nil {
			continue // hidden by a later one, or gone
		}
		err = linux.SetIDMap(m, ns, false)
		m.Close()
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EPERM) {
			return err
		}
	}
	return nil
}

// newFS makes a file system's detached mount.
func newFS(typ, source string, data []string, ids *idMaps, attrs int) (*os.File, error) {
	fs, err := linux.Fsopen(typ)
	if err != nil {
		return nil, err
	}
	defer fs.Close()
	if source != "" {
		if err := fs.Set("source", source); err != nil {
			return nil, err
		}
	}
	for _, o := range data {
		k, v := cutOption(o)
		if err := fs.Set(k, ids.option(k, v)); err != nil {
			return nil, err
		}
	}
	return fs.Mount(attrs)
}

// withoutScheduling leaves to the parent what takes rights over the host.
func (x *ProcPlan) withoutScheduling() *ProcPlan {
	y := *x
	y.Sched, y.IOPrio = nil, 0
	return &y
}

// limitFromOutside sets what a process in a user namespace may not: to raise a
// limit or a priority takes a capability over the host. It runs on the container's
// thread, which the kernel knows as the namespace's owner.
func limitFromOutside(pid int, x *ProcPlan, limits []Rlimit) error {
	for _, r := range limits {
		if err := unix.Prlimit(pid, r.Resource, &unix.Rlimit{Cur: r.Soft, Max: r.Hard}, nil); err != nil {
			return fmt.Errorf("set resource limit: %w", err)
		}
	}
	if s := x.Sched; s != nil {
		a := &unix.SchedAttr{
			Size: unix.SizeofSchedAttr, Policy: uint32(s.Policy), Nice: s.Nice, Flags: s.Flags,
			Priority: s.Priority, Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period,
		}
		if err := unix.SchedSetAttr(pid, a, 0); err != nil {
			return fmt.Errorf("set scheduler: %w", err)
		}
	}
	if x.IOPrio != 0 {
		const process = 1
		if _, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, process, uintptr(pid), uintptr(x.IOPrio)); errno != 0 {
			return fmt.Errorf("set I/O priority: %w", errno)
		}
	}
	return nil
}

// grandchild takes over the process that the child has cloned in its user
// namespace. first is the child, which ends.
func (c *control) grandchild(first int, prog *program) (_ *Process, err error) {
	firstFd := int(prog.m.pidfd)
	c.pidfd = firstFd
	defer func() {
		unix.Close(firstFd)
		var ws syscall.WaitStatus
		for {
			if _, werr := syscall.Wait4(first, &ws, 0, nil); !errors.Is(werr, syscall.EINTR) {
				break
			}
		}
	}()
	var early *report
	for {
		r, err := c.read()
		switch {
		case err != nil:
			return nil, err
		case r == nil:
			return nil, errors.New("the new process was killed while it was set up")
		case r.step == stepBorn:
			fd := int(r.value)
			pid, err := pidOf(fd)
			if err != nil {
				unix.Close(fd)
				return nil, err
			}
			c.early = early
			return newProcess(pid, fd, c, prog), nil
		case early == nil && (r.step == stepHello || prog.m.join.inStep != uint16(r.step) && prog.m.join.mkStep != uint16(r.step)):
			early = r // of the new process, which was quicker
		default:
			return nil, &StepError{Step: prog.steps[r.step], Errno: r.errno}
		}
	}
}

// pidOf is a process's id as this process sees it.
func pidOf(pidfd int) (int, error) {
	b, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(pidfd))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(b) {
		if v, ok := bytes.CutPrefix(line, []byte("Pid:")); ok {
			return strconv.Atoi(string(bytes.TrimSpace(v)))
		}
	}
	return 0, fmt.Errorf("no pid in fdinfo of descriptor %d", pidfd)
}
