// Package agent is hull-guest: what process 1 of a microVM does. Package guest is
// its conversation with the monitor.
package agent
