package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Seat is a thread that sits in a container's v1 cgroups before the container
// exists. What it forks is born there, execs too, because the thread stays while the
// container lives: a child has to join only those that the thread is not in.
//
// It counts as one more task of the container (pids.current, pids.max). It is
// not in the v2 hierarchy, where only whole processes can be: children enter
// that with clone3. So freezing and killing by the v2 group pass it by, and
// without a v2 hierarchy there are no seats.
type Seat struct {
	t  *thread
	cg Cgroup
}

// CanSeat reports whether seats are of use for cg: v1 controllers and a v2
// hierarchy beside them.
func CanSeat(cg Cgroup) bool {
	return !cg.V2 && slices.ContainsFunc(cg.Dirs, func(d CgroupDir) bool { return d.Hierarchy == unified })
}

const unified = "unified"

// seats says whether a seat is in the hierarchy. The thread does not sit with the cpu
// controller: a small share or quota, or the other containers of a busy engine, would
// make a container's start and end, and each exec, wait for processor time.
func (d CgroupDir) seats() bool {
	return d.Hierarchy != "" && d.Hierarchy != unified && !slices.Contains(strings.Split(d.Hierarchy, ","), "cpu")
}

// NewSeat takes a seat in the v1 directories of cg. Create or Close ends it.
func NewSeat(cg Cgroup) (*Seat, error) {
	s := &Seat{t: startThread(), cg: cg}
	err := s.t.do(func() error {
		for _, d := range cg.Dirs {
			if !d.seats() {
				continue
			}
			if err := joinThread(d.Path); err != nil {
				return fmt.Errorf("join cgroup: %w", err)
			}
		}
		return nil
	})
	if err != nil {
		s.t.end()
		return nil, err
	}
	return s, nil
}

// joinThread moves the calling thread into a v1 cgroup.
func joinThread(dir string) error {
	path := dir + "/tasks"
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	_, err = unix.Write(fd, []byte("0"))
	if err := errors.Join(err, unix.Close(fd)); err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

// Create is the package's Create on the seat's thread. cg are the directories
// of NewSeat, which may have been renamed since, and the v2 one. It takes the
// seat over, also when it fails.
func (s *Seat) Create(ctx context.Context, plan *Plan, io Stdio, cg Cgroup) (*Container, error) {
	return createOn(ctx, s.t, plan, io, cg)
}

// Close gives up a seat that was not used.
func (s *Seat) Close() { s.t.end() }
