package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hull/internal/linux"
	"hull/internal/monitor"
	"hull/internal/runtime"
)

// container is one container of the runtime.
type container struct {
	b      *backend
	id     string
	dir    string // the bundle
	log    string
	args0  string
	cgroup runtime.Cgroup
	binds  []Bind
	seat   *seat
	made   bool // the runtime may know it
	init   *process

	mu    sync.Mutex
	execs map[*process]struct{}
	ended bool
	view  *seat    // where root's mounts are; nil = nobody has asked
	top   *os.File // its root directory
}

var _ monitor.Container = (*container)(nil)

// Main implements monitor.Container.
func (c *container) Main() monitor.Process { return c.init }

// Exec implements monitor.Container: the process is made when it is started, for
// runtimes know no other way.
func (c *container) Exec(_ context.Context, plan []byte, s runtime.Stdio, _ runtime.Cgroup) (monitor.Process, error) {
	var x Exec
	if err := json.Unmarshal(plan, &x); err != nil {
		return nil, fmt.Errorf("decode exec: %w", err)
	}
	p := &process{c: c, exec: &x, stdio: dup(s), started: make(chan struct{})}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		p.stdio.close()
		return nil, fmt.Errorf("container %s has ended: %w", c.id, errdefs.ErrNotFound)
	}
	if x.Terminal {
		var err error
		if err = p.openConsole(s.Rows, s.Cols); err != nil {
			p.stdio.close()
			return nil, err
		}
	}
	if c.execs == nil {
		c.execs = map[*process]struct{}{}
	}
	c.execs[p] = struct{}{}
	return p, nil
}

// Destroy implements monitor.Container: the container's main process has ended, or
// is ended now.
func (c *container) Destroy() error {
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return nil
	}
	c.ended = true
	execs := c.execs
	c.execs = nil
	c.mu.Unlock()
	if c.init != nil {
		_ = c.init.Signal(syscall.SIGKILL) // if it lives
		c.init.mu.Lock()                   // a start that is under way ends of that, among the files that it reads
		defer c.init.mu.Unlock()
	}
	// What runs in a container that is no more is as dead as that.
	for p := range execs {
		p.abandon()
	}
	var err error
	if c.made && !c.alone() {
		err = c.b.run(c.seat, &command{name: "delete", args: []string{"--force", c.id}, dir: c.dir, log: filepath.Join(c.dir, "delete.log")}, controlLimit)
	}
	c.seat.end()
	if c.view != nil {
		c.top.Close()
		c.view.end()
	}
	c.b.mu.Lock()
	delete(c.b.boxes, c.id)
	c.b.mu.Unlock()
	return errors.Join(err, os.RemoveAll(c.dir))
}

// alone says that nothing of the runtime's is left when the container's process
// and its cgroup are gone: a sandbox of its own, in a cgroup of ours. Its state
// lies in the pod's run directory, its mounts in the thread's namespace.
func (c *container) alone() bool {
	return c.b.cfg.Style == Runsc && (c.b.pause == nil || c == c.b.pause)
}

func (c *container) maskControllers() error {
	empty := filepath.Join(c.dir, "empty")
	if err := writeFile(empty, nil); err != nil {
		return err
	}
	return c.seat.maskControllers(empty)
}

// stdio are duplicates of an exec's streams, until it is started.
type stdio struct{ in, out, err *os.File }

func dup(s runtime.Stdio) stdio {
	one := func(f *os.File) *os.File {
		if f == nil {
			return nil
		}
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return nil
		}
		return os.NewFile(uintptr(fd), f.Name())
	}
	return stdio{one(s.In), one(s.Out), one(s.Err)}
}

func (s *stdio) close() {
	for _, f := range []*os.File{s.in, s.out, s.err} {
		if f != nil {
			f.Close()
		}
	}
	*s = stdio{}
}

// signalByRuntime has the runtime send a signal: to the main process, or to one in
// the sandbox by its pid there.
func (c *container) signalByRuntime(sig syscall.Signal, pid int) error {
	args := []string{c.id, strconv.Itoa(int(sig))}
	if pid > 0 {
		args = append([]string{"--pid", strconv.Itoa(pid)}, args...)
	}
	log := c.b.file(c, "kill")
	defer os.Remove(log)
	return c.b.run(c.seat, &command{name: "kill", args: args, dir: c.dir, log: log}, controlLimit)
}

// processes is the runtime's own list of what runs in the container.
func (c *container) processes() ([]byte, error) {
	log, out := c.b.file(c, "ps"), c.b.file(c, "processes")
	defer os.Remove(log)
	f, err := os.OpenFile(out, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	defer os.Remove(out)
	defer f.Close()
	cmd := &command{name: "ps", args: []string{"--format", "table", c.id}, dir: c.dir, log: log, stdio: runtime.Stdio{Out: f}}
	if err := c.b.run(c.seat, cmd, controlLimit); err != nil {
		return nil, err
	}
	if _, err := f.Seek(0, 0); err != nil {
		return nil, err
	}
	return linux.ReadAll(f, maxList)
}
