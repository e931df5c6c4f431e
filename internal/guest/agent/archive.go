package agent

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"

	"hull/internal/files"
	"hull/internal/guest"
	"hull/internal/hull"
	"hull/internal/image/archive"
	"hull/internal/linux"
)

// archive moves files between the guest and the host, as tars. The monitor's
// side reads or writes the stream while the request is being answered.
func (s *server) archive(r *guest.Request, st [3]*guest.Stream) error {
	ctx := context.Background()
	if r.Op == guest.OpUpper {
		upper, err := os.Open(guest.UpperDir)
		if err != nil {
			return fmt.Errorf("open writable layer: %w", err)
		}
		defer upper.Close()
		return output(st[1], func(w io.Writer) error { return archive.PackDiff(ctx, w, upper) })
	}
	root, err := s.root(r.ID)
	if err != nil {
		return err
	}
	defer root.Close()
	if r.Op == guest.OpCopy {
		return output(st[1], func(w io.Writer) error {
			return files.Files{}.Pack(ctx, root, hull.CopyFromRequest{Path: r.Path, As: r.As}, w)
		})
	}
	q := hull.CopyToRequest{Path: r.Path, NoOverwriteDirNonDir: r.Keep}
	if r.User != "" {
		owner, err := files.Files{}.User(root, r.User)
		if err != nil {
			return err
		}
		q.Owner = &owner
	}
	return input(st[0], func(in io.Reader) error { return files.Files{}.Unpack(ctx, root, q, in) })
}

// root opens a container's root directory, or what it would be with id "".
func (s *server) root(id string) (*os.File, error) {
	if id == "" {
		f, err := linux.MountOverlay(linux.Overlay{Lower: []string{guest.RootDir}, Upper: guest.UpperDir, Work: guest.WorkDir})
		if err != nil {
			return nil, fmt.Errorf("open root file system: %w", err)
		}
		return f, nil
	}
	b, err := s.box(id)
	if err != nil {
		return nil, err
	}
	return b.run.Root()
}

func output(st *guest.Stream, pack func(io.Writer) error) error {
	if st == nil {
		return fmt.Errorf("archive without a stream: %w", errdefs.ErrInvalidArgument)
	}
	if err := pack(st); err != nil {
		return err // answer closes the stream
	}
	return st.Close()
}

func input(st *guest.Stream, unpack func(io.Reader) error) error {
	if st == nil {
		return fmt.Errorf("archive without a stream: %w", errdefs.ErrInvalidArgument)
	}
	if err := unpack(st); err != nil {
		return err
	}
	return st.Close()
}

func (s *server) stat(r *guest.Request) (any, int, error) {
	root, err := s.root(r.ID)
	if err != nil {
		return nil, 0, err
	}
	defer root.Close()
	st, err := files.Files{}.Stat(root, "/", r.Path)
	if err != nil {
		return nil, 0, err
	}
	return guest.FileStat{Name: st.Name, Size: st.Size, Mode: uint32(st.Mode), ModTime: st.Mtime.UnixNano(), LinkTarget: st.LinkTarget}, 0, nil
}
