package linux

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Numbers of linux/fs.h and linux/dqblk_xfs.h that x/sys lacks.
const (
	fsIocGetXattr     = 0x801c581f // FS_IOC_FSGETXATTR
	fsIocSetXattr     = 0x401c5820 // FS_IOC_FSSETXATTR
	xflagProjInherit  = 0x200
	prjQuota          = 2
	qXSetLimit        = 'X'<<8 + 4 // Q_XSETQLIM
	qXGetQuota        = 'X'<<8 + 3 // Q_XGETQUOTA
	quotaBlock        = 512        // bytes, unit of fs_disk_quota
	quotaVersion      = 1          // FS_DQUOT_VERSION
	quotaProject      = 2          // FS_PROJ_QUOTA
	quotaHardAndSoft  = 1<<2 | 1<<3
	firstProjectOfUse = 1 << 20 // leaves small numbers to the machine's owner
)

// fsxattr is struct fsxattr.
type fsxattr struct {
	flags, extsize, nextents, projid, cowextsize uint32
	_                                            [8]byte
}

// diskQuota is struct fs_disk_quota.
type diskQuota struct {
	version                            int8
	flags                              int8
	fieldmask                          uint16
	id                                 uint32
	blkHard, blkSoft, inoHard, inoSoft uint64
	bcount, icount                     uint64
	_                                  [56]byte
}

// ProjectOf is the quota project of an open directory, 0 = none.
func ProjectOf(dir *os.File) (uint32, error) {
	var x fsxattr
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(FD(dir)), fsIocGetXattr, uintptr(unsafe.Pointer(&x))); e != 0 {
		return 0, &os.PathError{Op: "get project", Path: dir.Name(), Err: e}
	}
	return x.projid, nil
}

// LimitTree bounds what an empty directory and all that is made below it may take
// on disk, in bytes, as a quota project of its own: project, or when that is 0 a
// free one. ErrNoQuota when its file system has no project quota, or has it off.
func LimitTree(dir *os.File, project uint32, size int64) error {
	limit := func(id uint32) error {
		q := diskQuota{version: quotaVersion, flags: quotaProject, fieldmask: quotaHardAndSoft, id: id}
		q.blkHard = uint64(size+quotaBlock-1) / quotaBlock
		q.blkSoft = q.blkHard
		return quotactl(dir, qXSetLimit, id, &q)
	}
	var err error
	if project == 0 {
		if project, err = freeProject(dir); err != nil {
			return err
		}
	}
	if err := limit(project); err != nil {
		return noQuota(err)
	}
	var x fsxattr
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(FD(dir)), fsIocGetXattr, uintptr(unsafe.Pointer(&x))); e != 0 {
		return noQuota(e)
	}
	x.projid, x.flags = project, x.flags|xflagProjInherit
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(FD(dir)), fsIocSetXattr, uintptr(unsafe.Pointer(&x))); e != 0 {
		return noQuota(e)
	}
	return nil
}

// HasQuota says whether the file system of an open directory has project quota
// switched on.
func HasQuota(dir *os.File) bool {
	_, err := freeProject(dir)
	return err == nil
}

// freeProject is a project that has neither limit nor use. Ask with one caller
// at a time for a file system.
func freeProject(dir *os.File) (uint32, error) {
	for id := uint32(firstProjectOfUse); id != 0; id++ {
		var q diskQuota
		err := quotactl(dir, qXGetQuota, id, &q)
		switch {
		case errors.Is(err, unix.ENOENT): // XFS: never used
			return id, nil
		case err != nil:
			return 0, noQuota(err)
		case q.blkHard == 0 && q.bcount == 0 && q.icount == 0:
			return id, nil
		}
	}
	return 0, fmt.Errorf("no quota project is free: %w", unix.ENOSPC)
}

// ErrNoQuota says that a file system cannot bound a directory tree.
var ErrNoQuota = errors.New("the file system has no project quota") //nolint:gochecknoglobals // a sentinel

func noQuota(err error) error {
	for _, e := range []error{unix.ENOSYS, unix.ESRCH, unix.ENOTTY, unix.EOPNOTSUPP, unix.EINVAL, unix.ENOTBLK, unix.EPERM, unix.ENOTSUP} {
		if errors.Is(err, e) {
			return fmt.Errorf("%w: %w", ErrNoQuota, err)
		}
	}
	return err
}

// FreeTree ends a project's limit; its directory has been removed.
func FreeTree(anyDir *os.File, project uint32) error {
	q := diskQuota{version: quotaVersion, flags: quotaProject, fieldmask: quotaHardAndSoft, id: project}
	return quotactl(anyDir, qXSetLimit, project, &q)
}

// quotactl names the file system by a descriptor (kernel 5.14), so that no device
// node is needed.
func quotactl(f *os.File, cmd int, id uint32, q *diskQuota) error {
	_, _, e := unix.Syscall6(unix.SYS_QUOTACTL_FD, uintptr(FD(f)), uintptr(cmd<<8|prjQuota), uintptr(id), uintptr(unsafe.Pointer(q)), 0, 0)
	if e != 0 {
		return os.NewSyscallError("quotactl_fd", e)
	}
	return nil
}
