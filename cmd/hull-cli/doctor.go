package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/spf13/cobra"

	"hull/api"
	"hull/cmd/internal/launch"
	"hull/cmd/internal/route"
)

const (
	verdictFine   = "ok"
	verdictBroken = "broken"
)

// doctorCommand is "hull doctor": what the engine finds about its host, and when
// there is no engine, what its program finds.
func doctorCommand(cl *command.DockerCli) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "doctor [OPTIONS]",
		Short: "Check what this host can do for hull, and what to do about the rest",
		Long:  "Check what this host can do for hull, and what to do about the rest.\nThe exit code is 1 when something keeps containers from running.",
		Args:  cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "" && format != "json" {
				return fmt.Errorf("--format %q: only json is known", format)
			}
			found, err := findings(cmd.Context(), cl)
			if err != nil {
				return err
			}
			if format == "json" {
				if err := json.NewEncoder(cl.Out()).Encode(found); err != nil {
					return fmt.Errorf("write what was found: %w", err)
				}
			} else {
				printFindings(cl.Out(), found)
			}
			for _, f := range found {
				if f.Verdict == verdictBroken {
					return cli.StatusError{StatusCode: 1}
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&format, "format", "", `Format of the output: "json", or lines for people`)
	return cmd
}

// findings asks the engine. One that does not answer is a finding itself.
func findings(ctx context.Context, cl *command.DockerCli) ([]api.Finding, error) {
	found, err := engineFindings(ctx, cl)
	if err == nil {
		return found, nil
	}
	dead := api.Finding{
		Subject: "engine", Verdict: verdictBroken, Says: strings.TrimSpace(err.Error()), Means: "no command works",
		Next: "mend what is broken below; the engine's log says more",
	}
	hulld, ferr := launch.Program("hulld", os.Getenv("PATH"))
	if ferr != nil {
		dead.Says, dead.Next = ferr.Error(), "install hull completely (make install)"
		return []api.Finding{dead}, nil
	}
	b, rerr := exec.CommandContext(ctx, hulld, "--examine").Output() // #nosec: our own program
	if rerr == nil {
		rerr = json.Unmarshal(b, &found)
	}
	if rerr != nil {
		dead.Says += fmt.Sprintf("; %s --examine: %v", hulld, rerr)
	}
	return append([]api.Finding{dead}, found...), nil
}

func engineFindings(ctx context.Context, cl *command.DockerCli) ([]api.Finding, error) {
	var found []api.Finding
	err := route.Get(ctx, cl.Client().Dialer(), api.DoctorPath, &found)
	var no *route.Refusal
	switch {
	case errors.As(err, &no):
		return nil, fmt.Errorf("the engine does not examine its host: %s: %s; is it hulld, and as new as this program?", no.Status, no.Message)
	case err != nil:
		return nil, fmt.Errorf("ask the engine: %w", err)
	}
	return found, nil
}

// printFindings: one line each, and what follows from it where it is not fine.
func printFindings(w io.Writer, found []api.Finding) {
	width := 0
	for _, f := range found {
		width = max(width, len(f.Subject))
	}
	limited, broken := 0, 0
	for _, f := range found {
		word := f.Verdict
		switch f.Verdict {
		case verdictFine:
		case verdictBroken:
			broken++
			word = "BROKEN"
		default:
			limited++
		}
		fmt.Fprintf(w, "%-8s %-*s %s\n", word, width, f.Subject, f.Says)
		indent := strings.Repeat(" ", width+10) //nolint:mnd // the first column and its blank, and this one's
		if f.Means != "" {
			fmt.Fprintf(w, "%smeans: %s\n", indent, f.Means)
		}
		if f.Next != "" {
			fmt.Fprintf(w, "%snext:  %s\n", indent, f.Next)
		}
	}
	switch {
	case broken > 0:
		fmt.Fprintf(w, "\n%d broken, %d limited: containers do not run as they should.\n", broken, limited)
	case limited > 0:
		fmt.Fprintf(w, "\nContainers run; %d limited.\n", limited)
	default:
		fmt.Fprintln(w, "\nEverything works here.")
	}
}
