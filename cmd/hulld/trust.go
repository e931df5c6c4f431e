package main

import (
	"context"
	"path/filepath"

	"hull/internal/trust"
)

// trustPolicy is the policy file of a host.
const trustPolicy = "/etc/hull/trust.toml"

// asker puts questions about signatures to hull-trust, which is beside the monitor.
func asker(o options) func(context.Context, trust.Request) (trust.Reply, error) {
	program := filepath.Join(filepath.Dir(o.monitor), "hull-trust")
	return func(ctx context.Context, q trust.Request) (trust.Reply, error) { return trust.Ask(ctx, program, q) }
}
