package main

import (
	"fmt"
	"log/slog"

	"hull/internal/engine"
	"hull/internal/hull"
	"hull/internal/idrange"
	"hull/internal/linux"
	"hull/internal/network"
)

// userNamespaces finds out whether containers can have user namespaces here, and
// where their ids come from. What stands against it is logged once and told by info.
func userNamespaces(o options, log *slog.Logger) (network.IDs, engine.UserNS) {
	u := engine.UserNS{Default: o.userns}
	ranges, err := idrange.New(idrange.Config{InUse: linux.IDMapBases})
	if err == nil {
		err = linux.ProbeIDMapped(o.root)
	}
	if err != nil {
		u.Reason = fmt.Sprintf("user namespaces are not available on this host: %v", err)
		log.Warn("containers run in the host's user namespace", "reason", err)
		return nil, u
	}
	u.RunFiles = mappable(o.run)
	log.Debug("user namespaces", "ids", ranges.String(), "default", u.Default)
	return ranges, u
}

// mappable says whether a directory's owners can be mapped; those of a tmpfs can
// since Linux 6.3.
func mappable(dir string) bool {
	one := []linux.IDMap{{Host: 1, Size: 1}}
	ns, err := linux.NewUserNS(one, one)
	if err != nil {
		return false
	}
	defer ns.Close()
	f, err := linux.CloneIDMapped(dir, ns)
	if err != nil {
		return false
	}
	return f.Close() == nil
}

// addUsers says in info what is the matter with user namespaces.
func addUsers(host *hull.EngineInfo, u engine.UserNS) {
	switch {
	case u.Reason != "":
		host.Warnings = append(host.Warnings, "WARNING: containers run in the host's user namespace: "+u.Reason)
	case u.Default == "private":
		host.SecurityOptions = append(host.SecurityOptions, "name=userns")
	}
}
