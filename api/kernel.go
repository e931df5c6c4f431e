package api

// KernelPath is the route of the guest kernel of isolation "vm":
//
//	PUT     a tar with "vmlinux" (an ELF file or bzImage for x86-64), and, for a kernel that
//	        is not hull's own, KernelInfo and "modules/*"; other files are not read. It takes the place of the kernel that was installed; answers
//	        with a Kernel. Errors: 400 no such kernel, or not whole; 409 hulld was started
//	        with --vm-kernel
//	DELETE  errors: 404 none is installed
const KernelPath = "/hull/v1/vm/kernel"

// KernelInfo is the file beside a kernel that says how to boot it. A kernel without
// one is one of hull's own: everything built in, devices on the command line.
const KernelInfo = "hull-kernel.json"

// Kernel is a guest kernel.
type Kernel struct {
	Name string // its version, for people
}
