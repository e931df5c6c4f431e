// Command hull-compose is "hull compose": docker compose's own commands, built from
// its Go packages, so that nothing else must be installed. It is a program of its
// own because reading compose's schema costs every start of the program that links
// it 4 ms (docs/adr); hull and hull-cli become it when they see the verb.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	dockerversion "github.com/docker/cli/cli/version"
	commands "github.com/docker/compose/v5/cmd/compose"
	"github.com/docker/compose/v5/cmd/prompt"
	"github.com/docker/compose/v5/pkg/compose"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"hull/cmd/internal/connect"
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
	to  connect.Engine
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
	if err := p.to.Choose(p.cli, cmd.Flags(), getenv); err != nil {
		return err
	}
	if err := top.Initialize(p.to.Options()...); err != nil {
		return err
	}
	// What compose runs itself (a provider, a build) is told the engine as we are.
	for key, value := range p.to.Env() {
		if err := os.Setenv(key, value); err != nil {
			return err
		}
	}
	root.SetArgs(args)
	err = root.ExecuteContext(ctx)
	if err != nil && p.to.Err() != nil {
		return p.to.Err() // docker/cli wraps it in advice about a daemon; the cause says more
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
