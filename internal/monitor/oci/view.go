package oci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hull/internal/linux"
)

// maxList bounds a runtime's list of processes.
const maxList = 4 << 20

// root opens the container's root directory as it looks inside, with what of the
// host is bound there. gVisor's mounts are in no namespace of the host, so they are
// made again for whoever looks, in a namespace that nobody else is in: first use
// makes it, and it stays as long as the container. What lies in the sandbox's
// memory only (tmpfs, /proc) is not in it.
func (c *container) root() (*os.File, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return nil, fmt.Errorf("container %s has ended: %w", c.id, errdefs.ErrNotFound)
	}
	if c.view == nil {
		if err := c.makeView(); err != nil {
			return nil, err
		}
	}
	fd, err := unix.FcntlInt(uintptr(linux.FD(c.top)), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), "root"), nil
}

func (c *container) makeView() (err error) {
	var tree *os.File
	sources := make([]*os.File, len(c.binds))
	defer func() { linux.CloseAll(sources) }()
	if err := c.seat.do(func() (err error) {
		if tree, err = linux.OpenTree(filepath.Join(c.dir, "rootfs"), false); err != nil {
			return fmt.Errorf("open root file system: %w", err)
		}
		for i, b := range c.binds {
			if b.hidden() {
				continue
			}
			if sources[i], err = b.open(); err != nil {
				return fmt.Errorf("open what is mounted on %s: %w", b.Target, err)
			}
		}
		return nil
	}); err != nil {
		return err
	}
	defer tree.Close()
	v := newSeat()
	defer func() {
		if err != nil {
			v.end()
		}
	}()
	at := filepath.Join(c.dir, "view")
	if err := os.Mkdir(at, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	var top *os.File
	err = v.do(func() error {
		if err := v.leave(); err != nil {
			return err
		}
		if err := linux.Attach(tree, at); err != nil {
			return fmt.Errorf("attach root file system: %w", err)
		}
		if top, err = os.OpenFile(at, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			return err
		}
		for i, b := range c.binds {
			if sources[i] == nil {
				continue
			}
			if err := b.attach(sources[i], top); err != nil {
				top.Close()
				return fmt.Errorf("show %s: %w", b.Target, err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.view, c.top = v, top
	return nil
}

// hidden says whether b lies below something that is in the sandbox's memory, and
// so has no place in a view.
func (b Bind) hidden() bool {
	return slices.ContainsFunc([]string{"/proc", "/dev", "/sys"}, func(p string) bool {
		return b.Target == p || strings.HasPrefix(b.Target, p+"/")
	})
}

// open clones what b shows, detached.
func (b Bind) open() (*os.File, error) {
	src, err := linux.OpenTree(b.Source, b.Recursive)
	if err != nil || !b.ReadOnly {
		return src, err
	}
	flags := uint(unix.AT_EMPTY_PATH)
	if b.Recursive {
		flags |= unix.AT_RECURSIVE
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(linux.FD(src), "", flags, &attr); err != nil {
		src.Close()
		return nil, os.NewSyscallError("mount_setattr", err)
	}
	return src, nil
}

// attach mounts src, what b shows, below root. The mount point is there: the runtime
// made it.
func (b Bind) attach(src, root *os.File) error {
	dst, err := linux.OpenInRoot(root, b.Target, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dst.Close()
	err = unix.MoveMount(linux.FD(src), "", linux.FD(dst), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	return os.NewSyscallError("move_mount", err)
}
