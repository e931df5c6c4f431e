// Command hull-unpack unpacks one layer for hulld, where it can reach nothing but
// that layer. See internal/image/jail.
package main

import "hull/internal/image/jail"

func main() { jail.Main() }
