// Package oci drives hull-runc as containerd, Podman and people do: its command
// line on bundles, under Debian's containerd and podman, and the validation
// programs of the OCI runtime-tools. There is nothing in it but tests.
//
// HULL_OCI_RUNTIME=/path/to/runc runs the tests of the command line against another
// runtime, to show that they are right about it.
package oci
