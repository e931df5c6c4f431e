package oci

import (
	"fmt"
	"os"
	"path/filepath"
)

// Program is what hull-monitor does under the other names that it is called by in this
// package: the first process of a sandbox, and the hook that holds one. ok is false for
// its own name.
func Program(args []string) (code int, ok bool) {
	switch filepath.Base(args[0]) {
	case PauseMode:
		pause(args[1:])
	case holdMode:
		if err := waitForStart(); err != nil {
			fmt.Fprintln(os.Stderr, "wait for the start:", err)
			return 1, true
		}
	default:
		return 0, false
	}
	return 0, true
}
