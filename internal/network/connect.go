package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"

	"hull/internal/dns"
	"hull/internal/hull"
	"hull/internal/network/firewall"
	"hull/internal/undo"
)

// Connect puts a container on another bridge network: a running one at once, as
// another interface, and any from its next start.
func (s *Service) Connect(ctx context.Context, ref, containerID string, spec hull.EndpointSpec) (err error) {
	a, p, n, err := s.live(ref, containerID)
	if err != nil {
		return err
	}
	if a == nil {
		return s.wishes().connect(n, containerID, spec)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.find(n) != nil:
		return fmt.Errorf("endpoint with name %s already exists in network %s: %w", a.name, n.rec.Name, errdefs.ErrPermissionDenied)
	case n.rec.Name == Host || len(a.ends) > 0 && a.ends[0].network.rec.Name == Host:
		return invalid("container cannot be disconnected from host network or connected to host network")
	case n.rec.Name == None || len(a.ends) > 0 && a.ends[0].network.rec.Name == None:
		return fmt.Errorf("container cannot be connected to multiple networks with one of the networks in private (none) mode: %w", errdefs.ErrPermissionDenied)
	case a.dir == "" || !n.linked():
		return invalid("cannot connect container %s to network %s: both must have a network of their own (not host, none or container:ID)", a.name, n.rec.Name)
	}
	if err := checkEndpoint(n, spec); err != nil {
		return err
	}
	var back undo.Stack
	defer back.OnError(ctx, undoLimit, &err)

	ifname, err := freeInterface(p.Status.Endpoint.NetNS, n.ifPrefix(), spec.DriverOpts[optIfname])
	if err != nil {
		return err
	}
	e, err := n.newEnd("", ifname, spec, "")
	if err != nil {
		return s.nameHolder(n, spec, err)
	}
	back.Add("give addresses back", func(context.Context) error { e.release(); return nil })
	// Machines are told last, and after a failure when all is as it was.
	back.Add("take it from the machine", func(ctx context.Context) error { return s.cfg.relink(ctx, a, p) })
	first := !a.hasNames()
	leads := !a.hasRoute() || !n.rec.Internal && spec.GwPriority > a.priority()
	if err := e.connect(&slot{dir: a.dir, id: filepath.Base(p.Status.Endpoint.NetNS)}, leads); err != nil {
		return err
	}
	back.Add("remove interface", func(context.Context) error { return s.host.unplug(e, a.netns) })
	record := e.record(spec, p)
	e.names, e.priority = record.DNSNames, spec.GwPriority
	s.setEnds(a, func(ends []*end) []*end { return append(ends, e) })
	back.Add("leave network", func(context.Context) (err error) {
		s.setEnds(a, func(ends []*end) []*end { return slices.DeleteFunc(ends, func(o *end) bool { return o == e }) })
		if leads {
			err = s.lead(a, p, nil)
		}
		return errors.Join(err, s.unname(e))
	})
	if leads {
		if err := s.lead(a, p, e); err != nil {
			return err
		}
	}
	was := a.asked
	back.Add("forget request", func(context.Context) error { a.asked = was; return nil })
	a.asked = withEndpoint(a.asked, n.rec.Name, &spec)
	if err := s.nameLate(ctx, a, p, e, first); err != nil {
		return err
	}
	if err := appendHosts(p, e); err != nil {
		s.log.Warn("hosts file is not updated", "pod", p.ID, "error", err)
	}
	if err := s.cfg.relink(ctx, a, p); err != nil {
		return err
	}
	err = s.cfg.Update(p.ID, func(st *hull.PodStatus) error {
		st.Endpoint.Networks = cloneEndpoints(st.Endpoint.Networks)
		st.Endpoint.Networks[n.rec.Name] = record
		return nil
	})
	if err != nil {
		return fmt.Errorf("record connection to network %s: %w", n.rec.Name, err)
	}
	s.publish(n, "connect", "container", p.ID)
	return s.wishes().change(p.ID, func(w *hull.NetworkSpec) error {
		w.Endpoints[n.rec.Name] = spec
		return nil
	})
}

