package main

import (
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// rename puts hull's name where docker/cli shows its own as a command to type:
// aliases, examples, descriptions, usage of flags. "Docker daemon" and other names
// of things stay.
func rename(cmd *cobra.Command) {
	if a, ok := cmd.Annotations["aliases"]; ok {
		cmd.Annotations["aliases"] = typed(a)
	}
	cmd.Long, cmd.Example = typed(cmd.Long), typed(cmd.Example)
	for _, set := range []*pflag.FlagSet{cmd.Flags(), cmd.PersistentFlags()} {
		set.VisitAll(func(f *pflag.Flag) { f.Usage = typed(f.Usage) })
	}
}

// typed replaces "docker VERB" where it is a command to type: at the start, after
// a quote, a list comma or an indent.
func typed(s string) string {
	if !strings.Contains(s, "docker ") {
		return s
	}
	return regexp.MustCompile("(^|[\"'`]|, |\n *|\\$ )docker ([a-z])").ReplaceAllString(s, "${1}hull ${2}") //nolint:forbidigo // only for help and errors
}

// renamed is an error text of docker/cli in hull's name, with the next step where
// docker gives none.
func renamed(text string) string {
	if rest, ok := strings.CutPrefix(text, "docker: "); ok {
		text = "hull: " + rest
	}
	text = typed(text)
	if strings.Contains(text, "permission denied while trying to connect to the docker API at unix://") {
		text += "\nRun the command as root, or add your user to the group hull and log in again"
	}
	return text
}
