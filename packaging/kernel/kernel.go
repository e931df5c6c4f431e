// Package kernel holds the recipe of the distribution's guest kernel for programs
// that run it where this tree is not.
package kernel

import _ "embed"

// Debian is the shell script of that name in this directory.
//
//go:embed debian
var Debian string
