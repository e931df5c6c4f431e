package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/docker/cli/cli/command"
	"github.com/moby/moby/client/pkg/versions"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// docker/cli marks what a command or flag needs of the engine with these
// annotations; an engine that lacks it gets an error instead of a request.
const (
	needVersion      = "version"
	needOS           = "ostype"
	needExperimental = "experimental"
	needSwarm        = "swarm"
)

// server is what the checks ask about the engine. Each call may connect, so it
// is made only when an annotation needs the answer.
type server interface {
	CurrentVersion() string
	ServerInfo() command.ServerInfo
}

// supported says which need of cmd, of its parents or of the flags that the user
// gave the engine does not meet.
func supported(cmd *cobra.Command, s server) error {
	for c := cmd; c != nil; c = c.Parent() {
		if err := meets(c.CommandPath(), c.Annotations, s); err != nil {
			return err
		}
	}
	var errs []error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Changed && len(f.Annotations) > 0 {
			errs = append(errs, meets(fmt.Sprintf("%q", "--"+f.Name), flat(f.Annotations), s))
		}
	})
	return errors.Join(errs...)
}

// meets checks one command's or flag's needs.
func meets(what string, needs map[string]string, s server) error {
	if v, ok := needs[needVersion]; ok && v != "" && versions.LessThan(s.CurrentVersion(), v) {
		return fmt.Errorf("%s requires API version %s, but the engine's API version is %s", what, v, s.CurrentVersion())
	}
	if v, ok := needs[needOS]; ok && v != "" {
		if have := s.ServerInfo().OSType; have != "" && have != v {
			return fmt.Errorf("%s is only supported by an engine on %s, but this one runs on %s", what, v, have)
		}
	}
	if _, ok := needs[needExperimental]; ok && !s.ServerInfo().HasExperimental {
		return fmt.Errorf("%s is only supported by an engine with experimental features enabled", what)
	}
	return nil
}

// flat takes the first value of each annotation of a flag.
func flat(a map[string][]string) map[string]string {
	m := make(map[string]string, len(a))
	for k, v := range a {
		m[k] = ""
		if len(v) > 0 {
			m[k] = v[0]
		}
	}
	return m
}

// validateSupport reports a missing ability before it complains about arguments.
func validateSupport(cmd *cobra.Command, s server) {
	if cmd.Args == nil {
		return
	}
	validate := cmd.Args
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if err := supported(cmd, s); err != nil {
			return err
		}
		return validate(cmd, args)
	}
}

// hideUnsupported keeps out of cmd's help what the engine cannot do.
func hideUnsupported(cmd *cobra.Command, s server) {
	hide := func(needs map[string]string) bool {
		if len(needs) == 0 {
			return false
		}
		role, swarm := needs[needSwarm]
		return meets("", needs, s) != nil || swarm && outsideSwarm(role, s.ServerInfo())
	}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if only, ok := f.Annotations["top-level"]; ok && cmd.HasParent() && !under(cmd, only) {
			f.Hidden = true
		}
		f.Hidden = f.Hidden || hide(flat(f.Annotations))
	})
	for _, c := range cmd.Commands() {
		c.Hidden = c.Hidden || hide(c.Annotations)
	}
}

// outsideSwarm tells whether the engine has not the role that a swarm command needs.
func outsideSwarm(role string, i command.ServerInfo) bool {
	if i.SwarmStatus == nil {
		return false // it did not say
	}
	switch role {
	case "manager":
		return !i.SwarmStatus.ControlAvailable
	case "active":
		return i.SwarmStatus.NodeState == "inactive"
	}
	return false
}

// under tells whether cmd or a parent of it has one of the names.
func under(cmd *cobra.Command, names []string) bool {
	for c := cmd; c != nil; c = c.Parent() {
		if slices.Contains(names, c.Name()) {
			return true
		}
	}
	return false
}

// walk visits cmd and everything below it.
func walk(cmd *cobra.Command, visit func(*cobra.Command)) {
	visit(cmd)
	for _, c := range cmd.Commands() {
		walk(c, visit)
	}
}
