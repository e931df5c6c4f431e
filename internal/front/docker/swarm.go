package docker

import (
	"encoding/json"
	"net/http"
)

// errNotManager is what an engine outside a swarm says to everything about one.
func errNotManager() error {
	return &statusError{http.StatusServiceUnavailable, `This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.`}
}

func notManager(http.ResponseWriter, *http.Request) error { return errNotManager() }

func notInSwarm(http.ResponseWriter, *http.Request) error {
	return &statusError{http.StatusServiceUnavailable, "This node is not part of a swarm"}
}

func noSwarm(http.ResponseWriter, *http.Request) error {
	return notImplemented("swarm mode is not supported: hull runs containers on this machine; use Kubernetes to schedule over several")
}

func noBuild(http.ResponseWriter, *http.Request) error {
	return notImplemented("building images is not supported by this version")
}

func noPlugins(http.ResponseWriter, *http.Request) error {
	return notImplemented("plugins are not supported")
}

func noPlugin(_ http.ResponseWriter, r *http.Request) error {
	return notFound("plugin %q not found", r.PathValue("name"))
}

// readFirst refuses a body that is no JSON before it says what h has to say.
func readFirst(maxBody int64, h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		var body json.RawMessage
		if err := readJSON(r, maxBody, false, &body); err != nil {
			return err
		}
		return h(w, r)
	}
}

func noCheckpoint(http.ResponseWriter, *http.Request) error {
	return notImplemented("checkpoints are not supported")
}

// checkCheckpoint refuses a start from a checkpoint.
func checkCheckpoint(id string) error {
	switch {
	case id == "":
		return nil
	case !volumeName.MatchString(id): // one rule for all names
		return invalid("invalid checkpoint ID %q, only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", id)
	}
	return notImplemented("checkpoints are not supported")
}

func emptyList(w http.ResponseWriter, _ *http.Request) error { return reply(w, []struct{}{}) }
