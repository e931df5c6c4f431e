package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
)

// lockDir takes dir for this process. The kernel gives the lock back when the
// process ends, however it ends. The file stays: removing it would let two
// engines lock two different files of the same name.
func lockDir(dir string) (_ *os.File, err error) {
	path := filepath.Join(dir, "hull.lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
		var b [32]byte
		n, _ := f.ReadAt(b[:], 0) // #nosec: the pid is only for the message
		return nil, fmt.Errorf("%s is in use by another engine (pid %s): %w",
			dir, strings.TrimSpace(string(b[:n])), errdefs.ErrFailedPrecondition)
	}
	if err := f.Truncate(0); err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f, nil
}

// unlockDir gives a directory back. To close the file would not do: a child that this
// process makes at the moment has a copy of the descriptor until it executes its program.
func unlockDir(f *os.File) error {
	return errors.Join(syscall.Flock(int(f.Fd()), syscall.LOCK_UN), f.Close())
}
