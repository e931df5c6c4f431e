// Command hull-monitor is the process beside each pod; see internal/monitor. It
// is started by hulld, never by hand.
package main

import (
	"os"
	"path/filepath"

	"hull/internal/monitor"
	"hull/internal/monitor/oci"
	"hull/internal/monitor/vm"
)

func main() {
	if filepath.Base(os.Args[0]) == oci.PauseMode { // in a sandbox, as its first process
		os.Exit(oci.PauseMain(os.Args[1:]))
	}
	os.Exit(monitor.Main(
		map[string]monitor.NewBackend{oci.Backend: oci.New, vm.Name: vm.New},
		map[string]monitor.Ahead{vm.Name: vm.Ahead},
	))
}
