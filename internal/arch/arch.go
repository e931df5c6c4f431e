// Package arch holds the rules of the tree as data: who may import whom, which
// foreign modules may be used where, and how large a type may grow. Its tests
// hold the tree to them; CONTRIBUTING.md shows the same table to people.
package arch

// Module is the path of this module.
const Module = "hull"

// Size limits. A type or struct above them does too much.
const (
	MaxMethods = 40 // methods of one type
	MaxFields  = 25 // fields of one struct
)

// Rule says what one package, or a tree of them ("x/..."), may import of ours.
// Paths are relative to the module. The first rule that matches holds.
type Rule struct {
	Package string
	May     []string // direct imports of ours; "x/..." is x and all below it; "*" is everything
	Never   []string // of ours, not even through another package
}

// Rules is the import table.
func Rules() []Rule {
	foundation := []string{"internal/hull", "internal/linux/...", "internal/undo"}
	services := []string{
		"internal/engine/...", "internal/driver/...", "internal/front/...",
		"internal/image/...", "internal/network/...", "internal/volume/...",
		"internal/logs/...", "internal/event/...", "internal/store/...", "internal/secret/...", "internal/cdi/...",
	}
	service := func(name string, more ...string) Rule {
		own := "internal/" + name + "/..."
		return Rule{Package: own, May: append(append([]string{own}, foundation...), more...), Never: without(services, own)}
	}
	return []Rule{
		{Package: "internal/hull/..."},
		{Package: "internal/undo"},
		{Package: "internal/keylock"},
		{Package: "internal/plot"},
		{Package: "internal/linux/...", May: []string{"internal/linux/..."}},
		{Package: "internal/arch/..."},
		// Written by the network service, served by the monitor: neither may know the other.
		{Package: "internal/dns", May: []string{"internal/linux"}},
		{Package: "internal/require/..."},

		{Package: "internal/driver", May: []string{"internal/hull"}},
		{ // what its worlds stand on, where pods have a monitor
			Package: "internal/driver/drivertest/ground",
			May:     []string{"internal/hull", "internal/linux/...", "internal/monitor", "internal/require"},
			Never:   []string{"internal/engine/...", "internal/store/...", "internal/network/...", "internal/image/..."},
		},
		{
			Package: "internal/driver/drivertest/...",
			May:     []string{"internal/driver", "internal/hull", "internal/linux/...", "internal/require"},
			Never:   []string{"internal/engine/...", "internal/store/...", "internal/network/...", "internal/image/..."},
		},
		{ // what the drivers over a monitor have in common
			Package: "internal/driver/pod/...",
			May:     []string{"internal/driver", "internal/driver/pod/...", "internal/hull", "internal/linux/...", "internal/monitor"},
			Never:   []string{"internal/engine/...", "internal/store/...", "internal/network/...", "internal/image/...", "internal/driver/proc/...", "internal/driver/oci/...", "internal/driver/vm/..."},
		},
		{ // what the drivers over a cgroup have in common
			Package: "internal/driver/group",
			May:     []string{"internal/hull", "internal/linux/...", "internal/runtime"},
		},
		{
			Package: "internal/driver/proc/...",
			May:     []string{"internal/driver", "internal/driver/pod", "internal/driver/group", "internal/driver/proc/...", "internal/hull", "internal/linux/...", "internal/monitor/...", "internal/runtime/...", "internal/undo"},
			Never:   []string{"internal/engine/...", "internal/store/...", "internal/network/...", "internal/image/...", "internal/driver/oci/...", "internal/driver/vm/..."},
		},
		{
			Package: "internal/driver/oci/...",
			May:     []string{"internal/driver", "internal/driver/pod", "internal/driver/group", "internal/driver/oci/...", "internal/dns", "internal/hull", "internal/linux/...", "internal/monitor/...", "internal/undo"},
			Never:   []string{"internal/engine/...", "internal/store/...", "internal/network/...", "internal/image/...", "internal/driver/proc/...", "internal/driver/vm/..."},
		},
		{
			Package: "internal/driver/vm/...",
			May:     []string{"internal/driver", "internal/driver/pod", "internal/driver/group", "internal/driver/vm/...", "internal/hull", "internal/linux/...", "internal/monitor/...", "internal/runtime/...", "internal/vmm/...", "internal/guest", "internal/undo"},
			Never:   []string{"internal/engine/...", "internal/store/...", "internal/network/...", "internal/image/...", "internal/driver/proc/...", "internal/driver/oci/..."},
		},
		{
			Package: "internal/driver/fake/...",
			May:     []string{"internal/driver", "internal/driver/fake/...", "internal/hull", "internal/monitor/stdio"},
			Never:   []string{"internal/engine/...", "internal/store/...", "internal/linux/..."},
		},

		{Package: "internal/vmm/...", May: []string{"internal/vmm/...", "internal/linux/..."}, Never: []string{"internal/hull", "internal/driver/...", "internal/guest/..."}},
		// The guest's own side packs and unpacks files as the host does.
		{Package: "internal/guest/agent/...", May: []string{"internal/guest/...", "internal/runtime/...", "internal/linux/...", "internal/hull", "internal/files", "internal/image/archive"}, Never: []string{"internal/driver/...", "internal/engine/..."}},
		{Package: "internal/guest/...", May: []string{"internal/guest/...", "internal/runtime/...", "internal/linux/...", "internal/hull"}, Never: []string{"internal/driver/...", "internal/engine/..."}},
		{Package: "internal/runtime/...", May: []string{"internal/runtime/...", "internal/linux/..."}, Never: []string{"internal/driver/...", "internal/engine/..."}},
		{Package: "internal/monitor/vm/...", May: []string{"internal/monitor", "internal/runtime/...", "internal/linux/...", "internal/vmm", "internal/guest", "internal/dns"}, Never: []string{"internal/driver/...", "internal/engine/...", "internal/store/..."}},
		{Package: "internal/monitor/...", May: []string{"internal/monitor/...", "internal/runtime/...", "internal/linux/...", "internal/logs/...", "internal/dns", "internal/hull", "internal/undo"}, Never: []string{"internal/driver/...", "internal/engine/...", "internal/store/..."}},

		service("image", "internal/trust"),
		{Package: "internal/trust/seal", May: []string{"internal/trust"}},
		{Package: "internal/trust"},
		service("network", "internal/dns"),
		service("volume"),
		service("secret"),
		service("cdi"),
		service("logs"),
		service("space"),
		service("event"),
		service("store"),
		service("files"),
		service("idrange"),
		{Package: "internal/build/...", May: []string{"internal/build/...", "internal/hull", "internal/driver", "internal/image/...", "internal/linux/...", "internal/undo", "api"}, Never: []string{"internal/engine/..."}},

		{
			Package: "internal/engine/...",
			May:     []string{"internal/engine/...", "internal/hull", "internal/driver", "internal/undo", "internal/keylock"},
			Never:   []string{"internal/linux/...", "internal/image/...", "internal/network/...", "internal/volume/...", "internal/store/...", "internal/front/..."},
		},
		{
			Package: "internal/front/docker/...",
			May:     []string{"internal/front/docker/...", "internal/hull", "internal/engine", "internal/image", "internal/network", "internal/volume", "internal/logs", "internal/event", "api/..."},
			Never:   []string{"internal/driver/proc/...", "internal/driver/oci/...", "internal/driver/vm/...", "internal/store/...", "internal/front/cri/...", "internal/front/web/..."},
		},

		{Package: "packaging/..."},
		{Package: "api/..."},
		{Package: "cmd/internal/...", May: []string{"cmd/internal/...", "api/..."}, Never: []string{"internal/..."}},
		{Package: "cmd/hull/...", May: []string{"cmd/hull/...", "cmd/internal/...", "api/..."}, Never: []string{"internal/..."}},
		{Package: "cmd/hull-cli/...", May: []string{"cmd/hull-cli/...", "cmd/internal/...", "api/...", "internal/plot", "internal/trust", "packaging/..."}, Never: append(services, "internal/linux/...", "internal/runtime/...", "internal/hull")},
		{Package: "cmd/hull-compose/...", May: []string{"cmd/hull-compose/...", "cmd/internal/...", "api/..."}, Never: []string{"internal/..."}},
		{Package: "cmd/hull-registry/...", May: []string{"cmd/hull-registry/..."}, Never: []string{"internal/..."}},
		{Package: "cmd/hull-probe/...", May: []string{"cmd/internal/probe"}},
		{Package: "cmd/hull-trust/...", May: []string{"internal/trust/..."}},
		{Package: "cmd/hull-unpack/...", May: []string{"internal/image/jail"}, Never: []string{"internal/image", "internal/engine/...", "internal/store/..."}},
		{Package: "cmd/hull-monitor/...", May: []string{"cmd/hull-monitor/...", "internal/monitor/...", "internal/runtime/...", "internal/linux/..."}, Never: []string{"internal/engine/...", "internal/store/...", "internal/image/..."}},
		{Package: "cmd/hull-runc/...", May: []string{"cmd/hull-runc/...", "internal/runtime/...", "internal/linux/...", "internal/undo"}, Never: []string{"internal/engine/...", "internal/store/...", "internal/image/..."}},
		{Package: "cmd/hull-guest/...", May: []string{"cmd/hull-guest/...", "internal/guest/...", "internal/runtime/...", "internal/linux/..."}, Never: []string{"internal/engine/..."}},
		{Package: "cmd/hulld/...", May: []string{"*"}},

		// The outer tests drive the built binaries; only their tools may reach inside.
		{Package: "test/...", May: []string{"test/...", "internal/require", "internal/plot"}, Never: []string{"internal/engine/...", "internal/store/..."}},
	}
}

