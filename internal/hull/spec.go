package hull

import (
	"encoding/json"
	"time"
)

// Spec is what the user asked for. It is immutable once the container exists,
// except for the fields Update names (Resources, Restart). A zero or nil field
// means "not said"; defaults are filled in exactly one place, engine/spec.go.
type Spec struct {
	Image       string            // reference as the user wrote it
	Platform    string            // "os/arch[/variant]", "" = the host's
	Isolation   Isolation         // "" = the engine's default
	Runtime     string            // name or path of another OCI runtime, "" = the isolation's own
	Process     ProcessSpec       // what runs
	Hostname    string            //
	Domainname  string            //
	Labels      map[string]string // user's labels (image labels are merged by the engine)
	Annotations map[string]string // OCI annotations
	Health      *HealthSpec       // nil = the image's
	Restart     RestartPolicy     //
	AutoRemove  bool              // --rm
	Resources   Resources         //
	Mounts      []Mount           // binds, volumes, tmpfs, images; in the user's order
	VolumesFrom []string          // "container[:ro|rw]"
	Network     NetworkSpec       //
	Security    Security          //
	Namespaces  Namespaces        //
	Log         LogSpec           //
	StorageOpt  map[string]string // e.g. size=10G
	// Front is the front door's own memory of the request (for Docker: the
	// create body as decoded), shown again by inspect. The engine keeps it and
	// never reads it.
	Front json.RawMessage `json:",omitempty"`
}

// ProcessSpec describes a container's main process.
type ProcessSpec struct {
	Entrypoint  []string // nil = the image's; empty and not nil = none
	Cmd         []string // nil = the image's (unless Entrypoint is set)
	Env         []string // "KEY=value", or "KEY" to take it out
	WorkDir     string   // absolute inside the container, "" = the image's
	User        string   // "user[:group]" names or numbers, "" = the image's
	Groups      []string // additional groups, names or numbers
	TTY         bool
	OpenStdin   bool
	StdinOnce   bool // close stdin when the first attached client leaves
	StopSignal  string
	StopTimeout *int    // seconds; nil = 10; -1 = wait for ever
	Init        *bool   // --init: a reaping PID 1 of ours
	ConsoleSize [2]uint // height, width in characters; 0,0 = unknown
}

// HealthSpec is a health check as in the Docker image spec. Zero = inherit.
type HealthSpec struct {
	Test          []string // {"NONE"} | {"CMD", args...} | {"CMD-SHELL", line}
	Interval      time.Duration
	Timeout       time.Duration
	StartPeriod   time.Duration
	StartInterval time.Duration
	Retries       int
}

// RestartPolicy: Name is "", "no", "on-failure", "always", "unless-stopped" or
// "unhealthy" (hull's own: as on-failure, and also when the health check fails).
type RestartPolicy struct {
	Name       string
	MaxRetries int // on-failure and unhealthy; 0 = unlimited
}

// Resources are limits. Bytes, nanoseconds of CPU per second, micro-seconds for
// CFS values. 0 or nil = unlimited.
type Resources struct {
	NanoCPUs          int64
	CPUShares         int64
	CPUPeriod         int64 // µs
	CPUQuota          int64 // µs
	CPURealtimePeriod int64 // µs
	CPURealtimeRun    int64 // µs
	CpusetCpus        string
	CpusetMems        string
	Memory            int64 // bytes
	MemoryReservation int64 // bytes
	MemorySwap        int64 // bytes, memory + swap; -1 = unlimited swap
	MemorySwappiness  *int64
	OomKillDisable    *bool
	OomScoreAdj       int
	PidsLimit         *int64
	Blkio             Blkio
	Ulimits           []Ulimit
	Devices           []Device
	DeviceRequests    []DeviceRequest
	DeviceCgroupRules []string
	ShmSize           int64 // bytes of /dev/shm; 0 = 64 MiB
	CgroupParent      string
}

// Blkio limits block I/O.
type Blkio struct {
	Weight                                 uint16
	WeightDevice                           []DeviceWeight
	ReadBps, WriteBps, ReadIOps, WriteIOps []DeviceRate
}

// DeviceWeight is a weight for one device path.
type DeviceWeight struct {
	Path   string
	Weight uint16
}

// DeviceRate is a rate (bytes/s or operations/s) for one device path.
type DeviceRate struct {
	Path string
	Rate uint64
}

// Ulimit is a resource limit by its lower-case short name ("nofile").
type Ulimit struct {
	Name       string
	Soft, Hard int64 // -1 = unlimited
}