// relink has a pod's machine, where it has one, learn what its networks are now.
func (c Config) relink(ctx context.Context, a *attachment, p hull.Pod) error {
	if !p.Machine || c.Relink == nil {
		return nil
	}
	if err := c.Relink(ctx, a.runDir); err != nil {
		return fmt.Errorf("change the networks of the machine of container %s: %w", a.name, err)
	}
	return nil
}

// setEnds changes a pod's ends for those who look at them.
func (s *Service) setEnds(a *attachment, fn func([]*end) []*end) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a.ends = fn(slices.Clone(a.ends))
}

// lead makes e, nil = the best of those there are, the end with the default route
// and the published ports.
func (s *Service) lead(a *attachment, p hull.Pod, e *end) error {
	if err := s.host.unforward(a); err != nil || len(a.ends) == 0 {
		return err
	}
	s.setEnds(a, func(ends []*end) []*end {
		if e == nil {
			return byPriority(ends)
		}
		return append([]*end{e}, slices.DeleteFunc(ends, func(o *end) bool { return o == e })...)
	})
	return s.promote(a, p)
}

// priority is that of the end with the default route.
func (a *attachment) priority() int {
	if len(a.ends) == 0 {
		return 0
	}
	return a.ends[0].priority
}

// nameLate makes an end of a running pod known by its names. first: it had no name
// server until now.
func (s *Service) nameLate(ctx context.Context, a *attachment, p hull.Pod, e *end, first bool) error {
	if !a.hasNames() {
		return nil
	}
	if err := s.zones.change(e, nil, e.names); err != nil {
		return err
	}
	e.named = e.network.hasNames()
	if first && e.named {
		if err := firewall.LeadResolver(a.netns, dns.Address(), dns.Port); err != nil {
			return err
		}
	}
	if err := s.writeNames(a); err != nil {
		return err
	}
	if !first || !e.named || s.cfg.Serve == nil {
		return nil
	}
	if err := s.cfg.Serve(ctx, a.runDir); err != nil {
		return fmt.Errorf("serve names to container %s: %w", a.name, err)
	}
	return s.files.turnToNames(p)
}

// withEndpoint is a request with another endpoint on a network, nil = none.
func withEndpoint(asked hull.NetworkSpec, network string, spec *hull.EndpointSpec) hull.NetworkSpec {
	asked.Endpoints = maps.Clone(asked.Endpoints)
	if spec == nil {
		delete(asked.Endpoints, network)
		return asked
	}
	if asked.Endpoints == nil {
		asked.Endpoints = map[string]hull.EndpointSpec{}
	}
	asked.Endpoints[network] = *spec
	return asked
}

func cloneEndpoints(m map[string]hull.NetworkEndpoint) map[string]hull.NetworkEndpoint {
	if m = maps.Clone(m); m == nil {
		m = map[string]hull.NetworkEndpoint{}
	}
	return m
}

// connect changes what a container that does not run will be given.
func (w wishes) connect(n *network, containerID string, spec hull.EndpointSpec) error {
	if err := checkEndpoint(n, spec); err != nil {
		return err
	}
	return w.change(containerID, func(asked *hull.NetworkSpec) error {
		mode := modeOf(*asked)
		switch {
		case mode == None || n.rec.Name == None:
			return fmt.Errorf("container cannot be connected to multiple networks with one of the networks in private (none) mode: %w", errdefs.ErrPermissionDenied)
		case mode == Host || n.rec.Name == Host:
			return invalid("container cannot be disconnected from host network or connected to host network")
		case strings.HasPrefix(mode, "container:") || !n.linked():
			return invalid("cannot connect container %s to network %s: both must have a network of their own (not host, none or container:ID)", containerID, n.rec.Name)
		}
		asked.Endpoints[n.rec.Name] = spec
		return nil
	})
}

// disconnect takes a network from what a container will be given.
func (w wishes) disconnect(n *network, containerID string) error {
	return w.change(containerID, func(asked *hull.NetworkSpec) error {
		if _, ok := asked.Endpoints[n.rec.Name]; !ok {
			return fmt.Errorf("container %s is not connected to network %s: %w", containerID, n.rec.Name, errdefs.ErrPermissionDenied)
		}
		delete(asked.Endpoints, n.rec.Name)
		return nil
	})
}

