package security

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// attackEnv names the attack that this program, as a container's process, tries.
const attackEnv = "HULL_ATTACK"

func TestMain(m *testing.M) {
	if name := os.Getenv(attackEnv); name != "" {
		f, ok := attacks()[name]
		if !ok {
			fmt.Println("no such attack:", name)
			os.Exit(2)
		}
		f(os.Args[1:])
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func attacks() map[string]func(args []string) {
	return map[string]func([]string){
		"descriptors": descriptors, "calls": calls, "writes": writes, "mounts": mounts, "nodes": nodes,
		"hog": hog, "trace": trace, "watch": watch, "swap": swap, "key": key, "rights": rights, "ask": ask,
	}
}

// say prints what an attempt came to: "name: ok", or the errno.
func say(name string, err error) {
	if err == nil {
		fmt.Println(name + ": ok")
		return
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		fmt.Println(name + ": " + unix.ErrnoName(errno))
		return
	}
	fmt.Println(name+":", err)
}

// descriptors lists what this process was born with. Its own are above 2, too, and
// known: the poller's, the directory that is being read, and the files in which Go
// reads how many CPUs it may use.
func descriptors([]string) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		fmt.Println(err)
		return
	}
	var out []string
	for _, e := range entries {
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || strings.HasPrefix(to, "anon_inode:[event") || strings.HasPrefix(to, "/proc/") && strings.HasSuffix(to, "/fd") || strings.HasPrefix(filepath.Base(to), "cpu.cfs_") || filepath.Base(to) == "cpu.max" {
			continue
		}
		if n, err := strconv.Atoi(e.Name()); err == nil && n > 2 {
			out = append(out, e.Name()+"="+to)
			continue
		}
		out = append(out, e.Name())
	}
	fmt.Println("descriptors: " + strings.Join(out, " "))
}

// call is a system call that Docker's default profile keeps from containers. The
// arguments do no harm where it is let through.
type call struct {
	name string
	nr   uintptr
	args [6]uintptr
}

func callTable() []call {
	bad := ^uintptr(0)
	return []call{
		{"acct", unix.SYS_ACCT, [6]uintptr{1}},
		{"add_key", unix.SYS_ADD_KEY, [6]uintptr{1, 1}},
		{"bpf", unix.SYS_BPF, [6]uintptr{bad}},
		{"clock_settime", unix.SYS_CLOCK_SETTIME, [6]uintptr{bad, 1}},
		{"delete_module", unix.SYS_DELETE_MODULE, [6]uintptr{1}},
		{"finit_module", unix.SYS_FINIT_MODULE, [6]uintptr{bad, 1}},
		{"fsopen", unix.SYS_FSOPEN, [6]uintptr{1}},
		{"init_module", unix.SYS_INIT_MODULE, [6]uintptr{1}},
		{"io_uring_setup", unix.SYS_IO_URING_SETUP, [6]uintptr{0, 1}},
		{"kexec_load", unix.SYS_KEXEC_LOAD, [6]uintptr{0, 99, 1, bad}},
		{"keyctl", unix.SYS_KEYCTL, [6]uintptr{0, 0, 0}},
		{"lookup_dcookie", unix.SYS_LOOKUP_DCOOKIE, [6]uintptr{bad}},
		{"mount", unix.SYS_MOUNT, [6]uintptr{1, 1, 1}},
		{"move_mount", unix.SYS_MOVE_MOUNT, [6]uintptr{bad, 1, bad, 1, bad}},
		{"open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, [6]uintptr{bad, 1}},
		{"open_tree", unix.SYS_OPEN_TREE, [6]uintptr{bad, 1, bad}},
		{"perf_event_open", unix.SYS_PERF_EVENT_OPEN, [6]uintptr{1, 0, 0, bad}},
		{"pivot_root", unix.SYS_PIVOT_ROOT, [6]uintptr{1, 1}},
		{"quotactl", unix.SYS_QUOTACTL, [6]uintptr{bad, 1}},
		{"reboot", unix.SYS_REBOOT, [6]uintptr{1, 1}},
		{"request_key", unix.SYS_REQUEST_KEY, [6]uintptr{1, 1}},
		{"setns", unix.SYS_SETNS, [6]uintptr{bad, unix.CLONE_NEWNET}},
		{"settimeofday", unix.SYS_SETTIMEOFDAY, [6]uintptr{1}},
		{"swapoff", unix.SYS_SWAPOFF, [6]uintptr{1}},
		{"swapon", unix.SYS_SWAPON, [6]uintptr{1, bad}},
		{"umount2", unix.SYS_UMOUNT2, [6]uintptr{1, bad}},
		{"unshare", unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWUSER | unix.CLONE_THREAD}},
		{"userfaultfd", unix.SYS_USERFAULTFD, [6]uintptr{bad}},
		{"vhangup", unix.SYS_VHANGUP, [6]uintptr{}},
	}
}

