package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/linux"
)

// sendListener gives a seccomp notification descriptor to the agent at path, with
// the state that the specification defines.
func sendListener(path string, st specs.ContainerProcessState, fd *os.File) error {
	b, err := json.Marshal(st)
	if err != nil {
		return err
	}
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return fmt.Errorf("failed to connect with seccomp agent specified in the seccomp profile: %w", err)
	}
	defer conn.Close() //nolint:errcheck // everything is sent
	if err := linux.SendFds(conn, b, fd); err != nil {
		return fmt.Errorf("cannot send seccomp fd to %s: %w", path, err)
	}
	return nil
}
