// Command hull-monitor is the process beside each pod; see internal/monitor. It
// is started by hulld, never by hand.
package main

import (
	"os"

	"hull/internal/monitor"
)

func main() { os.Exit(monitor.Main(nil)) }
