// Package docker is the Docker Engine API (and hull's own /hull/v1 routes) over
// the engine. It translates and nothing else.
package docker

import (
	"context"
	"io"
	"net"
	"net/http"
	"time"

	"hull/internal/hull"
)

// Containers are the engine's verbs. ref is a full id, a name or an unambiguous
// id prefix. Errors carry errdefs kinds and Docker's words where clients match
// on them ("No such container: x"); hull.ErrNotModified is 304.
type Containers interface {
	// Create returns the record and warnings for the user. name "" = choose one.
	Create(ctx context.Context, name string, s hull.Spec) (hull.Container, []string, error)
	Start(ctx context.Context, ref string) error
	Stop(ctx context.Context, ref string, r hull.StopRequest) error
	Restart(ctx context.Context, ref string, r hull.StopRequest) error
	Kill(ctx context.Context, ref string, signal string) error // "" = KILL
	Pause(ctx context.Context, ref string) error
	Unpause(ctx context.Context, ref string) error
	Rename(ctx context.Context, ref, name string) error
	Update(ctx context.Context, ref string, r hull.UpdateRequest) ([]string, error)
	// Publish changes the published ports, and returns them all.
	Publish(ctx context.Context, ref string, add, remove []hull.PortBinding) ([]hull.PublishedPort, error)
	// TakeOver gives a container that was held back its names and ports, from another.
	TakeOver(ctx context.Context, ref, from string) ([]hull.PublishedPort, error)
	Remove(ctx context.Context, ref string, r hull.RemoveRequest) error
	Unlink(ctx context.Context, name string) error // "container/alias"
	// Container and List return records with their present status.
	Container(ctx context.Context, ref string) (hull.Container, error)
	List(ctx context.Context) ([]hull.Container, error) // newest first, all phases
	// Wait registers before it returns; the function blocks until the condition.
	Wait(ctx context.Context, ref string, c hull.WaitCondition) (func(context.Context) (hull.Exit, error), error)
	// Attach hands a.Conn to the container's monitor and returns at once; the far
	// end is closed when the process has ended. Attaching before start is allowed.
	Attach(ctx context.Context, ref string, a hull.Attach) error
	Resize(ctx context.Context, ref string, rows, cols uint16) error
	Logs(ctx context.Context, ref string, r hull.LogsRequest) (hull.LogReader, error)
	Top(ctx context.Context, ref string, psArgs string) (titles []string, rows [][]string, err error)
	// Stats of a container that does not run is the zero value.
	Stats(ctx context.Context, ref string) (hull.Stats, error)
	Size(ctx context.Context, ref string) (rw, root int64, err error)
	Changes(ctx context.Context, ref string) ([]hull.Change, error)
	Export(ctx context.Context, ref string, w io.Writer) error
	StatPath(ctx context.Context, ref, path string) (hull.PathStat, error)
	CopyFrom(ctx context.Context, ref, path string) (io.ReadCloser, hull.PathStat, error) // a tar
	CopyTo(ctx context.Context, ref string, r hull.CopyToRequest, tar io.Reader) error
	Commit(ctx context.Context, ref string, r hull.CommitRequest) (imageID string, err error)
	Prune(ctx context.Context, keep func(hull.Container) bool) (hull.PruneReport, error)
	ExecCreate(ctx context.Context, ref string, s hull.ExecSpec) (execID string, err error)
	// ExecStart runs it. a nil = detached. It returns when the process runs.
	ExecStart(ctx context.Context, execID string, a *hull.Attach, rows, cols uint16) error
	ExecResize(ctx context.Context, execID string, rows, cols uint16) error
	Exec(ctx context.Context, execID string) (hull.Exec, error)
	// ExecWait is Exec when it has ended.
	ExecWait(ctx context.Context, execID string) (hull.Exec, error)
	Info(ctx context.Context) (hull.EngineInfo, error)
	Examine(ctx context.Context) []hull.Finding
}

