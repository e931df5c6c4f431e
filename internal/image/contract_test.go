package image

import (
	"hull/internal/engine"
	"hull/internal/front/docker"
)

// The service is what its two callers ask for.
var (
	_ engine.Images = (*Service)(nil)
	_ docker.Images = (*Service)(nil)
)
