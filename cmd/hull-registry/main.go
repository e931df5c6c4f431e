// Command hull-registry is "hull registry": an image registry for a team, which
// is distribution's own handlers over files of a directory. It is a program of
// its own, because neither the engine nor the command line is to pay for it;
// hull becomes it when it sees the verb.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := newRoot(os.Getenv).ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "hull registry: "+err.Error())
		os.Exit(1)
	}
}

// newRoot is the command tree.
func newRoot(getenv func(string) string) *cobra.Command {
	root := &cobra.Command{
		Use: "hull registry COMMAND", Short: "Serve an image registry", SilenceUsage: true, SilenceErrors: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.AddCommand(serveCommand(getenv))
	return root
}
