package runtime

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hull/internal/linux"
)

// mounter makes a container's mounts on the container's thread, which has its own
// mount namespace. Every target is opened below the new root with openat2 and
// mounted on by descriptor: a path of the image is never resolved twice, and never
// outside (CVE-2021-30465 and its kin).
type mounter struct {
	plan *Plan
	cg   Cgroup
	root *os.File // root of the new root mount
	old  *os.File // the host's root, once it is stacked on the new one
	proc int      // detached proc mount of the child, 0 = none
	pts  *os.File
	null *os.File // what hides files
	hide *os.File // what hides directories: one empty tmpfs, cloned
	ids  *idMaps  // nil = the host's
	from sources  // with ids: what was cloned before
}

// mountAll builds the root file system, makes it the thread's root, and returns
// the terminal for the workload, if it has one.
func (c *Container) mountAll(proc int, cg Cgroup, s Stdio) (slave *os.File, err error) {
	m := &mounter{plan: c.plan, cg: cg, proc: proc, ids: c.ids, from: c.sources}
	defer func() {
		c.rootDir, c.pts, c.oldRoot = m.root, m.pts, m.old
		linux.CloseAll([]*os.File{m.null, m.hide})
	}()
	if proc > 0 {
		defer unix.Close(proc)
	}
	if err := m.mountRoot(); err != nil {
		return nil, err
	}
	for i := range c.plan.Mounts {
		if err := m.mount(i); err != nil {
			return nil, fmt.Errorf("error mounting %q to rootfs at %q: %w", c.plan.Mounts[i].Source, c.plan.Mounts[i].Dest, err)
		}
	}
	c.pts = m.pts // for openTTY
	if c.plan.SetupDev {
		if err := m.dev(); err != nil {
			return nil, err
		}
	}
	if err := c.runHooks(m, s.Hooks); err != nil {
		return nil, err
	}
	if c.plan.Process.Terminal {
		var master *os.File
		if master, slave, err = c.openTTY(&c.plan.Process, s); err != nil {
			return nil, err
		}
		c.init.console = master
		if err := m.console(slave); err != nil {
			slave.Close()
			return nil, err
		}
	}
	if err := m.finish(); err != nil {
		linux.CloseAll([]*os.File{slave})
		return nil, err
	}
	return slave, nil
}

// runHooks calls the caller's hooks between the mounts and the change of the root.
func (c *Container) runHooks(m *mounter, h *Hooks) error {
	if h == nil {
		return nil
	}
	if h.Runtime != nil {
		if err := elsewhere(func() error { return h.Runtime(c.init.pid) }); err != nil {
			return err
		}
	}
	if h.Container == nil {
		return nil
	}
	if c.plan.Unshare&unix.CLONE_NEWPID != 0 {
		if err := unix.Setns(c.init.pidfd, unix.CLONE_NEWPID); err != nil {
			return fmt.Errorf("join the container's pid namespace: %w", err)
		}
	}
	if err := unix.Fchdir(linux.FD(m.root)); err != nil {
		return err
	}
	return h.Container(c.init.pid)
}

func (m *mounter) finish() error {
	if err := m.readonlyDev(); err != nil {
		return fmt.Errorf("make /dev read-only: %w", err)
	}
	if err := m.sysctls(); err != nil {
		return err
	}
	if err := m.cwd(); err != nil {
		return err
	}
	for _, p := range m.plan.Readonly {
		if err := m.readonly(p); err != nil {
			return fmt.Errorf("make %s read-only: %w", p, err)
		}
	}
	for _, p := range m.plan.Masked {
		if err := m.mask(p); err != nil {
			return fmt.Errorf("mask %s: %w", p, err)
		}
	}
	return m.pivot()
}

