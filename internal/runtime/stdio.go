package runtime

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hull/internal/linux"
)

// stdio are duplicates of the workload's descriptors, with numbers above those
// they will get.
type stdio struct {
	fds   []int
	gate  []int // start and result
	chown [3]bool
}

// openStdio also gives pipes to the workload's user; ids are of its user namespace:
// there it could not take what belongs to nobody of its ids.
func openStdio(s Stdio, x *ProcPlan, ids *idMaps) (_ *stdio, err error) {
	io := &stdio{}
	defer func() {
		if err != nil {
			io.close()
		}
	}()
	null := -1
	for i, f := range append([]*os.File{s.In, s.Out, s.Err}, s.Extra...) {
		switch {
		case i < 3 && x.Terminal:
			io.fds = append(io.fds, -1)
			io.chown[i] = i == 0
			continue
		case f != nil:
			var fd int
			if fd, err = highFd(linux.FD(f)); err != nil {
				return nil, err
			}
			io.fds = append(io.fds, fd)
			// Go's pipes are non-blocking, which programs do not expect.
			if err = unix.SetNonblock(fd, false); err != nil {
				return nil, os.NewSyscallError("fcntl", err)
			}
			if i < 3 {
				if err = io.own(i, fd, x.UID, ids); err != nil {
					return nil, err
				}
			}
			continue
		}
		if null < 0 {
			if null, err = unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
				return nil, &os.PathError{Op: "open", Path: "/dev/null", Err: err}
			}
			defer unix.Close(null)
		}
		var fd int
		if fd, err = highFd(null); err != nil {
			return nil, err
		}
		io.fds = append(io.fds, fd)
	}
	if g := s.Gate; g != nil {
		for _, f := range []*os.File{g.Start, g.Result} {
			var fd int
			if fd, err = highFd(linux.FD(f)); err != nil {
				return nil, err
			}
			io.gate = append(io.gate, fd)
			if err = unix.SetNonblock(fd, false); err != nil {
				return nil, os.NewSyscallError("fcntl", err)
			}
		}
	}
	return io, nil
}

func (io *stdio) own(i, fd int, uid uint32, ids *idMaps) error {
	host := ids.user(uid)
	switch {
	case !wantsChown(fd, host):
	case ids == nil:
		io.chown[i] = true
	default:
		if err := unix.Fchown(fd, int(host), -1); err != nil {
			return fmt.Errorf("own standard streams: %w", err)
		}
	}
	return nil
}

// wantsChown says whether the workload's user must own a stream to open it again
// through /dev/stdout. Devices stay whose they are.
func wantsChown(fd int, uid uint32) bool {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Uid == uid {
		return false
	}
	return st.Mode&unix.S_IFMT == unix.S_IFIFO
}

func (io *stdio) close() {
	for _, fd := range append(io.fds, io.gate...) {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// openTTY makes a terminal in the container's devpts and returns both sides.
func (c *Container) openTTY(x *ProcPlan, s Stdio) (master, slave *os.File, err error) {
	if c.pts == nil {
		return nil, nil, errors.New("a terminal needs a devpts mount in the container")
	}
	if master, err = linux.OpenNoSymlinks(c.pts, "ptmx", unix.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		return nil, nil, fmt.Errorf("open terminal: %w", err)
	}
	fd := linux.FD(master)
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		master.Close()
		return nil, nil, fmt.Errorf("unlock terminal: %w", err)
	}
	// Not as a controlling terminal: the caller may lead a session without one, and
	// would be hung up with the container.
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		master.Close()
		return nil, nil, fmt.Errorf("open terminal: %w", errno)
	}
	slave = os.NewFile(n, "tty")
	rows, cols := s.Rows, s.Cols
	if rows == 0 && cols == 0 {
		rows, cols = x.Rows, x.Cols
	}
	if rows != 0 || cols != 0 {
		if err := setSize(master, rows, cols); err != nil {
			linux.CloseAll([]*os.File{master, slave})
			return nil, nil, err
		}
	}
	return master, slave, nil
}

