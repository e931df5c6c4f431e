package build

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

var errClosed = fmt.Errorf("the builder is closed: %w", errdefs.ErrUnavailable) //nolint:gochecknoglobals // a sentinel

// mountDir makes dir a mount of its own, private: whatever is mounted below it
// goes with one unmount, after a crash as well.
func mountDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make directory for mounts: %w", err)
	}
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		return errors.Join(fmt.Errorf("make %s private: %w", dir, err), unmountAll(dir))
	}
	for _, d := range []string{"tmp", "pool", "bind"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			return errors.Join(fmt.Errorf("make directory for mounts: %w", err), unmountAll(dir))
		}
	}
	return nil
}

// unmountAll ends what mountDir made, with all that is mounted below, and empties
// it. Nothing may be deleted through a mount that is still there.
func unmountAll(dir string) error {
	for {
		err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPERM) {
			break // not mounted (any more)
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
	if err := removeTree(dir); err != nil {
		return fmt.Errorf("empty %s: %w", dir, err)
	}
	return nil
}

// removeTree deletes what is below dir on dir's own file system.
func removeTree(dir string) error {
	var top unix.Stat_t
	if err := unix.Lstat(dir, &top); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	}
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		p := filepath.Join(dir, e.Name())
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil || st.Dev != top.Dev {
			continue
		}
		if e.IsDir() {
			if err := removeTree(p); err != nil {
				return err
			}
		}
		// A mount point that is still one says EBUSY and stays.
		if err := os.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) {
			return err
		}
	}
	return nil
}
