package linux

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// LoopDevice opens the loop device of a disk image: the one that has it already,
// else a new one. The kernel gives the device up when the last descriptor and the
// last mount of it are gone, so a killed process leaks none. One caller at a time
// for one image.
func LoopDevice(image string) (*os.File, error) {
	back, err := os.OpenFile(image, os.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer back.Close()
	var want unix.Stat_t
	if err := unix.Fstat(FD(back), &want); err != nil {
		return nil, err
	}
	if f := attachedLoop(image, &want); f != nil {
		return f, nil
	}
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("a disk image needs a loop device: %w", err)
	}
	defer ctl.Close()
	for range 64 { // somebody else may take the free one first
		n, err := unix.IoctlRetInt(FD(ctl), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find a free loop device: %w", err)
		}
		dev, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		c := unix.LoopConfig{Fd: uint32(FD(back)), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}} //nolint:gosec // a descriptor
		copy(c.Info.File_name[:len(c.Info.File_name)-1], image)
		err = unix.IoctlLoopConfigure(FD(dev), &c)
		if err == nil {
			return dev, nil
		}
		dev.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("attach %s to a loop device: %w", image, err)
		}
	}
	return nil, fmt.Errorf("attach %s to a loop device: %w", image, unix.EBUSY)
}

// attachedLoop finds the loop device that has the image's file. nil = none.
func attachedLoop(image string, want *unix.Stat_t) *os.File {
	names, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil || filepath.Base(strings.TrimSpace(string(b))) != filepath.Base(image) {
			continue
		}
		dev, err := os.OpenFile("/dev/"+filepath.Base(filepath.Dir(filepath.Dir(name))), os.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		// Open, it cannot become another image's.
		info, err := unix.IoctlLoopGetStatus64(FD(dev))
		if err == nil && info.Inode == want.Ino && info.Device == want.Dev {
			return dev
		}
		dev.Close()
	}
	return nil
}
