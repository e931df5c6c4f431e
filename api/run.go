package api

// Making a container, attaching to it, starting it and waiting for it, in two
// requests at once that answer each other's questions:
//
//	A  POST RunStreamsPath?key=K, Upgrade: tcp  -> 101; the container's streams
//	B  POST RunPath?key=K&...                   -> Running when it runs, and wait's answer at the end
//
// K is the client's to choose, at random. B has the body of POST /containers/create,
// and the query of that and of attach (with stream=1). It waits for the container's
// removal if the body asks for it, else for its exit. An error before the container
// was made is that of create; one after it carries ContainerHeader.
const (
	RunPath        = "/hull/v1/run"
	RunStreamsPath = RunPath + "/streams"
	// ContainerHeader is the id of the container that was made.
	ContainerHeader = "Hull-Container"
)

// Running is the first half of the answer to RunPath.
type Running struct {
	ID       string
	Warnings []string
}