func calls([]string) {
	for _, c := range callTable() {
		if c.name == "vhangup" {
			continue // it would hang up a terminal where it is let through
		}
		_, _, errno := unix.RawSyscall6(c.nr, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5])
		if errno == 0 {
			say(c.name, nil)
			continue
		}
		say(c.name, errno)
	}
}

// writes opens what governs the host. Nothing is written.
func writes(paths []string) {
	for _, p := range paths {
		fd, err := unix.Open(p, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			unix.Close(fd)
		}
		say(p, err)
	}
}

func mounts([]string) {
	try := func(name string, err error) { say(name, err) }
	dir, err := os.MkdirTemp("", "m")
	if err != nil {
		say("mkdir", err)
		return
	}
	try("tmpfs", unix.Mount("x", dir, "tmpfs", 0, ""))
	try("proc", unix.Mount("x", dir, "proc", 0, ""))
	try("bind", unix.Mount("/proc", dir, "", unix.MS_BIND, ""))
	try("remount /sys", unix.Mount("", "/sys", "", unix.MS_REMOUNT|unix.MS_BIND, ""))
	try("umount /proc/kcore", unix.Unmount("/proc/kcore", unix.MNT_DETACH))
	try("chroot", unix.Chroot("/proc/1/root"))
}

func nodes([]string) {
	for name, dev := range map[string]uint64{"disk": unix.Mkdev(8, 0), "memory": unix.Mkdev(1, 1), "ram": unix.Mkdev(1, 0), "null": unix.Mkdev(1, 3)} {
		p := "/" + name
		kind := uint32(unix.S_IFBLK)
		if name == "memory" || name == "null" {
			kind = unix.S_IFCHR
		}
		err := unix.Mknod(p, kind|0o600, int(dev)) //nolint:gosec // a device number
		if err == nil {
			var fd int
			if fd, err = unix.Open(p, unix.O_RDONLY|unix.O_NONBLOCK, 0); err == nil {
				unix.Close(fd)
			}
			say("open "+name, err)
			continue
		}
		say("make "+name, err)
	}
}

// hog takes memory until it is stopped.
func hog([]string) {
	var all [][]byte
	for range 256 {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		all = append(all, b)
	}
	fmt.Println("hog:", len(all))
}

// trace tries to get into processes of others.
func trace(pids []string) {
	for _, p := range pids {
		pid, err := strconv.Atoi(p)
		if err != nil {
			say("pid", err)
			return
		}
		err = unix.PtraceSeize(pid)
		say("ptrace", err)
		for _, f := range []string{"mem", "environ", "maps"} {
			fd, err := unix.Open(fmt.Sprintf("/proc/%d/%s", pid, f), unix.O_RDONLY, 0)
			if err == nil {
				unix.Close(fd)
			}
			say(f, err)
		}
		for _, f := range []string{"root", "cwd", "exe"} {
			_, err := os.Readlink(fmt.Sprintf("/proc/%d/%s", pid, f))
			say(f, err)
		}
		var local, remote [1]unix.Iovec
		_ = remote
		buf := make([]byte, 8)
		local[0].Base, local[0].Len = &buf[0], 8
		_, err = unix.ProcessVMReadv(pid, local[:], []unix.RemoteIovec{{Base: uintptr(unsafe.Pointer(&buf[0])), Len: 8}}, 0)
		if errors.Is(err, unix.EFAULT) {
			err = nil // it was let in
		}
		say("memory", err)
	}
}

