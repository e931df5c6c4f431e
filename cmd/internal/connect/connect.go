// Package connect has docker/cli's programs talk to the engine that hull chooses.
package connect

import (
	"context"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/config"
	"github.com/moby/moby/client"
	"github.com/spf13/pflag"

	"hull/cmd/internal/endpoint"
	"hull/cmd/internal/launch"
)

// Where "hull context use" keeps its choice in docker's configuration file:
// plugins.hull.context.
const (
	Plugin     = "hull"
	ContextKey = "context"
)

// Engine is the engine of one invocation.
type Engine struct {
	endpoint.Endpoint
	// Passive: nothing is started, as for help and completion.
	Passive atomic.Bool

	once sync.Once
	err  error // of the start
}

// Choose decides the engine and sets the global flags --host or --context to it,
// so that docker/cli needs not know hull's order.
func (e *Engine) Choose(cli *command.DockerCli, flags *pflag.FlagSet, getenv func(string) string) error {
	host, ctxName := flags.Lookup("host"), flags.Lookup("context")
	if host.Changed && ctxName.Changed {
		return nil // docker/cli says that these conflict
	}
	if dir := flags.Lookup("config"); dir.Changed {
		config.SetDir(dir.Value.String())
	}
	stored, _ := cli.ConfigFile().PluginConfig(Plugin, ContextKey)
	e.Endpoint = endpoint.Resolve(endpoint.Choice{
		Host: host.Value.String(), Context: ctxName.Value.String(), StoredContext: stored,
		Getenv: getenv, UID: os.Getuid(),
	})
	if e.Context != "" {
		return flags.Set("context", e.Context)
	}
	if host.Changed {
		return nil
	}
	if err := flags.Set("context", ""); err != nil {
		return err
	}
	return flags.Set("host", e.Host)
}

// Options are docker/cli's for this engine.
func (e *Engine) Options() []command.CLIOption {
	if !e.Own { // any other host has its own way to connect (ssh, TLS)
		return nil
	}
	return []command.CLIOption{command.WithAPIClientOptions(client.WithDialContext(e.dial))}
}

// Env tells another program of the same engine, whatever our own environment says: docker/cli
// prefers a host to a context.
func (e *Engine) Env() map[string]string {
	if e.Context == "" && e.Host == "" {
		return nil
	}
	return map[string]string{endpoint.EnvDockerHost: e.Host, endpoint.EnvDockerContext: e.Context}
}

// Up starts the user's own engine when it does not answer.
func (e *Engine) Up(ctx context.Context) error {
	if !e.Own {
		return nil
	}
	c, err := e.dial(ctx, "", "")
	if err != nil {
		return err
	}
	return c.Close()
}

// Err is why the engine could not be started, nil if nobody tried.
func (e *Engine) Err() error { return e.err }

// dial connects to the own engine, and starts it when it is not there. One attempt is made.
func (e *Engine) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", e.Socket)
	if err == nil || !launch.Dead(err) || e.Passive.Load() {
		return c, err
	}
	// Not bound to ctx: the first request is a ping with a two-second limit, the
	// one after it needs this very engine.
	ctx = context.WithoutCancel(ctx)
	e.once.Do(func() { e.err = launch.Start(ctx, e.Endpoint) })
	if e.err != nil {
		return nil, e.err
	}
	return d.DialContext(ctx, "unix", e.Socket)
}
