// Package linux wraps what hull needs of the kernel beyond the standard
// library: mounts by descriptor, paths that cannot leave a root directory,
// namespaces, descriptors over sockets, pidfds, and the users of a foreign root
// file system. It knows nothing of containers.
package linux
