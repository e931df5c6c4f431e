package main

// createBody is the body of POST /containers/create: what docker's client sends,
// without the fields that the quick flags never set. An absent field is the zero
// value to the engine, so only what is not zero or is always sent is here. A test
// compares it with docker's for every flag.
type createBody struct {
	Hostname         string              `json:",omitempty"`
	Domainname       string              `json:",omitempty"`
	User             string              `json:",omitempty"`
	AttachStdin      bool                `json:",omitempty"`
	AttachStdout     bool                `json:",omitempty"`
	AttachStderr     bool                `json:",omitempty"`
	ExposedPorts     map[string]struct{} `json:",omitempty"`
	Tty              bool                `json:",omitempty"`
	OpenStdin        bool                `json:",omitempty"`
	StdinOnce        bool                `json:",omitempty"`
	Env              []string            `json:",omitempty"`
	Cmd              []string            `json:",omitempty"`
	Healthcheck      *healthcheck        `json:",omitempty"`
	Image            string
	Volumes          map[string]struct{} `json:",omitempty"`
	WorkingDir       string              `json:",omitempty"`
	Entrypoint       []string            `json:",omitempty"`
	Labels           map[string]string   `json:",omitempty"`
	StopSignal       string              `json:",omitempty"`
	StopTimeout      *int64              `json:",omitempty"`
	HostConfig       hostConfig
	NetworkingConfig networkingConfig
}

type healthcheck struct{ Test []string }

type networkingConfig struct {
	EndpointsConfig map[string]struct{}
}

// hostConfig is one JSON object; its parts are apart for people.
type hostConfig struct {
	Binds           []string `json:",omitempty"`
	ContainerIDFile string   `json:",omitempty"`
	LogConfig       logConfig
	RestartPolicy   restartPolicy
	AutoRemove      bool              `json:",omitempty"`
	VolumeDriver    string            `json:",omitempty"`
	ConsoleSize     [2]uint           // rows, columns
	Tmpfs           map[string]string `json:",omitempty"`
	Runtime         string            `json:",omitempty"`
	Isolation       string            `json:",omitempty"`
	Init            *bool             `json:",omitempty"`
	hostNetwork
	hostSecurity
	hostNamespaces
	hostResources
}

type hostNetwork struct {
	NetworkMode     string
	PortBindings    map[string][]portBinding `json:",omitempty"`
	PublishAllPorts bool                     `json:",omitempty"`
	DNS             []string                 `json:"Dns,omitempty"`
	DNSOptions      []string                 `json:"DnsOptions,omitempty"`
	ExtraHosts      []string                 `json:",omitempty"`
}

type hostSecurity struct {
	CapAdd         []string `json:",omitempty"`
	CapDrop        []string `json:",omitempty"`
	GroupAdd       []string `json:",omitempty"`
	Privileged     bool     `json:",omitempty"`
	ReadonlyRootfs bool     `json:",omitempty"`
	SecurityOpt    []string `json:",omitempty"`
}

type hostNamespaces struct {
	CgroupnsMode string `json:",omitempty"`
	IpcMode      string `json:",omitempty"`
	PidMode      string `json:",omitempty"`
	UTSMode      string `json:",omitempty"`
	UsernsMode   string `json:",omitempty"`
}

type hostResources struct {
	CgroupParent      string `json:",omitempty"`
	CPUShares         int64  `json:"CpuShares,omitempty"`
	NanoCPUs          int64  `json:"NanoCpus,omitempty"`
	CpusetCpus        string `json:",omitempty"`
	CpusetMems        string `json:",omitempty"`
	Memory            int64  `json:",omitempty"`
	MemoryReservation int64  `json:",omitempty"`
	MemorySwappiness  int64
	OomKillDisable    bool
	OomScoreAdj       int64 `json:",omitempty"`
	PidsLimit         int64
	ShmSize           int64 `json:",omitempty"`
}

type logConfig struct {
	Type   string
	Config map[string]string
}

type portBinding struct {
	HostIP   string `json:"HostIp"`
	HostPort string
}

type restartPolicy struct {
	Name              string
	MaximumRetryCount int
}
