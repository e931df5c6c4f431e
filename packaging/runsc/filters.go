//go:build ignore

// Command filters writes the system call filters of gVisor's kernel as Go source, ready to
// be installed. gVisor's own build does that with Bazel; in its Go module they are left
// out, and each sandbox compiles its filter when it starts, which is a fifth of what its
// start costs and a third with the host's network stack. "build" beside this file runs it
// in a copy of the module.
package main

import (
	"fmt"
	"os"
	"strings"

	"gvisor.dev/gvisor/runsc/boot/filter/config"
)

// platforms are those that hull uses.
var platforms = []string{"systrap", "kvm"}

func main() {
	programs, err := config.PrecompiledPrograms()
	if err != nil {
		fmt.Fprintln(os.Stderr, "compile filters:", err)
		os.Exit(1)
	}
	var b strings.Builder
	b.WriteString(`package filter

import "gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"

// PrecompilationDisabledAtBuildTime says whether there are no precompiled programs.
const PrecompilationDisabledAtBuildTime = false

// GetPrecompiled returns the precompiled program of that name.
func GetPrecompiled(name string) (precompiledseccomp.Program, bool) {
	switch name {
`)
	var names []string
	for _, p := range programs {
		if !wanted(p.Name) {
			continue
		}
		names = append(names, p.Name)
		fmt.Fprintf(&b, "	case %q:\n		return %s, true\n", p.Name, p.Expr("\t\t", "precompiledseccomp"))
	}
	fmt.Fprintf(&b, `	}
	return precompiledseccomp.Program{}, false
}

// ListPrecompiled returns the names of all.
func ListPrecompiled() []string { return %#v }
`, names)
	if len(names) == 0 {
		fmt.Fprintln(os.Stderr, "compile filters: none is for", platforms)
		os.Exit(1)
	}
	fmt.Print(b.String())
}

// wanted says whether a sandbox of hull's can need the filter of that name. None gets a
// device of the host, for which gVisor has proxies.
func wanted(name string) bool {
	for _, p := range platforms {
		if strings.Contains(name, fmt.Sprintf("Platform=%q ", p)) && !strings.Contains(name, "Proxy=true") {
			return true
		}
	}
	return false
}
