// Package oci is the monitor's backend for a pod whose containers an OCI runtime
// of the host makes: gVisor's runsc, runc, crun, hull-runc. It runs the runtime's
// command line and is the parent of what that leaves behind.
//
//	monitor ── create, start, exec, kill, delete    end by themselves, each within a limit
//	   ├────── runsc run                             of a sandbox's first container: ends with its start (see hold.go)
//	   ├────── container's process (runsc: the sandbox)   adopted: the monitor is a subreaper
//	   ├────── runsc's gofer                              adopted
//	   └────── runsc exec                                 stays while the process in the sandbox runs
//
// Each container has a thread here, which has left the host's mount namespace:
// the root file system is mounted in the thread's own, where the runtime, a child
// of that thread, finds it. On the host nothing is mounted, so nothing can be left
// mounted. With gVisor the thread also sits in the container's cgroup, so that the
// sandbox is born there and runsc need not know what a cgroup is.
//
// Everything else is below the pod's run directory, which goes with the pod:
//
//	<run dir>/oci/<id>/config.json, rootfs/   the bundle
//	<run dir>/oci/<id>/pid, log               what the runtime writes
//	<run dir>/oci/state/                      the runtime's own state (--root)
package oci
