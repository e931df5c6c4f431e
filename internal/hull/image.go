package hull

import (
	"encoding/json"
	"time"
)

// Image is a local image of one platform.
type Image struct {
	ID                                   string   // "sha256:..." of the configuration
	Manifest                             string   // manifest digest
	Target                               string   // what the name points to: the index's digest, or Manifest
	TargetType                           string   // media type of Target
	Names                                []string // fully normalised references ("docker.io/library/redis:7")
	RepoTags                             []string // familiar form ("redis:7")
	RepoDigests                          []string // familiar form ("redis@sha256:...")
	Parent                               string
	Comment                              string
	Author                               string
	Created                              time.Time
	OS, Architecture, Variant, OSVersion string
	Config                               ImageConfig
	RawConfig                            json.RawMessage // the whole configuration blob
	Layers                               []string        // diff ids
	Size                                 int64           // bytes, unpacked
	LastTagged                           time.Time
	LastUsed                             time.Time
	Ref                                  string // what Resolve found it by: a full name, or a digest; "" = neither
}

// ImageConfig is the run configuration of an image (OCI image spec plus
// Docker's Healthcheck, OnBuild and Shell).
type ImageConfig struct {
	User         string
	ExposedPorts map[string]struct{}
	Env          []string
	Entrypoint   []string
	Cmd          []string
	Volumes      map[string]struct{}
	WorkingDir   string
	Labels       map[string]string
	StopSignal   string
	ArgsEscaped  bool
	Healthcheck  *HealthSpec
	OnBuild      []string
	Shell        []string
}

// HistoryItem is one line of an image's history, newest first.
type HistoryItem struct {
	ID        string // image id or "<missing>"
	Created   time.Time
	CreatedBy string
	Comment   string
	Size      int64
	Tags      []string
}

// Progress is one step of a transfer, as Docker's JSON messages have them.
type Progress struct {
	ID      string // layer or tag
	Status  string // "Downloading", "Pull complete", ...
	Current int64
	Total   int64
	Aux     any // machine readable result of a push
}

// Auth is what a client sent along for a registry. Zero = none.
type Auth struct {
	Username, Password, IdentityToken, RegistryToken string
	ServerAddress                                    string
}

// PullRequest says what to pull.
type PullRequest struct {
	Ref      string
	Platform string // "" = the host's
	All      bool   // every tag
	Auth     Auth
	Progress func(Progress) // may be nil; called from several goroutines, one at a time
}

// PushRequest says what to push.
type PushRequest struct {
	Ref      string
	Platform string
	All      bool
	Auth     Auth
	Progress func(Progress)
}

// SearchRequest looks for repositories.
type SearchRequest struct {
	Term  string // "[REGISTRY/]WORDS"
	Limit int    // 0 = 25
	Auth  Auth
}

// SearchResult is a repository that was found, as indexes have it.
type SearchResult struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	Stars       int    `json:"star_count"`
	Official    bool   `json:"is_official"`
}

// CopyRequest copies an image from one registry to another.
type CopyRequest struct {
	Source, Target         string
	Platform               string // "" = all of the image's
	SourceAuth, TargetAuth Auth
	Progress               func(Progress)
}

// Signature is what somebody has signed of an image, and how.
type Signature struct {
	Format      string            // "cosign" or "notation"
	MediaType   string            // of Payload
	Payload     []byte            // cosign: the signed document; notation: the envelope
	Value       string            // cosign: the signature itself, base64
	Annotations map[string]string // notation: of its manifest
}

// SignedDocument is a manifest or an index.
type SignedDocument struct {
	MediaType, Digest string
	Size              int64 // bytes
}

// Signable is an image as far as signatures go.
type Signable struct {
	Repository string           // full name
	Local      bool             // the image is here
	Documents  []SignedDocument // what a signature may be of
	Signatures []Signature
	Accepted   string // why the trust policy accepts it; "" = there is no policy, or it does not
	Refused    string // why it does not
}

// SignRequest says what to sign, or whose signatures are asked for.
type SignRequest struct {
	Ref       string
	Auth      Auth
	Push      bool           // in the registry
	Document  SignedDocument // one of Signable's
	Signature Signature
}

// SaveRequest says what an archive of images is to hold.
type SaveRequest struct {
	Refs      []string
	Platforms []string // none = all that are here
	Since     []string // images that the receiver has: their layers are left out
	Omit      []string // digests of layers to leave out
}

// Blob is a stored piece of an image.
type Blob struct {
	Digest string
	Size   int64 // bytes
}

// ImportRequest makes an image of a plain root file system tar.
type ImportRequest struct {
	Ref      string // "" = untagged
	Message  string
	Changes  []string
	Platform string
}

// ImageRemoved is one line of what removing an image did.
type ImageRemoved struct{ Untagged, Deleted string }

// Usage is disk space. Bytes.
type Usage struct {
	Total       int64
	Reclaimable int64
	Items       int
	Active      int
}

// Volume is a named directory that outlives containers.
type Volume struct {
	Name       string
	Driver     string
	Mountpoint string
	Created    time.Time
	Labels     map[string]string
	Options    map[string]string
	Anonymous  bool
	Scope      string
}

// Secret is what is told of a secret: everything but its value.
type Secret struct {
	Name    string
	Created time.Time
	Labels  map[string]string
}

// Network is a network's record.
type Network struct {
	ID, Name                                              string
	Driver                                                string // bridge, host, null
	Created                                               time.Time
	Scope                                                 string
	EnableIPv4, EnableIPv6, Internal, Attachable, Ingress bool
	IPAM                                                  IPAM
	Options                                               map[string]string
	Labels                                                map[string]string
	Containers                                            map[string]NetworkMember `json:"-"` // by container id, filled by the service
}

// NetworkMember is a container on a network, as inspect shows it.
type NetworkMember struct{ Name, EndpointID, MacAddress, IPv4, IPv6 string }

// IPAM is address management.
type IPAM struct {
	Driver  string
	Options map[string]string
	Config  []IPAMConfig
}

// IPAMConfig is one pool. CIDR strings.
type IPAMConfig struct {
	Subnet, IPRange, Gateway string
	Reserved                 map[string]string
}
