package runtime

import (
	"maps"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// FeatureList is what this runtime knows, by the names of the specification.
type FeatureList struct {
	Namespaces, Capabilities, MountOptions                       []string
	SeccompActions, SeccompOperators, SeccompArchs, SeccompFlags []string
	MemoryModes, MemoryFlags                                     []string
}

// Features lists what this runtime knows, sorted.
func Features() FeatureList {
	f := FeatureList{
		MemoryModes: keys(memoryModes), MemoryFlags: keys(memoryFlags),
		Namespaces: keys(nsKinds), SeccompArchs: keys(scArches), SeccompFlags: keys(scFlags),
		SeccompActions: []string{
			string(specs.ActAllow), string(specs.ActErrno), string(specs.ActKill), string(specs.ActKillProcess), string(specs.ActKillThread),
			string(specs.ActLog), string(specs.ActNotify), string(specs.ActTrace), string(specs.ActTrap),
		},
		SeccompOperators: []string{
			string(specs.OpEqualTo), string(specs.OpGreaterEqual), string(specs.OpGreaterThan), string(specs.OpLessEqual),
			string(specs.OpLessThan), string(specs.OpMaskedEqual), string(specs.OpNotEqual),
		},
		MountOptions: slices.Concat(keys(propagations), keys(mountAttrs), keys(superFlags), []string{"bind", "rbind", "remount", "tmpcopyup", "idmap", "ridmap"}),
	}
	for a := range mountAttrs {
		f.MountOptions = append(f.MountOptions, "r"+a)
	}
	for _, n := range capNames {
		f.Capabilities = append(f.Capabilities, "CAP_"+n)
	}
	slices.Sort(f.MountOptions)
	f.MountOptions = slices.Compact(f.MountOptions)
	return f
}

func keys[K ~string, V any](m map[K]V) []string {
	var out []string
	for k := range maps.Keys(m) {
		out = append(out, string(k))
	}
	slices.Sort(out)
	return out
}
