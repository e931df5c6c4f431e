// Package endpoint decides which engine a command of the command line talks to.
package endpoint

import (
	"path/filepath"
	"strconv"
	"strings"
)

// Names of the environment variables that choose an engine.
const (
	EnvHost          = "HULL_HOST"
	EnvRoot          = "HULL_ROOT"
	EnvRun           = "HULL_RUN"
	EnvDockerHost    = "DOCKER_HOST"
	EnvDockerContext = "DOCKER_CONTEXT"
	envRuntimeDir    = "XDG_RUNTIME_DIR"
)

const (
	socketName     = "hull.sock"
	unixScheme     = "unix://"
	defaultContext = "default" // docker's name for "no context"
)

// Endpoint is an engine's address.
type Endpoint struct {
	Host    string // "unix:///run/hull/hull.sock"; empty when Context decides
	Context string // a docker context, when one was chosen
	Socket  string // the path of Host when it is a unix socket
	Own     bool   // this user's own engine: started when it does not answer
	Root    string // state directory for an engine that must be started; empty = the engine's default
	Run     string // run directory of the own engine
}

// Choice is what Resolve decides from.
type Choice struct {
	Host          string // -H
	Context       string // -c
	StoredContext string // set with "hull context use"
	Getenv        func(string) string
	UID           int
}

// Resolve applies the order -H, -c, HULL_HOST, DOCKER_HOST, DOCKER_CONTEXT, the
// stored context, the user's own engine. A context that belongs to docker's own
// configuration ("docker context use") is deliberately not followed: hull would
// then talk to another engine than hull's.
func Resolve(c Choice) Endpoint {
	e := Endpoint{Root: c.Getenv(EnvRoot), Run: runDir(c)}
	host := c.Host
	if host == "" {
		if c.Context != "" && c.Context != defaultContext {
			e.Context = c.Context
			return e
		}
		host = first(c.Getenv(EnvHost), c.Getenv(EnvDockerHost))
	}
	if host == "" && c.Context == "" {
		if name := first(c.Getenv(EnvDockerContext), c.StoredContext); name != "" && name != defaultContext {
			e.Context = name
			return e
		}
	}
	own := filepath.Join(e.Run, socketName)
	if host == "" {
		host = unixScheme + own
	}
	e.Host = host
	if path, ok := strings.CutPrefix(host, unixScheme); ok && filepath.IsAbs(path) {
		e.Socket = path
		e.Own = filepath.Clean(path) == own
	}
	return e
}

// runDir is HULL_RUN, else the place of root's or this user's engine.
func runDir(c Choice) string {
	if dir := c.Getenv(EnvRun); dir != "" {
		if abs, err := filepath.Abs(dir); err == nil {
			return abs
		}
		return filepath.Clean(dir)
	}
	if c.UID == 0 {
		return "/run/hull"
	}
	if dir := c.Getenv(envRuntimeDir); filepath.IsAbs(dir) {
		return filepath.Join(dir, "hull")
	}
	return "/run/user/" + strconv.Itoa(c.UID) + "/hull"
}

func first(s ...string) string {
	for _, v := range s {
		if v != "" {
			return v
		}
	}
	return ""
}
