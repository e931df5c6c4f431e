package network

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// TestMain runs everything again in a network and a mount namespace of its own,
// so that no test can meet the machine's network.
func TestMain(m *testing.M) {
	const inside = "HULL_TEST_NETWORK_INSIDE"
	if os.Geteuid() != 0 || os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   syscall.CLONE_NEWNET,
		Unshareflags: syscall.CLONE_NEWNS,
		Pdeathsig:    syscall.SIGKILL,
	}
	if err := cmd.Run(); err != nil {
		os.Exit(1)
	}
}
