package oci

import (
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/driver"
	"hull/internal/driver/pod"
)

// asUser returns the container's process with its user looked up in the root file
// system.
func asUser(c driver.ContainerSpec) (*specs.Process, error) {
	root, err := pod.OpenRootfs(c.Rootfs)
	if err != nil {
		return nil, err
	}
	defer func() { go root.Close() }()
	p := *c.OCI.Process
	return &p, setUser(root, &p, c.User, c.Groups)
}

// setUser is pod.SetUser, with a home in the environment: not every runtime sets it.
func setUser(root *os.File, p *specs.Process, user string, groups []string) error {
	home, err := pod.SetUser(root, p, user, groups)
	if err == nil && !slices.ContainsFunc(p.Env, func(e string) bool { return strings.HasPrefix(e, "HOME=") }) {
		p.Env = append(slices.Clip(p.Env), "HOME="+home)
	}
	return err
}
