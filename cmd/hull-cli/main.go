// Command hull-cli is the whole of hull's command line. It is docker/cli's own
// commands under the name hull, so that every verb, flag, table and message is
// what a Docker user expects. The small program hull does the most frequent
// verbs itself and hands everything else to this one (docs/adr).
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"github.com/docker/cli/cli"
)

// version and commit are set by the linker.
var ( //nolint:gochecknoglobals // see above
	version = "dev"
	commit  = "unknown"
)

func main() {
	becomeCompose(os.Args)
	ctx, stop := notifyContext(context.Background())
	err := run(ctx, os.Args[1:], os.Getenv)
	var sig signalError
	if errdefs.IsCanceled(err) && errors.As(context.Cause(ctx), &sig) {
		err = sig
	}
	stop()
	if err != nil && !errors.As(err, &sig) && !errdefs.IsCanceled(err) {
		if text := renamed(err.Error()); text != "" {
			fmt.Fprintln(os.Stderr, text)
		}
	}
	os.Exit(exitCode(err))
}

// exitCode is what docker returns: the command's own status, 128 + the signal
// that ended it, else 1.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	var sig signalError
	if errors.As(err, &sig) {
		return sig.code()
	}
	if errdefs.IsCanceled(err) {
		return 1
	}
	var st cli.StatusError
	if errors.As(err, &st) && st.StatusCode != 0 {
		return st.StatusCode
	}
	return 1
}
