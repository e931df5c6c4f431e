package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"

	"github.com/docker/cli/cli/command"
	"github.com/docker/go-connections/nat"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"hull/api"
	"hull/cmd/internal/route"
)

// withPorts lets "update" change the published ports of a running container.
func withPorts(update *cobra.Command, cli *command.DockerCli) {
	var add, remove []string
	f := update.Flags()
	f.StringArrayVar(&add, "publish-add", nil, "Publish another port, as --publish of run has it")
	f.StringArrayVar(&remove, "publish-rm", nil, "Publish a port no longer: CONTAINER_PORT[/PROTO], or as it was published")
	run := update.RunE
	update.RunE = func(cmd *cobra.Command, args []string) error {
		if len(add)+len(remove) == 0 {
			return run(cmd, args)
		}
		change, err := portsChange(add, remove)
		if err != nil {
			return err
		}
		var errs []error
		for _, name := range args {
			if err := changePorts(cmd.Context(), cli, name, change); err != nil {
				errs = append(errs, err)
				continue
			}
			if !othersSet(f) {
				fmt.Fprintln(cli.Out(), name)
			}
		}
		if len(errs) == 0 && othersSet(f) {
			return run(cmd, args)
		}
		return errors.Join(errs...)
	}
}

// othersSet says whether a flag of docker's own was given.
func othersSet(f *pflag.FlagSet) (set bool) {
	f.Visit(func(x *pflag.Flag) { set = set || x.Name != "publish-add" && x.Name != "publish-rm" })
	return set
}

func portsChange(add, remove []string) (c api.PortsChange, err error) {
	if c.Add, err = parsePorts(add); err != nil {
		return c, err
	}
	c.Remove, err = parsePorts(remove)
	return c, err
}

// parsePorts reads Docker's short form, ip:host:container/proto.
func parsePorts(specs []string) ([]api.Port, error) {
	var out []api.Port
	for _, s := range specs {
		list, err := nat.ParsePortSpec(s)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s, err)
		}
		for _, m := range list {
			port, err := strconv.ParseUint(m.Port.Port(), 10, 16)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s, err)
			}
			out = append(out, api.Port{HostIP: m.Binding.HostIP, HostPort: m.Binding.HostPort, ContainerPort: uint16(port), Proto: m.Port.Proto()})
		}
	}
	return out, nil
}

func changePorts(ctx context.Context, cli *command.DockerCli, name string, c api.PortsChange) error {
	err := route.Post(ctx, cli.Client().Dialer(), fmt.Sprintf(api.PortsPath, url.PathEscape(name)), c, nil)
	var no *route.Refusal
	switch {
	case err == nil:
		return nil
	case errors.As(err, &no) && no.Message != no.Status:
		return refused(no)
	}
	return fmt.Errorf("change published ports of %s: %w", name, err)
}
