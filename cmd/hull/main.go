// Command hull is hull's command line. It does run, exec, ps and the other
// frequent verbs itself, in about two milliseconds, and hands every other
// command, and every flag of these that is rare, to hull-cli, which is docker's
// command line under hull's name (docs/adr).
//
// The rule that keeps the two from drifting: this program either does exactly
// what hull-cli would do, or hands over before it has changed anything. It never
// reports wrong usage itself. Tests run both and compare what they ask of the
// engine and what they print.
package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"hull/cmd/internal/launch"
)

const (
	full     = "hull-cli"
	composer = "hull-compose" // the verb compose
)

// version and commit are set by the linker, as those of hull-cli.
var ( //nolint:gochecknoglobals // see above
	version = "dev"
	commit  = "unknown"
)

func main() {
	c := &command{getenv: os.Getenv, uid: os.Getuid(), in: os.Stdin, out: os.Stdout, err: os.Stderr}
	code, err := c.run(os.Args[1:])
	if errors.Is(err, errHandOver) {
		code, err = 125, handOver(os.Args)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// handOver becomes hull-cli with the same arguments; it returns only when that
// fails.
func handOver(args []string) error {
	name := full
	if len(args) > 1 && args[1] == "compose" {
		name = composer
	}
	program, err := launch.Program(name, "")
	if err != nil {
		return err
	}
	if err := syscall.Exec(program, args, os.Environ()); err != nil {
		return fmt.Errorf("run %s: %w", program, err)
	}
	return nil
}
