package build

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"text/tabwriter"
	"time"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"hull/api"
	"hull/cmd/hull-cli/internal/stream"
	"hull/cmd/internal/route"
)

// CacheCommand is "builder cache".
func CacheCommand(c command.Cli) *cobra.Command {
	m := cacheMounts{c}
	cmd := &cobra.Command{
		Use: "cache COMMAND", Short: "Manage what RUN --mount=type=cache keeps from build to build",
		Args: cli.NoArgs, RunE: command.ShowHelp(c.Err()),
	}
	var quiet bool
	list := &cobra.Command{
		Use: "ls [OPTIONS]", Aliases: []string{"list"}, Short: "List cache mounts", Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return m.list(cmd.Context(), quiet) },
	}
	list.Flags().BoolVarP(&quiet, "quiet", "q", false, "Only display names")
	var output string
	export := &cobra.Command{
		Use: "export [OPTIONS] CACHE", Short: "Write a cache mount's files as a tar archive", Args: cli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return m.export(cmd.Context(), args[0], output) },
	}
	export.Flags().StringVarP(&output, "output", "o", "", "Write to a file, instead of STDOUT")
	cmd.AddCommand(list, export, &cobra.Command{
		Use: "import CACHE FILE|-", Short: "Make a cache mount of a tar archive, in the place of one that is there", Args: cli.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error { return m.restore(cmd.Context(), args[0], args[1]) },
	})
	return cmd
}

// cacheMounts speaks hull's own routes for them.
type cacheMounts struct{ cli command.Cli }

func (m cacheMounts) list(ctx context.Context, quiet bool) error {
	var list []api.CacheMount
	if err := route.Get(ctx, m.cli.Client().Dialer(), api.CacheMountsPath, &list); err != nil {
		return err
	}
	if quiet {
		for _, c := range list {
			fmt.Fprintln(m.cli.Out(), c.Name)
		}
		return nil
	}
	w := tabwriter.NewWriter(m.cli.Out(), 10, 1, 3, ' ', 0)
	fmt.Fprintln(w, "NAME\tSIZE\tLAST USED\tIN USE\tDESCRIPTION")
	for _, c := range list {
		used := "never"
		if c.LastUsedAt != nil {
			used = units.HumanDuration(time.Since(*c.LastUsedAt)) + " ago"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%t\t%s\n", c.Name, units.HumanSize(float64(c.Size)), used, c.InUse, c.Description)
	}
	return w.Flush()
}

func archive(name string) string {
	return api.CacheMountArchivePath + "?" + url.Values{"name": {name}}.Encode()
}

func (m cacheMounts) export(ctx context.Context, name, output string) error {
	return stream.SaveArchive(m.cli, output, func() (*http.Response, error) {
		return route.Do(ctx, m.cli.Client().Dialer(), http.MethodGet, archive(name), nil)
	})
}

func (m cacheMounts) restore(ctx context.Context, name, file string) error {
	in, err := stream.Open(m.cli, file)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // only read
	resp, err := route.Do(ctx, m.cli.Client().Dialer(), http.MethodPut, archive(name), in)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
