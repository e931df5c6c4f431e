package build

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

var errClosed = fmt.Errorf("the builder is closed: %w", errdefs.ErrUnavailable) //nolint:gochecknoglobals // a sentinel

// mountPoints makes the directory below which everything is mounted for a build,
// so that what a crash leaves is found by its place.
func mountPoints(dir string) error {
	if err := unmountAll(dir); err != nil {
		return err
	}
	for _, d := range []string{"tmp", "pool", "bind"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return fmt.Errorf("make directory for mounts: %w", err)
		}
	}
	return nil
}

// unmountAll ends whatever is mounted below dir, and empties it. Nothing may be
// deleted through a mount that is still there.
func unmountAll(dir string) error {
	if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	list, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return fmt.Errorf("list mounts of builds: %w", err)
	}
	for i := len(list) - 1; i >= 0; i-- {
		err := unix.Unmount(list[i].Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount %s: %w", list[i].Mountpoint, err)
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
