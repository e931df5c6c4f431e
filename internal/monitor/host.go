package monitor

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/hull"
	"hull/internal/linux"
	"hull/internal/runtime"
)

// viaFd names a file in an open directory by a path short enough for sun_path.
func viaFd(dir int, name string) string {
	return "/proc/self/fd/" + strconv.Itoa(dir) + "/" + name
}

// waitReadable waits until a pidfd says that its process has ended, without
// holding a thread.
func waitReadable(pidfd int) {
	fd, err := unix.FcntlInt(uintptr(pidfd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return // the blocking wait that follows serves too
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	rc, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = rc.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, 0)
		return err != unix.EINTR && (err != nil || n > 0)
	})
}

// cgroupDir finds a container's directory in a v1 hierarchy, or the only one on v2.
func cgroupDir(c runtime.Cgroup, hierarchy string) string {
	for _, d := range c.Dirs {
		if c.V2 {
			return d.Path
		}
		for h := range strings.SplitSeq(d.Hierarchy, ",") {
			if h == hierarchy {
				return d.Path
			}
		}
	}
	return ""
}

// oomKilled reports whether the kernel's out-of-memory killer has struck in a
// container's cgroup. The cgroup is made new for every run.
func oomKilled(c runtime.Cgroup) bool {
	dir := cgroupDir(c, "memory")
	if dir == "" {
		return false
	}
	name := "memory.oom_control"
	if c.V2 {
		name = "memory.events"
	}
	var buf [512]byte
	b, err := readFile(filepath.Join(dir, name), buf[:])
	return err == nil && linux.OOMKilled(b)
}

// readFile reads as much of a small file as fits. Not with os.ReadFile, which
// registers kernel files with the poller: four more system calls on the path of
// every exit.
func readFile(path string, buf []byte) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }()
	for at := 0; ; {
		n, err := unix.Read(fd, buf[at:])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, err
		}
		if at += n; n == 0 || at == len(buf) {
			return buf[:at], nil
		}
	}
}

// killCgroup kills every process in a container's cgroup and below, and waits a
// moment until they are gone: new ones may be forked while it looks.
func killCgroup(c runtime.Cgroup) {
	dir := ""
	for _, h := range []string{"unified", "pids", "memory", "freezer", "devices"} {
		if dir = cgroupDir(c, h); dir != "" {
			break
		}
	}
	if dir == "" || empty(dir) {
		return
	}
	if fd, err := unix.Open(filepath.Join(dir, "cgroup.kill"), unix.O_WRONLY|unix.O_CLOEXEC, 0); err == nil {
		_, _ = unix.Write(fd, []byte("1"))
		_ = unix.Close(fd)
	}
	for pause := 100 * time.Microsecond; pause < time.Second; pause *= 2 {
		if killBelow(dir) == 0 {
			return
		}
		time.Sleep(pause)
	}
}

// empty reports whether a cgroup has neither processes nor children; mostly it
// has not, since the kernel kills a pid namespace with its first process.
func empty(dir string) bool {
	var buf [16]byte
	b, err := readFile(filepath.Join(dir, "cgroup.procs"), buf[:])
	if err != nil || len(b) > 0 {
		return err != nil
	}
	var st unix.Stat_t
	return unix.Stat(dir, &st) != nil || st.Nlink <= 2
}

// killBelow kills what is in dir and in the cgroups that the container made in
// it, and counts them.
func killBelow(dir string) int {
	// As many pids as fit; the caller comes again.
	buf := make([]byte, 8<<10)
	b, err := readFile(filepath.Join(dir, "cgroup.procs"), buf)
	if err != nil {
		return 0
	}
	n := 0
	for line := range strings.Lines(string(b)) {
		// Without its newline it may be half a number. 0 is a process of another pid
		// namespace, not ours to see.
		pid, err := strconv.Atoi(strings.TrimSuffix(line, "\n"))
		if strings.HasSuffix(line, "\n") && err == nil && pid > 0 && pid != os.Getpid() {
			_ = unix.Kill(pid, unix.SIGKILL)
			n++
		}
	}
	sub, err := os.ReadDir(dir)
	if err != nil {
		return n
	}
	for _, e := range sub {
		if e.IsDir() {
			n += killBelow(filepath.Join(dir, e.Name()))
		}
	}
	return n
}

// ExitFile is where the exit of a main process is recorded.
func ExitFile(dir, id string) string { return filepath.Join(dir, "exit-"+id+".json") }

// writeExit records an exit on tmpfs: there is nothing to sync.
//
//	{"code":137,"signal":9,"oom":true,"time":1700000000000000000}
func writeExit(dir, id string, x hull.Exit, st syscall.WaitStatus) error {
	sig := 0
	if st.Signaled() {
		sig = int(st.Signal())
	}
	b := append([]byte(`{"code":`), strconv.Itoa(x.Code)...)
	b = append(b, `,"signal":`...)
	b = strconv.AppendInt(b, int64(sig), 10)
	b = append(b, `,"oom":`...)
	b = strconv.AppendBool(b, x.OOMKilled)
	b = append(b, `,"time":`...)
	b = strconv.AppendInt(b, x.At.UnixNano(), 10)
	b = append(b, "}\n"...)

	path := ExitFile(dir, id)
	fd, err := unix.Open(path+".new", unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	_, err = unix.Write(fd, b)
	_ = unix.Close(fd)
	if err != nil {
		return err
	}
	return unix.Rename(path+".new", path)
}
