// Command hull-compose is "hull compose": docker compose's own commands, built from
// its Go packages, so that nothing else must be installed. It is a program of its
// own because reading compose's schema costs every start of the program that links
// it 4 ms (docs/adr); hull and hull-cli become it when they see the verb.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/config"
	dockerversion "github.com/docker/cli/cli/version"
	commands "github.com/docker/compose/v5/cmd/compose"
	"github.com/docker/compose/v5/cmd/prompt"
	"github.com/docker/compose/v5/pkg/compose"
	"github.com/moby/moby/client"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"hull/cmd/internal/endpoint"
	"hull/cmd/internal/launch"
)

// version and commit are set by the linker.
var ( //nolint:gochecknoglobals // see above
	version = "dev"
	commit  = "unknown"
)

func main() {
	// compose listens to the first signal itself, to stop what it started.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Getenv)
	stop()
	os.Exit(exitCode(err))
}

// exitCode prints what is to be said and is the process's status.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	if errors.Is(err, context.Canceled) {
		return 130 // as docker's own program ends after an interrupt
	}
	code := 1
	var st cli.StatusError
	if errors.As(err, &st) {
		code = max(st.StatusCode, 1)
		if st.Status == "" && st.Cause == nil {
			return code
		}
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(os.Stderr, text)
	}
	return code
}

// program is one invocation.
type program struct {
	cli *command.DockerCli
	to  endpoint.Endpoint

	once     sync.Once // of start
	startErr error
}

func run(ctx context.Context, args []string, getenv func(string) string) error {
	dockerversion.PlatformName, dockerversion.Version, dockerversion.GitCommit, dockerversion.BuildTime = "hull", version, commit, ""
	p := &program{}
	var err error
	p.cli, err = command.NewDockerCli(command.WithBaseContext(ctx), command.WithUserAgent("hull-compose/"+version))
	if err != nil {
		return err
	}
	logrus.SetOutput(p.cli.Err())
	root := p.newRoot()
	opts, _ := cli.SetupRootCommand(root)
	top := cli.NewTopLevelCommand(root, p.cli, opts, root.Flags())
	top.SetArgs(args)
	cmd, args, err := top.HandleGlobalFlags()
	if err != nil {
		return err
	}
	if err := p.choose(cmd, getenv); err != nil {
		return err
	}
	var ops []command.CLIOption
	if p.to.Own { // any other host has its own way to connect (ssh, TLS)
		ops = append(ops, command.WithAPIClientOptions(client.WithDialContext(p.dial)))
	}
	if err := top.Initialize(ops...); err != nil {
		return err
	}
	// What compose runs itself (a provider, a build) is told the engine as we are.
	for key, value := range map[string]string{endpoint.EnvDockerHost: p.to.Host, endpoint.EnvDockerContext: p.to.Context} {
		if value != "" {
			if err := os.Setenv(key, value); err != nil {
				return err
			}
		}
	}
	root.SetArgs(args)
	err = root.ExecuteContext(ctx)
	if err != nil && p.startErr != nil {
		return p.startErr // docker/cli wraps it in advice about a daemon; the cause says more
	}
	return err
}

// newRoot is "hull" with the one command "compose".
func (p *program) newRoot() *cobra.Command {
	root := &cobra.Command{
		Use: "hull [OPTIONS] COMMAND [ARG...]", SilenceUsage: true, SilenceErrors: true, TraverseChildren: true, DisableFlagsInUseLine: true,
	}
	c := commands.RootCommand(p.cli, &commands.BackendOptions{
		Options: []compose.Option{compose.WithPrompt(prompt.NewPrompt(p.cli.In(), p.cli.Out()).Confirm)},
	})
	c.Short = "Define and run applications of several containers"
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return cli.StatusError{StatusCode: 1, Status: err.Error()} })
	if up, rest, err := c.Find([]string{"up"}); err == nil && len(rest) == 0 {
		p.withRollout(up)
	}
	for _, name := range []string{"up", "create", "run", "scale", "watch"} {
		if cmd, rest, err := c.Find([]string{name}); err == nil && len(rest) == 0 {
			p.withExternalSecrets(cmd)
		}
	}
	root.AddCommand(c)
	return root
}

// choose sets the global flags --host or --context to what endpoint decides.
func (p *program) choose(root *cobra.Command, getenv func(string) string) error {
	flags := root.Flags()
	host, ctxName := flags.Lookup("host"), flags.Lookup("context")
	if host.Changed && ctxName.Changed {
		return nil // docker/cli says that these conflict
	}
	if dir := flags.Lookup("config"); dir.Changed {
		config.SetDir(dir.Value.String())
	}
	stored, _ := p.cli.ConfigFile().PluginConfig("hull", "context")
	p.to = endpoint.Resolve(endpoint.Choice{
		Host: host.Value.String(), Context: ctxName.Value.String(), StoredContext: stored,
		Getenv: getenv, UID: os.Getuid(),
	})
	if p.to.Context != "" {
		return flags.Set("context", p.to.Context)
	}
	if host.Changed {
		return nil
	}
	if err := flags.Set("context", ""); err != nil {
		return err
	}
	return flags.Set("host", p.to.Host)
}

// dial connects to the own engine, and starts it when it is not there.
func (p *program) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", p.to.Socket)
	if err == nil || !launch.Dead(err) {
		return c, err
	}
	// Not bound to ctx: the first request is a ping with a two-second limit, the
	// one after it needs this very engine.
	ctx = context.WithoutCancel(ctx)
	p.once.Do(func() { p.startErr = launch.Start(ctx, p.to) })
	if p.startErr != nil {
		return nil, p.startErr
	}
	return d.DialContext(ctx, "unix", p.to.Socket)
}
