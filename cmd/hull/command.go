package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"hull/cmd/internal/endpoint"
	"hull/cmd/internal/launch"
	"hull/cmd/internal/wire"
)

// errHandOver: hull-cli is to do it.
var errHandOver = errors.New("hand over to hull-cli")

// apiVersion is in every path. An engine that is too old for it refuses the first
// request, before anything has happened, and hull-cli negotiates.
const apiVersion = "/v1.55"

// command is one invocation.
type command struct {
	getenv       func(string) string
	uid          int
	in, out, err *os.File

	to  endpoint.Endpoint
	cfg settings
}

// run finds the verb. The code is the process's exit status; the error, if any,
// is for the user. errHandOver says that nothing was done.
func (c *command) run(args []string) (int, error) {
	var host string
	if len(args) == 1 && (args[0] == "--version" || args[0] == "-v") {
		_, err := fmt.Fprintf(c.out, "hull version %s, build %s\n", version, commit)
		return 0, err
	}
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		value, rest, ok := hostFlag(args)
		if !ok || host != "" {
			return 0, errHandOver
		}
		host, args = value, rest
	}
	verb, args := c.verb(args)
	if verb == nil {
		return 0, errHandOver
	}
	var ok bool
	if c.cfg, ok = readSettings(c.getenv); !ok {
		return 0, errHandOver
	}
	c.to = endpoint.Resolve(endpoint.Choice{Host: host, StoredContext: c.cfg.Context(), Getenv: c.getenv, UID: c.uid})
	if c.to.Socket == "" || c.getenv("DOCKER_CUSTOM_HEADERS") != "" {
		return 0, errHandOver // a context, TCP, ssh
	}
	return verb(args)
}

// hostFlag takes -H from the front of args; every other global flag is hull-cli's.
func hostFlag(args []string) (value string, rest []string, ok bool) {
	a := args[0]
	switch {
	case a == "-H" || a == "--host":
		if len(args) < 2 {
			return "", nil, false
		}
		return args[1], args[2:], true
	case strings.HasPrefix(a, "--host="):
		return a[len("--host="):], args[1:], true
	case strings.HasPrefix(a, "-H") && len(a) > 2 && a[2] != '=':
		return a[2:], args[1:], true
	}
	return "", nil, false
}

// verb is the function for the command that args begin with, and its arguments;
// nil for those of hull-cli.
func (c *command) verb(args []string) (func([]string) (int, error), []string) {
	if len(args) > 0 && args[0] == "container" {
		args = args[1:]
		if len(args) > 0 && (args[0] == "ls" || args[0] == "list") {
			return c.ps, args[1:]
		}
	}
	if len(args) == 0 {
		return nil, nil
	}
	switch args[0] {
	case "run":
		return c.runContainer, args[1:]
	case "exec":
		return c.exec, args[1:]
	case "ps":
		return c.ps, args[1:]
	}
	if r, table := simple(args[0]); r != nil {
		return func(args []string) (int, error) { return c.each(r, table, args) }, args[1:]
	}
	return nil, nil
}

// dial connects to the engine, and starts the user's own when it is not there.
func (c *command) dial() (*wire.Conn, error) {
	conn, err := wire.Dial(c.to.Socket)
	if err == nil {
		return conn, nil
	}
	if !c.to.Own || !launch.Dead(err) {
		return nil, errHandOver // which explains what is wrong with it
	}
	if err := launch.Start(context.Background(), c.to); err != nil {
		return nil, err
	}
	return wire.Dial(c.to.Socket)
}
