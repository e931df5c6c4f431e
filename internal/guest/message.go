// Package guest is the conversation between a pod's monitor and hull-guest,
// process 1 of a microVM, and both its ends: Dial is the monitor's, Main is the
// guest's. The container in the guest is run by package runtime, from the same
// plan that runs it on a host.
package guest

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"

	"hull/internal/runtime"
)

// Version of the protocol: guest and monitor are of one build, mostly, but a
// kernel's initramfs may lie in a cache.
const Version = 6

// Where things are in a guest. The container's file system is mounted in its own
// mount namespace, as on a host.
const (
	// NetNS is the network namespace that has the machine's interfaces, its first one:
	// to make another takes a tenth of a boot, and hull-guest uses none itself.
	NetNS = "/proc/1/ns/net"
	// RootDir is where the image is mounted, read-only.
	RootDir = "/run/hull/root"
	// DiskDir is where the writable disk is mounted.
	DiskDir = "/run/hull/disk"
	// UpperDir and WorkDir are the writable layer's on that disk.
	UpperDir = DiskDir + "/upper"
	WorkDir  = DiskDir + "/work"
	// ShareDir is where the host's directories are: volumes and binds.
	ShareDir = "/run/hull/share"
	// FilesDir is where Container.Files are.
	FilesDir = "/run/hull/files"

	// BootModules and VLANModules are files in /modules of the initramfs that list
	// kernel modules: those that are loaded first, and with a second network.
	BootModules = "order"
	VLANModules = "vlan"

	// ShareTag, RootSerial and DiskSerial are what the devices are called.
	ShareTag   = "hull"
	RootSerial = "hull-root"
	DiskSerial = "hull-disk"
)

// Request is what the monitor asks. One struct for all operations: the fields
// that Op needs are set.
type Request struct {
	Op   string
	ID   string     `json:",omitempty"` // process
	In   uint32     `json:",omitempty"` // streams, 0 = none
	Out  uint32     `json:",omitempty"`
	Err  uint32     `json:",omitempty"`
	Plan []byte     `json:",omitempty"`
	Box  string     `json:",omitempty"` // the container an exec is for
	Sig  int        `json:",omitempty"`
	Rows uint16     `json:",omitempty"`
	Cols uint16     `json:",omitempty"`
	Path string     `json:",omitempty"`
	As   string     `json:",omitempty"` // OpCopy: the path as the user wrote it
	User string     `json:",omitempty"` // OpUnpack: who owns everything
	Keep bool       `json:",omitempty"` // OpUnpack: no directory in a file's place, or the reverse
	Boot *Boot      `json:",omitempty"`
	Add  *Container `json:",omitempty"`
	Lim  *Limits    `json:",omitempty"`
	Nets *Networks  `json:",omitempty"`
}

// Operations.
const (
	OpBoot   = "boot"
	OpAdd    = "add"
	OpExec   = "exec"
	OpStart  = "start"
	OpSignal = "signal"
	OpResize = "resize"
	OpClose  = "close" // a process that was added and will not run, or has ended
	OpPause  = "pause"
	OpResume = "resume"
	OpStats  = "stats"
	OpTop    = "top"
	OpLimit  = "limit"
	OpUpper  = "upper" // the writable layer as a layer tar, on stream Out
	// Of container ID; with ID "" below the root file system on the disks, where no
	// container runs.
	OpCopy   = "copy"   // a path as a tar, on stream Out
	OpUnpack = "unpack" // a tar into a path, from stream In
	OpStat   = "stat"
	OpRelink = "relink"
	OpReset  = "reset" // back to where no OpBoot has been yet
	OpOff    = "off"
)

// Boot is what a machine learns first: what differs from every other machine
// made of the same template. Told again, it takes the time of it.
type Boot struct {
	Version  int
	Now      int64  // Unix nanoseconds
	Seed     []byte // for the kernel's random numbers
	Hostname string
	Nets     []Interface
	DNS      bool // queries to 127.0.0.11 go through the monitor
	Root     bool // the image's disk is there
	Disk     bool // the writable one
	Share    bool // there are directories of the host, by virtio-fs
}

// Networks are what the machine's are now, instead of those before, and files that
// have changed with them.
type Networks struct {
	Nets  []Interface
	Files []FileChange
}

