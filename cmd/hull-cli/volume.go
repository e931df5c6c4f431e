package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/moby/go-archive"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/volume"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hull/api"
	"hull/cmd/hull-cli/internal/stream"
	"hull/cmd/internal/route"
)

// volumeCommands are what hull has for volumes beyond docker.
func volumeCommands(c command.Cli) []*cobra.Command {
	v := volumes{c}
	var followLink, copyUIDGID bool
	var output string
	cp := &cobra.Command{
		Use: "cp [OPTIONS] VOLUME:PATH DEST_PATH|-\n\thull volume cp [OPTIONS] SRC_PATH|- VOLUME:PATH", Short: "Copy files between a volume and the local file system",
		Args: cli.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return v.cp(cmd.Context(), args[0], args[1], followLink, copyUIDGID)
		},
		DisableFlagsInUseLine: true,
	}
	cp.Flags().BoolVarP(&followLink, "follow-link", "L", false, "Always follow symlinks in SRC_PATH")
	cp.Flags().BoolVarP(&copyUIDGID, "archive", "a", false, "Archive mode (copy all uid/gid information)")
	export := &cobra.Command{
		Use: "export [OPTIONS] VOLUME", Short: "Write a volume's files as a tar archive", Args: cli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return v.export(cmd.Context(), args[0], output) },
	}
	export.Flags().StringVarP(&output, "output", "o", "", "Write to a file, instead of STDOUT")
	return []*cobra.Command{
		cp, export,
		{
			Use: "import VOLUME FILE|-", Short: "Unpack a tar archive into a volume, which is made if missing", Args: cli.ExactArgs(2),
			RunE: func(cmd *cobra.Command, args []string) error { return v.unpack(cmd.Context(), args[0], args[1]) },
		},
		{
			Use: "rename VOLUME NEW_NAME", Short: "Rename a volume that no container uses", Args: cli.ExactArgs(2),
			RunE: func(cmd *cobra.Command, args []string) error {
				return v.verb(cmd.Context(), "rename", args[0], args[1])
			},
		},
		{
			Use: "clone VOLUME NEW_NAME", Short: "Copy a volume; data is shared until written where the file system can", Args: cli.ExactArgs(2),
			RunE: func(cmd *cobra.Command, args []string) error { return v.verb(cmd.Context(), "clone", args[0], args[1]) },
		},
		{
			Use: "snapshot VOLUME [NAME]", Short: "Copy a volume as it is now; without a name, to one made of the time", Args: cli.RequiresRangeArgs(1, 2),
			RunE: func(cmd *cobra.Command, args []string) error {
				return v.verb(cmd.Context(), "snapshot", args[0], append(args, "")[1])
			},
		},
	}
}

// volumes speaks hull's own routes for volumes.
type volumes struct{ cli command.Cli }

// do sends a request. The body of a good answer is the caller's to close.
func (v volumes) do(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Response, error) {
	return route.Do(ctx, v.cli.Client().Dialer(), method, path+"?"+query.Encode(), body)
}

