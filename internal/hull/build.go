package hull

import "time"

// BuildRequest asks for an image built from a Dockerfile.
type BuildRequest struct {
	ID         string            // by which it can be cancelled, "" = it cannot
	Session    string            // the client's build session, "" = none: the context comes as a tar
	Remote     string            // where the context is: "client-session", a URL, "" = the tar
	Dockerfile string            // path in the context, "" = Dockerfile
	Names      []string          // of the image; none = it is kept by its id
	Target     string            // stage, "" = the last
	Platform   string            // "" = the host's; several with commas
	Args       map[string]string // build arguments
	Labels     map[string]string
	CacheFrom  []string
	NoCache    bool
	Pull       bool // ask the registry for newer base images
	Squash     bool // the layers of this build become one
	Network    string
	Isolation  Isolation // of the steps, "" = container
	ExtraHosts []string  // "host:ip"
	ShmSize    int64     // bytes
	Ulimits    []Ulimit
	Cgroup     string          // parent
	Auth       map[string]Auth // by registry
}

// BuildEvent is one thing that happens in a build. Exactly one field is set.
type BuildEvent struct {
	Text    string // for people
	Trace   []byte // BuildKit's own status message
	ImageID string // the result
}

// BuildCache is one record of the build cache, or of what machines start from:
// something that can be made again.
type BuildCache struct {
	ID          string
	Parents     []string
	Type        string
	Description string
	InUse       bool
	Shared      bool
	Size        int64 // bytes
	CreatedAt   time.Time
	LastUsedAt  *time.Time
	UsageCount  int
}

// CacheMount is a directory that RUN --mount=type=cache keeps from build to build.
type CacheMount struct {
	Name        string // the mount's id; where none was given, its target
	Description string
	Size        int64 // bytes
	InUse       bool
	CreatedAt   time.Time
	LastUsedAt  *time.Time
}

// BuildPrune says what of the build cache may go.
type BuildPrune struct {
	All      bool
	Filters  []string // containerd's syntax
	KeepFor  time.Duration
	Reserved int64 // bytes to keep in any case
	MaxUsed  int64 // bytes that may stay
	MinFree  int64 // bytes that are to be free on the disk
}
