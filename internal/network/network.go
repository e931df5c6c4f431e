// Package network gives pods their network: namespaces, bridges, addresses,
// published ports and the files of /etc that belong to them.
//
// Everything is done through netlink; no program is ever started. What costs
// time (a namespace, a virtual cable, its place on the bridge, its addresses) is
// done ahead for the default bridge and kept in a small pool, so that attaching
// a container is a rename, three small files and, when it publishes ports, one
// nftables transaction. See pool.go.
//
// # What is where
//
//	RunDir/netns/<pod id>/<slot>   bind mount of a pod's namespace
//	RunDir/netns/pool-<slot>/...   one that is ready and has no pod yet
//	RunDir/netns/dead-<slot>/...   one that is being given back
//	RunDir/dns/<network>.zone      names on a user's network, see package dns
//	hv<tag><slot>                  host end of the cable; tag is the instance's
//	table inet hull-<instance>     see package firewall
//
// All names come from the instance and the slot, so that Sweep finds what no
// record claims after a crash, and two engines on one machine never meet.
//
// # Published ports and the host's own programs
//
// A published port is an nftables element; no process forwards bytes. While the
// engine runs it also keeps a bound socket for each published port, on which
// nothing ever listens: it makes another program's (or another engine's) attempt
// to take the port fail with "address already in use", as it would with Docker's
// proxy. While the engine is down, containers and their ports go on, but that
// reservation is missing: a program that binds the port then succeeds, and its
// clients still reach the container.
package network

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"hull/internal/hull"
)

// Names and drivers of the networks that always exist.
const (
	Bridge = "bridge"
	Host   = "host"
	None   = "none"

	driverBridge = "bridge"
	driverHost   = "host"
	driverNull   = "null"
)

// Store keeps networks' records over a reboot. Writes are durable.
type Store interface {
	PutNetwork(n hull.Network) error
	DeleteNetwork(id string) error
	Networks() []hull.Network
}

// IDs gives ranges of ids to user namespaces.
type IDs interface {
	Take() (hull.IDRange, error)
	Claim(r hull.IDRange)
	Give(r hull.IDRange)
}

// Config is the service's own configuration.
type Config struct {
	RunDir   string // namespaces are pinned in RunDir/netns
	Instance string // short, unique among the engines of this machine; goes into names of host objects

	Bridge  string       // interface name of the default bridge; "" or taken = derived from Instance
	Subnet4 netip.Prefix // of the default bridge; zero = a free one
	Subnet6 netip.Prefix
	Pool    int // ready namespaces to keep; 0 = 4, negative = none

	Store Store
	IDs   IDs // ranges for pods with user namespaces of their own; nil = there are none
	// Pod finds a pod by id or name: the one whose network is to be shared, or
	// linked to. errdefs.ErrNotFound.
	Pod func(ref string) (hull.Pod, error)
	// Update changes the recorded status of a running pod, for connect and
	// disconnect. nil = they are not possible.
	Update func(podID string, fn func(*hull.PodStatus) error) error
	// Serve has the monitor of a pod, by its run directory, serve names: a pod that
	// has come to its first network with names while it ran. nil = nobody does.
	Serve func(ctx context.Context, runDir string) error
	// Relink has the machine of a pod, by its run directory, learn what network
	// interfaces the pod has now. nil = there are no machines.
	Relink func(ctx context.Context, runDir string) error
	// Change changes the networks a container asks for, running or not.
	// errdefs.ErrNotFound. nil = only running containers change networks, until
	// they stop.
	Change func(containerID string, fn func(*hull.NetworkSpec) error) error

	Events func(hull.Event) // nil = nobody listens; must not call back
	Log    *slog.Logger
}

// Service is the networks of one engine instance, and the pods on them. It rests on
// the registry, which may not call it.
type Service struct {
	*registry
	watching sync.Once
}

// registry is the networks themselves, and what all else stands on.
type registry struct {
	cfg   Config
	log   *slog.Logger
	host  *host
	files files
	ports *ports
	pool  *pool // of namespaces that belong to the host's user namespace
	owned *pool // of those that belong to one of their own
	zones *zones

	mu       sync.Mutex
	networks map[string]*network // by id
	pods     map[string]*attachment
	closed   bool
}

// New prepares the service in the network namespace of the calling process. It
// makes nothing in the kernel; the first attach does.
func New(cfg Config) (*Service, error) {
	if cfg.Instance == "" || cfg.RunDir == "" || cfg.Store == nil || cfg.Log == nil {
		return nil, fmt.Errorf("network service: instance, run directory, store and log are needed: %w", errdefs.ErrInvalidArgument)
	}
	h, err := newHost(filepath.Join(cfg.RunDir, "netns"), cfg.Instance, cfg.Log)
	if err != nil {
		return nil, err
	}
	s := &Service{registry: &registry{
		cfg: cfg, log: cfg.Log, host: h, ports: newPorts(), zones: newZones(filepath.Join(cfg.RunDir, "dns")),
		networks: map[string]*network{}, pods: map[string]*attachment{},
	}}
	s.files = files{log: cfg.Log, resolv: &textFile{path: hostResolvConf}, pod: cfg.Pod}
	if err := s.load(); err != nil {
		return nil, errors.Join(err, h.close())
	}
	s.pool = newPool(h, cfg.Pool, nil)
	if s.owned = s.pool; cfg.IDs != nil {
		const few = 2 // of what only privileged containers take
		h.ids, s.owned = cfg.IDs, newPool(h, cfg.Pool, cfg.IDs)
		s.pool.want = min(s.pool.want, few)
	}
	return s, nil
}

// Close gives back what no pod uses and waits for background work. Pods keep
// their network.
func (s *Service) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.host.quiesce()
	err := errors.Join(s.pool.drain(), s.owned.drain())
	s.ports.close()
	return errors.Join(err, s.host.close())
}

// publish tells the event log. attrs is name, value, ...
func (s *registry) publish(n *network, action string, attrs ...string) {
	if s.cfg.Events == nil {
		return
	}
	a := map[string]string{"name": n.rec.Name, "type": n.rec.Driver}
	for i := 0; i+1 < len(attrs); i += 2 {
		a[attrs[i]] = attrs[i+1]
	}
	s.cfg.Events(hull.Event{Type: "network", Action: action, Actor: n.rec.ID, Attrs: a, Scope: "local", Time: time.Now()})
}

// newID is 64 random hexadecimal digits.
func newID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