func (v volumes) verb(ctx context.Context, verb, name, to string) error {
	resp, err := v.do(ctx, http.MethodPost, api.VolumePath(name, verb), url.Values{"name": {to}}, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	var made volume.Volume
	if err := route.Decode(resp.Body, &made); err != nil {
		return err
	}
	_, err = fmt.Fprintln(v.cli.Out(), made.Name)
	return err
}

// splitVolume parts VOLUME:PATH; name "" = a path of the client's.
func splitVolume(arg string) (name, path string) {
	if filepath.IsAbs(arg) || strings.HasPrefix(arg, ".") {
		return "", arg
	}
	if name, path, ok := strings.Cut(arg, ":"); ok {
		return name, path
	}
	return "", arg
}

func (v volumes) cp(ctx context.Context, from, to string, followLink, copyUIDGID bool) error {
	src, srcPath := splitVolume(from)
	dst, dstPath := splitVolume(to)
	switch {
	case src != "" && dst != "":
		return errors.New("copying between volumes is not supported; clone one, or copy through a local directory")
	case src != "":
		return v.copyFrom(ctx, src, srcPath, dstPath)
	case dst != "":
		return v.copyTo(ctx, dst, srcPath, dstPath, followLink, copyUIDGID)
	}
	return errors.New("one of source and destination must be VOLUME:PATH")
}

// local makes a path of the client's absolute and keeps what its end says.
func local(path string) (string, error) {
	abs, err := filepath.Abs(path)
	return archive.PreserveTrailingDotOrSeparator(abs, path), err
}

func pathStat(resp *http.Response) (st container.PathStat, err error) {
	b, err := base64.StdEncoding.DecodeString(resp.Header.Get("X-Docker-Container-Path-Stat"))
	if err == nil {
		err = json.Unmarshal(b, &st)
	}
	return st, err
}

func (v volumes) copyFrom(ctx context.Context, name, path, dst string) error {
	resp, err := v.do(ctx, http.MethodGet, api.VolumePath(name, "archive"), url.Values{"path": {path}}, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	if dst == "-" {
		_, err = io.Copy(v.cli.Out(), resp.Body)
		return err
	}
	st, err := pathStat(resp)
	if err != nil {
		return fmt.Errorf("read the engine's answer: %w", err)
	}
	if dst, err = local(dst); err != nil {
		return err
	}
	return archive.CopyTo(resp.Body, archive.CopyInfo{Path: path, Exists: true, IsDir: st.Mode.IsDir()}, dst)
}

func (v volumes) copyTo(ctx context.Context, name, src, dst string, followLink, copyUIDGID bool) error {
	q := url.Values{"path": {dst}, "noOverwriteDirNonDir": {"true"}}
	if copyUIDGID {
		q.Set("copyUIDGID", "true")
	}
	if src == "-" {
		return v.put(ctx, name, q, v.cli.In())
	}
	src, err := local(src)
	if err != nil {
		return err
	}
	info, err := archive.CopyInfoSourcePath(src, followLink)
	if err != nil {
		return err
	}
	to := archive.CopyInfo{Path: dst}
	resp, err := v.do(ctx, http.MethodHead, api.VolumePath(name, "archive"), q, nil)
	switch {
	case err == nil:
		_ = resp.Body.Close() // of a HEAD
		st, err := pathStat(resp)
		if err != nil {
			return fmt.Errorf("read the engine's answer: %w", err)
		}
		to.Exists, to.IsDir = true, st.Mode.IsDir()
	case !errdefs.IsNotFound(err):
		return err
	}
	tar, err := archive.TarResource(info)
	if err != nil {
		return err
	}
	defer tar.Close() //nolint:errcheck // only read
	dir, body, err := archive.PrepareArchiveCopy(tar, info, to)
	if err != nil {
		return err
	}
	defer body.Close() //nolint:errcheck // only read
	q.Set("path", dir)
	return v.put(ctx, name, q, body)
}

func (v volumes) put(ctx context.Context, name string, q url.Values, tar io.Reader) error {
	resp, err := v.do(ctx, http.MethodPut, api.VolumePath(name, "archive"), q, tar)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

func (v volumes) export(ctx context.Context, name, output string) error {
	return stream.SaveArchive(v.cli, output, func() (*http.Response, error) {
		return v.do(ctx, http.MethodGet, api.VolumePath(name, "archive"), url.Values{"path": {"/."}}, nil)
	})
}

func (v volumes) unpack(ctx context.Context, name, file string) error {
	in, err := stream.Open(v.cli, file)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // only read
	if _, err := v.cli.Client().VolumeCreate(ctx, client.VolumeCreateOptions{Name: name}); err != nil {
		return err
	}
	return v.put(ctx, name, url.Values{"path": {"/"}, "copyUIDGID": {"true"}}, in) // as export found them
}
