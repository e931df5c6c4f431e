// Package api has the types of hull's own routes under /hull/v1, for what the
// Docker Engine API cannot say. They are plain structs; unknown fields are to be
// ignored by readers.
package api

// InfoPath is the route of Info (GET).
const InfoPath = "/hull/v1/info"

// Info says what this engine is and which isolations work on its host.
type Info struct {
	ID               string
	Version          string
	Root             string `json:",omitempty"` // state directory
	Run              string `json:",omitempty"` // run directory
	DefaultIsolation string
	Isolations       []Isolation
}

// Isolation is one way to isolate a container.
type Isolation struct {
	Name      string // "container", "sandbox", "vm"
	Available bool
	Reason    string            `json:",omitempty"` // why it is not available
	Abilities []string          `json:",omitempty"` // beyond create, start, exec, stop: "pause", "stats", ...
	Details   map[string]string `json:",omitempty"` // of the driver, for people
}
