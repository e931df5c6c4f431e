package oci

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hull/internal/runtime"
)

const (
	// createLimit bounds create, start and the first sign of an exec. A machine under
	// heavy load needs seconds; a runtime that hangs must not hold the pod for ever.
	createLimit = time.Minute
	// controlLimit bounds kill and delete.
	controlLimit = 20 * time.Second
	// endingLimit is for a process's end to be seen whose sandbox takes no commands.
	endingLimit = time.Second
	// maxLog is how much of a runtime's log is read for its error.
	maxLog = 256 << 10
)

// command is one call of the runtime.
type command struct {
	name  string   // create, start, ...
	args  []string // after the name
	dir   string   // working directory
	stdio runtime.Stdio
	tty   *os.File // both ends of standard input and output instead of stdio
	log   string   // file that gets the runtime's own messages
	roomy bool     // see roomyFd
}

// roomyFd is a descriptor that a roomy command has in addition, /dev/null. gVisor's kernel
// moves a program's streams to descriptors 253 to 255, for which the kernel has to make
// its table of descriptors larger, and a process that has threads waits for an RCU grace
// period then. The table that a child gets has room for its parent's highest descriptor,
// and keeps it when that is closed.
const roomyFd = 255

func (b *backend) argv(c *command) []string {
	argv := append([]string{filepath.Base(b.cfg.Runtime), "--root", b.state, "--log", c.log, "--log-format", "json"}, b.cfg.Args...)
	return append(append(argv, c.name), c.args...)
}

// start runs the command on the container's thread.
func (b *backend) start(s *seat, c *command) (p *child, err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	files := []*os.File{c.stdio.In, c.stdio.Out, c.stdio.Err}
	// A command ends with the monitor, or with its container.
	sys := &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if c.tty != nil {
		files = []*os.File{c.tty, c.tty, c.tty}
		sys.Setctty = true
	}
	fds := make([]uintptr, 3)
	for i, f := range files {
		if f == nil {
			f = null
		}
		// The runtime hands it to a program, which expects it to block.
		fds[i] = f.Fd()
		if err := unix.SetNonblock(int(fds[i]), false); err != nil {
			return nil, os.NewSyscallError("fcntl", err)
		}
	}
	if c.roomy {
		for len(fds) < roomyFd {
			fds = append(fds, ^uintptr(0)) // none
		}
		fds = append(fds, null.Fd())
	}
	if s.unified != nil {
		sys.UseCgroupFD, sys.CgroupFD = true, int(s.unified.Fd())
	}
	attr := &syscall.ProcAttr{
		Dir: c.dir, Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, Files: fds, Sys: sys,
	}
	argv := b.argv(c)
	err = s.do(func() error {
		p, err = b.reaper.start(b.cfg.Runtime, argv, attr)
		return err
	})
	return p, err
}

// run runs the command to its end.
func (b *backend) run(s *seat, c *command, limit time.Duration) error {
	p, err := b.start(s, c)
	if err != nil {
		return err
	}
	return b.finish(p, c, limit)
}

// finish waits for the command's end.
func (b *backend) finish(p *child, c *command, limit time.Duration) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		_ = p.signal(syscall.SIGKILL)
		<-p.done
		return fmt.Errorf("%s %s did not end within %v and was killed; try the runtime by hand, or use --isolation container: %w",
			b.cfg.Runtime, c.name, limit, errdefs.ErrUnavailable)
	}
	if p.status.ExitStatus() == 0 {
		return nil
	}
	return b.failed(c, p.status)
}

// errCommandKilled is of a command that a signal ended.
var errCommandKilled = errors.New("killed")

// failed is the error of a command that did not succeed: what it wrote to its log.
func (b *backend) failed(c *command, st syscall.WaitStatus) error {
	text := lastError(c.log)
	if text == "" {
		text = "no message"
	}
	if st.Signaled() {
		return fmt.Errorf("%s %s: %s (%w by %s)", filepath.Base(b.cfg.Runtime), c.name, text, errCommandKilled, st.Signal())
	}
	end := fmt.Sprintf("exit code %d", st.ExitStatus())
	return fmt.Errorf("%s %s: %s (%s)", filepath.Base(b.cfg.Runtime), c.name, text, end)
}

// lastError is the last message of level error in a runtime's log: JSON lines, as
// runc, crun and runsc write; what is none of that is taken as it is.
func lastError(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > maxLog {
		_, _ = f.Seek(st.Size()-maxLog, 0) // the end is what counts
	}
	last := ""
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, maxLog)
	for sc.Scan() {
		line := bytes.TrimSpace(sc.Bytes())
		var m struct{ Msg, Level string }
		switch {
		case len(line) == 0:
		case json.Unmarshal(line, &m) != nil:
			last = printable(string(line))
		case m.Msg != "" && (m.Level == "error" || m.Level == "fatal" || m.Level == ""):
			last = printable(m.Msg)
		}
	}
	return last
}

// printable makes a foreign text fit for a message: one line, no control
// characters, not too long.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > 1024 {
		s = s[:1024] + "..."
	}
	return strings.TrimSpace(s)
}

// asExecError finds in a runtime's message that the executable is at fault. All
// runtimes end theirs with the system's own words.
func asExecError(err error, args0 string) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	x := &runtime.ExecError{Path: args0}
	switch {
	case !strings.Contains(text, args0):
		return err
	case strings.Contains(text, "executable file not found") || strings.Contains(text, "executable file `"+args0+"` not found"):
		x.Msg = fmt.Sprintf("exec: %q: executable file not found in $PATH", args0)
	case strings.Contains(text, "no such file or directory") || strings.Contains(text, "No such file or directory"):
		x.Errno = syscall.ENOENT
		x.Msg = fmt.Sprintf("exec: %q: stat %s: no such file or directory", args0, args0)
		if !strings.Contains(args0, "/") {
			x.Errno, x.Msg = 0, fmt.Sprintf("exec: %q: executable file not found in $PATH", args0)
		}
	case strings.Contains(text, "permission denied") || strings.Contains(text, "Permission denied"):
		x.Errno, x.Msg = syscall.EACCES, fmt.Sprintf("exec: %q: permission denied", args0)
	case strings.Contains(text, "exec format error") || strings.Contains(text, "Exec format error"):
		x.Errno, x.Msg = syscall.ENOEXEC, fmt.Sprintf("exec: %q: exec format error", args0)
	default:
		return err
	}
	return x
}

// waitFile waits until a runtime has written a number to a file, or p has ended.
func waitFile(ctx context.Context, path string, p *child) (int, error) {
	for begin := time.Now(); ; {
		n, err := readPid(path)
		if err == nil {
			return n, nil
		}
		if !errors.Is(err, errNotYet) {
			return 0, err
		}
		select {
		case <-p.done:
			// It may have written the file and ended at once.
			return readPid(path)
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-time.After(min(max(time.Since(begin)/16, time.Millisecond), 50*time.Millisecond)):
		}
	}
}

var errNotYet = errors.New("the runtime has written no pid")

// readPid reads a pid file. What else is in it is the runtime's fault.
func readPid(path string) (int, error) {
	b, err := os.ReadFile(path)
	text := strings.TrimSpace(string(b))
	if errors.Is(err, os.ErrNotExist) || err == nil && text == "" {
		return 0, errNotYet
	}
	if err != nil {
		return 0, err
	}
	n := 0
	for _, r := range text {
		if r < '0' || r > '9' || n > 1<<22 {
			return 0, fmt.Errorf("the runtime's pid file holds %q", printable(text))
		}
		n = 10*n + int(r-'0')
	}
	return n, nil
}
