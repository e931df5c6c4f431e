package main

import (
	"encoding/json"
	"fmt"
	"io"

	"hull/internal/driver/proc"
	"hull/internal/front/docker"
	"hull/internal/hull"
	"hull/internal/image"
	"hull/internal/network"
	"hull/internal/volume"
)

// examinations are what the parts of the engine need of the host. They need no
// engine, and change nothing.
func examinations(o options) []func() []hull.Finding {
	return []func() []hull.Finding{
		func() []hull.Finding { return proc.Examine(o.monitor) },
		func() []hull.Finding { return image.Examine(o.root) },
		network.Examine,
		func() []hull.Finding { return volume.Examine(o.root) },
	}
}

// examine writes the findings as the engine's route has them.
func examine(o options, w io.Writer) error {
	var found []hull.Finding
	for _, look := range examinations(o) {
		found = append(found, look()...)
	}
	if err := json.NewEncoder(w).Encode(docker.Findings(found)); err != nil {
		return fmt.Errorf("write what was found: %w", err)
	}
	return nil
}
