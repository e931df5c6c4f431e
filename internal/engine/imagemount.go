package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"hull/internal/hull"
	"hull/internal/undo"
)

// A mount of type image shows an image's files, read-only. What it shows is held
// like a writable layer, under a name made of the container's, from create to
// remove: an image removed by force stays readable where it is mounted.

func imageBox(id string, n int) string { return id + hull.ImageMountInfix + strconv.Itoa(n) }

// holdImages resolves a new container's image mounts.
func (e *creation) holdImages(ctx context.Context, c *hull.Container, back *undo.Stack) error {
	for i := range c.Mounts {
		m := &c.Mounts[i]
		if m.Type != hull.MountImage {
			continue
		}
		img, err := e.images.Resolve(ctx, m.Spec.Source, c.Spec.Platform)
		if err != nil {
			return fmt.Errorf("mount image %s on %s: %w", m.Spec.Source, m.Target, err)
		}
		box := imageBox(c.ID, i)
		if err := e.images.Prepare(ctx, box, img, nil); err != nil {
			return fmt.Errorf("mount image %s on %s: %w", m.Spec.Source, m.Target, err)
		}
		back.Add("let image go", func(ctx context.Context) error { return e.images.Discard(ctx, box) })
		m.Source, m.RW = img.ID, false
	}
	return nil
}

// letImagesGo is the reverse of holdImages. It may be called twice.
func (e *base) letImagesGo(ctx context.Context, c hull.Container) error {
	var errs []error
	for i, m := range c.Mounts {
		if m.Type == hull.MountImage {
			errs = append(errs, e.images.Discard(ctx, imageBox(c.ID, i)))
		}
	}
	return errors.Join(errs...)
}

// showImages opens image mounts for a run: their Source is then what the driver
// binds, until the release. Their owners are ids'.
func (e *base) showImages(ctx context.Context, c hull.Container, ids hull.IDRange) (_ []hull.MountPoint, _ hull.Release, err error) {
	mounts := slices.Clone(c.Mounts)
	var open []*os.File
	release := func(context.Context) error {
		for _, f := range open {
			_ = f.Close() // a reference to a mount
		}
		open = nil
		return nil
	}
	for i := range mounts {
		m := &mounts[i]
		if m.Type != hull.MountImage {
			continue
		}
		f, err := e.images.OpenImage(ctx, imageBox(c.ID, i), m.Spec.Subpath, ids)
		if err != nil {
			return nil, nil, errors.Join(fmt.Errorf("mount image %s on %s: %w", m.Spec.Source, m.Target, err), release(ctx))
		}
		open = append(open, f)
		m.Source = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd())
	}
	return mounts, release, nil
}

// openMount opens what a mount point of a container that does not run shows.
func (e *base) openMount(ctx context.Context, c hull.Container, m hull.MountPoint) (*os.File, error) {
	if m.Type != hull.MountImage {
		return e.volumes.Open(ctx, m)
	}
	i := slices.IndexFunc(c.Mounts, func(o hull.MountPoint) bool { return o.Target == m.Target })
	return e.images.OpenImage(ctx, imageBox(c.ID, i), m.Spec.Subpath, hull.IDRange{})
}