// change changes which networks a container asks for, kept for its next start.
func (w wishes) change(containerID string, fn func(*hull.NetworkSpec) error) error {
	if w == nil {
		return nil
	}
	return w(containerID, func(asked *hull.NetworkSpec) error {
		asked.Endpoints = maps.Clone(asked.Endpoints)
		if asked.Endpoints == nil {
			asked.Endpoints = map[string]hull.EndpointSpec{}
		}
		return fn(asked)
	})
}

// wishes changes what a container asks for, for its next start: Config.Change.
type wishes func(containerID string, fn func(*hull.NetworkSpec) error) error

func (s *Service) wishes() wishes { return s.cfg.Change }

// Disconnect takes a container off a network. With force, a container that does
// not exist is no error.
func (s *Service) Disconnect(ctx context.Context, ref, containerID string, force bool) error {
	a, p, n, err := s.live(ref, containerID)
	if err != nil {
		if force && errdefs.IsNotFound(err) {
			return nil
		}
		return err
	}
	if a == nil {
		return s.wishes().disconnect(n, containerID)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	e := a.find(n)
	switch {
	case e == nil:
		return fmt.Errorf("container %s is not connected to network %s: %w", p.ID, n.rec.Name, errdefs.ErrPermissionDenied)
	case n.rec.Name == Host:
		return invalid("container cannot be disconnected from host network or connected to host network")
	}
	lead := a.ends[0] == e
	if lead {
		if err := s.host.unforward(a); err != nil {
			return err
		}
	}
	if err := s.host.unplug(e, a.netns); err != nil {
		return err
	}
	s.setEnds(a, func(ends []*end) []*end {
		a.wants = slices.DeleteFunc(slices.Clone(a.wants), func(o *network) bool { return o == n })
		return slices.DeleteFunc(ends, func(o *end) bool { return o == e })
	})
	if err := s.unname(e); err != nil {
		return err
	}
	e.release()
	if lead {
		if err := s.lead(a, p, nil); err != nil {
			return err
		}
	}
	a.asked = withEndpoint(a.asked, n.rec.Name, nil)
	if n.hasNames() {
		if err := s.writeNames(a); err != nil {
			return err
		}
	}
	// One that does not answer is off the network all the same.
	told := s.cfg.relink(ctx, a, p)
	err = s.cfg.Update(p.ID, func(st *hull.PodStatus) error {
		st.Endpoint.Networks = maps.Clone(st.Endpoint.Networks)
		delete(st.Endpoint.Networks, n.rec.Name)
		return nil
	})
	if err != nil {
		return fmt.Errorf("record disconnection from network %s: %w", n.rec.Name, err)
	}
	s.publish(n, "disconnect", "container", p.ID)
	return errors.Join(told, s.wishes().change(p.ID, func(w *hull.NetworkSpec) error {
		delete(w.Endpoints, n.rec.Name)
		return nil
	}))
}

// byPriority orders ends as they lead: those that lead anywhere first.
func byPriority(ends []*end) []*end {
	slices.SortStableFunc(ends, func(a, b *end) int {
		switch {
		case a.network.rec.Internal && !b.network.rec.Internal:
			return 1
		case !a.network.rec.Internal && b.network.rec.Internal:
			return -1
		}
		return b.priority - a.priority
	})
	return ends
}

// promote gives the default route and the published ports to the first end. Ports
// that no network before it could publish are claimed now.
func (s *Service) promote(a *attachment, p hull.Pod) error {
	e := a.ends[0]
	if !e.network.linked() || e.network.rec.Internal {
		return nil
	}
	h, err := handleAt(p.Status.Endpoint.NetNS)
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := interfaceOf(h, e)
	if err != nil {
		return err
	}
	if err := setDefaultRoute(h, link.Attrs().Index, e); err != nil {
		return err
	}
	if !e.publishes() {
		return nil
	}
	if a.published != nil { // no more, perhaps, after Publish or TakeOver
		a.forwards = forwards(a.published, e)
		_, err = s.host.fw.Apply(firewall.Change{AddForwards: a.forwards})
		return err
	}
	published, err := s.publishPorts(a, a.asked)
	if err != nil || len(published) == 0 {
		return err
	}
	return s.cfg.Update(a.podID, func(st *hull.PodStatus) error {
		st.Endpoint.Ports = published
		return nil
	})
}

// interfaceOf finds an end's interface in its namespace by its hardware address:
// after a restart of the engine its name is not known.
func interfaceOf(h *netlink.Handle, e *end) (netlink.Link, error) {
	links, err := list(h.LinkList)
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		if l.Attrs().HardwareAddr.String() == e.mac {
			return l, nil
		}
	}
	return nil, fmt.Errorf("interface of network %s in the container: %w", e.network.rec.Name, errdefs.ErrNotFound)
}

