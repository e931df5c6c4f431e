package api

// PortsPath is the route (POST) that changes a container's published ports while
// it runs; %s is its name or id. The body is a PortsChange, the answer a PortsState.
const PortsPath = "/hull/v1/containers/%s/ports"

// Port publishes a container's port on the host.
type Port struct {
	HostIP        string // "" = all addresses; in Remove: any
	HostPort      string // "8080", "8000-8010", "" = a free one; in Remove: any
	ContainerPort uint16
	Proto         string // tcp (also ""), udp, sctp
}

// PortsChange takes ports away, then publishes others: all of it or nothing.
type PortsChange struct{ Add, Remove []Port }

// PortsState is what a container publishes. Of one that does not run it is empty.
type PortsState struct{ Ports []Port }
