// Package pod is the engine's side of a pod and its monitor: what the drivers over one
// have in common. It starts the monitor, or takes over one that is ready, finds it
// again after a restart of the engine, keeps the local halves of its processes, and
// knows when it has died. What a driver adds is what its isolation can do.
package pod