// mountRoot makes mounts of this namespace private or slave, and attaches the
// root file system at a directory that it hides: nothing new is made on the host.
func (m *mounter) mountRoot() error {
	flags := m.plan.Propagation
	if flags == 0 {
		flags = unix.MS_SLAVE | unix.MS_REC
	}
	if flags&unix.MS_UNBINDABLE != 0 { // later: it could not be cloned now
		flags = flags&^unix.MS_UNBINDABLE | unix.MS_PRIVATE
	}
	if m.plan.ownMounts() {
		if err := unix.Mount("", "/", "", flags, ""); err != nil {
			return fmt.Errorf("set propagation of mounts: %w", err)
		}
	} else {
		flags = 0
	}
	r := m.plan.Rootfs
	var err error
	at := r.Dir
	if at != "" {
		if flags&unix.MS_SHARED != 0 {
			if err := privateParent(at); err != nil {
				return err
			}
		}
		m.root, err = linux.OpenTree(at, true)
	} else {
		at = r.Lower[0]
		if flags&unix.MS_SHARED != 0 {
			if err := privateParent(at); err != nil {
				return err
			}
		}
		for _, l := range m.from.layers {
			if err := linux.Attach(l.tree, l.dir); err != nil {
				return fmt.Errorf("attach idmapped layers: %w", err)
			}
		}
		m.root, err = linux.MountOverlay(linux.Overlay{Lower: r.Lower, Upper: r.Upper, Work: r.Work})
		if err == nil && r.Upper == "" {
			// Targets of mounts are made before the root becomes read-only; without a
			// writable layer they must be there.
			m.plan.Rootfs.ReadOnly = true
		}
	}
	if err != nil {
		return fmt.Errorf("root file system: %w", err)
	}
	if err := linux.Attach(m.root, at); err != nil {
		return fmt.Errorf("attach the root file system: %w", err)
	}
	return nil
}

// ownMounts says whether the container has a mount namespace that is not its
// creator's. Without one, what is mounted stays when it has ended.
func (p *Plan) ownMounts() bool { return p.has(unix.CLONE_NEWNS) }

// privateParent keeps the root file system's mount from spreading to the host
// where the specification wants shared propagation.
func privateParent(dir string) error {
	for p := path.Clean(dir); ; p = path.Dir(p) {
		err := unix.Mount("", p, "", unix.MS_PRIVATE, "")
		if err == nil || p == "/" {
			return err
		}
	}
}