// FileChange is a new content of one of Container.Files.
type FileChange struct {
	Name   string
	Data   []byte
	Append bool // to what the file has, instead
}

// Interface is one network interface. They share the machine's one device.
type Interface struct {
	Name  string
	Mac   string
	MTU   int
	Tag   uint16   // of VLAN, by which its frames are known; 0 = they have none
	Addrs []string // with prefix length
	// Routes, those of addresses aside; Dst "" = default.
	Routes []Route
}

// Route is a way to Dst through Gateway, which may be "".
type Route struct {
	Dst, Gateway string
	OnLink       bool
}

// Container is what a guest needs beyond the plan.
type Container struct {
	// User and Groups are looked up in the container's own files.
	User   string
	Groups []string
	Lookup bool
	Limits Limits
	Files  []File // to be written to FilesDir: sources of binds
}

// File is a small file that the guest gets a copy of.
type File struct {
	Name string
	Data []byte
	Mode uint32
	UID  int
	GID  int
}

// FileStat is what a path in a container is.
type FileStat struct {
	Name       string
	Size       int64
	Mode       uint32 // as os.FileMode
	ModTime    int64  // Unix nanoseconds
	LinkTarget string
}

// Limits are cgroup v2 files and what is written to them.
type Limits map[string]string

// Exited is how a process ended.
type Exited struct {
	ID     string
	Status uint32 // wait status
	OOM    bool
	Error  string
}

// Stats are the container's cgroup files, as they are.
type Stats map[string]string

// ProcessInfo is one of a container's processes, with the container's pids.
type ProcessInfo struct {
	Pid, Parent, UID, TTY int
	CPU                   int64 // milliseconds used
	Age                   int64 // milliseconds since its start
	Command               string
}

// Remote is an error on its way.
type Remote struct {
	Kind  string `json:",omitempty"`
	Text  string
	Exec  bool   `json:",omitempty"` // a runtime.ExecError
	Errno int    `json:",omitempty"`
	Path  string `json:",omitempty"`
}

// Reply answers a request.
type Reply struct {
	Error *Remote         `json:",omitempty"`
	Body  json.RawMessage `json:",omitempty"`
	Pid   int             `json:",omitempty"`
}

// ToRemote makes an error ready for its way.
func ToRemote(err error) *Remote {
	if err == nil {
		return nil
	}
	var x *runtime.ExecError
	if errors.As(err, &x) {
		return &Remote{Text: x.Msg, Exec: true, Errno: int(x.Errno), Path: x.Path}
	}
	kind := ""
	switch {
	case errdefs.IsNotFound(err), errors.Is(err, os.ErrProcessDone), errors.Is(err, os.ErrNotExist):
		kind = "notfound"
	case errdefs.IsConflict(err), errdefs.IsAlreadyExists(err), errdefs.IsFailedPrecondition(err):
		kind = "conflict"
	case errdefs.IsInvalidArgument(err):
		kind = "invalid"
	case errdefs.IsNotImplemented(err):
		kind = "unsupported"
	}
	return &Remote{Kind: kind, Text: err.Error()}
}

// maxText bounds a message of the guest's in errors and logs.
const maxText = 1024

func (r *Remote) err() error {
	text := clean(r.Text)
	if r.Exec {
		return &runtime.ExecError{Path: clean(r.Path), Errno: syscall.Errno(r.Errno & 0xfff), Msg: text}
	}
	kind := map[string]error{
		"notfound": errdefs.ErrNotFound, "conflict": errdefs.ErrConflict,
		"invalid": errdefs.ErrInvalidArgument, "unsupported": errdefs.ErrNotImplemented,
	}[r.Kind]
	return &guestError{text, kind}
}

// clean makes a guest's text fit for a log or a terminal.
func clean(s string) string {
	if len(s) > maxText {
		s = s[:maxText] + "..."
	}
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f || c >= 0x80 && c < 0xa0 {
			return '?'
		}
		return c
	}, strings.ToValidUTF8(s, "?"))
}

type guestError struct {
	text string
	kind error
}

func (e *guestError) Error() string { return e.text }
func (e *guestError) Unwrap() error { return e.kind }