// Foreign confines a module's packages to places in the tree, so that a foreign
// type cannot leak into the domain.
type Foreign struct {
	Prefixes []string // import paths, and everything below them
	Only     []string // where they may be imported
	Except   []string // below Prefixes, but free
	Why      string
}

// Confined is the table of confined foreign packages. Test files are not held to it.
func Confined() []Foreign {
	return []Foreign{
		{
			Prefixes: []string{"github.com/containerd/containerd"},
			Only:     []string{"internal/image/...", "internal/build/...", "internal/front/cri/..."},
			Except:   []string{"github.com/containerd/containerd/api"}, // messages: BuildKit's client has them, too
			Why:      "content and snapshots are the image service's own business",
		},
		{
			Prefixes: []string{"github.com/moby/buildkit"},
			Only:     []string{"internal/build/...", "cmd/hull-cli/internal/build"},
			Why:      "one package adapts the builder, and one is its client",
		},
		{
			Prefixes: []string{"github.com/vishvananda/netlink", "github.com/google/nftables"},
			Only:     []string{"internal/network/...", "test/..."},
			Why:      "the network service is the only one that talks to the kernel's network",
		},
		{
			Prefixes: []string{"github.com/moby/moby/api", "github.com/moby/moby/client", "github.com/docker/cli", "github.com/docker/docker"},
			Only:     []string{"internal/front/docker/...", "cmd/hull/...", "cmd/hull-cli/...", "cmd/hull-compose/...", "cmd/internal/...", "test/..."},
			Except:   []string{"github.com/docker/cli/cli/config"}, // credentials and their helpers: the image service's, too
			Why:      "foreign types stop at the door",
		},
		{
			Prefixes: []string{"github.com/distribution/distribution"},
			Only:     []string{"cmd/hull-registry/...", "test/..."},
			Why:      "a registry is a program of its own: it adds 20 MB to whoever links it",
		},
		{
			Prefixes: []string{"github.com/sigstore", "github.com/notaryproject", "github.com/google/go-containerregistry"},
			Only:     []string{"internal/trust/seal"},
			Why:      "signatures are a program's of its own: hulld is not to carry what few use",
		},
		{
			Prefixes: []string{"tags.cncf.io/container-device-interface"},
			Only:     []string{"internal/cdi/..."},
			Why:      "one package reads vendors' descriptions of devices",
		},
		{
			Prefixes: []string{"k8s.io/cri-api"},
			Only:     []string{"internal/front/cri/..."},
			Why:      "foreign types stop at the door",
		},
		{
			Prefixes: []string{"github.com/spf13/cobra", "github.com/spf13/pflag"},
			Only:     []string{"cmd/..."},
			Why:      "flags are the command line's",
		},
		{
			Prefixes: []string{"go.etcd.io/bbolt"},
			Only:     []string{"internal/store/...", "internal/image/...", "internal/build/..."},
			Why:      "store is the only writer of hull.db; image owns its own database, and BuildKit wants options for its",
		},
		{
			Prefixes: []string{"unsafe"},
			Only:     []string{"internal/linux/...", "internal/runtime/...", "internal/vmm/...", "internal/image/jail", "internal/monitor/...", "internal/guest/...", "internal/driver/..."},
			Why:      "raw system calls live in few places",
		},
	}
}

func without(list []string, drop string) []string {
	out := make([]string, 0, len(list))
	for _, s := range list {
		if s != drop {
			out = append(out, s)
		}
	}
	return out
}
