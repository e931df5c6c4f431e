package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/context/store"
	"github.com/spf13/cobra"

	"hull/api"
	"hull/cmd/hull-cli/internal/build"
	"hull/cmd/internal/connect"
	"hull/cmd/internal/route"
)

// extend adds what hull has beyond docker to docker's commands.
func extend(root *cobra.Command, cli *command.DockerCli) {
	for _, path := range [][]string{{"info"}, {"system", "info"}} {
		if info, rest, err := root.Find(path); err == nil && len(rest) == 0 {
			withIsolations(info, cli)
		}
	}
	root.AddCommand(compareCommand(cli))
	root.AddCommand(doctorCommand(cli))
	for path, short := range map[string]string{"version": "Show the hull version information", "system": "Manage hull"} {
		if cmd, _, err := root.Find([]string{path}); err == nil {
			cmd.Short = short
		}
	}
	for _, path := range [][]string{{"run"}, {"create"}, {"container", "run"}, {"container", "create"}} {
		if cmd, _, err := root.Find(path); err == nil && cmd.Flags().Lookup("isolation") != nil {
			cmd.Flags().Lookup("isolation").Usage = `Boundary of the container ("container", "sandbox", "vm")`
			withSecrets(cmd)
		}
	}
	if vol, rest, err := root.Find([]string{"volume"}); err == nil && len(rest) == 0 {
		vol.AddCommand(volumeCommands(cli)...)
	}
	if swarms, rest, err := root.Find([]string{"secret"}); err == nil && len(rest) == 0 {
		root.RemoveCommand(swarms)
	}
	root.AddCommand(secretCommand(cli))
	root.AddCommand(vmCommand(root, cli))
	share(root, cli)
	replaceBuild(root, cli)
	for _, path := range [][]string{{"update"}, {"container", "update"}} {
		if update, rest, err := root.Find(path); err == nil && len(rest) == 0 {
			withPorts(update, cli)
		}
	}
	if use, rest, err := root.Find([]string{"context", "use"}); err == nil && len(rest) == 0 {
		use.Short = "Set the context that hull uses"
		use.RunE = func(_ *cobra.Command, args []string) error { return useContext(cli, args[0]) }
	}
}

// replaceBuild puts hull's build, which speaks BuildKit's protocol, where docker/cli
// has the one of its classic builder. That one stays for who asks for it as docker's
// users do, with DOCKER_BUILDKIT=0: for an engine without BuildKit.
func replaceBuild(root *cobra.Command, cli *command.DockerCli) {
	root.AddCommand(build.LockCommand(cli))
	if builder, rest, err := root.Find([]string{"builder"}); err == nil && len(rest) == 0 {
		builder.AddCommand(build.CacheCommand(cli))
	}
	if on, err := strconv.ParseBool(os.Getenv("DOCKER_BUILDKIT")); err == nil && !on {
		return
	}
	for _, path := range [][]string{{"build"}, {"image", "build"}, {"builder", "build"}} {
		if old, rest, err := root.Find(path); err == nil && len(rest) == 0 {
			parent := old.Parent()
			parent.RemoveCommand(old)
			parent.AddCommand(build.Command(cli))
		}
	}
}

// withIsolations makes "info" list the engine's isolations after docker's table,
// in full: the short form there, which is for docker's own client, is left out.
func withIsolations(info *cobra.Command, cli *command.DockerCli) {
	run := info.RunE
	info.RunE = func(cmd *cobra.Command, args []string) error {
		if cmd.Flags().Changed("format") {
			return run(cmd, args)
		}
		table := &bytes.Buffer{}
		out := cli.Out()
		if err := command.WithOutputStream(table)(cli); err != nil {
			return fmt.Errorf("redirect docker's table: %w", err)
		}
		rerr := run(cmd, args)
		if err := command.WithOutputStream(out)(cli); err != nil {
			return fmt.Errorf("redirect docker's table: %w", err)
		}
		var i *api.Info
		if rerr == nil {
			i, rerr = engineInfo(cmd.Context(), cli)
		}
		for line := range strings.Lines(table.String()) {
			if i == nil || !strings.HasPrefix(line, "  Isolation ") {
				fmt.Fprint(out, line)
			}
		}
		if i != nil {
			printIsolations(out, *i)
			if r := recall(i.ID); r != "" {
				fmt.Fprintln(out, " Isolation "+r)
			}
		}
		return rerr
	}
}

// engineInfo asks the engine's own route; nil = it is not a hull engine.
func engineInfo(ctx context.Context, cli *command.DockerCli) (*api.Info, error) {
	var i api.Info
	err := route.Get(ctx, cli.Client().Dialer(), api.InfoPath, &i)
	var no *route.Refusal
	switch {
	case errors.As(err, &no):
		return nil, nil //nolint:nilnil // documented: Docker Engine has no such route
	case err != nil:
		return nil, fmt.Errorf("ask the engine for its isolations: %w", err)
	}
	return &i, nil
}

// printIsolations continues docker's table: one line each, the default marked.
func printIsolations(w io.Writer, i api.Info) {
	fmt.Fprintln(w, " Isolations:")
	for _, name := range slices.Sorted(maps.Keys(i.Isolations)) {
		s := i.Isolations[name]
		state := "available"
		if !s.Available {
			state = "not available"
			if s.Reason != "" {
				state += " (" + s.Reason + ")"
			}
		}
		if name == i.DefaultIsolation {
			state += ", default"
		}
		fmt.Fprintf(w, "  %s: %s\n", name, state)
		if s.Available && len(s.Abilities) > 0 {
			fmt.Fprintf(w, "   Abilities: %s\n", strings.Join(s.Abilities, " "))
		}
		for _, key := range slices.Sorted(maps.Keys(s.Details)) {
			fmt.Fprintf(w, "   %s: %s\n", key, s.Details[key])
		}
	}
}

// useContext makes name the context of later commands; "default" is hull's own
// engine. docker's own current context is another program's choice and is left alone.
func useContext(cli *command.DockerCli, name string) error {
	value := name
	if name == command.DefaultContextName {
		value = ""
	} else {
		if err := store.ValidateContextName(name); err != nil {
			return err
		}
		if _, err := cli.ContextStore().GetMetadata(name); err != nil {
			return err
		}
	}
	cfg := cli.ConfigFile()
	if old, _ := cfg.PluginConfig(connect.Plugin, connect.ContextKey); old != value {
		cfg.SetPluginConfig(connect.Plugin, connect.ContextKey, value)
		if err := cfg.Save(); err != nil {
			return fmt.Errorf("store the context: %w", err)
		}
	}
	fmt.Fprintln(cli.Out(), name)
	fmt.Fprintf(cli.Err(), "Current context is now %q\n", name)
	return nil
}
