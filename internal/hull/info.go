package hull

// EngineInfo describes the engine and its host.
type EngineInfo struct {
	ID                                           string // of this engine instance
	Name                                         string // host name
	Root, Run                                    string
	Version                                      string
	Kernel, OS                                   string
	Architecture                                 string
	CPUs                                         int
	Memory                                       int64
	CgroupVersion                                int
	Containers, Running, Paused, Stopped, Images int
	Isolations                                   map[Isolation]IsolationInfo
	DefaultIsolation                             Isolation
	Runtimes                                     map[string]string // OCI runtimes that have a name, and their paths
	LogDrivers                                   []string
	SecurityOptions                              []string
	Warnings                                     []string
	InsecureRegistries                           []string
	Mirrors                                      []string
	Debug                                        bool
}

// IsolationInfo says what a driver can do here.
type IsolationInfo struct {
	Available bool
	Reason    string // why not
	Abilities []string
	Details   map[string]string
}

// Distribution is what a registry says about a reference.
type Distribution struct {
	MediaType string
	Digest    string
	Size      int64
	Platforms []string
}

// ImageUsage is the disk space of images. Bytes.
type ImageUsage struct {
	LayersSize int64            // all unpacked layers, each once
	Size       map[string]int64 // by image id, unpacked
	Shared     map[string]int64 // by image id, of Size, what other images share
}

// NameTakenError says who has a name.
type NameTakenError struct{ Name, ID string }

func (e *NameTakenError) Error() string {
	return "the container name \"/" + e.Name + "\" is already in use by container \"" + e.ID +
		"\". You have to remove (or rename) that container to be able to reuse that name."
}