// watch looks at every process that comes to its pid namespace: whether its program
// can be written to, or has open what is not the container's.
func watch([]string) {
	self := os.Getpid()
	fmt.Println("watching")
	for end := time.Now().Add(5 * time.Minute); time.Now().Before(end); {
		d, err := os.Open("/proc")
		if err != nil {
			continue
		}
		names, _ := d.Readdirnames(-1) // those that could be read
		d.Close()
		for _, n := range names {
			pid, err := strconv.Atoi(n)
			if err != nil || pid == self || pid == 1 {
				continue
			}
			watchOne("/proc/" + n)
		}
	}
}

func watchOne(dir string) {
	if exe, err := os.Readlink(dir + "/exe"); err == nil && !strings.HasPrefix(exe, "/bin/") && !strings.HasPrefix(exe, "/attack") {
		fmt.Println("captured a program:", exe)
		if fd, err := unix.Open(dir+"/exe", unix.O_WRONLY, 0); err == nil {
			fmt.Println("captured a writable program:", exe, fd)
		}
	}
	fds, err := os.ReadDir(dir + "/fd")
	if err != nil {
		return
	}
	for _, f := range fds {
		to, err := os.Readlink(dir + "/fd/" + f.Name())
		if err != nil || strings.HasPrefix(to, "pipe:") || strings.HasPrefix(to, "socket:") || strings.HasPrefix(to, "/dev/") || strings.HasPrefix(to, "anon_inode:") || strings.HasPrefix(to, "/proc") {
			continue
		}
		if n, err := strconv.Atoi(f.Name()); err == nil && n > 2 && !strings.HasPrefix(to, "/bin/") && !strings.HasPrefix(to, "/etc/") {
			fmt.Println("captured a descriptor:", f.Name(), to)
		}
	}
}

// swap exchanges two names without a pause.
func swap(args []string) {
	for i := 0; ; i++ {
		err := unix.Renameat2(unix.AT_FDCWD, args[0], unix.AT_FDCWD, args[1], unix.RENAME_EXCHANGE)
		if i == 0 {
			fmt.Println("swapping", err)
		}
		if i%64 == 0 {
			time.Sleep(50 * time.Microsecond)
		}
	}
}

// key looks for a key of the host's in every keyring a process reaches.
func key(args []string) {
	found := false
	for _, ring := range []int{unix.KEY_SPEC_THREAD_KEYRING, unix.KEY_SPEC_SESSION_KEYRING, unix.KEY_SPEC_USER_KEYRING, unix.KEY_SPEC_USER_SESSION_KEYRING} {
		id, err := unix.KeyctlSearch(ring, "user", args[0], 0)
		found = found || err == nil && id != 0
	}
	fmt.Println("found:", found)
}

// rights prints the capability sets and the groups.
func rights([]string) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		fmt.Println(err)
		return
	}
	for line := range bytes.Lines(b) {
		k, v, _ := strings.Cut(strings.TrimSpace(string(line)), ":")
		if slices.Contains([]string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "Groups", "Uid", "Gid", "Seccomp", "NoNewPrivs"}, k) {
			fmt.Println(k + "=" + strings.Join(strings.Fields(v), ","))
		}
	}
}

// ask talks to the engine as a user of the host, and looks into its directories.
func ask(args []string) {
	uid, err := strconv.Atoi(args[0])
	if err == nil && uid != 0 {
		err = errors.Join(syscall.Setgroups(nil), syscall.Setresgid(uid, uid, uid), syscall.Setresuid(uid, uid, uid))
	}
	if err != nil {
		say("become user", nil)
		return
	}
	c, err := net.Dial("unix", args[1])
	if err == nil {
		c.Close()
	}
	say("connect", err)
	for _, dir := range args[2:] {
		entries, err := os.ReadDir(dir)
		if err == nil && len(entries) == 0 {
			err = unix.ENOENT
		}
		say("read "+filepath.Base(dir), err)
		say("write "+filepath.Base(dir), unix.Access(dir, unix.W_OK))
	}
}

// program is this test, to be mounted into containers.
func program(t testing.TB) string {
	t.Helper()
	p, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if p, err = filepath.EvalSymlinks(p); err != nil {
		t.Fatal(err)
	}
	return p
}
