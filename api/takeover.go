package api

// HeldLabel on a container, at its creation, has it started without published ports
// and known by its own name alone (value "true"), until it takes over from another.
const HeldLabel = "hull.held"

// TakeOverPath is the route (POST) that gives a running, held container (%s is its
// name or id) its names and its published ports; those that another has go over in
// one step, and connections under way stay where they are. The body is a TakeOver,
// the answer a PortsState.
const TakeOverPath = "/hull/v1/containers/%s/takeover"

// TakeOver names the running container to take over from.
type TakeOver struct{ From string }