func attach(fd int, target *os.File) error {
	return unix.MoveMount(fd, "", linux.FD(target), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// procFiles may be mounted over inside /proc: what lxcfs and the like replace.
//
//nolint:gochecknoglobals // constant
var procFiles = []string{
	"/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo", "/proc/stat", "/proc/swaps", "/proc/uptime", "/proc/loadavg",
	"/proc/slabinfo", "/proc/net/dev", "/proc/sys/kernel/ns_last_pid", "/proc/sys/crypto/fips_enabled",
}

// source is what was cloned for a mount before, nil = nothing.
func (m *mounter) source(i int) *os.File {
	if i < len(m.from.mounts) {
		return m.from.mounts[i]
	}
	return nil
}

func (m *mounter) mount(i int) error {
	mp := &m.plan.Mounts[i]
	switch mp.Kind {
	case "bind":
		src := m.source(i)
		if src == nil {
			var err error
			if src, err = mp.open(m.ids); err != nil {
				return err
			}
			defer src.Close()
		}
		return m.bind(mp, src)
	case "cgroup":
		return m.cgroup(mp)
	case "proc":
		target, err := m.ordinaryDir(mp.Dest)
		if err != nil {
			return err
		}
		defer target.Close()
		if m.proc <= 0 {
			return errors.New("a second proc mount")
		}
		if err := attach(m.proc, target); err != nil {
			return err
		}
		return m.propagate(m.proc, mp)
	}
	if mp.Dest == "/proc" {
		return fmt.Errorf("only a proc file system may be mounted on /proc: %w", unix.EPERM)
	}
	typ := mp.Type
	if mp.Kind == "tmpfs" {
		typ = "tmpfs"
	}
	target, found, err := m.target(typ, mp.Dest)
	if err != nil {
		return err
	}
	defer target.Close()
	if src := m.source(i); src != nil {
		if err := attach(linux.FD(src), target); err != nil {
			return err
		}
		return m.propagate(linux.FD(src), mp)
	}
	data := mp.Data
	if typ == "tmpfs" && found && !slices.ContainsFunc(data, func(o string) bool { return strings.HasPrefix(o, "mode=") }) {
		// As the directory it hides.
		var st unix.Stat_t
		if err := unix.Fstat(linux.FD(target), &st); err != nil {
			return err
		}
		data = append(slices.Clip(data), fmt.Sprintf("mode=%o", st.Mode&0o7777))
	}
	attrs := mp.Set | mp.RecSet
	late := attrs & unix.MOUNT_ATTR_RDONLY
	if !mp.CopyUp && !(mp.Dest == "/dev" && m.plan.SetupDev) {
		late = 0
	}
	mnt, err := newFS(typ, mp.Source, data, m.ids, int(attrs&^late))
	if err != nil {
		return err
	}
	if mp.CopyUp {
		if err := copyUp(target, mnt); err != nil {
			mnt.Close()
			return fmt.Errorf("copy up: %w", err)
		}
		if late != 0 {
			if err := setattr(mnt, late, 0, false); err != nil {
				mnt.Close()
				return err
			}
		}
	}
	if err := attach(linux.FD(mnt), target); err != nil {
		mnt.Close()
		return err
	}
	if err := m.propagate(linux.FD(mnt), mp); err != nil {
		mnt.Close()
		return err
	}
	if typ == "devpts" && m.pts == nil {
		m.pts = mnt
		return m.own(mnt, "", "ptmx")
	}
	if typ == "mqueue" {
		if err := m.own(mnt, ""); err != nil {
			mnt.Close()
			return err
		}
	}
	return mnt.Close()
}

// own gives the container's root what a file system makes as the host's.
func (m *mounter) own(dir *os.File, names ...string) error {
	if m.ids == nil {
		return nil
	}
	for _, name := range names {
		err := unix.Fchownat(linux.FD(dir), name, int(m.ids.user(0)), int(m.ids.group(0)), unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW)
		if err != nil {
			return fmt.Errorf("give it to the container's root: %w", err)
		}
	}
	return nil
}

func (m *mounter) propagate(fd int, mp *MountPlan) error {
	if mp.Prop == 0 {
		return nil
	}
	flags := uint(unix.AT_EMPTY_PATH)
	if mp.PropRec {
		flags |= unix.AT_RECURSIVE
	}
	return unix.MountSetattr(fd, "", flags, &unix.MountAttr{Propagation: mp.Prop})
}

func setattr(f *os.File, set, clr uint64, rec bool) error {
	return setattrFd(linux.FD(f), set, clr, rec)
}

func setattrFd(fd int, set, clr uint64, rec bool) error {
	if set == 0 && clr == 0 {
		return nil
	}
	flags := uint(unix.AT_EMPTY_PATH)
	if rec {
		flags |= unix.AT_RECURSIVE
	}
	if set&unix.MOUNT_ATTR__ATIME != 0 || clr&unix.MOUNT_ATTR__ATIME != 0 {
		clr |= unix.MOUNT_ATTR__ATIME
	}
	return unix.MountSetattr(fd, "", flags, &unix.MountAttr{Attr_set: set, Attr_clr: clr})
}

// target opens the mount point of a file system, and says whether it was there.
func (m *mounter) target(typ, dest string) (f *os.File, found bool, err error) {
	if typ == "sysfs" {
		f, err = m.ordinaryDir(dest)
		return f, true, err
	}
	if f, err := linux.OpenInRoot(m.root, dest, unix.O_PATH|unix.O_DIRECTORY, 0); err == nil {
		f, err = m.checked(f, dest)
		return f, true, err
	}
	f, err = m.dir(dest)
	return f, false, err
}

// dir opens a mount point, which is made if missing.
func (m *mounter) dir(dest string) (*os.File, error) {
	f, err := linux.MkdirAllInRoot(m.root, dest, 0o755)
	if err != nil {
		return nil, err
	}
	return m.checked(f, dest)
}

// ordinaryDir opens the mount point of proc or sysfs, which may not be reached by
// a symbolic link (CVE-2019-19921).
func (m *mounter) ordinaryDir(dest string) (*os.File, error) {
	f, err := linux.OpenNoSymlinks(m.root, dest, unix.O_PATH|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOENT) {
		return linux.MkdirAllInRoot(m.root, dest, 0o755)
	}
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		return nil, fmt.Errorf("must be mounted on ordinary directory: %w", err)
	}
	return f, err
}

// checked refuses a mount point inside procfs, except for a few files.
func (m *mounter) checked(f *os.File, dest string) (*os.File, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(linux.FD(f), &st); err != nil {
		f.Close()
		return nil, err
	}
	if st.Type == unix.PROC_SUPER_MAGIC && !slices.Contains(procFiles, dest) {
		f.Close()
		return nil, fmt.Errorf("cannot be mounted because it is inside /proc: %w", unix.EPERM)
	}
	return f, nil
}

func (m *mounter) bind(mp *MountPlan, src *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(linux.FD(src), &st); err != nil {
		return err
	}
	var target *os.File
	var err error
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		target, err = linux.MkdirAllInRoot(m.root, mp.Dest, 0o755)
	} else {
		target, err = linux.CreateInRoot(m.root, mp.Dest, 0o755)
	}
	if err != nil {
		return err
	}
	defer target.Close()
	if err := m.bindAllowed(src, target, mp.Dest); err != nil {
		return err
	}
	if err := setattr(src, mp.RecSet, mp.RecClr, true); err != nil {
		return fmt.Errorf("set recursive options: %w", err)
	}
	set, clr, err := m.bindAttrs(mp, src)
	if err == nil {
		err = setattr(src, set, clr, false)
	}
	if err != nil {
		return fmt.Errorf("set options: %w", err)
	}
	if err := attach(linux.FD(src), target); err != nil {
		return err
	}
	return m.propagate(linux.FD(src), mp)
}

