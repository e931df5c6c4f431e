package runtime

import (
	"errors"

	"golang.org/x/sys/unix"

	"hull/internal/linux"
)

// thread is an operating system thread that has left this process's namespaces
// and stays in the container's as long as it is needed: children forked from it
// are in the container, and are killed by the kernel when it ends.
type thread struct {
	work chan func()
	done chan struct{}
}

var errThreadEnded = errors.New("the container's thread has ended")

func startThread() *thread {
	t := &thread{work: make(chan func()), done: make(chan struct{})}
	linux.GoOnThread(func() {
		defer close(t.done)
		for f := range t.work {
			f()
		}
	})
	return t
}

// do runs f on the thread.
func (t *thread) do(f func() error) error {
	res := make(chan error, 1)
	select {
	case t.work <- func() { res <- f() }:
		return <-res
	case <-t.done:
		return errThreadEnded
	}
}

// end lets the thread die. No do may follow.
func (t *thread) end() {
	close(t.work)
	<-t.done
}

// effectiveCaps are the calling thread's.
func effectiveCaps() (uint64, error) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return 0, err
	}
	return uint64(data[0].Effective) | uint64(data[1].Effective)<<32, nil
}
