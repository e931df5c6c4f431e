// Package engine turns requests into running containers. One verb, one file;
// start reading at run.go.
package engine

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/driver"
	"hull/internal/hull"
	"hull/internal/keylock"
)

// Images is what the engine needs of the image service.
type Images interface {
	// Resolve finds a local image: reference, id, id prefix. errdefs.ErrNotFound.
	Resolve(ctx context.Context, ref, platform string) (hull.Image, error)
	// Prepare gives container id a writable layer on top of img. Durable.
	Prepare(ctx context.Context, id string, img hull.Image, storageOpt map[string]string) error
	// Discard removes what Prepare made. Unknown id is no error.
	Discard(ctx context.Context, id string) error
	// Mount describes the root file system for a run, in the first kind of want
	// that it can make, and holds its layers until released.
	Mount(ctx context.Context, id string, want []hull.RootfsKind) (hull.Rootfs, hull.Release, error)
	// Open mounts the root file system of a container that does not run, detached
	// (no mount point on the host), and returns its root directory.
	Open(ctx context.Context, id string) (*os.File, error)
	// OpenImage mounts the image that a Prepare of id stands on, detached and
	// read-only, and opens it or what is at subpath in it.
	OpenImage(ctx context.Context, id, subpath string, ids hull.IDRange) (*os.File, error)
	// Changes lists what the writable layer changed, sorted by path.
	Changes(ctx context.Context, id string) ([]hull.Change, error)
	// Export writes the whole root file system of a container, which may run, as a tar.
	Export(ctx context.Context, id string, w io.Writer) error
	// Commit makes an image of the writable layer of id. conf is the new configuration.
	Commit(ctx context.Context, id string, c hull.CommitRequest, conf hull.ImageConfig) (imageID string, err error)
	// Refill makes the writable layer what layer holds, the tar of an image's layer:
	// a copy of one that is elsewhere. nil = empty it.
	Refill(ctx context.Context, id string, layer io.Reader) error
	// Size is the bytes of the writable layer and of the whole root file system.
	Size(ctx context.Context, id string) (rw, root int64, err error)
	// Sweep discards the writable layers of containers that keep denies: what a
	// crash between Prepare and the record left.
	Sweep(ctx context.Context, keep func(containerID string) bool) error
}

// Volumes is what the engine needs of the volume service.
type Volumes interface {
	// Resolve turns requests into mount points when a container is created: makes
	// named and anonymous volumes, checks bind sources.
	Resolve(ctx context.Context, containerID string, m []hull.Mount) ([]hull.MountPoint, error)
	// Mount makes them ready for a run (mounts volume drivers' file systems, nowhere;
	// copies an image's content up into an empty volume; root is the image's root
	// file system, opened lazily) and counts the use. What it returns has as Source
	// what a driver binds, which is there until the release.
	Mount(ctx context.Context, containerID string, m []hull.MountPoint, root func() (*os.File, error)) ([]hull.MountPoint, hull.Release, error)
	// Reattach counts the use by a run that an earlier engine started; its release
	// is Mount's.
	Reattach(containerID string, m []hull.MountPoint) hull.Release
	// Open opens what a mount point shows (a directory or a file), for a container
	// that does not run.
	Open(ctx context.Context, m hull.MountPoint) (*os.File, error)
	// OpenVolume opens a volume's root directory.
	OpenVolume(ctx context.Context, name string) (*os.File, error)
	// Mapping says whether the owners of a mount's source can be shown through a
	// user namespace's ids. It is remembered for the file system.
	Mapping(source string) (hull.Mapping, error)
	// Drop ends containerID's references; anonymous ones are removed when asked.
	Drop(ctx context.Context, containerID string, m []hull.MountPoint, anonymous bool) error
}

// Networks is what the engine needs of the network service.
type Networks interface {
	// Check reports a network request that cannot be met, before anything is made.
	Check(ctx context.Context, n hull.NetworkSpec) error
	// Attach gives pod p a network namespace with addresses, ports, and the files
	// for /etc in runDir. Host objects are named from p.ID.
	Attach(ctx context.Context, p hull.Pod, runDir string) (hull.Endpoint, hull.Release, error)
	// Reattach rebuilds the in-memory state of a pod that survived a restart of the
	// engine, and returns the same release.
	Reattach(ctx context.Context, p hull.Pod, runDir string) (hull.Release, error)
	// Rename makes a running pod known by another name.
	Rename(ctx context.Context, podID, name string) error
	// Publish changes the published ports of a running pod, and returns all of them.
	Publish(ctx context.Context, podID string, add, remove []hull.PortBinding) ([]hull.PublishedPort, error)
	// TakeOver gives a running pod that is held back its names and published ports;
	// those of pod from go over in one step.
	TakeOver(ctx context.Context, podID, from string) ([]hull.PublishedPort, error)
	// Stats counts the interfaces of a pod's namespace.
	Stats(ctx context.Context, netns string) (map[string]hull.NetStats, error)
	// Sweep removes every host object of this instance whose pod keep denies.
	Sweep(ctx context.Context, keep func(podID string) bool) error
}

