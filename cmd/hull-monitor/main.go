// Command hull-monitor is the process beside each pod; see internal/monitor. It
// is started by hulld, never by hand.
package main

import (
	"os"

	"hull/internal/monitor"
	"hull/internal/monitor/oci"
	"hull/internal/monitor/vm"
)

func main() {
	if code, ok := oci.Program(os.Args); ok {
		os.Exit(code)
	}
	os.Exit(monitor.Main(
		map[string]monitor.NewBackend{oci.Backend: oci.New, vm.Name: vm.New},
		map[string]monitor.Ahead{vm.Name: vm.Ahead},
	))
}
