package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/linux/rtnl"
)

// moveDevices hands the container the network devices of its specification. They
// stay where they are when it ends: that is for the owner of the namespace.
func moveDevices(s *specs.Spec, pid int) error {
	if s.Linux == nil {
		return nil
	}
	devices := s.Linux.NetDevices
	for _, name := range slices.Sorted(maps.Keys(devices)) {
		if err := rtnl.Move(name, fmt.Sprintf("/proc/%d/ns/net", pid), cmp.Or(devices[name].Name, name)); err != nil {
			return fmt.Errorf("move network device %s: %w", name, err)
		}
	}
	return nil
}

// checkDevices refuses names before anything is moved: the kernel looks at a new
// one only afterwards.
func checkDevices(l *specs.Linux) error {
	if len(l.NetDevices) == 0 {
		return nil
	}
	if !slices.ContainsFunc(l.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace }) {
		return errors.New("unable to move network devices without a NET namespace")
	}
	for name, d := range l.NetDevices {
		if !deviceName(name) || strings.Contains(name, "%") {
			return fmt.Errorf("invalid network device name %q", name)
		}
		if d.Name != "" && (!deviceName(d.Name) || strings.Contains(strings.Replace(d.Name, "%d", "", 1), "%")) {
			return fmt.Errorf("invalid network device name %q", d.Name)
		}
	}
	return nil
}

// deviceName is the kernel's dev_valid_name.
func deviceName(s string) bool {
	return s != "" && len(s) < 16 && s != "." && s != ".." &&
		!strings.ContainsFunc(s, func(r rune) bool { return r == 0 || r == '/' || r == ':' || unicode.IsSpace(r) })
}
