// Package runtime is hull's OCI runtime: it makes a process in namespaces of
// its own, on a root file system of its own, with the limits and rights that an
// OCI runtime specification asks for.
//
// It has two halves, so that the process beside a container stays small:
//
//   - Prepare and PrepareExec (in hulld) are pure: they validate a specification
//     and compile it to a Plan, in which nothing is left to decide.
//   - Create, Start and Exec (in hull-monitor, in hull-runc, in a VM's guest)
//     carry a Plan out.
//
// No binary of the host ever runs inside a container: see child.go.
package runtime

import (
	"context"
	"fmt"
	"os"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Rootfs says where a container's root file system comes from. It is mounted
// only inside the container's own mount namespace.
type Rootfs struct {
	Lower    []string `json:",omitempty"` // overlay: read-only directories, topmost first
	Upper    string   `json:",omitempty"` // overlay: writable directory, "" = none
	Work     string   `json:",omitempty"` // overlay: work directory, beside Upper
	Dir      string   `json:",omitempty"` // a plain directory instead of an overlay
	ReadOnly bool     `json:",omitempty"`
}

// Options is what Prepare needs beyond the specification.
type Options struct {
	Rootfs Rootfs
	// Init asks for a reaping PID 1 of ours in front of the process.
	Init bool
	// NoPivot uses chroot after moving the root mount (initramfs hosts only).
	NoPivot bool
	// Bundle is the directory that relative paths of the specification start at.
	Bundle string
	// KeepKeyring leaves the process its creator's session keyring.
	KeepKeyring bool
}

// Prepare compiles a specification. It needs no privileges and touches nothing
// on the host except that it reads /proc/self/status once, to know which
// capabilities exist here. Nonsense is refused with errdefs.ErrInvalidArgument;
// what this host cannot give but the workload may live without is in
// Plan.Warnings.
func Prepare(spec *specs.Spec, o Options) (*Plan, error) { return prepare(spec, o) }

// PrepareExec compiles another process for a container that was prepared from
// spec. Fields that p leaves out (capabilities, rlimits, no_new_privs, seccomp)
// are spec's. privileged gives every capability and no seccomp profile.
func PrepareExec(spec *specs.Spec, p *specs.Process, privileged bool) (*ExecPlan, error) {
	return prepareExec(spec, p, privileged)
}

// Stdio are the workload's standard streams. nil is /dev/null. When the plan
// has a terminal they are not used: see Process.Console. The caller keeps and
// closes its own files, as soon as Create or Exec has returned if it likes.
type Stdio struct {
	In, Out, Err *os.File
	Extra        []*os.File // become 3, 4, ...
	Rows, Cols   uint16     // first size of the terminal, 0 = unknown
	// Outlive makes a process that is not killed with its parent.
	Outlive bool
	// Leave leaves the process's end to whoever adopts it when this process has
	// ended: it is not reaped here, and Wait knows no status.
	Leave bool
	// Gate makes a process whose Start comes from whoever uses the same Gate later.
	// It is not killed with its parent either.
	Gate *Gate
	// Hooks, if not nil, are what Create waits for on its way.
	Hooks *Hooks
}

// Gate is how one process starts what another has created. The child waits for a
// byte in Start, a fifo, and holds Result, a pipe or fifo, open for writing until it
// has executed. It has them close-on-exec.
type Gate struct{ Start, Result *os.File }

// Hooks are called by Create (and Seccomp by Exec). An error ends the creation, and
// is what Create returns. nil = nothing to do.
type Hooks struct {
	// Runtime is called when the namespaces, mounts and devices are made and the root
	// is still the caller's; pid is the new process.
	Runtime func(pid int) error
	// Container comes after it, on a thread in the container's namespaces (except a
	// user namespace): programs that it starts are born in them. Their working
	// directory is the new root.
	Container func(pid int) error
	// Seccomp gets the listener of a filter with SCMP_ACT_NOTIFY; it is closed when
	// the call returns. Without it such a filter is errdefs.ErrNotImplemented.
	Seccomp func(pid int, listener *os.File) error
}

// Cgroup is where the workload is put. The directories exist, with their limits
// written; see internal/linux/cgroup. Zero = the caller's own cgroups.
type Cgroup struct {
	V2   bool        `json:",omitempty"`
	Dirs []CgroupDir `json:",omitempty"`
}

// CgroupDir is a container's directory in one hierarchy.
type CgroupDir struct {
	Hierarchy string // name below /sys/fs/cgroup ("memory", "cpu,cpuacct"); "" on v2
	Path      string // absolute host path of the directory
}

// Create does everything except running the workload: namespaces, mounts,
// limits, rights. The new process waits, as process 1 of its pid namespace if
// it has its own. When it fails, nothing is left behind.
//
// The process is bound to the calling process: when that dies, the kernel kills
// it, and with it everything in its pid namespace.
func Create(ctx context.Context, plan *Plan, s Stdio, cg Cgroup) (*Container, error) {
	return create(ctx, plan, s, cg)
}

// Init is the container's main process.
func (c *Container) Init() *Process { return c.init }

// Start runs the workload. See Process.Start.
func (c *Container) Start(ctx context.Context) error { return c.init.Start(ctx) }

// Exec makes another process ready in the container; it waits for its Start.
// errdefs.ErrNotFound when the container has ended. cg: zero = the container's
// own cgroups.
func (c *Container) Exec(ctx context.Context, p *ExecPlan, s Stdio, cg Cgroup) (*Process, error) {
	return c.exec(ctx, p, s, cg)
}

// Attach finds a container again by its main process, for Exec from a process that
// did not create it. unshare are the namespaces (CLONE_NEW*) that it does not share
// with the caller. The main process is not the caller's child: Wait gives no
// status. Destroy gives back what Attach took and kills nothing.
func Attach(ctx context.Context, pid int, unshare uintptr) (*Container, error) {
	return attachTo(ctx, pid, unshare)
}

// Root opens the container's root directory with all its mounts (O_PATH), for
// linux.OpenInRoot. The caller closes it.
func (c *Container) Root() (*os.File, error) { return c.root() }

// Destroy kills what is left of the container's main process, waits for it and
// gives back threads and descriptors. Processes outside its pid namespace (when
// it has none of its own) are the cgroup owner's to kill. It may be called twice.
func (c *Container) Destroy() error { return c.destroy() }

// ExecError says that the executable could not be run.
type ExecError struct {
	Errno syscall.Errno // ENOENT, EACCES, ENOEXEC, ...; 0 when it was not found in $PATH
	Path  string        // argv[0]
	Msg   string        // as runc and Docker say it: exec: "foo": executable file not found in $PATH
	Late  bool          // it was there, and execve refused it
}

func (e *ExecError) Error() string { return e.Msg }

// Unwrap gives the errno.
func (e *ExecError) Unwrap() error {
	if e.Errno == 0 {
		return syscall.ENOENT
	}
	return e.Errno
}

// Code is the exit code that shells and Docker give: 127 when the executable is
// missing, 126 when it may not be run.
func (e *ExecError) Code() int {
	switch e.Errno {
	case 0, syscall.ENOENT, syscall.ENOTDIR:
		return 127
	}
	return 126
}

// StepError is a system call that failed in the new process before the workload.
type StepError struct {
	Step  string // what was attempted: "set user id 1000"
	Errno syscall.Errno
}

func (e *StepError) Error() string { return fmt.Sprintf("%s: %v", e.Step, e.Errno) }

// Unwrap gives the errno.
func (e *StepError) Unwrap() error { return e.Errno }