// Secrets is what the engine needs of the secret service.
type Secrets interface {
	// Get finds a secret by name: errdefs.ErrNotFound.
	Get(ctx context.Context, name string) (hull.Secret, error)
	// Show writes the value of a secret to a new file at path, which is in memory
	// only. The owner is the host's.
	Show(name, path string, f hull.SecretFile) error
}

// Devices is what the engine needs of those who describe devices (CDI).
type Devices interface {
	// Inject puts requested devices into the specification of a run.
	Inject(s *specs.Spec, requests []hull.DeviceRequest) error
}

// Logs is what the engine needs of the log service.
type Logs interface {
	// Check validates a driver and its options.
	Check(l hull.LogSpec) error
	// Target says where the monitor writes. It makes the directory.
	Target(c hull.Container) (hull.LogTarget, error)
	// Read opens a container's log.
	// ended is closed when the run that writes it is over and all is written; nil
	// when no run is on: then a follow ends at the end of the log.
	Read(ctx context.Context, c hull.Container, r hull.LogsRequest, ended <-chan struct{}) (hull.LogReader, error)
	// Remove deletes a container's log files.
	Remove(c hull.Container) error
	// Sweep deletes the logs of containers that keep denies: what a container with
	// --rm left when the machine died.
	Sweep(keep func(containerID string) bool) error
}

// Store is what the engine needs of the store. Records are values; every write
// is atomic. Durable writes are grouped into one fsync where they meet.
type Store interface {
	PutPod(p hull.Pod, durable bool) error
	Pod(id string) (hull.Pod, error)
	Pods() []hull.Pod
	DeletePod(id string) error
	UpdatePod(id string, fn func(*hull.PodStatus) error) error

	// PutContainer claims the name in the same transaction: errdefs.ErrConflict
	// (*hull.NameTakenError) when another has it.
	PutContainer(c hull.Container, durable bool) error
	// Container finds by full id, then name, then unambiguous id prefix.
	Container(ref string) (hull.Container, error)
	// Containers are all records, newest first.
	Containers() []hull.Container
	DeleteContainer(id string) error
	Rename(id, name string) error
	// UpdateSpec and UpdateStatus run fn in one transaction. Status is kept on
	// tmpfs for facts of this run, in the database for what must outlive a reboot.
	UpdateSpec(id string, fn func(*hull.Spec) error) error
	UpdateStatus(id string, fn func(*hull.Status) error) error
	// Unreadable names the containers and pods whose record is there but cannot be
	// read: what they own is not to be swept away.
	Unreadable() []string
}

// Events publishes what happened.
type Events interface {
	Publish(e hull.Event)
}

// Files reads and writes below a container's root directory. No path, symbolic
// link or archive entry leads outside of root.
type Files interface {
	// Stat describes a file below root, which is mounted at the path at: what a link
	// leads to is a path of the container.
	Stat(root *os.File, at, path string) (hull.PathStat, error)
	// Pack writes r.Path (and all below it) as a tar whose names start at its last
	// component.
	Pack(ctx context.Context, root *os.File, r hull.CopyFromRequest, w io.Writer) error
	Unpack(ctx context.Context, root *os.File, r hull.CopyToRequest, tar io.Reader) error
	// User looks "user[:group]" up in the files below root. errdefs.ErrInvalidArgument.
	User(root *os.File, spec string) (hull.FileOwner, error)
}

// Runtimes are the OCI runtimes of this host that a container may ask for.
type Runtimes interface {
	// Find gives the driver of a runtime, by its name or its absolute path.
	// errdefs.ErrInvalidArgument.
	Find(name string) (driver.Driver, error)
	// Paths are the runtimes that have a name.
	Paths() map[string]string
}

// Config is the engine's own configuration.
type Config struct {
	RunDir           string // pods live in RunDir/pods/<id>
	DefaultIsolation hull.Isolation
	DefaultLogDriver string
	CgroupParent     string // of this engine instance, e.g. "/hull-<instance>"
	StopTimeout      time.Duration
	UserNS           UserNS
	Host             hull.EngineInfo // what info says that never changes
	// Examine look at what the services need of the host.
	Examine []func() []hull.Finding
}

// Engine is the verbs. All state that matters is in Store and in the kernel.
//
// Its methods are declared on layers, each of which may call only what lies
// below it, so that no type becomes "the daemon":
//
//	recovery   find again what an earlier engine left
//	copies     files of containers: cp, diff, export, commit
//	runner     start, stop, remove, exit, health, pods
//	creation   create, rename, update
//	execs      processes in running containers
//	views      list, inspect, logs, stats, top, wait
//	base       services, and what every verb needs
type Engine struct{ *recovery }

