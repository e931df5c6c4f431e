package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	bk "github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/snapshot"
	"golang.org/x/sys/unix"

	"hull/internal/driver"
	"hull/internal/hull"
	"hull/internal/linux"
)

// rootfs describes a step's root file system as directories: it is mounted where
// the step runs, and not here.
func (e *executor) rootfs(ctx context.Context, root bk.Mount) (hull.Rootfs, hull.Release, error) {
	m, err := root.Src.Mount(ctx, false)
	if err != nil {
		return hull.Rootfs{}, nil, err
	}
	list, done, err := bare(m).Mount()
	if err != nil {
		return hull.Rootfs{}, nil, err
	}
	release := func(context.Context) error {
		if done == nil {
			return nil
		}
		return done()
	}
	fs, err := e.overlay(list)
	if err != nil {
		return hull.Rootfs{}, nil, errors.Join(err, release(ctx))
	}
	return fs, release, nil
}

// bare takes BuildKit's wrapper off, which would mount an overlay here to share
// it, and give us the mount. The wrapper's type is BuildKit's own, its embedded
// field is not.
func bare(m bk.MountableRef) bk.MountableRef {
	v := reflect.Indirect(reflect.ValueOf(m))
	if v.Kind() != reflect.Struct {
		return m
	}
	if f := v.FieldByName("Mountable"); f.IsValid() && f.CanInterface() {
		if inner, ok := f.Interface().(bk.MountableRef); ok {
			return inner
		}
	}
	return m
}

// overlay reads a snapshot's mounts (package snaps writes them).
func (e *executor) overlay(list []mount.Mount) (hull.Rootfs, error) {
	r := hull.Rootfs{Kind: hull.RootfsOverlay}
	if len(list) != 1 {
		return r, fmt.Errorf("%d mounts: %w", len(list), errdefs.ErrNotImplemented)
	}
	m := list[0]
	switch m.Type {
	case "bind", "rbind":
		empty := filepath.Join(e.cfg.Root, "empty")
		if err := os.MkdirAll(empty, 0o755); err != nil {
			return r, err
		}
		if slices.Contains(m.Options, "ro") {
			r.Lower = []string{m.Source}
			return r, nil
		}
		// Without layers below: its own directory is the upper one of an overlay.
		r.Lower, r.Upper = []string{empty}, m.Source
		r.Work = filepath.Join(filepath.Dir(m.Source), "work")
		return r, nil
	case "overlay":
		for _, o := range m.Options {
			k, v, _ := strings.Cut(o, "=")
			switch k {
			case "lowerdir":
				r.Lower = strings.Split(v, ":")
			case "upperdir":
				r.Upper = v
			case "workdir":
				r.Work = v
			}
		}
		return r, nil
	}
	return r, fmt.Errorf("mount of type %s: %w", m.Type, errdefs.ErrNotImplemented)
}

// bind is one mount of a step, ready here at Source.
type bind struct {
	source, target string
	readonly, file bool
	socket         bool
}

func (b bind) point() hull.MountPoint {
	return hull.MountPoint{Type: hull.MountBind, Source: b.source, Target: b.target, RW: !b.readonly, Propagation: "rprivate"}
}

// connectable reports a socket (RUN --mount=type=ssh) that a step would see and
// could not connect to.
func connectable(binds []bind, i driver.Info) error {
	for _, b := range binds {
		if b.socket && !slices.Contains(i.Abilities, driver.AbilitySockets) {
			return fmt.Errorf("mount on %s: a socket of the host cannot be used in isolation %s; leave --isolation out: %w", b.target, i.Name, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// binds makes a step's mounts ready below our own mount point. The release is
// never nil.
func (e *executor) binds(ctx context.Context, mounts []bk.Mount) (list []bind, _ hull.Release, err error) {
	var undo []func() error
	release := func(context.Context) error {
		var errs []error
		for i := len(undo) - 1; i >= 0; i-- {
			errs = append(errs, undo[i]())
		}
		undo = nil
		return errors.Join(errs...)
	}
	for _, m := range mounts {
		b, done, err := e.bind(ctx, m)
		if done != nil {
			undo = append(undo, done)
		}
		if err != nil {
			return nil, release, fmt.Errorf("mount %s: %w", m.Dest, err)
		}
		list = append(list, b)
	}
	return list, release, nil
}

// bind mounts what m's source is, and picks what is selected in it by descriptor:
// no step that writes there at the same time can swap it for a link
// (CVE-2024-23651).
func (e *executor) bind(ctx context.Context, m bk.Mount) (bind, func() error, error) {
	b := bind{target: filepath.Clean("/" + m.Dest), readonly: m.Readonly}
	src, err := m.Src.Mount(ctx, m.Readonly)
	if err != nil {
		return b, nil, err
	}
	lm := snapshot.LocalMounter(src)
	dir, err := lm.Mount()
	if err != nil {
		return b, nil, err
	}
	done := lm.Unmount
	b.source = dir
	if sel := filepath.Clean("/" + m.Selector); sel != "/" {
		at, undo, err := e.pick(dir, sel)
		if err != nil {
			return b, done, err
		}
		done = func() error { return errors.Join(undo(), lm.Unmount()) }
		b.source = at
	}
	st, err := os.Stat(b.source)
	if err != nil {
		return b, done, err
	}
	b.file, b.socket = !st.IsDir(), st.Mode()&fs.ModeSocket != 0
	return b, done, nil
}

// pick bind mounts path below dir at a place of our own.
func (e *executor) pick(dir, path string) (string, func() error, error) {
	root, err := os.Open(dir)
	if err != nil {
		return "", nil, err
	}
	defer root.Close()
	f, err := linux.OpenInRoot(root, path, unix.O_PATH, 0)
	if err != nil {
		// As BuildKit words it: the path of the user, not ours.
		if errors.Is(err, fs.ErrNotExist) {
			return "", nil, &os.PathError{Op: "open", Path: path, Err: unix.ENOENT}
		}
		return "", nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", nil, err
	}
	at, err := os.MkdirTemp(filepath.Join(e.mnt, "bind"), "")
	if err != nil {
		return "", nil, err
	}
	target := filepath.Join(at, "m")
	if st.IsDir() {
		err = os.Mkdir(target, 0o700)
	} else {
		var t *os.File
		if t, err = os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); err == nil {
			err = t.Close()
		}
	}
	if err == nil {
		err = unix.Mount(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), target, "", unix.MS_BIND|unix.MS_REC, "")
	}
	if err != nil {
		return "", nil, errors.Join(err, os.Remove(target), os.Remove(at))
	}
	return target, func() error {
		if err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", target, err)
		}
		return errors.Join(os.Remove(target), os.Remove(at))
	}, nil
}