// Images is the image service.
type Images interface {
	Pull(ctx context.Context, r hull.PullRequest) (hull.Image, error)
	Push(ctx context.Context, r hull.PushRequest) error
	Tag(ctx context.Context, source, target string) error
	// List returns every image once, newest first, with all its names; dangling
	// ones have none. Intermediate ones only with all.
	List(ctx context.Context, all bool) ([]hull.Image, error)
	Resolve(ctx context.Context, ref, platform string) (hull.Image, error)
	History(ctx context.Context, ref, platform string) ([]hull.HistoryItem, error)
	Remove(ctx context.Context, ref string, force, prune bool, inUse func(imageID string) []hull.Container) ([]hull.ImageRemoved, error)
	Prune(ctx context.Context, keep func(hull.Image) bool) ([]hull.ImageRemoved, int64, error)
	// Search asks a registry's index.
	Search(ctx context.Context, r hull.SearchRequest) ([]hull.SearchResult, error)
	// Copy sends an image from one registry to another.
	Copy(ctx context.Context, r hull.CopyRequest) error
	// Signable says what a signature is to be of, Sign keeps and sends one, Signatures
	// lists those there are, with what the trust policy says.
	Signable(ctx context.Context, r hull.SignRequest) (hull.Signable, error)
	Sign(ctx context.Context, r hull.SignRequest) error
	Signatures(ctx context.Context, r hull.SignRequest) (hull.Signable, error)
	Save(ctx context.Context, r hull.SaveRequest, w io.Writer) error
	// Compare words the first difference between two images, "" = none.
	Compare(ctx context.Context, a, b string) (string, error)
	// Layers lists the layers of images as they are stored, each once.
	Layers(ctx context.Context, refs []string, platforms []string) ([]hull.Blob, error)
	// Lacking returns those of the digests that are not stored here.
	Lacking(ctx context.Context, digests []string) ([]string, error)
	Load(ctx context.Context, r io.Reader, platforms []string, progress func(hull.Progress)) (names []string, err error)
	Import(ctx context.Context, r hull.ImportRequest, tar io.Reader) (imageID string, err error)
	// Distribution asks the registry about a reference.
	Distribution(ctx context.Context, ref string, a hull.Auth) (hull.Distribution, error)
	// Login checks credentials. status is for the user, token an identity token or "".
	Login(ctx context.Context, a hull.Auth) (status, token string, err error)
	// Sizes is the bytes each image's layers take, and what is shared between images.
	Usage(ctx context.Context) (hull.ImageUsage, error)
}

// Volumes is the volume service.
type Volumes interface {
	Create(ctx context.Context, v hull.Volume) (hull.Volume, error)
	Get(ctx context.Context, name string) (hull.Volume, error)
	List(ctx context.Context) ([]hull.Volume, error)
	Remove(ctx context.Context, name string, force bool) error // errdefs.ErrConflict when in use
	Prune(ctx context.Context, keep func(hull.Volume) bool) (hull.PruneReport, error)
	// Rename, Clone and Snapshot are hull's own; errdefs.ErrConflict for a name that
	// is taken. Snapshot chooses a name when it is "".
	Rename(ctx context.Context, name, to string) (hull.Volume, error)
	Clone(ctx context.Context, name, to string) (hull.Volume, error)
	Snapshot(ctx context.Context, name, to string) (hull.Volume, error)
	// Usage is bytes and the number of containers that refer to it.
	Usage(ctx context.Context, name string) (size int64, refs int, err error)
}

// Networks is the network service.
type Networks interface {
	Create(ctx context.Context, n hull.Network) (hull.Network, []string, error)
	Get(ctx context.Context, ref string) (hull.Network, error) // name, id, prefix
	List(ctx context.Context) ([]hull.Network, error)
	Remove(ctx context.Context, ref string) error
	Prune(ctx context.Context, keep func(hull.Network) bool) ([]string, error)
	Connect(ctx context.Context, ref, containerID string, e hull.EndpointSpec) error
	Disconnect(ctx context.Context, ref, containerID string, force bool) error
}

// Events is the event log.
type Events interface {
	// Subscribe replays from since (zero = all where until is given, else none) and follows until ctx is done or
	// until is past (zero = never).
	Subscribe(ctx context.Context, since, until time.Time) (<-chan hull.Event, error)
	Publish(e hull.Event)
}

// Space knows the cap on images and build cache.
type Space interface {
	// Cap is the cap in bytes, 0 = none, and what is used of it.
	Cap(ctx context.Context) (limit, used int64, err error)
}

// Cache is something beside the builder's cache that can be made again.
type Cache interface {
	Usage(ctx context.Context) ([]hull.BuildCache, error)
	// Prune removes what nobody has used for a time.
	Prune(ctx context.Context, unused time.Duration) (ids []string, bytes int64, err error)
}

// Builder is the builder.
type Builder interface {
	// Ready opens the builder, which is not open before it is first used.
	Ready(ctx context.Context) error
	// Serve answers BuildKit's control API on conn and returns at once.
	Serve(ctx context.Context, conn net.Conn) error
	// ServeGRPC answers one call of the control API that came as HTTP/2.
	ServeGRPC(w http.ResponseWriter, r *http.Request)
	// Session upgrades the request to a client's build session and serves it until
	// it ends.
	Session(ctx context.Context, w http.ResponseWriter, r *http.Request) error
	// Build builds from the tar in body, or the session that r names.
	Build(ctx context.Context, r hull.BuildRequest, body io.Reader, event func(hull.BuildEvent)) (imageID string, err error)
	Cancel(ctx context.Context, id string) error
	Usage(ctx context.Context) ([]hull.BuildCache, error)
	Prune(ctx context.Context, p hull.BuildPrune) (ids []string, bytes int64, err error)
	CacheMounts(ctx context.Context) ([]hull.CacheMount, error)
	// ExportCacheMount writes a cache mount's files as a tar.
	ExportCacheMount(ctx context.Context, name string, w io.Writer) error
	// ImportCacheMount makes a cache mount of a tar, in the place of one that is there.
	ImportCacheMount(ctx context.Context, name string, tar io.Reader) error
}
