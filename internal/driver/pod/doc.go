// Package pod is the engine's side of a pod whose monitor has a backend: what the
// drivers over one (oci, vm) have in common. It starts the monitor, finds it again
// after a restart of the engine, keeps the local halves of its processes, and
// knows when it has died. What a driver adds is what its backend can do.
package pod
