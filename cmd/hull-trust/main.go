// Command hull-trust knows signatures: it answers one question of hulld or of
// the command line (package trust) that it reads from its standard input. It is
// a program of its own, because only who uses signatures is to pay for what they
// bring along, and because what it reads is hostile: it needs no file and no network.
package main

import (
	"fmt"
	"os"

	"hull/internal/trust"
	"hull/internal/trust/seal"
)

func main() {
	if err := trust.Serve(os.Stdin, os.Stdout, seal.Answer); err != nil {
		fmt.Fprintln(os.Stderr, "hull-trust:", err)
		os.Exit(1)
	}
}
