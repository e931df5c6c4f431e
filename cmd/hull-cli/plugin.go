package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/docker/cli/cli"
	pluginmanager "github.com/docker/cli/cli-plugins/manager"
	"github.com/docker/cli/cli-plugins/metadata"
	"github.com/docker/cli/cli-plugins/socket"

	"hull/cmd/internal/launch"
)

// Plugins (compose, buildx, ...) are docker's: programs docker-NAME in docker's
// plugin directories. They are told the engine with DOCKER_HOST.

const buildx = "buildx"

// plugin runs the plugin called name. The error is errdefs.ErrNotFound when there is
// none.
func (p *program) plugin(ctx context.Context, name string) error {
	cmd, err := pluginmanager.PluginRunCommand(p.cli, name, p.root)
	if err != nil {
		return err
	}
	if err := p.to.Up(ctx); err != nil { // a plugin cannot start it
		return err
	}
	// The plugin holds this socket open; when it closes the plugin ends itself.
	srv, err := socket.NewPluginServer(nil)
	if err == nil {
		cmd.Env = append(cmd.Env, socket.EnvKey+"="+srv.Addr().String())
		defer srv.Close() //nolint:errcheck // nothing is lost with it
	}
	for key, value := range p.to.Env() {
		cmd.Env = append(cmd.Env, key+"="+value)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start plugin %s: %w", name, err)
	}
	done := make(chan struct{})
	go func() {
		select {
		case <-ctx.Done():
			p.endPlugin(cmd, srv, done)
		case <-done:
		}
	}()
	err = cmd.Wait()
	close(done)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return cli.StatusError{StatusCode: max(exit.ExitCode(), 1)}
	}
	return err
}

// becomeCompose turns this process into hull-compose when that is the verb, unless
// it is not installed: then a plugin of that name serves.
func becomeCompose(args []string) {
	for _, a := range args[1:] {
		if strings.HasPrefix(a, "-") {
			continue
		}
		// A global flag's value may stand here; hull-compose reads these as we do.
		if a == "compose" {
			if program, err := launch.Program("hull-compose", ""); err == nil {
				_ = syscall.Exec(program, args, os.Environ()) // returns only when it fails
			}
			return
		}
		if !strings.Contains(a, "/") && !strings.Contains(a, ":") {
			return // another verb
		}
	}
}

// endPlugin asks a plugin to end after the first signal and kills it after the
// third. On a terminal the kernel gave it the signals as well.
func (p *program) endPlugin(cmd *exec.Cmd, srv *socket.PluginServer, done <-chan struct{}) {
	more := make(chan os.Signal, 2)
	signal.Notify(more, os.Interrupt, syscall.SIGTERM)
	if p.cli.Out().IsTerminal() {
		return
	}
	if srv != nil {
		_ = srv.Close()
	}
	for range 2 {
		select {
		case <-more:
		case <-done:
			return
		}
	}
	_ = cmd.Process.Kill()
}

// builder sends to buildx what only it does: "bake", the management of builders, and
// a build by a builder that the user chose. It returns the arguments to use.
func (p *program) builder(args []string) ([]string, error) {
	name := buildx
	if v := os.Getenv("DOCKER_BUILDKIT"); v != "" {
		if _, err := strconv.ParseBool(v); err != nil {
			return nil, fmt.Errorf("DOCKER_BUILDKIT environment variable expects boolean value: %w", err)
		}
	}
	alias, aliased := p.cli.ConfigFile().Aliases["builder"]
	if aliased {
		name = alias
	}
	to := forward(args, name)
	bake := to != nil && args[0] == "bake"
	chosen := aliased || namesBuilder(args)
	if to == nil || ownBuilder(args) || !bake && builds(args) && !chosen {
		return args, nil
	}
	plugin, err := pluginmanager.GetPlugin(name, p.cli, p.root)
	if err == nil && plugin != nil {
		err = plugin.Err
	}
	switch {
	case err == nil:
	case bake:
		return nil, missing("hull bake requires the buildx plugin but it is missing or broken", err)
	case chosen && builds(args):
		return nil, missing("a builder is chosen but the buildx plugin is missing or broken", err)
	default:
		return args, nil
	}
	p.root.Annotations[metadata.CommandAnnotationPluginCommandPath] = "hull"
	os.Args = slices.Concat(os.Args[:len(os.Args)-len(args)], to) // what the plugin is started with
	return to, nil
}

// ownBuilder tells whether a command is one of hull's that buildx does not know.
func ownBuilder(args []string) bool {
	return args[0] == "builder" && len(args) > 1 && args[1] == "cache"
}

// builds tells whether a command that buildx could take over is a build, which hull
// does itself.
func builds(args []string) bool {
	return args[0] == "build" || len(args) > 1 && args[1] == "build"
}

func missing(text string, err error) error {
	text += "; install it: https://docs.docker.com/go/buildx/"
	if errdefs.IsNotFound(err) {
		return errors.New(text)
	}
	return fmt.Errorf("%s: %w", text, err)
}

// forward is the plugin's arguments for a command that buildx takes over, else nil.
func forward(args []string, name string) []string {
	if len(args) == 0 {
		return nil
	}
	switch {
	case args[0] == "build" || args[0] == "bake":
		return slices.Concat([]string{name}, args)
	case args[0] == "builder":
		return slices.Concat([]string{name}, args[1:])
	case args[0] == "image" && len(args) > 1 && args[1] == "build":
		return slices.Concat([]string{name}, args[1:])
	}
	return nil
}

// namesBuilder tells whether the user chose a buildx builder.
func namesBuilder(args []string) bool {
	return os.Getenv("BUILDX_BUILDER") != "" || slices.ContainsFunc(args, func(a string) bool {
		return a == "--builder" || strings.HasPrefix(a, "--builder=")
	})
}
