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
	"runtime/debug"

	"github.com/containerd/errdefs"
	"github.com/docker/cli/cli"
	dockerversion "github.com/docker/cli/cli/version"
)

// version is set by the linker.
var version = "dev" //nolint:gochecknoglobals // see above

func main() {
	ctx, stop := notifyContext(context.Background())
	err := run(ctx, os.Args[1:], os.Getenv)
	stop()
	var sig signalError
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

// describe tells docker/cli what it prints as this client's version; commit and
// time are what the Go tool recorded.
func describe(version string) {
	dockerversion.PlatformName, dockerversion.Version = "hull", version
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			dockerversion.GitCommit = s.Value[:min(len(s.Value), 7)]
		case "vcs.time":
			dockerversion.BuildTime = s.Value
		}
	}
}
