package volume

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	oPath        = 0x200000 // O_PATH, which package syscall lacks
	noFollow     = 0x8      // UMOUNT_NOFOLLOW, likewise
	releaseLimit = 10 * time.Second
)

// unmount takes everything off path that is mounted there. Nothing there is no
// error.
func unmount(path string) error {
	for {
		// MNT_DETACH: a process of the host that looks into it must not keep a
		// container from ending.
		err := syscall.Unmount(path, syscall.MNT_DETACH|noFollow)
		if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EPERM) && os.Geteuid() != 0 {
			return nil
		}
		if err != nil {
			return &os.PathError{Op: "unmount", Path: path, Err: err}
		}
	}
}

// diskUsage is the space that the files below path take, in bytes; a file with
// several names counts once. Mount points are not entered.
func diskUsage(ctx context.Context, path string) (int64, error) {
	type inode struct{ dev, ino uint64 }
	seen := map[inode]bool{}
	var dev uint64
	var total int64
	err := filepath.WalkDir(path, func(p string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		if err != nil {
			return err
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		if p == path {
			dev = st.Dev
		} else if st.Dev != dev {
			return skip(e)
		}
		id := inode{st.Dev, st.Ino}
		if st.Nlink > 1 && !e.IsDir() && seen[id] {
			return nil
		}
		seen[id] = true
		total += st.Blocks * 512
		return nil
	})
	return total, err
}

func skip(e fs.DirEntry) error {
	if e.IsDir() {
		return fs.SkipDir
	}
	return nil
}
