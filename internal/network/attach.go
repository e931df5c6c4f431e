package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"hull/internal/hull"
	"hull/internal/linux"
	"hull/internal/network/firewall"
	"hull/internal/undo"
)

// undoLimit bounds what a failed attach takes to clean up.
const undoLimit = 10 * time.Second

// attachment is a pod's place on its networks for one run.
type attachment struct {
	podID, name string
	links       []string // to pods that its hosts file names
	runDir      string
	netns       string // path; "" = the host's

	mu       sync.Mutex // held by release, connect, disconnect and rename; before Service.mu
	asked    hull.NetworkSpec
	dir      string // of its namespace's pin, "" for the host's or another pod's
	ids      hull.IDRange
	wants    []*network // what its ends are going to be on
	ends     []*end     // first the one with the default route
	claims   []*claim
	forwards []firewall.Forward

	published []hull.PublishedPort
	owner     *attachment // container:ID; nil when that pod has no namespace of its own
	joined    int         // pods that share this one's namespace
}

var podIDForm = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.]{3,127}$`) //nolint:gochecknoglobals // constant

// Attach gives pod p its network and writes hosts, resolv.conf and hostname into
// runDir. The release may be called twice.
func (s *Service) Attach(ctx context.Context, p hull.Pod, runDir string) (_ hull.Endpoint, _ hull.Release, err error) {
	if !podIDForm.MatchString(p.ID) {
		return hull.Endpoint{}, nil, fmt.Errorf("invalid pod id %q: %w", p.ID, errdefs.ErrInvalidArgument)
	}
	if err := s.Check(ctx, p.Network); err != nil {
		return hull.Endpoint{}, nil, err
	}
	a := &attachment{podID: p.ID, name: p.Name, runDir: runDir, asked: p.Network, links: linksToFollow(p.Network)}
	var back undo.Stack
	defer back.OnError(ctx, undoLimit, &err)

	if err := s.enter(a); err != nil {
		return hull.Endpoint{}, nil, err
	}
	back.Add("release network", func(context.Context) error { return s.release(a) })

	var ep hull.Endpoint
	switch mode := modeOf(p.Network); {
	case strings.HasPrefix(mode, "container:"):
		ep, err = s.join(a, strings.TrimPrefix(mode, "container:"), p.Users)
	case mode == Host:
		ep, err = s.attachHost(a, p, runDir)
	case mode == None:
		ep, err = s.attachNone(a, p, runDir)
	default:
		ep, err = s.attachBridges(a, p, runDir)
	}
	if err != nil {
		return hull.Endpoint{}, nil, err
	}
	back.Release()
	for _, e := range a.ends {
		s.publish(e.network, "connect", "container", p.ID)
	}
	relink(s, p, ep)
	return ep, func(context.Context) error { return s.release(a) }, nil
}

// modeOf is a request's mode with the defaults filled in.
func modeOf(n hull.NetworkSpec) string {
	switch {
	case n.Disabled:
		return None
	case n.Mode == "" || n.Mode == "default":
		return Bridge
	}
	return n.Mode
}

// enter registers an attachment: one at a time for a pod.
func (s *Service) enter(a *attachment) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("the network service is closed: %w", errdefs.ErrUnavailable)
	}
	if s.pods[a.podID] != nil {
		return fmt.Errorf("pod %s is attached already: %w", a.podID, errdefs.ErrConflict)
	}
	s.pods[a.podID] = a
	return nil
}

// attachHost: no namespace, the host's own files.
func (s *Service) attachHost(a *attachment, p hull.Pod, runDir string) (hull.Endpoint, error) {
	n, err := s.addEnd(a, Host, &end{id: newID()})
	if err != nil {
		return hull.Endpoint{}, err
	}
	ep := hull.Endpoint{Networks: map[string]hull.NetworkEndpoint{Host: {NetworkID: n.rec.ID, EndpointID: a.ends[0].id}}}
	return ep, s.files.write(&ep, p, s.place(a), runDir)
}

// attachNone: a namespace with a loopback.
func (s *Service) attachNone(a *attachment, p hull.Pod, runDir string) (hull.Endpoint, error) {
	sl, err := s.bareFor(p.Users)
	if err != nil {
		return hull.Endpoint{}, err
	}
	n, err := s.addEnd(a, None, &end{id: endID(sl.id)})
	if err == nil {
		err = s.own(a, sl)
	}
	if err != nil {
		s.pool.discard(sl)
		return hull.Endpoint{}, err
	}
	if err := s.host.podSysctls(sl.path(), p.Sysctls); err != nil {
		return hull.Endpoint{}, err
	}
	ep := hull.Endpoint{NetNS: sl.path(), IDs: sl.ids, Networks: map[string]hull.NetworkEndpoint{None: {NetworkID: n.rec.ID, EndpointID: a.ends[0].id}}}
	return ep, s.files.write(&ep, p, s.place(a), runDir)
}

// attachBridges: a namespace with an interface per network.
func (s *Service) attachBridges(a *attachment, p hull.Pod, runDir string) (hull.Endpoint, error) {
	s.watching.Do(s.watch)
	wanted, err := s.wantedEnds(a, p.Network)
	if err != nil {
		return hull.Endpoint{}, err
	}
	var sl *slot
	if len(wanted) == 1 && wanted[0].plain && p.Users.Path == "" {
		if sl, err = s.attachReady(a, wanted[0].network, p.Users); err != nil {
			return hull.Endpoint{}, err
		}
	} else if sl, err = s.attachEach(a, wanted, p.Users); err != nil {
		return hull.Endpoint{}, err
	}
	if err := s.host.podSysctls(sl.path(), p.Sysctls); err != nil {
		return hull.Endpoint{}, err
	}
	ep := hull.Endpoint{NetNS: sl.path(), IDs: sl.ids, Networks: map[string]hull.NetworkEndpoint{}}
	for i, e := range a.ends {
		r := e.record(wanted[i].spec, p)
		if p.Network.Held && r.DNSNames != nil {
			r.DNSNames = dnsNames(hull.EndpointSpec{}, hull.Pod{ID: p.ID, Name: p.Name})
		}
		e.names, e.priority = r.DNSNames, wanted[i].spec.GwPriority
		ep.Networks[e.network.rec.Name] = r
	}
	a.netns = sl.path()
	if err := s.nameEnds(a); err != nil {
		return hull.Endpoint{}, err
	}
	if ep.Ports, err = s.publishPorts(a, p.Network); err != nil {
		return hull.Endpoint{}, err
	}
	return ep, s.files.write(&ep, p, s.place(a), runDir)
}

// attachReady takes a namespace that is on the default bridge already.
func (s *Service) attachReady(a *attachment, n *network, users hull.PodUsers) (*slot, error) {
	if _, err := n.ensure(); err != nil {
		return nil, err
	}
	sl, err := s.poolFor(users).takeReady(n)
	if err != nil {
		return nil, err
	}
	if err := s.own(a, sl); err != nil {
		s.pool.discard(sl)
		return nil, err
	}
	s.mu.Lock()
	a.ends = []*end{sl.end}
	s.mu.Unlock()
	return sl, nil
}

// attachEach takes a bare namespace and connects it to each network in turn.
func (s *Service) attachEach(a *attachment, wanted []wantedEnd, users hull.PodUsers) (*slot, error) {
	sl, err := s.bareFor(users)
	if err != nil {
		return nil, err
	}
	if err := s.own(a, sl); err != nil {
		s.pool.discard(sl)
		return nil, err
	}
	names, err := interfaceNames(wanted)
	if err != nil {
		return nil, err
	}
	for i, w := range wanted {
		prefix := sl.id // the first cable has the slot's name
		if i > 0 {
			prefix = ""
		}
		if _, err := w.network.ensure(); err != nil {
			return nil, err
		}
		e, err := w.network.newEnd(prefix, names[i], w.spec, w.mac)
		if err != nil {
			return nil, s.nameHolder(w.network, w.spec, err)
		}
		s.mu.Lock()
		a.ends = append(a.ends, e)
		s.mu.Unlock()
		if err := e.connect(sl, i == 0); err != nil {
			return nil, err
		}
	}
	return sl, nil
}

// interfaceNames are the names of a pod's interfaces: what was asked for, else the
// network's prefix and the end's number, or the next one that is free.
func interfaceNames(wanted []wantedEnd) ([]string, error) {
	names, taken := make([]string, len(wanted)), map[string]bool{}
	for i, w := range wanted {
		name := w.spec.DriverOpts[optIfname]
		if names[i] = name; name == "" {
			continue
		}
		if taken[name] {
			return nil, invalid("two interfaces of the container are to be called %s", name)
		}
		taken[name] = true
	}
	for i, w := range wanted {
		for n := i; names[i] == ""; n++ {
			if name := w.network.ifPrefix() + strconv.Itoa(n); !taken[name] {
				names[i], taken[name] = name, true
			}
		}
	}
	return names, nil
}

// connect plugs e into the slot's namespace. Its name is on disk first, so that
// Sweep can tell whose the cable is.
func (e *end) connect(sl *slot, defaultRoute bool) error {
	if name := e.id[:slotLen]; name != sl.id {
		if err := linux.WriteFile(filepath.Join(sl.dir, name), nil, 0o400, false); err != nil {
			return err
		}
	}
	inside, err := handleAt(sl.path())
	if err != nil {
		return err
	}
	defer inside.Close()
	plug := e.plug
	if e.network.shares() {
		plug = e.share
	}
	if err := plug(inside, sl.path(), defaultRoute); err != nil {
		return fmt.Errorf("connect to network %s: %w", e.network.rec.Name, err)
	}
	return nil
}

// nameHolder says in an error who has the address that was asked for.
func (s *registry) nameHolder(n *network, spec hull.EndpointSpec, err error) error {
	if !errdefs.IsConflict(err) {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, asked := range []string{spec.IPv4, spec.IPv6} {
		addr, perr := netip.ParseAddr(asked)
		if perr != nil {
			continue
		}
		for _, a := range s.pods {
			if slices.ContainsFunc(a.ends, func(e *end) bool { return e.network == n && (e.v4 == addr || e.v6 == addr) }) {
				return fmt.Errorf("Address already in use: %s is container %s's: %w", addr, a.name, errdefs.ErrPermissionDenied) //nolint:staticcheck // Docker's words
			}
		}
	}
	return fmt.Errorf("Address already in use: %w", errors.Join(err, errdefs.ErrPermissionDenied)) //nolint:staticcheck // Docker's words
}

// unplug takes e out of the namespace at path, if that is still there.
func (h *host) unplug(e *end, path string) error {
	if e.veth != "" {
		return h.deleteLink(e.veth)
	}
	if !e.network.shares() {
		return nil
	}
	inside, err := handleAt(path)
	if errors.Is(err, os.ErrNotExist) {
		return e.network.routeMember(e, false)
	}
	if err != nil {
		return err
	}
	defer inside.Close()
	return e.unshare(inside)
}

// own gives the slot to the attachment.
func (s *Service) own(a *attachment, sl *slot) error {
	if err := s.host.claim(sl, a.podID); err != nil {
		return err
	}
	s.mu.Lock()
	a.dir, a.ids = sl.dir, sl.ids
	s.mu.Unlock()
	s.pool.given(sl)
	s.owned.given(sl)
	return nil
}

func (s *Service) poolFor(users hull.PodUsers) *pool {
	if users.Own {
		return s.owned
	}
	return s.pool
}

// bareFor returns a namespace with nothing in it that belongs to users. One of
// another pod's user namespace is made for the occasion.
func (s *Service) bareFor(users hull.PodUsers) (*slot, error) {
	if users.Path == "" {
		return s.poolFor(users).takeBare()
	}
	sl, inside, err := s.pool.makeOf(users)
	if err != nil {
		return nil, err
	}
	inside.Close()
	s.host.claimIDs(sl.ids)
	return sl, nil
}

// claimIDs and giveIDs count the users of a range.
func (h *host) claimIDs(r hull.IDRange) {
	if h.ids != nil {
		h.ids.Claim(r)
	}
}

func (h *host) giveIDs(r hull.IDRange) {
	if h.ids != nil {
		h.ids.Give(r)
	}
}

// addEnd puts a pod on a network that needs no cable.
func (s *Service) addEnd(a *attachment, name string, e *end) (*network, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.find(name)
	if err != nil {
		return nil, err
	}
	e.network = n
	a.ends = append(a.ends, e)
	return n, nil
}

// newEnd takes addresses for an interface.
func (n *network) newEnd(prefix, ifname string, spec hull.EndpointSpec, mac string) (_ *end, err error) {
	e := &end{network: n, id: endID(prefix), ifname: ifname, sysctls: spec.DriverOpts[optSysctls]}
	if n.bridge != "" {
		e.veth = n.host.vethName(e.id)
	}
	defer func() {
		if err != nil {
			e.release()
		}
	}()
	take := func(enabled bool, pool addrPool, asked string) (netip.Addr, error) {
		a, err := takeAddr(enabled, pool, asked)
		if errdefs.IsConflict(err) || errdefs.IsResourceExhausted(err) {
			n.host.finishBurials()
			a, err = takeAddr(enabled, pool, asked)
		}
		return a, err
	}
	if e.v4, err = take(n.v4 != nil, n.v4, spec.IPv4); err != nil {
		return nil, err
	}
	if e.v6, err = take(n.v6 != nil, n.v6, spec.IPv6); err != nil {
		return nil, err
	}
	switch {
	case spec.MacAddress != "":
		mac = spec.MacAddress
	case mac != "":
	case e.v4.IsValid():
		mac = macOf(e.v4)
	default:
		mac = macOf(e.v6)
	}
	hw, err := net.ParseMAC(mac)
	if err != nil || len(hw) != 6 {
		return nil, fmt.Errorf("invalid MAC address %q: %w", mac, errdefs.ErrInvalidArgument)
	}
	e.mac = hw.String()
	return e, nil
}

func endID(prefix string) string { return prefix + newID()[len(prefix):] }

// takeAddr takes the address asked for, or any.
func takeAddr(enabled bool, pool addrPool, asked string) (netip.Addr, error) {
	if !enabled {
		if asked != "" {
			return netip.Addr{}, fmt.Errorf("no configured subnet contains IP address %s: %w", asked, errdefs.ErrInvalidArgument)
		}
		return netip.Addr{}, nil
	}
	if asked == "" {
		return pool.Next()
	}
	a, err := netip.ParseAddr(asked)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("invalid IP address %q: %w", asked, errdefs.ErrInvalidArgument)
	}
	if err := pool.Claim(a); err != nil {
		return netip.Addr{}, err
	}
	return a.Unmap(), nil
}

type addrPool interface {
	Next() (netip.Addr, error)
	Claim(a netip.Addr) error
}

// record is what inspect shows.
func (e *end) record(spec hull.EndpointSpec, p hull.Pod) hull.NetworkEndpoint {
	r := hull.NetworkEndpoint{NetworkID: e.network.rec.ID, EndpointID: e.id, MacAddress: e.mac, Aliases: spec.Aliases}
	if e.v4.IsValid() {
		r.IPv4, r.PrefixLen4 = e.v4.String(), e.network.v4.Subnet().Bits()
	}
	if e.v6.IsValid() {
		r.IPv6, r.PrefixLen6 = e.v6.String(), e.network.v6.Subnet().Bits()
	}
	for _, gw := range e.gateways() {
		switch {
		case e.network.rec.Internal:
		case gw.Is4():
			r.Gateway4 = gw.String()
		default:
			r.Gateway6 = gw.String()
		}
	}
	if !predefined(e.network.rec.Name) {
		r.DNSNames = dnsNames(spec, p)
	}
	return r
}

func dnsNames(spec hull.EndpointSpec, p hull.Pod) []string {
	var out []string
	for _, n := range slices.Concat([]string{p.Name}, spec.Aliases, []string{p.ID[:min(12, len(p.ID))], p.Hostname}) {
		if n != "" && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// wantedEnd is one network a pod asks for.
type wantedEnd struct {
	network *network
	spec    hull.EndpointSpec
	mac     string
	plain   bool // the default bridge, and nothing asked that a ready namespace does not have
}

// wantedEnds are the networks of a request, the one with the default route first:
// the highest gateway priority wins, then the mode's network. None of them can be
// removed from then on.
func (s *Service) wantedEnds(at *attachment, spec hull.NetworkSpec) ([]wantedEnd, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	mode, err := s.find(modeOf(spec))
	if err != nil {
		return nil, err
	}
	var out []wantedEnd
	seen := map[*network]bool{}
	for name, e := range spec.Endpoints {
		n, err := s.find(name)
		if err != nil {
			return nil, err
		}
		if n.linked() && !seen[n] {
			out = append(out, wantedEnd{network: n, spec: e})
			seen[n] = true
		}
	}
	if !seen[mode] {
		out = append(out, wantedEnd{network: mode})
	}
	slices.SortFunc(out, func(a, b wantedEnd) int {
		switch {
		case a.network.rec.Internal != b.network.rec.Internal && a.network.rec.Internal:
			return 1
		case a.network.rec.Internal != b.network.rec.Internal:
			return -1
		case a.spec.GwPriority != b.spec.GwPriority:
			return b.spec.GwPriority - a.spec.GwPriority
		case a.network == mode:
			return -1
		case b.network == mode:
			return 1
		}
		return strings.Compare(a.network.rec.Name, b.network.rec.Name)
	})
	for i := range out {
		w := &out[i]
		at.wants = append(at.wants, w.network)
		if w.network == mode {
			w.mac = spec.MacAddress
		}
		e := w.spec
		w.plain = w.network.rec.ID == stableID(s.cfg.Instance, Bridge) && e.IPv4 == "" && e.IPv6 == "" && e.MacAddress == "" && w.mac == "" && len(e.LinkLocalIPs) == 0 &&
			e.DriverOpts[optIfname] == "" && e.DriverOpts[optSysctls] == ""
	}
	return out, nil
}

// join shares another pod's network and files, and its user namespace where users
// says so.
func (s *Service) join(a *attachment, ref string, users hull.PodUsers) (hull.Endpoint, error) {
	if s.cfg.Pod == nil {
		return hull.Endpoint{}, fmt.Errorf("sharing another container's network is not possible here: %w", errdefs.ErrNotImplemented)
	}
	p, err := s.cfg.Pod(ref)
	if err != nil {
		return hull.Endpoint{}, err
	}
	if p.ID == a.podID {
		return hull.Endpoint{}, fmt.Errorf("cannot join own network namespace: %w", errdefs.ErrInvalidArgument)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	owner := s.pods[p.ID]
	if owner == nil || !p.Status.Running {
		return hull.Endpoint{}, fmt.Errorf("cannot join network of a non running container: %s: %w", p.ID, errdefs.ErrConflict)
	}
	for owner.owner != nil {
		owner = owner.owner
	}
	owner.joined++
	a.owner = owner
	ep := p.Status.Endpoint
	if users.IDs.Size > 0 {
		a.ids = ep.IDs
		s.host.claimIDs(a.ids)
	}
	return hull.Endpoint{NetNS: ep.NetNS, IDs: a.ids, Hosts: ep.Hosts, ResolvConf: ep.ResolvConf, HostnameFile: ep.HostnameFile}, nil
}

// release gives back all that an attachment has. Nobody waits for the kernel to
// take the namespace down.
func (s *Service) release(a *attachment) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	s.mu.Lock()
	if s.pods[a.podID] != a {
		s.mu.Unlock()
		return nil
	}
	s.mu.Unlock()

	// Ports first: no packet may reach an address that is somebody else's soon. On
	// an error the attachment stays, and the release can be tried again.
	if err := s.host.unforward(a); err != nil {
		return err
	}
	s.ports.release(a.claims)
	for _, e := range a.ends {
		if e.network.shares() { // the kernel takes its time with the namespace, and the LAN sees the address
			if err := s.host.unplug(e, a.netns); err != nil {
				s.log.Warn("interface is not removed", "pod", a.podID, "network", e.network.rec.Name, "error", err)
			}
		}
		if err := s.unname(e); err != nil {
			s.log.Warn("name of a container that is gone remains", "pod", a.podID, "network", e.network.rec.Name, "error", err)
		}
	}

	s.mu.Lock()
	delete(s.pods, a.podID)
	shared := a.joined > 0
	if a.owner != nil {
		a.owner.joined--
	}
	dead, err := s.host.setAside(a.dir)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	for _, e := range a.ends {
		s.publish(e.network, "disconnect", "container", a.podID)
	}
	if dead == "" { // the host's namespace, or one that an earlier engine gave back before it died
		for _, e := range a.ends {
			e.release()
		}
		s.host.giveIDs(a.ids)
		return nil
	}
	s.host.bury(dead, a.ends, shared, func() { s.host.forgetFlows(a); s.host.giveIDs(a.ids) })
	return nil
}

// setAside renames the directory of a pod's namespace, so that a new run of the
// same pod can have its name.
func (h *host) setAside(dir string) (string, error) {
	if dir == "" {
		return "", nil
	}
	dead := filepath.Join(h.dir, "dead-"+newID()[:slotLen])
	if err := renameGone(dir, dead); err != nil {
		return "", fmt.Errorf("give network namespace back: %w", err)
	}
	return dead, nil
}

// podSysctls sets a pod's own values in its namespace.
func (h *host) podSysctls(path string, values map[string]string) error {
	var names []string
	for name := range values {
		if strings.HasPrefix(name, "net.") {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	return h.withSysctls(path, func(sys sysctls) error {
		for _, name := range names {
			// Dots separate, except that a slash stands for a dot in an interface name.
			file := strings.NewReplacer(".", "/", "/", ".").Replace(strings.TrimPrefix(name, "net."))
			if strings.Contains("/"+file+"/", "/../") {
				return fmt.Errorf("invalid sysctl %q: %w", name, errdefs.ErrInvalidArgument)
			}
			if err := sys.set(file, values[name]); err != nil {
				return fmt.Errorf("sysctl %s: %w", name, errors.Join(errdefs.ErrInvalidArgument, err))
			}
		}
		return nil
	})
}
