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

type hostConfig struct {
	Binds           []string `json:",omitempty"`
	ContainerIDFile string   `json:",omitempty"`
	LogConfig       struct {
		Type   string
		Config map[string]string
	}
	NetworkMode       string
	PortBindings      map[string][]portBinding `json:",omitempty"`
	RestartPolicy     restartPolicy
	AutoRemove        bool              `json:",omitempty"`
	VolumeDriver      string            `json:",omitempty"`
	ConsoleSize       [2]uint           //
	CapAdd            []string          `json:",omitempty"`
	CapDrop           []string          `json:",omitempty"`
	CgroupnsMode      string            `json:",omitempty"`
	Dns               []string          `json:",omitempty"`
	DnsOptions        []string          `json:",omitempty"`
	ExtraHosts        []string          `json:",omitempty"`
	GroupAdd          []string          `json:",omitempty"`
	IpcMode           string            `json:",omitempty"`
	OomScoreAdj       int64             `json:",omitempty"`
	PidMode           string            `json:",omitempty"`
	Privileged        bool              `json:",omitempty"`
	PublishAllPorts   bool              `json:",omitempty"`
	ReadonlyRootfs    bool              `json:",omitempty"`
	SecurityOpt       []string          `json:",omitempty"`
	Tmpfs             map[string]string `json:",omitempty"`
	UTSMode           string            `json:",omitempty"`
	UsernsMode        string            `json:",omitempty"`
	ShmSize           int64             `json:",omitempty"`
	Runtime           string            `json:",omitempty"`
	Isolation         string            `json:",omitempty"`
	CpuShares         int64             `json:",omitempty"`
	Memory            int64             `json:",omitempty"`
	NanoCpus          int64             `json:",omitempty"`
	CgroupParent      string            `json:",omitempty"`
	CpusetCpus        string            `json:",omitempty"`
	CpusetMems        string            `json:",omitempty"`
	MemoryReservation int64             `json:",omitempty"`
	MemorySwappiness  int64
	OomKillDisable    bool
	PidsLimit         int64
	Init              *bool `json:",omitempty"`
}

type portBinding struct {
	HostIP   string `json:"HostIp"`
	HostPort string
}

type restartPolicy struct {
	Name              string
	MaximumRetryCount int
}
