// Package vm is the monitor's half of isolation "vm": it starts QEMU when the
// pod's container comes, speaks with hull-guest in it, and presents the processes
// there to the monitor as if they were here.
package vm

import (
	"os"

	"hull/internal/guest"
	"hull/internal/linux"
	"hull/internal/vmm"
)

// Name is the backend's, in the monitor and in handles.
const Name = "vm"

// Config is what the driver knows of a pod before it has a container.
type Config struct {
	Machine     vmm.Config // without disks, nets, share and template
	Hostname    string
	NetNS       string   // the pod's network namespace
	Cgroups     []string // directories whose cgroup.procs QEMU is written to
	BootSeconds int      // how long a guest may take until it answers
}

// Net is an interface of the pod.
type Net = guest.Interface

// Spec is a container: CreateRequest.Spec.
type Spec struct {
	Plan      []byte // runtime.Plan, for the guest
	Container guest.Container
	Root      string // the image's file system, a block image
	Disk      string // the writable one
	Binds     []Bind
	// Copied says where the content of Container.Files comes from, in their order: a
	// file that is another one later is copied again.
	Copied []string
	// VirtioFSD is the program that shows Binds to the guest.
	VirtioFSD string
	// State is a template's device state, and Memory its memory; "" = boot.
	State, Memory string
	Stdin         bool
}

// Bind is a directory or file of the host, shown to the guest as ShareDir/Name.
type Bind struct {
	Name, Source string
	ReadOnly     bool
	// Overlay, if there is one, is mounted in Source's place.
	Overlay *linux.Overlay `json:",omitempty"`
}

// mount gives what is bound, mounted nowhere yet.
func (b Bind) mount() (*os.File, error) {
	if b.Overlay != nil {
		return linux.MountOverlay(*b.Overlay)
	}
	return linux.OpenSource(b.Source, true)
}

// dir says whether it is a directory.
func (b Bind) dir() (bool, error) {
	if b.Overlay != nil {
		return true, nil
	}
	st, err := os.Stat(b.Source)
	return err == nil && st.IsDir(), err
}

// Exec is the plan of another process.
type Exec struct {
	ID        string
	Plan      []byte // runtime.ExecPlan
	Container guest.Container
	TTY       bool
	Stdin     bool
}

// Operations of Call. The body is JSON where there is one.
const (
	OpPause  = "pause"  // body: container id
	OpResume = "resume" // body: container id
	OpStats  = "stats"  // body: container id; reply: Sample
	OpTop    = "top"    // body: container id; reply: []guest.ProcessInfo
	OpLimit  = "limit"  // body: Limit
	OpCopy   = "copy"   // body: Path; file: where the tar goes
	OpUnpack = "unpack" // body: Path; file: where the tar comes from
	OpStat   = "stat"   // body: Path; reply: guest.FileStat
	OpUpper  = "upper"  // file: where the layer's tar goes
)

// Sample is what a container uses, and what the machine does on the host.
type Sample struct {
	Guest guest.Stats
	Pid   int // QEMU's
}

// Limit changes limits.
type Limit struct {
	ID     string
	Limits guest.Limits
}

// Path is a path in a container.
type Path struct {
	ID, Path  string
	As        string // OpCopy: the path as the user wrote it
	Owner     string // OpUnpack: a user of the container, who gets everything
	KeepKinds bool   // OpUnpack: no directory in a file's place, or the reverse
}
