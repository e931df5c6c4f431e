package engine

import (
	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/hull"
)

// Spec builds the OCI specification of a container that is on no record: a step
// of a build, which is to be isolated as a container would be.
func (e *base) Spec(c hull.Container, ep hull.Endpoint) (*specs.Spec, error) {
	return e.oci(c, ep)
}
