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
)

// archive moves files between the guest and the host, as tars. The monitor's
// side reads or writes the stream while the request is being answered.
func (s *server) archive(r *guest.Request, st [3]*guest.Stream) error {
	ctx := context.Background()
	if r.Op == guest.OpUpper || r.Op == guest.OpFill {
		upper, err := os.Open(guest.UpperDir)
		if err != nil {
			return fmt.Errorf("open writable layer: %w", err)
		}
		defer upper.Close()
		if r.Op == guest.OpUpper {
			return output(st[1], func(w io.Writer) error { return archive.PackDiff(ctx, w, upper) })
		}
		return input(st[0], func(in io.Reader) error {
			_, err := archive.Unpack(ctx, in, upper, archive.Options{})
			return err
		})
	}
	b, err := s.box(r.ID)
	if err != nil {
		return err
	}
	root, err := b.run.Root()
	if err != nil {
		return err
	}
	defer root.Close()
	if r.Op == guest.OpCopy {
		return output(st[1], func(w io.Writer) error { return files.Files{}.Pack(ctx, root, hull.CopyFromRequest{Path: r.Path}, w) })
	}
	return input(st[0], func(in io.Reader) error {
		return files.Files{}.Unpack(ctx, root, hull.CopyToRequest{Path: r.Path, NoOverwriteDirNonDir: r.Sig&1 != 0}, in)
	})
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
	b, err := s.box(r.ID)
	if err != nil {
		return nil, 0, err
	}
	root, err := b.run.Root()
	if err != nil {
		return nil, 0, err
	}
	defer root.Close()
	st, err := files.Files{}.Stat(root, r.Path)
	if err != nil {
		return nil, 0, err
	}
	return guest.FileStat{Name: st.Name, Size: st.Size, Mode: uint32(st.Mode), ModTime: st.Mtime.UnixNano(), LinkTarget: st.LinkTarget}, 0, nil
}
