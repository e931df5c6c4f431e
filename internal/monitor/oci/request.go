package oci

import (
	"encoding/json"

	"hull/internal/runtime"
)

// Backend is the name of this backend.
const Backend = "oci"

// Style is how a runtime's command line has to be used.
type Style string

// The styles.
const (
	// Runc is what runc and those that follow it do: exec detaches, and the process in
	// the container is a process of the host.
	Runc Style = "runc"
	// Runsc is gVisor's: the process of the host is the sandbox, processes in it have
	// pids of their own, and a sandbox may hold more containers.
	Runsc Style = "runsc"
)

// Config is what a pod's backend is made from. It travels as JSON.
type Config struct {
	Style   Style
	Runtime string   // absolute path
	Args    []string // global arguments, before the command
	// Pause is the executable for the first container of a runsc sandbox that holds
	// several; called PauseMode, it does nothing until it is killed.
	Pause string `json:",omitempty"`
	NetNS string `json:",omitempty"` // of the pause container
	// Cgroup is the pause container's, and so the whole sandbox's.
	Cgroup runtime.Cgroup `json:",omitzero"`
	// MaskControllers hides the v2 controllers of a hybrid host from the runtime: crun
	// before 1.9 refuses to run otherwise.
	MaskControllers bool `json:",omitempty"`
}

// Container is a container to create. It travels as CreateRequest.Spec.
type Container struct {
	Spec     json.RawMessage // config.json; its root is "rootfs"
	Lower    []string        // the root file system's layers, topmost first
	Upper    string
	Work     string
	ReadOnly bool
	// RuntimeCgroup says that the runtime makes the cgroup. Else it exists, and the
	// runtime is born in it.
	RuntimeCgroup bool
	// Alone says that the container is a sandbox by itself (runsc).
	Alone bool
	Binds []Bind // what of the host it sees, for CallRoot
}

// Bind is a directory or file of the host in a container.
type Bind struct {
	Source, Target      string
	Recursive, ReadOnly bool
}

// What Call does. The body is a container's id.
const (
	CallProcesses = "processes" // the table that "ps" prints
	CallRoot      = "root"      // a descriptor of the root directory with all its binds
)

// PausePrefix makes the pod's id that of the first container of a sandbox that holds
// several. Not a suffix: runsc takes the beginning of an id for the id.
const PausePrefix = "pause-"

// TmpDir is the source, in the bundle, of the mount on /tmp that a container of gVisor's
// has: its root file system's own /tmp. Without a mount there gVisor makes one in
// memory, in which what a program leaves is no part of its container's files.
const TmpDir = "tmp"

// Exec is another process of a container. It travels as the plan of an exec.
type Exec struct {
	Process  json.RawMessage // process.json
	Args0    string
	Terminal bool
}
