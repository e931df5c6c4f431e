package agent

import "testing"

// TestNotOnAHost: as process 1 of a machine hull-guest moves mounts, network devices
// and cgroups. Where there is a /proc it must not begin, even as process 1 of a
// namespace.
func TestNotOnAHost(t *testing.T) {
	if inMachine(1, "/proc") {
		t.Error("process 1 where /proc is there is taken for a machine's")
	}
	if inMachine(2, t.TempDir()+"/proc") {
		t.Error("process 2 is taken for the first one of a machine")
	}
	if !inMachine(1, t.TempDir()+"/proc") {
		t.Error("process 1 of a machine is not known")
	}
}
