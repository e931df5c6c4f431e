package main

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/docker/cli/cli"
	pluginmanager "github.com/docker/cli/cli-plugins/manager"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/commands"
	dockerversion "github.com/docker/cli/cli/version"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"hull/cmd/internal/connect"
)

// program is one invocation.
type program struct {
	cli  *command.DockerCli
	root *cobra.Command
	to   connect.Engine
}

// run is main without the process.
func run(ctx context.Context, args []string, getenv func(string) string) error {
	dockerversion.PlatformName, dockerversion.Version, dockerversion.GitCommit, dockerversion.BuildTime = "hull", version, commit, ""
	p := &program{}
	var err error
	p.cli, err = command.NewDockerCli(command.WithBaseContext(ctx))
	if err != nil {
		return err
	}
	logrus.SetOutput(p.cli.Err())
	top := p.newRoot()
	top.SetArgs(args)
	root, args, err := top.HandleGlobalFlags()
	if err != nil {
		return err
	}
	if err := p.to.Choose(p.cli, root.Flags(), getenv); err != nil {
		return err
	}
	if err := top.Initialize(p.to.Options()...); err != nil {
		return err
	}
	root.SetArgs(args)
	args, err = p.builder(args)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(args, func(a string) bool { return a == cobra.ShellCompRequestCmd || a == cobra.ShellCompNoDescRequestCmd }) {
		p.to.Passive.Store(true)
		if err := pluginmanager.AddPluginCommandStubs(p.cli, root); err != nil {
			return err
		}
	}
	if len(args) > 0 {
		if sub, _, err := root.Find(args); err != nil || pluginmanager.IsPluginCommand(sub) {
			err := p.plugin(ctx, args[0])
			if !errdefs.IsNotFound(err) {
				return err
			}
			// Not a plugin either: cobra says "unknown command".
		}
	}
	go exitOnThird(ctx, p.cli)
	root.SetArgs(args)
	err = root.ExecuteContext(ctx)
	if err != nil && p.to.Err() != nil {
		// docker/cli wraps it in advice about a daemon; the cause says more.
		return cli.StatusError{Status: p.to.Err().Error(), StatusCode: exitCode(err)}
	}
	return err
}

// newRoot is the command tree, with the name hull.
func (p *program) newRoot() *cli.TopLevelCommand {
	root := &cobra.Command{
		Use:              "hull [OPTIONS] COMMAND [ARG...]",
		Short:            "Run OCI images as containers or virtual machines",
		SilenceUsage:     true,
		SilenceErrors:    true,
		TraverseChildren: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return command.ShowHelp(p.cli.Err())(cmd, args)
			}
			return fmt.Errorf("hull: unknown command: hull %s\n\nRun 'hull --help' for more information", args[0])
		},
		PersistentPreRunE:     func(cmd *cobra.Command, _ []string) error { return supported(cmd, p.cli) },
		Version:               dockerversion.Version + ", build " + dockerversion.GitCommit,
		DisableFlagsInUseLine: true,
		CompletionOptions: cobra.CompletionOptions{
			HiddenDefaultCmd:    true,
			DisableDescriptions: os.Getenv("DOCKER_CLI_DISABLE_COMPLETION_DESCRIPTION") != "",
		},
	}
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	root.SetIn(p.cli.In())
	root.SetOut(p.cli.Out())
	root.SetErr(p.cli.Err())
	opts, help := cli.SetupRootCommand(root)
	root.Annotations["additionalHelp"] = "hull takes docker's commands and flags; '--isolation container|sandbox|vm' chooses the boundary."
	root.SetVersionTemplate("hull version {{.Version}}\n")
	root.Flags().BoolP("version", "v", false, "Print version information and quit")
	p.root = root
	flagError := root.FlagErrorFunc()
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if err := supported(cmd, p.cli); err != nil {
			return err
		}
		return flagError(cmd, err)
	})
	p.setHelp(help)
	commands.AddCommands(root, p.cli)
	extend(root, p.cli)
	walk(root, func(cmd *cobra.Command) {
		validateSupport(cmd, p.cli)
		rename(cmd)
	})
	_ = root.RegisterFlagCompletionFunc("context", p.completeContexts)
	_ = root.RegisterFlagCompletionFunc("log-level", cobra.FixedCompletions([]string{"debug", "info", "warn", "error", "fatal", "panic"}, cobra.ShellCompDirectiveNoFileComp))
	return cli.NewTopLevelCommand(root, p.cli, opts, root.Flags())
}

// completeContexts offers the names of docker contexts.
func (p *program) completeContexts(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	all, err := p.cli.ContextStore().List()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	names := make([]string, len(all))
	for i, c := range all {
		names[i] = c.Name
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// setHelp makes help show plugins and hide what the engine cannot do, and never
// start an engine.
func (p *program) setHelp(help *cobra.Command) {
	run := help.RunE
	help.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			c, err := pluginmanager.PluginRunCommand(p.cli, args[0], p.root)
			if err == nil {
				return c.Run()
			}
			if !errdefs.IsNotFound(err) {
				return fmt.Errorf("unknown help topic: %s", args[0])
			}
		}
		return run(cmd, args)
	}
	show := p.root.HelpFunc()
	p.root.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		p.to.Passive.Store(true)
		if err := pluginmanager.AddPluginCommandStubs(p.cli, p.root); err != nil {
			cmd.PrintErrln(err)
			return
		}
		if c, _, err := p.root.Find([]string{"buildx"}); c == p.root || err != nil {
			if bake, _, err := p.root.Find([]string{"bake"}); err == nil && bake != p.root {
				bake.Hidden = true // it is buildx's
			}
		}
		if err := supported(cmd, p.cli); err != nil {
			cmd.PrintErrln(err)
			return
		}
		hideUnsupported(cmd, p.cli)
		show(cmd, args)
	})
}
