package agent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"hull/internal/guest"
	"hull/internal/linux"
)

// portWait bounds the wait for the agent's port to appear.
const portWait = 15 * time.Second

// mountBase makes the guest's own root: a tmpfs, because a container's
// pivot_root works from any mount but the kernel's first one.
func mountBase() error {
	if err := mount("tmpfs", "/root", "tmpfs", 0, "mode=0755,size=16m"); err != nil {
		return err
	}
	for _, d := range []string{"proc", "sys", "dev", "run", "modules", "etc"} {
		if err := os.Mkdir("/root/"+d, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("/modules", "/root/modules", "", unix.MS_BIND, ""); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("bind modules: %w", err)
	}
	if err := unix.Chdir("/root"); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	for _, m := range []struct{ fs, dir, data string }{
		{"proc", "/proc", ""},
		{"sysfs", "/sys", ""},
		{"devtmpfs", "/dev", "mode=0755"},
		{"tmpfs", "/run", "mode=0755,size=16m"},
		{"cgroup2", "/sys/fs/cgroup", "nsdelegate,memory_recursiveprot"},
	} {
		if err := mount(m.fs, m.dir, m.fs, unix.MS_NOSUID|unix.MS_NOEXEC, m.data); err != nil {
			return err
		}
	}
	for _, d := range []string{"/dev/pts", "/dev/shm", guest.RootDir, guest.DiskDir, guest.ShareDir, guest.FilesDir} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	return nil
}

func mount(source, dir, fs string, flags uintptr, data string) error {
	if err := unix.Mount(source, dir, fs, flags, data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", fs, dir, err)
	}
	return nil
}

// loadModules loads what the kernel does not have built in, in the order of the list
// /modules/list. A module that is not there is in the kernel, or will be missed.
func loadModules(list string) error {
	b, err := os.ReadFile(filepath.Join("/modules", list))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(b)) {
		f, err := os.Open(filepath.Join("/modules", filepath.Base(name)))
		if err != nil {
			return err
		}
		err = unix.FinitModule(linux.FD(f), "", 0)
		f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load kernel module %s: %w", name, err)
		}
	}
	return nil
}

// delegate lets children of the root cgroup, and those of /hull, have limits.
func delegate() error {
	b, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	if err != nil {
		return err
	}
	if err := os.Mkdir(CgroupDir, 0o755); err != nil {
		return err
	}
	for c := range strings.FieldsSeq(string(b)) {
		for _, dir := range []string{"/sys/fs/cgroup", CgroupDir} {
			if err := writeFile(dir+"/cgroup.subtree_control", "+"+c); err != nil && c != "hugetlb" {
				return err
			}
		}
	}
	return nil
}

func writeFile(path, value string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	if _, err := unix.Write(fd, []byte(value)); err != nil {
		return &os.PathError{Op: "write", Path: path, Err: fmt.Errorf("%q: %w", value, err)}
	}
	return nil
}

// openPort finds the port by its name, among those of the machine's one device with
// ports, and opens it.
func openPort(name string) (*os.File, error) {
	for limit := time.Now().Add(portWait); ; time.Sleep(2 * time.Millisecond) {
		for _, p := range []string{"vport0p1", "vport0p0"} {
			b, err := os.ReadFile("/sys/class/virtio-ports/" + p + "/name")
			if err == nil && string(bytes.TrimSpace(b)) == name {
				return os.OpenFile("/dev/"+p, os.O_RDWR, 0)
			}
		}
		if time.Now().After(limit) {
			return nil, fmt.Errorf("no virtio-serial port %s: the kernel has no virtio_console, or the machine no such device", name)
		}
	}
}

// uniquify makes this machine differ from every other one of its template, before
// anything of the workload runs.
func uniquify(b *guest.Boot) error {
	if err := setClock(b.Now); err != nil {
		return err
	}
	if len(b.Seed) > 0 {
		if err := addEntropy(b.Seed); err != nil {
			return fmt.Errorf("seed random numbers: %w", err)
		}
	}
	if b.Hostname != "" {
		if err := unix.Sethostname([]byte(b.Hostname)); err != nil {
			return fmt.Errorf("set host name: %w", err)
		}
	}
	return nil
}

// clockSlack is how far the clock may be from the host's word, which was some
// time on its way.
const clockSlack = time.Second

// correctClock sets a clock that goes wrong, and leaves one that does not: each time
// it is set it jumps.
func correctClock(ns int64) error {
	if time.Until(time.Unix(0, ns)).Abs() < clockSlack {
		return nil
	}
	return setClock(ns)
}

func setClock(ns int64) error {
	tv := unix.NsecToTimeval(ns)
	if err := unix.Settimeofday(&tv); err != nil {
		return fmt.Errorf("set clock: %w", err)
	}
	return nil
}

