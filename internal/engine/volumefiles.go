package engine

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"errors"

	"github.com/containerd/errdefs"

	"hull/internal/hull"
)

// The files of a volume, without a container.

func inVolume(p string) string {
	clean := path.Join("/", p)
	if strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") {
		clean += "/."
	}
	return clean
}

func notInVolume(err error, name, p string) error {
	if errdefs.IsNotFound(err) || errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("could not find the file %s in volume %s: %w", p, name, errdefs.ErrNotFound)
	}
	return err
}

// VolumeStat describes a file in a volume.
func (e *copies) VolumeStat(ctx context.Context, name, p string) (hull.PathStat, error) {
	root, err := e.volumes.OpenVolume(ctx, name)
	if err != nil {
		return hull.PathStat{}, err
	}
	defer root.Close()
	st, err := e.files.Stat(root, "/", inVolume(p))
	return st, notInVolume(err, name, p)
}

// VolumeCopyFrom packs a path of a volume as a tar. The reader must be closed.
func (e *copies) VolumeCopyFrom(ctx context.Context, name, p string) (io.ReadCloser, hull.PathStat, error) {
	root, err := e.volumes.OpenVolume(ctx, name)
	if err != nil {
		return nil, hull.PathStat{}, err
	}
	st, err := e.files.Stat(root, "/", inVolume(p))
	if err != nil {
		return nil, st, errors.Join(notInVolume(err, name, p), root.Close())
	}
	r, w := io.Pipe()
	e.runs.wg.Go(func() {
		defer root.Close()
		w.CloseWithError(e.files.Pack(ctx, root, hull.CopyFromRequest{Path: inVolume(p), As: p}, w))
	})
	return r, st, nil
}

// VolumeCopyTo unpacks a tar below a directory of a volume.
func (e *copies) VolumeCopyTo(ctx context.Context, name string, r hull.CopyToRequest, tar io.Reader) error {
	root, err := e.volumes.OpenVolume(ctx, name)
	if err != nil {
		return err
	}
	defer root.Close()
	asked := r.Path
	r.Path = inVolume(asked)
	st, err := e.files.Stat(root, "/", r.Path)
	if err != nil {
		return notInVolume(err, name, asked)
	}
	if !st.Mode.IsDir() && st.LinkTarget == "" {
		return fmt.Errorf("extraction point %s is not a directory: %w", asked, errdefs.ErrInvalidArgument)
	}
	if !r.CopyUIDGID {
		r.Owner = &hull.FileOwner{}
	}
	if err := e.files.Unpack(ctx, root, r, tar); err != nil {
		return fmt.Errorf("copy to volume %s: %w", name, err)
	}
	return nil
}
