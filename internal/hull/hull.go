// Package hull holds the domain: plain types, phases and requests. It imports
// only the standard library and errdefs; every other package may import it.
package hull

import (
	"context"
	"os"
	"time"
)

type (
	// Isolation names a kind of boundary as users say it.
	Isolation string
	// Phase is where a container is in its life; see state.go.
	Phase string
	// RootfsKind says how a root file system is handed to a driver.
	RootfsKind string
)

// The isolations.
const (
	IsolationContainer Isolation = "container"
	IsolationSandbox   Isolation = "sandbox"
	IsolationVM        Isolation = "vm"
)

// Rootfs kinds.
const (
	RootfsOverlay RootfsKind = "overlay" // lower directories + upper + work, to be mounted by the driver
	RootfsBlock   RootfsKind = "block"   // read-only block image + writable disk
)

// Rootfs describes a container's root file system. Nothing is mounted on the
// host: whoever needs it mounts it where it needs it (linux.MountOverlay gives
// a detached mount's file descriptor), so that nothing can leak.
type Rootfs struct {
	Kind     RootfsKind
	Lower    []string // topmost first
	Upper    string   // "" = read-only
	Work     string
	ReadOnly bool
	Block    string // RootfsBlock: read-only image file
	Disk     string // RootfsBlock: writable sparse file
}

// Handle is opaque to everyone but the driver that made it; the store keeps it
// so that the driver can find its sandbox again after a restart.
type Handle []byte

// Release gives back what the call that returned it acquired. It may be called
// twice, and after a restart.
type Release func(context.Context) error

// Pod is one isolation boundary with a network and zero or more containers.
// A Docker container is a pod of one, with the same id.
type Pod struct {
	ID         string
	Name       string
	Created    time.Time
	Isolation  Isolation
	Runtime    string
	Hostname   string
	Domainname string
	Labels     map[string]string
	Implicit   bool // made for one container, and gone with its run
	Network    NetworkSpec
	Namespaces Namespaces
	Users      PodUsers `json:"-"` // decided anew at each start
	Machine    bool     // another kernel has a copy of its network interfaces
	OwnStack   bool     // it has a network stack that keeps the interfaces it started with, unless it has a name server then
	Resources  Resources
	Sysctls    map[string]string
	Status     PodStatus
}

// PodStatus is a pod's mutable part.
type PodStatus struct {
	Running   bool
	Handle    Handle
	Endpoint  Endpoint // of this run
	StartedAt time.Time
}

// Container is a record: intent plus what was last known of its run.
type Container struct {
	ID       string // 64 hex digits
	PodID    string // = ID for a Docker container
	Name     string // without a leading slash
	Created  time.Time
	Spec     Spec
	Image    ImageRef
	Resolved Resolved
	Mounts   []MountPoint // resolved at create; shown by inspect
	Status   Status
	Execs    []string `json:"-"` // ids of live execs, filled by the engine
	Links    []string `json:"-"` // "/db:/web/alias", of a look-up: links to others, by their names now
	Linked   []string `json:"-"` // "/web/alias", of a list: names that links of others give it
}

// ImageRef pins the image a container was made from.
type ImageRef struct {
	Name     string // reference as given
	ID       string // "sha256:..." as Docker shows it (config digest for single-platform images)
	Manifest string // manifest digest
	Platform string
}

// Resolved is what Spec and the image's configuration give together.
type Resolved struct {
	Path       string   // argv[0]
	Args       []string // argv[1:]
	Entrypoint []string
	Cmd        []string
	Env        []string
	WorkDir    string
	User       string
	StopSignal string
	Labels     map[string]string
	Exposed    []string
	Volumes    []string
	Health     *HealthSpec
	Shell      []string
	OnBuild    []string
}

// Status is the mutable part of a container. It is written only by
// store.UpdateStatus, and the engine corrects it from what the driver reports.
type Status struct {
	Phase         Phase
	Pid           int // host pid of the main process, 0 when not running
	ExitCode      int
	OOMKilled     bool
	Error         string // why the last start failed
	StartedAt     time.Time
	FinishedAt    time.Time
	RestartCount  int
	Restarting    bool // exited, will be started again
	StopRequested bool // the user stopped it: restart policies other than always-on-boot stay quiet
	Health        *Health
	Endpoint      Endpoint // of this run
	LogPath       string
}

// Health is a health check's state.
type Health struct {
	Status        string // starting, healthy, unhealthy
	FailingStreak int
	Log           []HealthResult // last five
}

// HealthResult is one probe.
type HealthResult struct {
	Start, End time.Time
	ExitCode   int
	Output     string // at most 4 KiB
}