func setSize(f *os.File, rows, cols uint16) error {
	if err := unix.IoctlSetWinsize(linux.FD(f), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}); err != nil {
		return fmt.Errorf("set size of terminal: %w", err)
	}
	return nil
}

// withHome says whether HOME has to be added, and marks its place with "".
func withHome(env []string) ([]string, bool) {
	for _, e := range env {
		if strings.HasPrefix(e, "HOME=") {
			return env, false // never empty: see lastValues
		}
	}
	return append(append(make([]string, 0, len(env)+1), env...), ""), true
}

// resolve fills in what could not be known before the mounts: the executable's
// path and the user's home. It runs on the container's thread, whose root is the
// container's.
func (c *Container) resolve(x *ProcPlan, needHome bool, msg *goMsg) error {
	path, err := lookPath(c.rootDir, x)
	if err != nil {
		return err
	}
	if len(path) >= len(msg.path) {
		return &ExecError{Errno: unix.ENAMETOOLONG, Path: x.Args[0], Msg: fmt.Sprintf("exec: %q: file name too long", x.Args[0])}
	}
	copy(msg.path[:], path)
	if needHome {
		home := "HOME=" + homeOf(c.rootDir, x.UID)
		if len(home) >= len(msg.home) {
			home = "HOME=/"
		}
		copy(msg.home[:], home)
	}
	return nil
}

// lookPath finds argv[0] as a shell does, from the container's root, and refuses
// what cannot be run, with runc's and Docker's messages.
func lookPath(root *os.File, x *ProcPlan) (string, error) {
	name := x.Args[0]
	if x.Path != "" {
		name = x.Path
	}
	if strings.Contains(name, "/") {
		full := name
		if !filepath.IsAbs(name) {
			full = filepath.Join(x.Cwd, name)
		}
		if errno := runnable(root, full); errno != 0 {
			msg := fmt.Sprintf("exec: %q: %v", name, errno)
			if errno == unix.ENOENT || errno == unix.ENOTDIR || errno == unix.ELOOP {
				msg = fmt.Sprintf("exec: %q: stat %s: %v", name, name, errno)
			}
			return "", &ExecError{Errno: errno, Path: name, Msg: msg}
		}
		return name, nil
	}
	var path string
	for _, e := range x.Env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			path = v // the last one counts
		}
	}
	denied := false
	for dir := range strings.SplitSeq(path, ":") {
		if dir == "" || !filepath.IsAbs(dir) {
			continue // as os/exec: never from the current directory
		}
		switch errno := runnable(root, filepath.Join(dir, name)); errno {
		case 0:
			return filepath.Join(dir, name), nil
		case unix.EACCES:
			denied = true
		}
	}
	if denied {
		return "", &ExecError{Errno: unix.EACCES, Path: name, Msg: fmt.Sprintf("exec: %q: permission denied", name)}
	}
	return "", &ExecError{Path: name, Msg: fmt.Sprintf("exec: %q: executable file not found in $PATH", name)}
}

// runnable says what stands against running a file. Magic links are refused:
// /proc/self/exe would be a file of the host (CVE-2019-5736).
func runnable(root *os.File, path string) unix.Errno {
	f, err := linux.OpenInRoot(root, path, unix.O_PATH, 0)
	if err != nil {
		var errno unix.Errno
		if errors.As(err, &errno) {
			return errno
		}
		return unix.EIO
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(linux.FD(f), &st); err != nil {
		return unix.EIO
	}
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return unix.EISDIR
	case st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o111 == 0:
		return unix.EACCES
	}
	return 0
}

// homeOf is the home directory of uid in the container's passwd file; "/" when
// there is none.
func homeOf(root *os.File, uid uint32) string {
	f, err := linux.OpenInRoot(root, "/etc/passwd", unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "/"
	}
	defer f.Close()
	b, err := linux.ReadAll(f, 4<<20)
	if err != nil {
		return "/"
	}
	want := strconv.Itoa(int(uid))
	for line := range bytes.Lines(b) {
		if fs := strings.Split(strings.TrimSpace(string(line)), ":"); len(fs) >= 6 && fs[2] == want && fs[5] != "" {
			return fs[5]
		}
	}
	return "/"
}
