package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"hull/api"
	"hull/cmd/internal/route"
	"hull/packaging/kernel"
)

// vmCommand is "hull vm": what machines need and containers do not.
func vmCommand(root *cobra.Command, c command.Cli) *cobra.Command {
	k := kernels{c, root}
	vm := &cobra.Command{Use: "vm", Short: "Manage what isolation \"vm\" needs", Args: cli.NoArgs, RunE: command.ShowHelp(c.Err())}
	cmd := &cobra.Command{Use: "kernel", Short: "Manage the kernel of virtual machines", Args: cli.NoArgs, RunE: command.ShowHelp(c.Err())}
	cmd.AddCommand(
		&cobra.Command{
			Use: "install [FILE|DIRECTORY|IMAGE]", Short: "Install a kernel for virtual machines", Args: cli.RequiresMaxArgs(1),
			Long: `Install a kernel for virtual machines, in place of the one that is installed.

Without an argument it is Debian's for clouds, which is downloaded by apt. A file is
a kernel for x86-64; if it is not hull's own, hull-kernel.json and the directory
modules lie beside it. A directory, or an image, has all of them, the kernel as vmlinux.`,
			RunE: func(cmd *cobra.Command, args []string) error {
				return k.install(cmd.Context(), append(args, "")[0])
			},
		},
		&cobra.Command{
			Use: "rm", Aliases: []string{"remove"}, Short: "Remove the installed kernel", Args: cli.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return k.remove(cmd.Context()) },
		})
	vm.AddCommand(cmd)
	return vm
}

// kernels speaks hull's own route for the guest kernel.
type kernels struct {
	cli  command.Cli
	root *cobra.Command
}

func (k kernels) install(ctx context.Context, from string) error {
	if from == "" {
		path, err := k.debian(ctx)
		if err != nil {
			return err
		}
		from = path
	}
	st, err := os.Stat(from)
	switch {
	case err == nil && st.IsDir():
		return k.installFile(ctx, filepath.Join(from, "vmlinux"))
	case err == nil:
		return k.installFile(ctx, from)
	case filepath.IsAbs(from) || strings.HasPrefix(from, "."):
		return err
	}
	return k.installImage(ctx, from)
}

// debian unpacks the distribution's kernel and returns its path.
func (k kernels) debian(ctx context.Context) (string, error) {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return "", errors.New("this host has no apt to download Debian's kernel with: name a kernel's file, or an image of one")
	}
	cmd := exec.CommandContext(ctx, "bash", "-s")
	cmd.Stdin, cmd.Stderr = strings.NewReader(kernel.Debian), k.cli.Err()
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("download Debian's kernel: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// installFile sends a kernel and what lies beside it.
func (k kernels) installFile(ctx context.Context, path string) error {
	if _, err := os.Stat(path); err != nil {
		return err
	}
	r, w := io.Pipe()
	defer r.Close() //nolint:errcheck // whoever writes on is told
	go func() { w.CloseWithError(packKernel(w, path)) }()
	return k.send(ctx, r)
}

// packKernel writes a kernel, its description and modules as api.KernelPath wants them.
func packKernel(w io.Writer, path string) error {
	dir := filepath.Dir(path)
	beside, err := filepath.Glob(filepath.Join(dir, "modules", "*"))
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	if err := packFile(t, path, "vmlinux"); err != nil {
		return err
	}
	if err := packFile(t, filepath.Join(dir, api.KernelInfo), api.KernelInfo); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, m := range beside {
		if err := packFile(t, m, "modules/"+filepath.Base(m)); err != nil {
			return err
		}
	}
	return t.Close()
}

func packFile(t *tar.Writer, path, name string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: st.Size()}); err != nil {
		return err
	}
	_, err = io.Copy(t, f)
	return err
}

// installImage sends the files of an image, which is pulled when it is missing.
func (k kernels) installImage(ctx context.Context, image string) (err error) {
	engine := k.cli.Client()
	create := func() (client.ContainerCreateResult, error) {
		// It never runs; an image that is only files names no command.
		return engine.ContainerCreate(ctx, client.ContainerCreateOptions{Config: &container.Config{Image: image, Cmd: []string{"/vmlinux"}}})
	}
	made, err := create()
	if errdefs.IsNotFound(err) {
		pull, _, ferr := k.root.Find([]string{"pull"})
		if ferr != nil {
			return ferr
		}
		pull.SetContext(ctx)
		if err := pull.RunE(pull, []string{image}); err != nil {
			return err
		}
		made, err = create()
	}
	if err != nil {
		return err
	}
	defer func() {
		_, rerr := engine.ContainerRemove(context.WithoutCancel(ctx), made.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		err = errors.Join(err, rerr)
	}()
	files, err := engine.ContainerExport(ctx, made.ID, client.ContainerExportOptions{})
	if err != nil {
		return err
	}
	defer files.Close() //nolint:errcheck // only read
	return k.send(ctx, files)
}

func (k kernels) send(ctx context.Context, archive io.Reader) error {
	resp, err := route.Do(ctx, k.cli.Client().Dialer(), http.MethodPut, api.KernelPath, archive)
	if err != nil {
		return refused(err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	var made api.Kernel
	if err := route.Decode(resp.Body, &made); err != nil {
		return err
	}
	_, err = fmt.Fprintln(k.cli.Out(), made.Name)
	return err
}

func (k kernels) remove(ctx context.Context) error {
	resp, err := route.Do(ctx, k.cli.Client().Dialer(), http.MethodDelete, api.KernelPath, nil)
	if err != nil {
		return refused(err)
	}
	return resp.Body.Close() // without a body
}
