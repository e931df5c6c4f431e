package engine

import (
	"context"

	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/hull"
)

// Spec builds the OCI specification of a container that is on no record: a step
// of a build, which is to be isolated as a container would be.
func (e *base) Spec(c hull.Container, ep hull.Endpoint) (*specs.Spec, error) {
	return e.oci(c, ep)
}

// Users decides in which user namespace such a container is, as for any other.
func (e *base) Users(ctx context.Context, c hull.Container) (hull.PodUsers, error) {
	drv, err := e.driver(c.Spec.Isolation, c.Spec.Runtime)
	if err != nil {
		return hull.PodUsers{}, err
	}
	return e.usersOf(ctx, c, drv)
}
