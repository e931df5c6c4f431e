package vmm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"hull/internal/linux"
)

// jailDir is where a jail is put together, in a mount namespace of its own: a
// directory that every host has, and that no file of a machine is in.
const jailDir = "/sys"

// jailFile is what a jail has of the host, at the same path.
type jailFile struct {
	path  string
	write bool
}

// files are those that a machine opens by name.
func (c Config) files() []jailFile {
	list := []jailFile{{"/dev/null", true}, {"/dev/urandom", false}, {c.Kernel, false}, {c.Initrd, false}}
	for _, d := range c.Disks {
		if !d.Absent {
			list = append(list, jailFile{d.Path, !d.ReadOnly})
		}
	}
	if c.MemoryFile != "" && !c.copiesMemory() {
		// QEMU wants to write to it, though it maps it privately.
		list = append(list, jailFile{c.MemoryFile, true})
	}
	return list
}

// enterJail gives this thread, and so QEMU, a root directory that holds QEMU's
// programs, what the machine opens, and the mount memory as memoryDir if that is not
// nil, and nothing else. A QEMU that its guest has taken over sees no other file,
// process or network.
func enterJail(c Config, memory *os.File) error {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	unix.Umask(0o022) // this thread's alone now
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// Opened before anything is mounted over: their paths may lead through there.
	type tree struct {
		at string
		f  *os.File
	}
	var trees []tree
	defer func() {
		for _, t := range trees {
			t.f.Close()
		}
	}()
	open := func(path string, write bool) error {
		f, err := linux.OpenTree(path, true)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		trees = append(trees, tree{path, f})
		attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID}
		if !strings.HasPrefix(path, "/dev/") {
			attr.Attr_set |= unix.MOUNT_ATTR_NODEV
		}
		if !write {
			attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
		}
		if err := unix.MountSetattr(linux.FD(f), "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, attr); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil
	}
	links := map[string]string{}
	for _, dir := range append(programs(c.QEMU), "/etc/ld.so.cache") {
		to, err := os.Readlink(dir)
		if err == nil {
			links[dir] = to
			continue
		}
		if err := open(dir, false); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for _, f := range c.files() {
		if err := open(f.path, f.write); err != nil {
			return err
		}
	}
	if err := unix.Mount("tmpfs", jailDir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=1m"); err != nil {
		return fmt.Errorf("mount the jail: %w", err)
	}
	for path, to := range links {
		if err := os.Symlink(to, filepath.Join(jailDir, path)); err != nil {
			return err
		}
	}
	if c.Accel == KVM {
		if err := ownKVM(filepath.Join(jailDir, "dev"), c.UID); err != nil {
			return fmt.Errorf("%s: %w", kvmDevice, err)
		}
	}
	for _, t := range trees {
		if err := attach(t.f, filepath.Join(jailDir, t.at)); err != nil {
			return fmt.Errorf("%s: %w", t.at, err)
		}
	}
	if memory != nil {
		if err := attach(memory, filepath.Join(jailDir, memoryDir)); err != nil {
			return fmt.Errorf("the machine's memory: %w", err)
		}
	}
	return changeRoot(jailDir)
}

// kvmDevice is how QEMU asks for the host's processors.
const kvmDevice = "/dev/kvm"

// ownKVM puts a node for KVM into dir that belongs to the machine's user: the host's
// is for root or a group, in which QEMU is not to be.
func ownKVM(dir string, uid uint32) error {
	var st unix.Stat_t
	if err := unix.Stat(kvmDevice, &st); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// A file system of its own: the jail's has no devices. QEMU cannot make another,
	// it has no capabilities.
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=0755,size=64k"); err != nil {
		return err
	}
	node := filepath.Join(dir, filepath.Base(kvmDevice))
	if err := unix.Mknod(node, unix.S_IFCHR|0o600, int(st.Rdev)); err != nil {
		return os.NewSyscallError("mknod", err)
	}
	return os.Lchown(node, int(uid), int(uid))
}

// programs are the directories from which QEMU and its libraries are loaded.
func programs(qemu string) []string {
	list := []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64"}
	if top := "/" + strings.SplitN(strings.TrimPrefix(qemu, "/"), "/", 2)[0]; top != "/usr" && top != "/bin" && top != "/sbin" {
		list = append(list, top) // a QEMU of somebody's own
	}
	return list
}

// attach makes the mount point for f, unless a tree that is there already has it, and
// mounts f on it.
func attach(f *os.File, at string) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	switch there, lerr := os.Lstat(at); {
	case lerr == nil && there.Mode().Type() == st.Mode().Type():
	case st.IsDir():
		err = os.MkdirAll(at, 0o755)
	default:
		if err = os.MkdirAll(filepath.Dir(at), 0o755); err == nil {
			err = os.WriteFile(at, nil, 0o600)
		}
	}
	if err != nil {
		return err
	}
	return linux.Attach(f, at)
}

func changeRoot(dir string) error {
	if err := unix.Chdir(dir); err != nil {
		return os.NewSyscallError("chdir", err)
	}
	// The old root lies over the new one, and is taken away.
	if err := unix.PivotRoot(".", "."); err != nil {
		return os.NewSyscallError("pivot_root", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the old root: %w", err)
	}
	return os.NewSyscallError("chdir", unix.Chdir("/"))
}

// confine is how QEMU is started: in namespaces of its own, as a user of its own.
func confine(c Config) (*syscall.SysProcAttr, error) {
	a := &syscall.SysProcAttr{
		Setsid: true, Pdeathsig: syscall.SIGKILL,
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | syscall.CLONE_NEWPID,
	}
	if c.UID == 0 {
		return nil, errors.New("a machine needs a user of its own")
	}
	a.Credential = &syscall.Credential{Uid: c.UID, Gid: c.UID}
	readable := []string{c.Initrd}
	for _, d := range c.Disks {
		if d.Absent {
			continue
		}
		if d.ReadOnly {
			readable = append(readable, d.Path)
			continue
		}
		if err := os.Lchown(d.Path, int(c.UID), int(c.UID)); err != nil {
			return nil, fmt.Errorf("give the disk to its machine: %w", err)
		}
	}
	// The directories that these are in keep everybody else out.
	for _, path := range readable {
		st, err := os.Stat(path)
		if err == nil && st.Mode()&0o004 == 0 {
			err = os.Chmod(path, 0o444)
		}
		if err != nil {
			return nil, fmt.Errorf("show a file to the machine: %w", err)
		}
	}
	return a, nil
}

// User is a machine's uid and gid: nobody else's on the host, as far as a number
// can be, and another for each name.
func User(name string) uint32 {
	const (
		first = 0x70000000
		prime = 16777619 // of FNV-1
		mask  = 1<<24 - 1
	)
	h := uint32(2166136261)
	for _, b := range []byte(name) {
		h = (h ^ uint32(b)) * prime
	}
	return first + (h>>8^h)&mask
}