// lockedAttrs are what a mount cannot lose in a user namespace below its owner's,
// and how statfs shows them.
//
//nolint:gochecknoglobals // constant
var lockedAttrs = []struct {
	attr uint64
	flag int64
}{
	{unix.MOUNT_ATTR_RDONLY, unix.ST_RDONLY}, {unix.MOUNT_ATTR_NOSUID, unix.ST_NOSUID},
	{unix.MOUNT_ATTR_NODEV, unix.ST_NODEV}, {unix.MOUNT_ATTR_NOEXEC, unix.ST_NOEXEC},
}

// bindAttrs are what a bind mount gets and loses. Without any option it keeps its
// source's; with one it has those that are named and no others, except for the
// access times, as with mount(8). For a container with a user namespace we keep the
// kernel's rule, though our own rights would reach further: what the host has set
// stays, and naming its opposite is EPERM.
func (m *mounter) bindAttrs(mp *MountPlan, src *os.File) (set, clr uint64, err error) {
	if !mp.Remount {
		return 0, 0, nil
	}
	const plain = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NOSYMFOLLOW
	set = mp.Set
	clr = plain &^ set
	if mp.Atime {
		clr |= unix.MOUNT_ATTR__ATIME | unix.MOUNT_ATTR_NODIRATIME&^set
	}
	if m.ids == nil {
		return set, clr, nil
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(linux.FD(src), &st); err != nil {
		return 0, 0, err
	}
	for _, l := range lockedAttrs {
		if st.Flags&l.flag == 0 || clr&l.attr == 0 {
			continue
		}
		if mp.Clear&l.attr != 0 {
			return 0, 0, unix.EPERM
		}
		clr &^= l.attr
	}
	const atimes = unix.ST_NOATIME | unix.ST_NODIRATIME | unix.ST_RELATIME
	if mp.Atime && st.Flags&atimes != atimeFlags(set) {
		return 0, 0, unix.EPERM
	}
	return set, clr, nil
}

// atimeFlags is how statfs shows the access time attributes of set.
func atimeFlags(set uint64) (flags int64) {
	switch set & unix.MOUNT_ATTR__ATIME {
	case unix.MOUNT_ATTR_NOATIME:
		flags = unix.ST_NOATIME
	case unix.MOUNT_ATTR_RELATIME:
		flags = unix.ST_RELATIME
	}
	if set&unix.MOUNT_ATTR_NODIRATIME != 0 {
		flags |= unix.ST_NODIRATIME
	}
	return flags
}

// openSource clones what a bind mount shows, detached. The kernel clones only
// mounts of the caller's own namespace: what lies below /proc/PID/root is cloned
// by a thread that goes to that process's namespace for it. Links there are the
// other container's; resolved from here they would lead to the host's files.
func openSource(source string, rec bool) (*os.File, error) {
	proc, inside, ok := throughProcess(source)
	if !ok {
		return linux.OpenSource(source, rec)
	}
	var f *os.File
	err := linux.InThread(func() error {
		root, err := os.OpenFile(proc+"/root", unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		defer root.Close()
		if err := linux.JoinPath(proc+"/ns/mnt", unix.CLONE_NEWNS); err != nil {
			return err
		}
		at, err := linux.OpenInRoot(root, inside, unix.O_PATH, 0)
		if err != nil {
			return err
		}
		defer at.Close()
		f, err = linux.CloneAt(at, rec)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("clone %s from its mount namespace: %w", source, err)
	}
	return f, nil
}

// throughProcess splits /proc/PID/root/PATH.
func throughProcess(p string) (proc, inside string, ok bool) {
	rest, ok := strings.CutPrefix(p, "/proc/")
	if !ok {
		return "", "", false
	}
	pid, inside, ok := strings.Cut(rest, "/root/")
	if _, err := strconv.Atoi(pid); !ok || err != nil {
		return "", "", false
	}
	return "/proc/" + pid, inside, true
}

// bindAllowed keeps fake process file systems out: only a real procfs may be
// bound on /proc.
func (m *mounter) bindAllowed(src, target *os.File, dest string) error {
	var sfs unix.Statfs_t
	if err := unix.Fstatfs(linux.FD(src), &sfs); err != nil {
		return err
	}
	if dest == "/proc" && sfs.Type != unix.PROC_SUPER_MAGIC {
		return fmt.Errorf("only a proc file system may be mounted on /proc: %w", unix.EPERM)
	}
	var tfs unix.Statfs_t
	if err := unix.Fstatfs(linux.FD(target), &tfs); err != nil {
		return err
	}
	if tfs.Type == unix.PROC_SUPER_MAGIC && dest != "/proc" && !slices.Contains(procFiles, dest) {
		return fmt.Errorf("cannot be mounted because it is inside /proc: %w", unix.EPERM)
	}
	return nil
}

// cgroup shows the container its own cgroups: a bind mount of each directory,
// which looks the same as a mount made in its cgroup namespace.
func (m *mounter) cgroup(mp *MountPlan) error {
	target, err := m.dir(mp.Dest)
	if err != nil {
		return err
	}
	defer target.Close()
	attrs := mp.Set | mp.RecSet
	if len(m.cg.Dirs) == 0 {
		return m.hostCgroup(mp, target)
	}
	if m.cg.V2 {
		return bindDir(m.cg.Dirs[0].Path, target, attrs)
	}
	fs, err := linux.Fsopen("tmpfs")
	if err != nil {
		return err
	}
	defer fs.Close()
	if err := fs.Set("mode", "755"); err != nil {
		return err
	}
	mnt, err := fs.Mount(int(attrs &^ unix.MOUNT_ATTR_RDONLY))
	if err != nil {
		return err
	}
	defer mnt.Close()
	if err := attach(linux.FD(mnt), target); err != nil {
		return err
	}
	for _, d := range m.cg.Dirs {
		if err := bindIn(mnt, d.Hierarchy, d.Path, attrs); err != nil {
			return err
		}
		if strings.Contains(d.Hierarchy, ",") {
			for c := range strings.SplitSeq(d.Hierarchy, ",") {
				if err := unix.Symlinkat(d.Hierarchy, linux.FD(mnt), c); err != nil && !errors.Is(err, unix.EEXIST) {
					return err
				}
			}
		}
	}
	return setattr(mnt, attrs&unix.MOUNT_ATTR_RDONLY, 0, false)
}

// hostCgroup is for a container that stays in its parent's cgroups.
func (m *mounter) hostCgroup(mp *MountPlan, target *os.File) error {
	src, err := linux.OpenTree("/sys/fs/cgroup", true)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := setattr(src, mp.Set|mp.RecSet, 0, true); err != nil {
		return err
	}
	return attach(linux.FD(src), target)
}

func bindDir(dir string, target *os.File, attrs uint64) error {
	src, err := linux.OpenTree(dir, false)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := setattr(src, attrs, 0, false); err != nil {
		return err
	}
	return attach(linux.FD(src), target)
}

// bindIn makes a directory of a file system that nobody else has yet, where a name
// can lead nowhere, and binds dir on it. There are ten of them in a container's
// /sys/fs/cgroup: no more system calls than needed.
func bindIn(mnt *os.File, name, dir string, attrs uint64) error {
	if err := unix.Mkdirat(linux.FD(mnt), name, 0o755); err != nil {
		return &os.PathError{Op: "mkdir", Path: name, Err: err}
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return &os.PathError{Op: "open_tree", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	if err := setattrFd(fd, attrs, 0, false); err != nil {
		return &os.PathError{Op: "mount_setattr", Path: dir, Err: err}
	}
	if err := unix.MoveMount(fd, "", linux.FD(mnt), name, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "move_mount", Path: name, Err: err}
	}
	return nil
}

// dev fills /dev: nodes and links.
func (m *mounter) dev() error {
	if err := m.devices(); err != nil {
		return err
	}
	dev, err := linux.OpenNoSymlinks(m.root, "/dev", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dev.Close()
	links := [][2]string{
		{"/proc/self/fd", "fd"},
		{"/proc/self/fd/0", "stdin"},
		{"/proc/self/fd/1", "stdout"},
		{"/proc/self/fd/2", "stderr"},
		{"pts/ptmx", "ptmx"},
	}
	if _, err := os.Stat("/proc/kcore"); err == nil {
		links = append(links, [2]string{"/proc/kcore", "core"})
	}
	for _, l := range links {
		if err := unix.Symlinkat(l[0], linux.FD(dev), l[1]); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("link /dev/%s: %w", l[1], err)
		}
	}
	return nil
}

// readonlyDev makes /dev read-only where that was asked for: now everything is in
// it.
func (m *mounter) readonlyDev() error {
	if !m.plan.SetupDev {
		return nil
	}
	for i := range m.plan.Mounts {
		mp := &m.plan.Mounts[i]
		if mp.Dest != "/dev" || (mp.Set|mp.RecSet)&unix.MOUNT_ATTR_RDONLY == 0 {
			continue
		}
		dev, err := linux.OpenNoSymlinks(m.root, "/dev", unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		defer dev.Close()
		return setattr(dev, unix.MOUNT_ATTR_RDONLY, 0, false)
	}
	return nil
}

// devices makes the nodes. Most are in one directory, which is opened once.
func (m *mounter) devices() error {
	var dir *os.File
	at := ""
	defer func() { linux.CloseAll([]*os.File{dir}) }()
	for i := range m.plan.Devices {
		d := &m.plan.Devices[i]
		dirName, name := path.Split(d.Path)
		if dir == nil || dirName != at {
			linux.CloseAll([]*os.File{dir})
			var err error
			if dir, err = linux.MkdirAllInRoot(m.root, dirName, 0o755); err != nil {
				return fmt.Errorf("make device %s: %w", d.Path, err)
			}
			at = dirName
		}
		if err := m.device(linux.FD(dir), name, d); err != nil {
			return fmt.Errorf("make device %s: %w", d.Path, err)
		}
	}
	return nil
}

func (m *mounter) device(dir int, name string, d *Device) error {
	err := unix.Mknodat(dir, name, d.Mode, int(unix.Mkdev(d.Major, d.Minor)))
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil {
		return err
	}
	if d.UID != 0 || d.GID != 0 {
		return unix.Fchownat(dir, name, int(m.ids.user(d.UID)), int(m.ids.group(d.GID)), unix.AT_SYMLINK_NOFOLLOW)
	}
	return nil
}

// console binds the terminal on /dev/console.
func (m *mounter) console(slave *os.File) error {
	target, err := linux.CreateInRoot(m.root, "/dev/console", 0o666)
	if err != nil {
		return fmt.Errorf("make /dev/console: %w", err)
	}
	defer target.Close()
	fd, err := unix.OpenTree(linux.FD(slave), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("clone the terminal's mount: %w", err)
	}
	defer unix.Close(fd)
	if err := attach(fd, target); err != nil {
		return fmt.Errorf("mount /dev/console: %w", err)
	}
	return nil
}

// cwd makes the working directory, as runc does. What cannot be made is reported
// by chdir.
func (m *mounter) cwd() error {
	f, err := linux.MkdirAllInRoot(m.root, m.plan.Process.Cwd, 0o755)
	if err == nil {
		return f.Close()
	}
	return nil
}

func (m *mounter) readonly(p string) error {
	target, err := linux.OpenInRoot(m.root, p, unix.O_PATH, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer target.Close()
	fd, err := unix.OpenTree(linux.FD(target), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return err
	}
	return attach(fd, target)
}

// mask hides a path by the host's own null device or an empty directory, never by
// what the image has under that name (CVE-2025-31133).
func (m *mounter) mask(p string) error {
	target, err := linux.OpenInRoot(m.root, p, unix.O_PATH, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer target.Close()
	var st unix.Stat_t
	if err := unix.Fstat(linux.FD(target), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return m.maskDir(target)
	}
	if m.null == nil {
		if m.null, err = hostNull(); err != nil {
			return err
		}
	}
	return attachClone(m.null, target)
}

func (m *mounter) maskDir(target *os.File) error {
	if m.hide != nil {
		return attachClone(m.hide, target)
	}
	fs, err := linux.Fsopen("tmpfs")
	if err != nil {
		return err
	}
	defer fs.Close()
	if m.hide, err = fs.Mount(unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC); err != nil {
		return err
	}
	return attach(linux.FD(m.hide), target)
}

func hostNull() (*os.File, error) {
	f, err := os.OpenFile("/dev/null", unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(linux.FD(f), &st); err != nil {
		f.Close()
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(1, 3) {
		f.Close()
		return nil, errors.New("/dev/null of the host is not the null device")
	}
	return f, nil
}

// attachClone mounts a copy of an attached mount, or of one file of it.
func attachClone(src, target *os.File) error {
	fd, err := unix.OpenTree(linux.FD(src), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return attach(fd, target)
}

// sysctls are written through the container's own fresh procfs, by a thread in
// the namespaces they belong to.
func (m *mounter) sysctls() error {
	if len(m.plan.Sysctls) == 0 {
		return nil
	}
	host, err := os.OpenFile("/proc/sys", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer host.Close()
	for _, s := range m.plan.Sysctls {
		f, err := linux.OpenNoSymlinks(host, s.Key, unix.O_WRONLY, 0)
		if err != nil {
			return fmt.Errorf("sysctl %s: %w", s.Key, err)
		}
		_, err = f.WriteString(s.Value)
		f.Close()
		if err != nil {
			return fmt.Errorf("sysctl %s: %w", s.Key, err)
		}
	}
	return nil
}

// pivot makes the new root the thread's, and the child's; dropHost comes after it.
func (m *mounter) pivot() (err error) {
	if m.plan.Rootfs.ReadOnly {
		if err := setattr(m.root, unix.MOUNT_ATTR_RDONLY, 0, false); err != nil {
			return fmt.Errorf("make the root read-only: %w", err)
		}
	}
	if err := unix.Fchdir(linux.FD(m.root)); err != nil {
		return err
	}
	if !m.plan.ownMounts() {
		// The host's root stays the host's; the child changes its own, see enterRoot.
		return unix.Chroot(".")
	}
	if m.plan.NoPivot {
		return m.chroot()
	}
	// The old root is stacked on the new one: no directory for it is needed.
	old, err := os.OpenFile("/", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		old.Close()
		return fmt.Errorf("pivot root: %w", err)
	}
	m.old = old
	return unix.Chdir("/")
}

// dropHost detaches the host's root, which pivot has left on top of the new one.
// The kernel waits for all processors then: so it is done while the child, which
// has its own way to the new root, takes its rights off; the workload does not run
// before.
func (c *Container) dropHost() error {
	old := c.oldRoot
	if old == nil {
		return nil
	}
	defer func() { old.Close(); c.oldRoot = nil }()
	if err := unix.Fchdir(linux.FD(old)); err != nil {
		return err
	}
	// What is mounted in the new root keeps its propagation.
	if err := unix.Mount("", ".", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make the old root a slave: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach the old root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	return c.rootPropagation()
}

// rootPropagation applies the specification's propagation to the new root.
func (c *Container) rootPropagation() error {
	p := c.plan.Propagation
	if p == 0 {
		return nil
	}
	flags := uint(unix.AT_EMPTY_PATH)
	if p&unix.MS_REC != 0 {
		flags |= unix.AT_RECURSIVE
	}
	if err := unix.MountSetattr(linux.FD(c.rootDir), "", flags, &unix.MountAttr{Propagation: uint64(p &^ unix.MS_REC)}); err != nil {
		return fmt.Errorf("set propagation of the root: %w", err)
	}
	return nil
}

// hideHost takes the host's proc and sysfs mounts out of this mount namespace,
// where they would stay without pivot_root: seeing one unmasked, the kernel would
// allow the container unmasked ones of its own.
func (m *mounter) hideHost() error {
	b, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return err
	}
	var found []string
	for line := range strings.Lines(string(b)) {
		pre, post, _ := strings.Cut(line, " - ")
		f := strings.Fields(pre)
		typ, _, _ := strings.Cut(post, " ")
		if len(f) > 4 && (typ == "proc" || typ == "sysfs") && f[4] != m.plan.Rootfs.Dir && !strings.HasPrefix(f[4], m.plan.Rootfs.Dir+"/") {
			found = append(found, f[4])
		}
	}
	// The innermost first.
	for _, p := range slices.Backward(found) {
		if err := unix.Unmount(p, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return &os.PathError{Op: "unmount", Path: p, Err: err}
		}
	}
	return nil
}

func (m *mounter) chroot() error {
	if err := m.hideHost(); err != nil {
		return fmt.Errorf("hide the host's proc and sysfs: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root mount: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return unix.Chdir("/")
}

// maxCopyUp bounds what tmpcopyup takes into memory.
const maxCopyUp = 1 << 16

// copyUp fills a fresh tmpfs with what is in the directory that it will hide:
// directories, files, links and nodes with owner and mode. from is below the
// container's root, to is not attached yet: nobody else can change either.
func copyUp(from, to *os.File) error {
	left := maxCopyUp
	return copyDir(from, to, &left)
}

func copyDir(from, to *os.File, left *int) error {
	d, err := linux.OpenNoSymlinks(from, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		if *left--; *left < 0 {
			return fmt.Errorf("more than %d files: %w", maxCopyUp, unix.EFBIG)
		}
		if err := copyEntry(from, to, n, left); err != nil {
			return fmt.Errorf("%s: %w", n, err)
		}
	}
	return nil
}

func copyEntry(from, to *os.File, name string, left *int) error {
	var st unix.Stat_t
	ffd, tfd := linux.FD(from), linux.FD(to)
	if err := unix.Fstatat(ffd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		err = copySub(from, to, name, left)
	case unix.S_IFREG:
		err = copyFile(from, to, name)
	case unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		var n int
		if n, err = unix.Readlinkat(ffd, name, buf); err == nil {
			err = unix.Symlinkat(string(buf[:n]), tfd, name)
		}
	default:
		err = unix.Mknodat(tfd, name, st.Mode, int(st.Rdev))
	}
	if err != nil {
		return err
	}
	if err := unix.Fchownat(tfd, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return nil
	}
	return unix.Fchmodat(tfd, name, st.Mode&0o7777, 0)
}

func copySub(from, to *os.File, name string, left *int) error {
	if err := unix.Mkdirat(linux.FD(to), name, 0o700); err != nil {
		return err
	}
	const dir = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW
	src, err := linux.OpenNoSymlinks(from, name, dir, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := linux.OpenNoSymlinks(to, name, dir, 0)
	if err != nil {
		return err
	}
	defer dst.Close()
	return copyDir(src, dst, left)
}

func copyFile(from, to *os.File, name string) error {
	src, err := linux.OpenNoSymlinks(from, name, unix.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := linux.OpenNoSymlinks(to, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}
