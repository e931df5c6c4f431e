package oci

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxStrays bounds the exits that are kept for processes nobody has asked for yet:
// a container may end before its pid is read.
const maxStrays = 256

// reaper owns every child of this process: those it started, and those that it
// inherits as subreaper when a runtime's command has ended. One place waits for
// all of them, so that none stays a zombie and no exit is lost.
type reaper struct {
	mu     sync.Mutex // held over fork and wait: no pid is signalled after it was reaped
	live   map[int]*child
	strays map[int]syscall.WaitStatus
	stop   chan struct{}
}

// child is a process that someone here waits for.
type child struct {
	r      *reaper
	pid    int
	done   chan struct{}
	status syscall.WaitStatus // valid after done
}

// newReaper makes this process the parent of what its children leave behind.
func newReaper() (*reaper, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become subreaper: %w", err)
	}
	r := &reaper{live: map[int]*child{}, strays: map[int]syscall.WaitStatus{}, stop: make(chan struct{})}
	died := make(chan os.Signal, 1)
	signal.Notify(died, syscall.SIGCHLD)
	go func() {
		defer signal.Stop(died)
		for {
			r.reap()
			select {
			case <-died:
			case <-r.stop:
				return
			}
		}
	}()
	return r, nil
}

func (r *reaper) close() { close(r.stop) }

// reap collects everything that has ended.
func (r *reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var st syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &st, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		r.ended(pid, st)
	}
}

// ended is called with r.mu held.
func (r *reaper) ended(pid int, st syscall.WaitStatus) {
	c := r.live[pid]
	if c == nil {
		if len(r.strays) >= maxStrays {
			clear(r.strays)
		}
		r.strays[pid] = st
		return
	}
	delete(r.live, pid)
	c.status = st
	close(c.done)
}

// start forks a child; the calling thread decides in which namespaces and cgroups.
func (r *reaper) start(path string, argv []string, attr *syscall.ProcAttr) (*child, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return nil, &os.PathError{Op: "run", Path: path, Err: err}
	}
	delete(r.strays, pid) // of an earlier process of that pid
	c := &child{r: r, pid: pid, done: make(chan struct{})}
	r.live[pid] = c
	return c, nil
}

// adopt takes on a process by its pid. It must be ours by inheritance.
func (r *reaper) adopt(pid int) (*child, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := &child{r: r, pid: pid, done: make(chan struct{})}
	if st, ok := r.strays[pid]; ok {
		delete(r.strays, pid)
		c.status = st
		close(c.done)
		return c, nil
	}
	if r.live[pid] != nil {
		return nil, fmt.Errorf("process %d is somebody's already", pid)
	}
	var st syscall.WaitStatus
	switch got, err := syscall.Wait4(pid, &st, syscall.WNOHANG, nil); {
	case err != nil:
		return nil, fmt.Errorf("process %d does not belong to this pod: %w", pid, err)
	case got == pid:
		c.status = st
		close(c.done)
	default:
		r.live[pid] = c
	}
	return c, nil
}

// signal reaches the process only while it has not been reaped.
func (c *child) signal(sig syscall.Signal) error {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	if c.ended() {
		return os.ErrProcessDone
	}
	return os.NewSyscallError("kill", syscall.Kill(c.pid, sig))
}

func (c *child) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}
