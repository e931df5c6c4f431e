package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/connhelper/commandconn"
	"github.com/docker/cli/cli/connhelper/ssh"
	"github.com/docker/cli/cli/streams"
	"github.com/docker/go-units"
	"github.com/moby/moby/client/pkg/jsonmessage"
	"github.com/spf13/cobra"

	"hull/api"
	"hull/cmd/hull-cli/internal/stream"
	"hull/cmd/internal/launch"
	"hull/cmd/internal/route"
)

// share adds the ways from one engine or registry to another.
func share(root *cobra.Command, c command.Cli) {
	s := sharing{c}
	if img, rest, err := root.Find([]string{"image"}); err == nil && len(rest) == 0 {
		img.AddCommand(s.copyCommand(), s.signCommand(), s.verifyCommand())
	}
	for _, path := range [][]string{{"push"}, {"image", "push"}, {"pull"}, {"image", "pull"}} {
		if cmd, rest, err := root.Find(path); err == nil && len(rest) == 0 {
			s.overSSH(cmd)
		}
	}
	for _, path := range [][]string{{"save"}, {"image", "save"}} {
		if cmd, rest, err := root.Find(path); err == nil && len(rest) == 0 {
			s.withDelta(cmd)
		}
	}
	root.AddCommand(registryCommand(), s.trustCommand())
}

// registryCommand becomes hull-registry, which reads the flags.
func registryCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "registry COMMAND", Short: "Serve images to a team", Args: cli.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(&cobra.Command{
		Use: "serve [OPTIONS]", Short: "Serve a registry until interrupted", DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			program, err := launch.Program("hull-registry", "")
			if err != nil {
				return err
			}
			return syscall.Exec(program, append([]string{"hull registry", "serve"}, args...), os.Environ())
		},
	})
	return cmd
}

// sharing moves images.
type sharing struct{ cli command.Cli }

func (s sharing) copyCommand() *cobra.Command {
	var platform string
	cmd := &cobra.Command{
		Use: "copy [OPTIONS] SOURCE TARGET", Short: "Copy an image from one registry to another without unpacking it", Args: cli.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.copy(cmd.Context(), args[0], args[1], platform)
		},
	}
	cmd.Flags().StringVar(&platform, "platform", "", "Copy only this platform's image (default: all, with what is said about them)")
	return cmd
}

func (s sharing) copy(ctx context.Context, source, target, platform string) error {
	c := api.ImageCopy{Source: source, Target: target, Platform: platform}
	var err error
	if c.SourceAuth, err = command.RetrieveAuthTokenFromImage(s.cli.ConfigFile(), source); err != nil {
		return err
	}
	if c.TargetAuth, err = command.RetrieveAuthTokenFromImage(s.cli.ConfigFile(), target); err != nil {
		return err
	}
	body, err := route.Body(c)
	if err != nil {
		return err
	}
	resp, err := route.Do(ctx, s.cli.Client().Dialer(), http.MethodPost, api.ImagesCopyPath, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	return show(resp.Body, s.cli.Out())
}

// show draws an engine's progress until its end.
func show(body io.Reader, out *streams.Out) error {
	return jsonmessage.DisplayJSONMessagesStream(body, out, out.FD(), out.IsTerminal(), nil)
}

// overSSH lets a push or pull name another engine: "push ssh://host IMAGE...".
func (s sharing) overSSH(cmd *cobra.Command) {
	remote := func(args []string) bool { return len(args) > 0 && strings.HasPrefix(args[0], "ssh://") }
	push := cmd.Name() == "push"
	args, run := cmd.Args, cmd.RunE
	cmd.Use += "\n\thull " + cmd.Name() + " [OPTIONS] ssh://[USER@]HOST[:PORT] NAME[:TAG]..."
	cmd.Args = func(cmd *cobra.Command, a []string) error {
		if remote(a) {
			return cli.RequiresMinArgs(2)(cmd, a)
		}
		return args(cmd, a)
	}
	cmd.RunE = func(cmd *cobra.Command, a []string) error {
		if !remote(a) {
			return run(cmd, a)
		}
		var platforms []string
		if f := cmd.Flags().Lookup("platform"); f != nil && f.Changed {
			platforms = []string{f.Value.String()}
		}
		there, err := sshEngine(a[0])
		if err != nil {
			return err
		}
		out := s.cli.Out()
		if f := cmd.Flags().Lookup("quiet"); f != nil && f.Changed {
			out = streams.NewOut(io.Discard)
		}
		t := transfer{from: s.cli.Client().Dialer(), to: there, names: a[1:], platforms: platforms, out: out}
		if !push {
			t.from, t.to = t.to, t.from
		}
		return t.run(cmd.Context())
	}
}

// findEngine is what runs on the far host: its hull or, where there is none, its
// docker.
const findEngine = `if command -v hull >/dev/null 2>&1; then exec hull system dial-stdio; fi; exec docker system dial-stdio`

// sshEngine connects to the engine of a host, through the ssh program and what
// the user has configured for it.
func sshEngine(raw string) (route.Dialer, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, err
	}
	spec, err := ssh.NewSpec(u)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", raw, err)
	}
	if strings.Trim(spec.Path, "/") != "" {
		return nil, fmt.Errorf("%s: a path is not supported: the far host's own engine is used; name images after the address", raw)
	}
	args, err := spec.Command([]string{"-o", "ConnectTimeout=30", "-T"}, "sh", "-c", findEngine)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (net.Conn, error) { return commandconn.New(ctx, "ssh", args...) }, nil
}

