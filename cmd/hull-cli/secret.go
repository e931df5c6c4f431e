package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
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

// secretCommand is "hull secret": docker's command of that name is for swarms.
func secretCommand(c command.Cli) *cobra.Command {
	s := secrets{c}
	cmd := &cobra.Command{
		Use: "secret", Short: "Manage secrets, which containers see as files",
		Args: cli.NoArgs, RunE: command.ShowHelp(c.Err()),
	}
	var labels []string
	create := &cobra.Command{
		Use: "create [OPTIONS] SECRET [FILE|-]", Short: "Keep the content of a file, or of STDIN, as a secret", Args: cli.RequiresRangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.create(cmd.Context(), args[0], append(args, "-")[1], labels)
		},
	}
	create.Flags().StringArrayVarP(&labels, "label", "l", nil, "Secret labels")
	var quiet bool
	list := &cobra.Command{
		Use: "ls [OPTIONS]", Aliases: []string{"list"}, Short: "List secrets", Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return s.list(cmd.Context(), quiet) },
	}
	list.Flags().BoolVarP(&quiet, "quiet", "q", false, "Only display names")
	cmd.AddCommand(create, list,
		&cobra.Command{
			Use: "inspect SECRET [SECRET...]", Short: "Display what is known of secrets, but for their values", Args: cli.RequiresMinArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error { return s.inspect(cmd.Context(), args) },
		},
		&cobra.Command{
			Use: "rm SECRET [SECRET...]", Aliases: []string{"remove"}, Short: "Remove secrets that no container uses", Args: cli.RequiresMinArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error { return s.remove(cmd.Context(), args) },
		})
	return cmd
}

// secrets speaks hull's own routes for secrets.
type secrets struct{ cli command.Cli }

func (s secrets) dial() route.Dialer { return s.cli.Client().Dialer() }

// refused words an answer as docker's commands do.
func refused(err error) error {
	var no *route.Refusal
	if errors.As(err, &no) {
		return fmt.Errorf("Error response from daemon: %s", no.Message) //nolint:staticcheck // docker's words
	}
	return err
}

func (s secrets) create(ctx context.Context, name, file string, labels []string) error {
	in, err := stream.Open(s.cli, file)
	if err != nil {
		return err
	}
	defer in.Close()                                    //nolint:errcheck // only read
	value, err := io.ReadAll(io.LimitReader(in, 1<<20)) // the engine says what is too much
	if err != nil {
		return fmt.Errorf("read the secret: %w", err)
	}
	n := api.NewSecret{Name: name, Value: value, Labels: map[string]string{}}
	for _, l := range labels {
		key, v, _ := strings.Cut(l, "=")
		n.Labels[key] = v
	}
	var made api.Secret
	if err := route.Post(ctx, s.dial(), api.SecretsPath, n, &made); err != nil {
		return refused(err)
	}
	_, err = fmt.Fprintln(s.cli.Out(), made.Name)
	return err
}

func (s secrets) list(ctx context.Context, quiet bool) error {
	var all []api.Secret
	if err := route.Get(ctx, s.dial(), api.SecretsPath, &all); err != nil {
		return refused(err)
	}
	w := tabwriter.NewWriter(s.cli.Out(), 10, 1, 3, ' ', 0)
	if !quiet {
		fmt.Fprintln(w, "NAME\tCREATED")
	}
	for _, x := range all {
		if quiet {
			fmt.Fprintln(w, x.Name)
			continue
		}
		fmt.Fprintf(w, "%s\t%s ago\n", x.Name, units.HumanDuration(time.Since(x.Created)))
	}
	return w.Flush()
}

func (s secrets) inspect(ctx context.Context, names []string) error {
	found := []api.Secret{}
	var errs []error
	for _, name := range names {
		var x api.Secret
		if err := route.Get(ctx, s.dial(), api.SecretPath(name), &x); err != nil {
			errs = append(errs, refused(err))
			continue
		}
		found = append(found, x)
	}
	enc := json.NewEncoder(s.cli.Out())
	enc.SetIndent("", "    ")
	return errors.Join(append(errs, enc.Encode(found))...)
}

func (s secrets) remove(ctx context.Context, names []string) error {
	var errs []error
	for _, name := range names {
		resp, err := route.Do(ctx, s.dial(), http.MethodDelete, api.SecretPath(name), nil)
		if err != nil {
			errs = append(errs, refused(err))
			continue
		}
		_ = resp.Body.Close() // without a body
		fmt.Fprintln(s.cli.Out(), name)
	}
	return errors.Join(errs...)
}

// withSecrets gives "run" and "create" the flag --secret, which is a mount.
func withSecrets(run *cobra.Command) {
	run.Flags().Var(secretFlag{run}, "secret", "Secret to mount as a file: NAME[,target=PATH][,uid=UID][,gid=GID][,mode=MODE] (/run/secrets/NAME, 0:0, 0444)")
}

// secretFlag sets docker's --mount.
type secretFlag struct{ run *cobra.Command }

func (secretFlag) Type() string   { return "secret" }
func (secretFlag) String() string { return "" }

// Set implements pflag.Value.
func (f secretFlag) Set(text string) error {
	fields, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return fmt.Errorf("%q: %w", text, err)
	}
	var name, target string
	var rest []string
	for i, field := range fields {
		key, value, has := strings.Cut(field, "=")
		switch {
		case i == 0 && !has:
			name = field
		case key == "source", key == "src":
			name = value
		case key == "target", key == "dst", key == "destination":
			target = value
		default:
			rest = append(rest, field) // the engine knows which there are
		}
	}
	if name == "" {
		return fmt.Errorf("%q names no secret", text)
	}
	mount := []string{"type=" + api.SecretMount, "source=" + strings.Join(append([]string{name}, rest...), ",")}
	if target != "" {
		mount = append(mount, "target="+target)
	}
	var b strings.Builder
	w := csv.NewWriter(&b)
	if err := w.Write(mount); err != nil {
		return err
	}
	w.Flush()
	return f.run.Flags().Set("mount", b.String())
}