// live finds a running container and a network. A container that does not run
// has no attachment, where it can be changed all the same.
func (s *Service) live(ref, containerID string) (*attachment, hull.Pod, *network, error) {
	if s.cfg.Pod == nil || s.cfg.Update == nil {
		return nil, hull.Pod{}, nil, fmt.Errorf("connecting a running container is not possible here: %w", errdefs.ErrNotImplemented)
	}
	s.mu.Lock()
	n, err := s.find(ref)
	s.mu.Unlock()
	if err != nil {
		return nil, hull.Pod{}, nil, err
	}
	p, err := s.cfg.Pod(containerID)
	if err != nil && !(errdefs.IsNotFound(err) && s.cfg.Change != nil) {
		return nil, hull.Pod{}, nil, err
	}
	s.mu.Lock()
	a := s.pods[p.ID]
	s.mu.Unlock()
	if a != nil && p.Status.Running && p.OwnStack && !a.hasNames() {
		return nil, hull.Pod{}, nil, fmt.Errorf("container %s runs in a sandbox with a network stack of its own, which keeps the interfaces it started with; stop it first, for its next start: %w", p.Name, errdefs.ErrNotImplemented)
	}
	if a == nil || !p.Status.Running {
		if s.cfg.Change != nil {
			return nil, hull.Pod{}, n, nil
		}
		return nil, hull.Pod{}, nil, fmt.Errorf("container %s is not running; only a running one can change its networks yet: %w", p.Name, errdefs.ErrNotImplemented)
	}
	return a, p, n, nil
}

func (a *attachment) find(n *network) *end {
	for _, e := range a.ends {
		if e.network == n {
			return e
		}
	}
	return nil
}

// uses says whether the pod is on n, or going to be.
func (a *attachment) uses(n *network) bool {
	return a.find(n) != nil || slices.Contains(a.wants, n)
}

// hasRoute says whether one of the networks leads anywhere else.
func (a *attachment) hasRoute() bool {
	return slices.ContainsFunc(a.ends, func(e *end) bool { return e.network.linked() && !e.network.rec.Internal })
}

// freeInterface is the name asked for, which must be free in the namespace, else
// prefix with the lowest number that makes a free one.
func freeInterface(path, prefix, asked string) (string, error) {
	h, err := handleAt(path)
	if err != nil {
		return "", err
	}
	defer h.Close()
	links, err := list(h.LinkList)
	if err != nil {
		return "", fmt.Errorf("list interfaces of %s: %w", path, err)
	}
	taken := func(name string) bool {
		return slices.ContainsFunc(links, func(l netlink.Link) bool { return l.Attrs().Name == name })
	}
	if asked != "" && taken(asked) {
		return "", fmt.Errorf("the container has an interface %s already: %w", asked, errdefs.ErrConflict)
	}
	if asked != "" {
		return asked, nil
	}
	for i := 0; ; i++ {
		if name := prefix + strconv.Itoa(i); !taken(name) {
			return name, nil
		}
	}
}

// appendHosts adds the new addresses to the pod's hosts file, in place: the
// container has the file itself mounted.
func appendHosts(p hull.Pod, e *end) (err error) {
	if p.Status.Endpoint.Hosts == "" {
		return nil
	}
	f, err := os.OpenFile(p.Status.Endpoint.Hosts, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	for _, pre := range e.prefixes() {
		if _, err := fmt.Fprintf(f, "%s\t%s\n", pre.Addr(), hostname(p, false)); err != nil {
			return err
		}
	}
	return nil
}
