// Package api has the types of hull's own routes under /hull/v1, for what the
// Docker Engine API cannot say. They are plain structs; unknown fields are to be
// ignored by readers.
package api

// InfoPath is the route of Info (GET).
const InfoPath = "/hull/v1/info"

// Info says what this engine is and which isolations work on its host.
type Info struct {
	ID               string
	Name             string // of the host
	Version          string
	Root             string // state directory
	Run              string // run directory
	Isolations       map[string]Isolation
	DefaultIsolation string
}

// Isolation is one way to isolate a container: "container", "sandbox", "vm".
type Isolation struct {
	Available bool
	Reason    string            // why it is not available
	Abilities []string          // beyond create, start, exec, stop: "pause", "stats", ...
	Details   map[string]string // of the driver, for people
}