// Device is a host device shown in the container.
type Device struct{ HostPath, Path, Permissions string }

// DeviceRequest asks for devices by driver (CDI, GPUs).
type DeviceRequest struct {
	Driver       string
	Count        int
	IDs          []string
	Capabilities [][]string
	Options      map[string]string
}

// MountType says what a Mount's source is.
type MountType string

// The mount types.
const (
	MountBind   MountType = "bind"
	MountVolume MountType = "volume"
	MountTmpfs  MountType = "tmpfs"
	MountImage  MountType = "image"
	MountSecret MountType = "secret"
)

// ImageMountInfix stands between a container's id and a number in the name under
// which the image service holds an image that the container has mounted.
const ImageMountInfix = ".image"

// Mount is one mount the user (or the image, see FromImage) asked for.
type Mount struct {
	Type           MountType
	Source         string // bind: host path; volume: name, "" = anonymous; image: reference; secret: name
	Target         string // absolute path in the container
	ReadOnly       bool
	Propagation    string // bind: "", rprivate, private, rshared, shared, rslave, slave
	NonRecursive   bool   // bind only the directory itself
	OneOwner       bool   `json:",omitzero"` // bind: the container's user is the owner of the source (-v ...:idmap)
	ReadOnlyNonRec bool   // read-only for the top mount only
	ReadOnlyForce  bool   // fail when recursive read-only is impossible
	CreateSource   bool   // bind: make a missing host directory (-v does, --mount does not)
	Relabel        string // "z" or "Z"
	NoCopy         bool   // volume: no copy-up of the image's content
	Subpath        string // volume, image: a path inside it
	VolumeDriver   string
	VolumeOptions  map[string]string
	VolumeLabels   map[string]string
	TmpfsSize      int64      // bytes
	TmpfsMode      uint32     // permission bits
	TmpfsOptions   string     // raw "-o" string of --tmpfs
	FromImage      bool       // declared by the image's VOLUME
	Mode           string     // the raw mode of -v, for inspect ("ro,z")
	ViaBind        bool       // came from -v/Binds rather than --mount (inspect tells them apart)
	Consistency    string     // accepted and ignored, as on Linux
	Secret         SecretFile `json:",omitzero"`
}

// SecretFile is how a secret's file looks in the container: ids are the container's.
type SecretFile struct {
	UID, GID int
	Mode     uint32 // permission bits
}

// NetworkSpec is the network a container asked for.
type NetworkSpec struct {
	Mode       string // "", default, bridge, none, host, container:ID, or a network's name
	Disabled   bool
	Endpoints  map[string]EndpointSpec // by network name; holds the Mode's own too
	Ports      []PortBinding
	PublishAll bool
	Exposed    []string // "80/tcp"; user's and image's
	MacAddress string
	DNS        []string
	DNSSearch  []string
	DNSOptions []string
	ExtraHosts []string // "name:ip" ("host-gateway" allowed as ip)
	Links      []string
	// Held: until it takes over from another container, it publishes nothing and only
	// its own name is known.
	Held bool
}

// EndpointSpec is what was asked for on one network.
type EndpointSpec struct {
	Aliases      []string
	IPv4, IPv6   string
	LinkLocalIPs []string
	MacAddress   string
	DriverOpts   map[string]string
	GwPriority   int
	Links        []string
}

// PortBinding publishes a container port. HostPort is "", "8080" or
// "8000-8010"; "" and "0" mean: choose a free one. Proto: tcp, udp, sctp.
type PortBinding struct {
	ContainerPort uint16
	Proto         string
	HostIP        string // "" = all addresses, v4 and v6
	HostPort      string
}

// Security is the boundary's fine tuning.
type Security struct {
	Privileged     bool
	CapAdd         []string
	CapDrop        []string
	Options        []string // --security-opt, as the user wrote them
	ReadOnlyRootfs bool
	MaskedPaths    []string // nil = default; empty and not nil = none
	ReadonlyPaths  []string // nil = default; empty and not nil = none
	Sysctls        map[string]string
}

// Namespaces: each "" = own, "host", "container:ID"; IPC also "none", "private",
// "shareable"; Cgroup "private" or "host"; User "host", "private" or "" (the
// engine decides: private wherever nothing that was asked for needs the host's).
type Namespaces struct{ PID, IPC, UTS, User, Cgroup string }

// LogSpec chooses a log driver.
type LogSpec struct {
	Driver  string // "" = the engine's default
	Options map[string]string
}
