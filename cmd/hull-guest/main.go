// Command hull-guest is process 1 of a microVM: it sets the machine up, and runs
// a container in it as the pod's monitor asks. See internal/guest.
package main

import "hull/internal/guest/agent"

func main() { agent.Main("hull.agent") }