// transfer brings images from one engine to another: only the layers that are
// missing there.
type transfer struct {
	from, to         route.Dialer
	names, platforms []string
	out              *streams.Out
}

func (t transfer) run(ctx context.Context) error {
	omit, err := t.known(ctx)
	if err != nil {
		return err
	}
	body, err := route.Body(api.ImageArchive{Names: t.names, Platforms: t.platforms, Omit: omit})
	if err != nil {
		return err
	}
	resp, err := route.Do(ctx, t.from, http.MethodPost, api.ImagesArchivePath, body)
	if errdefs.IsNotFound(err) && !t.isHull(ctx, t.from) {
		return errors.New("the sending engine is not hull: use its own save and 'hull load'")
	}
	if err != nil {
		return fmt.Errorf("send images: %w", err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	loaded, err := route.Do(ctx, t.to, http.MethodPost, "/images/load?quiet=0", io.NopCloser(resp.Body))
	if err != nil {
		return fmt.Errorf("receive images: %w", err)
	}
	defer loaded.Body.Close() //nolint:errcheck // only read
	return show(loaded.Body, t.out)
}

// known lists the layers that the receiver has.
func (t transfer) known(ctx context.Context) ([]string, error) {
	var have api.ImageLayers
	err := route.Post(ctx, t.from, api.ImagesLayersPath, api.ImageNames{Names: t.names, Platforms: t.platforms}, &have)
	if err != nil {
		return nil, fmt.Errorf("list layers: %w", err)
	}
	var all, lacking api.Digests
	for _, l := range have.Layers {
		all.Digests = append(all.Digests, l.Digest)
	}
	if err := route.Post(ctx, t.to, api.ImagesLackingPath, all, &lacking); err != nil {
		if errdefs.IsNotFound(err) && !t.isHull(ctx, t.to) {
			fmt.Fprintln(t.out, "The receiving engine is not hull and cannot complete a part: sending everything")
			return nil, nil
		}
		return nil, fmt.Errorf("ask what is missing: %w", err)
	}
	missing := map[string]bool{}
	for _, d := range lacking.Digests {
		missing[d] = true
	}
	var omit []string
	var bytes int64
	for _, l := range have.Layers {
		if missing[l.Digest] {
			bytes += l.Size
		} else {
			omit = append(omit, l.Digest)
		}
	}
	fmt.Fprintf(t.out, "%d of %d layers are missing: %s to send\n", len(missing), len(have.Layers), units.HumanSize(float64(bytes)))
	return omit, nil
}

// isHull tells whether an engine has hull's own routes.
func (t transfer) isHull(ctx context.Context, e route.Dialer) bool {
	resp, err := route.Do(ctx, e, http.MethodGet, api.InfoPath, nil)
	if err != nil {
		return false
	}
	_ = resp.Body.Close() // only read
	return true
}

// withDelta adds --delta-from to save.
func (s sharing) withDelta(cmd *cobra.Command) {
	var since []string
	cmd.Flags().StringSliceVar(&since, "delta-from", nil, "Leave out the layers of an image that the receiver has; 'hull load' completes them")
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(since) == 0 {
			return run(cmd, args)
		}
		platforms, err := cmd.Flags().GetStringSlice("platform")
		if err != nil {
			return err
		}
		output, err := cmd.Flags().GetString("output")
		if err != nil {
			return err
		}
		return s.saveDelta(cmd.Context(), api.ImageArchive{Names: args, Platforms: platforms, Since: since}, output)
	}
}

func (s sharing) saveDelta(ctx context.Context, a api.ImageArchive, output string) error {
	return stream.SaveArchive(s.cli, output, func() (*http.Response, error) {
		body, err := route.Body(a)
		if err != nil {
			return nil, err
		}
		return route.Do(ctx, s.cli.Client().Dialer(), http.MethodPost, api.ImagesArchivePath, body)
	})
}