// MountPoint is a resolved mount of a container.
type MountPoint struct {
	Type        MountType
	Name        string // volume name
	Source      string // host path
	Target      string
	Driver      string
	Mode        string
	RW          bool
	Propagation string
	Spec        Mount // what was asked for
	Anonymous   bool  // removed with the container on -v/--rm
}

// IDRange is what a user namespace's ids are on the host: user n is UID+n, group
// n is GID+n, for n below Size. Size 0 = no user namespace, they are the same.
type IDRange struct{ UID, GID, Size uint32 }

// nobody is the id of who has none (Linux, overflowuid).
const nobody = 65534

// Host gives the host's ids of a container's user and group. Those the container
// does not have become its nobody.
func (r IDRange) Host(uid, gid int) (hostUID, hostGID int) {
	if r.Size == 0 {
		return uid, gid
	}
	to := func(first uint32, id int) int {
		if id < 0 || id >= int(r.Size) {
			id = nobody
		}
		return int(first) + id
	}
	return to(r.UID, uid), to(r.GID, gid)
}

// Container is the reverse of Host.
func (r IDRange) Container(hostUID, hostGID int) (uid, gid int) {
	if r.Size == 0 {
		return hostUID, hostGID
	}
	from := func(first uint32, id int) int {
		if id < int(first) || id >= int(first)+int(r.Size) {
			return nobody
		}
		return id - int(first)
	}
	return from(r.UID, hostUID), from(r.GID, hostGID)
}

// Mapping says whether a directory's owners can be shown through the ids of a user
// namespace.
type Mapping int

// The mappings.
const (
	Mapped   Mapping = iota // they can
	Unmapped                // they cannot, and nobody expects it: a file system of the kernel's own
	Refused                 // they cannot: the file system has no support
)

// PodUsers says to which user namespace a pod's network namespace belongs; zero =
// the host's.
type PodUsers struct {
	Own  bool    // one of its own, with a range of its own
	Path string  // that of another pod, which owns the namespace at Path
	IDs  IDRange // of Path's
}

// Endpoint is a pod's place on the network for one run.
type Endpoint struct {
	NetNS        string // path to join; "" = the host's
	Hosts        string // host path of the generated /etc/hosts, "" = none
	ResolvConf   string
	HostnameFile string
	Networks     map[string]NetworkEndpoint // by network name
	Ports        []PublishedPort
	IDs          IDRange // of the user namespace that owns NetNS
}

// NetworkEndpoint is an address on one network.
type NetworkEndpoint struct {
	NetworkID, EndpointID string
	MacAddress            string
	IPv4, Gateway4        string // without prefix length
	PrefixLen4            int
	IPv6, Gateway6        string
	PrefixLen6            int
	Aliases, DNSNames     []string
}

// PublishedPort is one port as it was really published.
type PublishedPort struct {
	ContainerPort uint16
	Proto         string
	HostIP        string
	HostPort      uint16
}

// Exit is how a process ended.
type Exit struct {
	Code      int // 0-255; 128+n when killed by signal n
	OOMKilled bool
	At        time.Time
	Error     string // set when the boundary itself died
}

// IO says where a process's standard streams go. hulld is never on this path:
// the monitor (or the guest) copies.
type IO struct {
	TTY        bool
	Stdin      bool // a stdin exists
	StdinOnce  bool
	Rows, Cols uint16
	Log        LogTarget // main processes only
	Attach     *Attach   // connected before the process starts; execs
}

// LogTarget is where and how the monitor writes a container's output.
type LogTarget struct {
	Driver                                string // json-file, local, none, journald, syslog; "" = none
	Path                                  string // file drivers: the current file
	MaxSize                               int64  // bytes before rotation, <= 0 = never
	MaxFiles                              int
	Compress                              bool
	Attrs                                 map[string]string // labels, env, tag
	Options                               map[string]string // driver's own
	ContainerID, ContainerName, ImageName string
}

// Attach connects a stream to a process's standard streams. The descriptor is
// handed to the monitor, so bytes never pass through hulld and a restart of
// hulld does not cut it.
type Attach struct {
	// Conn is a connected stream socket (net.UnixConn.File, net.TCPConn.File, or
	// one end of a socketpair). The callee takes a duplicate; the caller closes
	// its own after the call returns.
	Conn                  *os.File
	Stdin, Stdout, Stderr bool
	Mux                   bool   // frame output as Docker's stdcopy (of a TTY only where an exec start asks so)
	Prelude               []byte // bytes already read from the client: first stdin
	DetachKeys            []byte // nil = ctrl-p ctrl-q; empty = off
	// Ready, when not nil, tells the client that it is attached. Engine.Attach calls
	// it once, before anything else is written to Conn, and no start of the container
	// falls between it and the attachment: who starts it after that misses nothing.
	Ready func() error
}
