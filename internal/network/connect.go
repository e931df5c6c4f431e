package network

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"hull/internal/hull"
)

// Connect puts a container on another network.
func (s *Service) Connect(context.Context, string, string, hull.EndpointSpec) error {
	return fmt.Errorf("connecting a container to a network while it exists is not supported yet; name the network when it is created: %w", errdefs.ErrNotImplemented)
}

// Disconnect takes a container off a network.
func (s *Service) Disconnect(context.Context, string, string, bool) error {
	return fmt.Errorf("disconnecting a container from a network is not supported yet; remove the container: %w", errdefs.ErrNotImplemented)
}