type (
	recovery struct{ *copies }
	copies   struct{ *runner }
	runner   struct{ *creation }
	creation struct{ *execs }
	execs    struct{ *views }
	views    struct{ *base }
)

type base struct {
	cfg      Config
	drivers  map[hull.Isolation]driver.Driver
	runtimes Runtimes
	images   Images
	volumes  Volumes
	secrets  Secrets
	devices  Devices
	networks Networks
	logs     Logs
	store    Store
	events   Events
	log      *slog.Logger
	locks    keylock.Locks
	files    Files
	runs     *runs // sandboxes and watchers of this process; a cache, rebuilt by Recover
	profiles profiles
}

// Parts are the services an Engine is built from.
type Parts struct {
	Drivers  map[hull.Isolation]driver.Driver
	Runtimes Runtimes // nil = there are none
	Images   Images
	Volumes  Volumes
	Secrets  Secrets // nil = there are none
	Devices  Devices // nil = as Secrets
	Networks Networks
	Logs     Logs
	Store    Store
	Events   Events
	Files    Files
	Log      *slog.Logger
}

// New builds an engine. Recover must be called before it serves anyone.
func New(cfg Config, p Parts) *Engine {
	b := &base{
		cfg: cfg, drivers: p.Drivers, runtimes: p.Runtimes, images: p.Images, volumes: p.Volumes, secrets: p.Secrets, devices: p.Devices, networks: p.Networks,
		logs: p.Logs, store: p.Store, events: p.Events, files: p.Files, log: p.Log, runs: newRuns(),
	}
	return &Engine{&recovery{&copies{&runner{&creation{&execs{&views{b}}}}}}}
}

// locked is the container with its pod's lock held, as it is then; unlock gives the lock back.
func (e *base) locked(ctx context.Context, ref string) (c hull.Container, unlock func(), err error) {
	if c, err = e.store.Container(ref); err != nil {
		return c, nil, err
	}
	if unlock, err = e.locks.Lock(ctx, c.PodID); err != nil {
		return c, nil, err
	}
	if c, err = e.store.Container(c.ID); err != nil {
		unlock()
		return c, nil, err
	}
	return c, unlock, nil
}

// driver finds the driver of an isolation, or of the OCI runtime if one is named,
// for something new to be started.
func (e *base) driver(i hull.Isolation, runtime string) (driver.Driver, error) {
	d, err := e.driverOf(i, runtime)
	if err != nil {
		return nil, err
	}
	if why := d.Info().Unavailable; why != "" {
		return nil, fmt.Errorf("isolation %s is not available on this host: %s: %w", i, why, errdefs.ErrFailedPrecondition)
	}
	return d, nil
}

// driverOf is driver for what runs already.
func (e *base) driverOf(i hull.Isolation, runtime string) (driver.Driver, error) {
	if runtime != "" && e.runtimes != nil {
		return e.runtimes.Find(runtime)
	}
	d, ok := e.drivers[i]
	if !ok {
		return nil, fmt.Errorf("isolation %q is not available on this host (see hull info): %w", i, errdefs.ErrInvalidArgument)
	}
	return d, nil
}

// withRuntime fills in the isolation that a runtime gives.
func (e *base) withRuntime(s hull.Spec) (hull.Spec, error) {
	if s.Runtime == "" {
		return s, nil
	}
	if e.runtimes == nil {
		return s, fmt.Errorf("unknown or invalid runtime name: %s: %w", s.Runtime, errdefs.ErrInvalidArgument)
	}
	d, err := e.runtimes.Find(s.Runtime)
	if err != nil {
		return s, err
	}
	i := d.Info()
	if i.Unavailable != "" {
		return s, fmt.Errorf("runtime %s: %s: %w", s.Runtime, i.Unavailable, errdefs.ErrFailedPrecondition)
	}
	if s.Isolation != "" && s.Isolation != i.Name {
		return s, fmt.Errorf("isolation %s and runtime %s, whose isolation is %s, exclude each other; leave one out: %w",
			s.Isolation, s.Runtime, i.Name, errdefs.ErrInvalidArgument)
	}
	s.Isolation = i.Name
	return s, nil
}

// publish announces what happened to a container.
func (e *base) publish(action string, c hull.Container, attrs map[string]string) {
	all := maps.Clone(c.Resolved.Labels)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, attrs)
	all["image"], all["name"] = c.Image.Name, c.Name
	e.events.Publish(hull.Event{Type: "container", Action: action, Actor: c.ID, Attrs: all, Scope: "local", Time: time.Now()})
}
