package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/config"
	"github.com/moby/sys/atomicwriter"
	"github.com/spf13/cobra"

	"hull/cmd/hull-cli/internal/compare"
	"hull/cmd/internal/launch"
)

// compareCommand is "hull compare": the same image under each isolation, measured.
func compareCommand(c *command.DockerCli) *cobra.Command {
	var o compare.Options
	var format, plotFile string
	var quiet bool
	cmd := &cobra.Command{
		Use:   "compare [OPTIONS] IMAGE [-- COMMAND [ARG...]]",
		Short: "Measure an image as container, sandbox and virtual machine",
		Long: `Run an image under every isolation of this host and print what each costs: boot
time, memory, disk, system calls, files, network, and what COMMAND achieves in it.
COMMAND runs inside of an instance of the image, once its service answers; of its
output the last figure "per second" counts (redis-benchmark, pgbench, wrk, ab),
else how often it can be run.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if format != "table" && format != "json" {
				return fmt.Errorf("--format %s: want table or json", format)
			}
			if o.Boots < 2 || o.Instances < 1 {
				return errors.New("--boots must be at least 2, and --instances 1")
			}
			o.Image, o.Command = args[0], args[1:]
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			if !quiet {
				o.Progress = func(f string, a ...any) { fmt.Fprintf(c.Err(), f+"\n", a...) }
			}
			r, err := runCompare(ctx, c, o)
			if err != nil {
				return err
			}
			if plotFile != "" {
				if err := writePlot(plotFile, r); err != nil {
					return err
				}
			}
			if format == "json" {
				e := json.NewEncoder(c.Out())
				e.SetIndent("", "  ")
				return e.Encode(r)
			}
			return r.WriteTable(c.Out())
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := cmd.Flags()
	f.StringSliceVar(&o.Isolations, "isolation", nil, "Isolations to compare (default all that work here)")
	f.IntVar(&o.Boots, "boots", 5, "Boots of each isolation")
	f.IntVar(&o.Instances, "instances", 10, "Idle instances at once, for their memory")
	f.StringArrayVarP(&o.Env, "env", "e", nil, "Set environment variables of the instances")
	f.StringVar(&o.FullVM, "full-vm", "", "Also boot this disk image of a whole system, as a virtual machine without hull")
	f.DurationVar(&o.Patience, "timeout", 2*time.Minute, "How long a boot or COMMAND may take")
	f.StringVar(&format, "format", "table", `Output: "table" or "json"`)
	f.StringVar(&plotFile, "plot", "", "Also draw the figures into an SVG file")
	f.BoolVarP(&quiet, "quiet", "q", false, "Do not say what is being measured")
	return cmd
}

func runCompare(ctx context.Context, c *command.DockerCli, o compare.Options) (*compare.Report, error) {
	info, err := engineInfo(ctx, c)
	if err != nil {
		return nil, err
	}
	if info == nil {
		return nil, errors.New("compare needs hull's engine: this host is served by another one, which has one isolation")
	}
	if o.Probe, err = launch.Program("hull-probe", ""); err != nil {
		return nil, err
	}
	r, err := compare.Run(ctx, c.Client(), info, o)
	if err != nil {
		if ctx.Err() != nil {
			return nil, cli.StatusError{Status: "interrupted; what was measured with is removed", StatusCode: 130}
		}
		return nil, err
	}
	return r, remember(info.ID, r)
}

// recommendation is where the last comparison on an engine is kept for "hull info".
func recommendation(engine string) string {
	return filepath.Join(config.Dir(), "hull", "compare-"+filepath.Base(engine)+".json")
}

func remember(engine string, r *compare.Report) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	file := recommendation(engine)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("keep the figures for hull info: %w", err)
	}
	if err := atomicwriter.WriteFile(file, b, 0o600); err != nil {
		return fmt.Errorf("keep the figures for hull info: %w", err)
	}
	return nil
}

// recall is the last comparison's recommendation, "" = none was made.
func recall(engine string) string {
	b, err := os.ReadFile(recommendation(engine))
	if err != nil {
		return ""
	}
	var r compare.Report
	if json.Unmarshal(b, &r) != nil {
		return ""
	}
	return fmt.Sprintf("%s (hull compare %s, %s)", r.Recommend(), r.Image, r.When.Format(time.DateOnly))
}

func writePlot(file string, r *compare.Report) error {
	var b bytes.Buffer
	if err := r.WritePlot(&b); err != nil {
		return err
	}
	if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil { //nolint:gosec // a drawing, to be shown around
		return fmt.Errorf("write the plot: %w", err)
	}
	return nil
}
