package build

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// sourceDateEpoch is the build argument, known to all builders, that makes an
// image's dates: seconds since 1970.
const sourceDateEpoch = "SOURCE_DATE_EPOCH"

// normalise gives the files of a context what a fresh checkout and its umask
// would otherwise decide: dates, and the permissions that git knows.
func normalise(dir, epoch string) error {
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil || seconds < 0 {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("build argument %s=%q: it is a number of seconds since 1970", sourceDateEpoch, epoch))
	}
	ts := unix.NsecToTimespec(time.Unix(seconds, 0).UnixNano())
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Type()&fs.ModeSymlink == 0 {
			info, err := d.Info()
			if err != nil {
				return err
			}
			mode := fs.FileMode(0o644)
			if d.IsDir() || info.Mode()&0o111 != 0 {
				mode = 0o755
			}
			if err := os.Chmod(path, mode); err != nil {
				return err
			}
		}
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	})
	if err != nil {
		return fmt.Errorf("build context: %w", err)
	}
	return nil
}
