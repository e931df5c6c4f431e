package connect

import (
	"maps"
	"testing"

	"hull/cmd/internal/endpoint"
)

// TestEnv: a plugin is on our engine, and not on one that the environment names.
func TestEnv(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		to   endpoint.Endpoint
		want map[string]string
	}{
		{endpoint.Endpoint{}, nil},
		{endpoint.Endpoint{Host: "unix:///a"}, map[string]string{"DOCKER_HOST": "unix:///a", "DOCKER_CONTEXT": ""}},
		{endpoint.Endpoint{Context: "far"}, map[string]string{"DOCKER_HOST": "", "DOCKER_CONTEXT": "far"}},
	} {
		e := Engine{Endpoint: c.to}
		if got := e.Env(); !maps.Equal(got, c.want) {
			t.Errorf("%+v: %v", c.to, got)
		}
	}
}