// addEntropy credits the kernel with seed and has it draw on it at once: two
// machines of one template would otherwise continue the same stream.
func addEntropy(seed []byte) error {
	f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b := binary.NativeEndian.AppendUint32(nil, uint32(8*len(seed))) // struct rand_pool_info
	b = binary.NativeEndian.AppendUint32(b, uint32(len(seed)))
	b = append(b, seed...)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&b[0]))); e != 0 {
		return e
	}
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.RNDRESEEDCRNG, 0); e != 0 {
		return e
	}
	return nil
}

// blkflsbuf drops what the kernel remembers of a disk: when the template was
// made, it had another's content.
const blkflsbuf = 0x1261

// mountDisks mounts what the machine has been given.
func mountDisks(b *guest.Boot) error {
	if b.Root {
		if err := mountDisk(guest.RootSerial, guest.RootDir, "erofs", unix.MS_RDONLY, ""); err != nil {
			return err
		}
	}
	if b.Disk {
		// Inode tables are left as they are, which is empty: to write them would only
		// fill a sparse file.
		if err := mountDisk(guest.DiskSerial, guest.DiskDir, "ext4", 0, "noinit_itable,errors=remount-ro"); err != nil {
			return err
		}
		for _, d := range []string{guest.UpperDir, guest.WorkDir} {
			if err := os.Mkdir(d, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
				return err
			}
		}
		if err := sameRoot(); err != nil {
			return err
		}
	}
	if b.Share {
		if err := findShare(); err != nil {
			return err
		}
		if err := mount(guest.ShareTag, guest.ShareDir, "virtiofs", 0, ""); err != nil {
			return fmt.Errorf("%w (does the kernel have virtio-fs?)", err)
		}
	}
	return nil
}

// mmioDriver is the kernel's driver of virtio devices that have a place in memory.
const mmioDriver = "/sys/bus/platform/drivers/virtio-mmio"

// findShare has the kernel look once more at places that had no device when it
// booted: where the machine's template had none, a restored one has its share.
func findShare() error {
	all, err := filepath.Glob("/sys/bus/platform/devices/*")
	if err != nil {
		return err
	}
	for _, dev := range all {
		name := filepath.Base(dev)
		if !strings.HasPrefix(name, "virtio-mmio.") && !strings.HasPrefix(name, "LNRO0005:") { // on the command line, in ACPI's tables
			continue
		}
		if _, err := os.Lstat(dev + "/driver"); err == nil {
			continue
		}
		if err := writeFile(mmioDriver+"/bind", name); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("find the machine's share: %w", err)
		}
	}
	return nil
}

// sameRoot gives the writable layer the owner and mode of the image's root, which
// are what the container's "/" shows.
func sameRoot() error {
	var st unix.Stat_t
	if err := unix.Stat(guest.RootDir, &st); err != nil {
		return err
	}
	if err := unix.Chown(guest.UpperDir, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return unix.Chmod(guest.UpperDir, st.Mode&0o7777)
}

func mountDisk(serial, dir, fs string, flags uintptr, data string) error {
	dev, err := findDisk(serial)
	if err != nil {
		return err
	}
	f, err := openFree(dev)
	if err != nil {
		return err
	}
	_, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), blkflsbuf, 0)
	f.Close()
	if e != 0 {
		return fmt.Errorf("flush %s: %w", dev, e)
	}
	err = mount(dev, dir, fs, flags, data)
	if errors.Is(err, unix.ENODEV) {
		err = fmt.Errorf("%w: the guest's kernel lacks %s", err, fs)
	}
	return err
}

// freeWait bounds the wait for a file system that was unmounted to let go of its disk.
const freeWait = 10 * time.Second

// released waits until nothing of the file system on a disk is left. What still unmounts
// when the machine is given another disk would write to that, as if it was the former one.
func released(serial string) error {
	dev, err := findDisk(serial)
	if err != nil {
		return err
	}
	f, err := openFree(dev)
	if err != nil {
		return err
	}
	return f.Close()
}

// openFree opens a disk that no file system is on. One that was unmounted stays as long as
// anything refers to it, such as a container's mount namespace that is being taken apart, and
// mount would give that one again, with another disk's content.
func openFree(dev string) (*os.File, error) {
	for limit := time.Now().Add(freeWait); ; time.Sleep(2 * time.Millisecond) {
		f, err := os.OpenFile(dev, os.O_RDONLY|unix.O_EXCL, 0)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(limit) {
			return f, err
		}
	}
}

// findDisk finds a virtio disk by the serial it was given.
func findDisk(serial string) (string, error) {
	for c := 'a'; c <= 'z'; c++ {
		disk := "vd" + string(c)
		b, err := os.ReadFile("/sys/block/" + disk + "/serial")
		if errors.Is(err, os.ErrNotExist) {
			break
		}
		if err == nil && string(bytes.TrimSpace(b)) == serial {
			return "/dev/" + disk, nil
		}
	}
	return "", fmt.Errorf("the machine has no disk %s (does the kernel have virtio_blk?)", serial)
}
