// Package driver is the seam between the engine and an isolation technique.
//
// One contract suite, driver/drivertest, holds for every implementation. The
// engine branches on what Info says, never on a driver's name.
package driver

import (
	"context"
	"slices"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/hull"
)

// Driver isolates pods. Implementations: proc, gvisor, vm, and the fake used by
// engine tests.
type Driver interface {
	// Info is constant for the driver's life.
	Info() Info
	// Create makes the boundary, with no container in it. Everything it makes on
	// the host is named from s.ID, so that Recover of a broken handle can still
	// destroy it. A failed Create leaves nothing behind.
	Create(ctx context.Context, s SandboxSpec) (Sandbox, error)
	// Recover finds a sandbox again after a restart of the engine. It returns
	// errdefs.ErrNotFound when the sandbox is gone, after releasing what was left
	// of it; the exits of its processes are then in the *GoneError.
	Recover(ctx context.Context, id string, h hull.Handle) (Sandbox, error)
}

// Sandbox is one isolation boundary with zero or more containers in it.
type Sandbox interface {
	// Handle is what Recover needs; it is stable from Create on.
	Handle() hull.Handle
	// Add makes a container's main process ready: root file system mounted,
	// limits set, namespaces made. Nothing of the image has run yet.
	Add(ctx context.Context, c ContainerSpec, io hull.IO) (Process, error)
	// Exec makes another process in container id ready. execID names it from then on.
	Exec(ctx context.Context, id string, e ExecSpec, io hull.IO) (Process, error)
	// Process finds a container's main process (its id) or an exec (its id).
	Process(id string) (Process, error)
	// Destroy kills everything and gives everything back. It may be called twice,
	// and on a sandbox whose monitor has died.
	Destroy(ctx context.Context) error
}

// Process is created by Add or Exec and does not run until Start.
type Process interface {
	// Start runs it. An executable that is missing or cannot be run gives a
	// *hull.ExecError; then the process has ended and Wait returns its code
	// (127 or 126). errdefs.ErrConflict when it was started before.
	Start(ctx context.Context) error
	// Signal sends sig to it. errdefs.ErrNotFound when it has ended.
	Signal(ctx context.Context, sig syscall.Signal) error
	// Wait returns when it has ended and its output has been drained to the log.
	// It may be called often and by many.
	Wait(ctx context.Context) (hull.Exit, error)
	// Pid is the host's pid, 0 if there is none.
	Pid() int
}

// AbilityUserNS: containers may be in user namespaces of their own.
const AbilityUserNS = "userns"

// AbilityOwnStack: without a name server in the pod's namespace, containers use a
// network stack of the sandbox's own, which has the interfaces it started with.
const AbilityOwnStack = "network-stack"

// AbilitySockets: a socket of the host's that a container sees can be connected to.
const AbilitySockets = "sockets"

// Info is data the engine may branch on, so that it never branches on a
// driver's name.
type Info struct {
	Name hull.Isolation
	// Unavailable is why it cannot be used on this host, and what to do about it; "" =
	// it can.
	Unavailable string
	Rootfs      []hull.RootfsKind // in order of preference
	Abilities   []string          // "pause", "resize", "attach", "stats", "update", "pids", "root", "exec"
	OneEach     bool              // a sandbox takes one container, once
	MinMemory   int64             // smallest memory limit of a container, bytes; 0 = any
	Details     map[string]string // for hull info: versions, why something is off
}

// OnDisk says whether containers have their files on disks of a machine of their
// own, instead of in directories of this host. Then the host's kernel shows neither
// their files nor their network.
func (i Info) OnDisk() bool { return slices.Contains(i.Rootfs, hull.RootfsBlock) }

// SandboxSpec is a boundary to make.
type SandboxSpec struct {
	ID        string // pod id, 64 hex digits
	RunDir    string // directory of this pod on tmpfs; exists, owned by the engine; removed by it after Destroy
	NetNS     string // path; "" = the host's
	Resources hull.Resources
	// Shares says that its container will be given directories of the host. A driver
	// may be told so by the container alone, later, too.
	Shares bool
}

// ContainerSpec is a container to put into a sandbox.
type ContainerSpec struct {
	ID     string
	Rootfs hull.Rootfs
	// OCI is the runtime specification. Its Root.Path is not used: the root file
	// system is Rootfs, mounted by the driver inside the boundary. Namespaces with
	// a path are joined; network is the sandbox's. Linux.CgroupsPath is relative
	// to the engine's own cgroup parent.
	OCI *specs.Spec
	// User is "user[:group]", names or numbers, and Groups additional groups, to be
	// looked up in the container's own /etc/passwd and /etc/group inside the
	// boundary (as Docker does: a number's passwd entry gives its gid, its
	// supplementary groups and HOME when Env has none; the primary gid is always
	// among the groups: CVE-2022-36109). With User "" and Groups nil, 0:0 is meant,
	// looked up as well. OCI.Process.User's numbers are not used.
	User   string
	Groups []string
	// Init asks for a reaping PID 1 of ours in front of the process (--init).
	Init bool
}

// ExecSpec is another process for a container.
type ExecSpec struct {
	ID      string
	Process *specs.Process // Args, Env, Cwd, Terminal, Capabilities, ...
	User    string         // as ContainerSpec.User
	Groups  []string
	Seccomp *specs.LinuxSeccomp // nil = unconfined
	// Now: a driver may start the process before Exec returns, when that is one step
	// for it; then Exec fails as Start would, and Start does nothing.
	Now bool
}
