package docker

import (
	"net/http"
	"strconv"

	"hull/api"
	"hull/internal/hull"
)

// ports is POST /hull/v1/containers/{id}/ports: Docker publishes only at create.
func (a *containerAPI) ports(w http.ResponseWriter, r *http.Request) error {
	var body api.PortsChange
	if err := readJSON(r, a.maxBody, false, &body); err != nil {
		return err
	}
	if len(body.Add)+len(body.Remove) == 0 {
		return invalid("nothing to do: Add or Remove must name a port")
	}
	now, err := a.engine.Publish(r.Context(), ref(r), toBindings(body.Add), toBindings(body.Remove))
	if err != nil {
		return err //nolint:wrapcheck // the engine names the object
	}
	return reply(w, portsState(now))
}

func portsState(now []hull.PublishedPort) api.PortsState {
	out := api.PortsState{Ports: []api.Port{}}
	for _, p := range now {
		out.Ports = append(out.Ports, api.Port{HostIP: p.HostIP, HostPort: strconv.Itoa(int(p.HostPort)), ContainerPort: p.ContainerPort, Proto: p.Proto})
	}
	return out
}

// takeOver is POST /hull/v1/containers/{id}/takeover.
func (a *containerAPI) takeOver(w http.ResponseWriter, r *http.Request) error {
	var body api.TakeOver
	if err := readJSON(r, a.maxBody, false, &body); err != nil {
		return err
	}
	if body.From == "" {
		return invalid("From must name the container to take over from")
	}
	now, err := a.engine.TakeOver(r.Context(), ref(r), body.From)
	if err != nil {
		return err //nolint:wrapcheck // the engine names the object
	}
	return reply(w, portsState(now))
}

func toBindings(list []api.Port) []hull.PortBinding {
	var out []hull.PortBinding
	for _, p := range list {
		out = append(out, hull.PortBinding{ContainerPort: p.ContainerPort, Proto: firstOf(p.Proto, "tcp"), HostIP: p.HostIP, HostPort: p.HostPort})
	}
	return out
}
