package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/driver"
	"hull/internal/hull"
)

// podOf is the pod of one that a Docker container is.
func (e *base) podOf(ctx context.Context, c hull.Container, drv driver.Driver) (hull.Pod, error) {
	s := c.Spec
	if err := e.checkShared(c); err != nil {
		return hull.Pod{}, err
	}
	users, err := e.usersOf(ctx, c, drv)
	return hull.Pod{
		Users: users,
		ID:    c.PodID, Name: c.Name, Created: c.Created, Isolation: s.Isolation, Runtime: s.Runtime, Implicit: true,
		Hostname: hostnameOf(c), Domainname: s.Domainname, Labels: c.Resolved.Labels,
		Network: networkOf(c), Namespaces: s.Namespaces, Resources: s.Resources, Sysctls: s.Security.Sysctls,
		Machine: drv.Info().OnDisk(), OwnStack: slices.Contains(drv.Info().Abilities, driver.AbilityOwnStack),
	}, err
}

// networkOf is the network request with the image's exposed ports.
func networkOf(c hull.Container) hull.NetworkSpec {
	n := c.Spec.Network
	n.Exposed = c.Resolved.Exposed
	if n.Disabled {
		n.Mode = "none"
	}
	return n
}

// checkShared reports a joined container that does not run.
func (e *base) checkShared(c hull.Container) error {
	s := c.Spec
	if _, err := e.sharedPid(s.Network.Mode); err != nil {
		return fmt.Errorf("cannot join network namespace of a non running container: %w", err)
	}
	if err := e.checkLinks(c); err != nil {
		return err
	}
	if _, err := e.sharedPid(s.Namespaces.PID); err != nil {
		return fmt.Errorf("failed to join PID namespace: %w", asInternal(err))
	}
	_, err := e.sharedIPC(s.Namespaces.IPC)
	return err
}

// sharedIPC is sharedPid for an IPC mode: what the other container keeps for
// itself is refused, in Docker's words.
func (e *base) sharedIPC(mode string) (int, error) {
	id, ok := strings.CutPrefix(mode, "container:")
	if !ok {
		return 0, nil
	}
	o, err := e.store.Container(id)
	if err != nil {
		return 0, fmt.Errorf("failed to join IPC namespace: %w", err)
	}
	if !o.Status.Phase.Live() || o.Status.Pid == 0 {
		return 0, fmt.Errorf("failed to join IPC namespace: container %s is not running: %w", o.ID, errdefs.ErrInternal)
	}
	if m := o.Spec.Namespaces.IPC; m != "shareable" && m != "host" && !strings.HasPrefix(m, "container:") {
		return 0, fmt.Errorf("failed to join IPC namespace: container %s: non-shareable IPC (hint: use IpcMode:shareable for the donor container): %w",
			o.ID, errdefs.ErrInvalidArgument)
	}
	return o.Status.Pid, nil
}

// sharedPid is the main process of container:ID, 0 for any other mode.
func (e *base) sharedPid(mode string) (int, error) {
	id, ok := strings.CutPrefix(mode, "container:")
	if !ok {
		return 0, nil
	}
	o, err := e.store.Container(id)
	if err != nil {
		return 0, err
	}
	if !o.Status.Phase.Live() || o.Status.Pid == 0 {
		return 0, fmt.Errorf("container %s is not running: %w", o.ID, errdefs.ErrConflict)
	}
	return o.Status.Pid, nil
}

// asInternal: a start that finds another container gone is Docker's fault, not the
// client's.
func asInternal(err error) error {
	if errdefs.IsConflict(err) {
		return fmt.Errorf("%s: %w", strings.TrimSuffix(err.Error(), ": "+errdefs.ErrConflict.Error()), errdefs.ErrInternal)
	}
	return err
}

// oci builds the specification of a run.
func (e *base) oci(c hull.Container, ep hull.Endpoint) (*specs.Spec, error) {
	in := ociInput{
		c: c, mounts: c.Mounts, endpoint: ep, hostname: hostnameOf(c), cgroupPath: c.ID,
		hostDevices: hostDevices, device: deviceAt, seccomp: e.profiles.load, appArmor: hostHasAppArmor(),
	}
	if p := c.Spec.Resources.CgroupParent; p != "" {
		in.cgroupPath = p + "/" + c.ID
	}
	var err error
	if in.join.pid, err = e.sharedPid(c.Spec.Namespaces.PID); err != nil {
		return nil, err
	}
	if in.join.ipc, err = e.sharedIPC(c.Spec.Namespaces.IPC); err != nil {
		return nil, err
	}
	if in.join.uts, err = e.sharedPid(c.Spec.Namespaces.UTS); err != nil {
		return nil, err
	}
	spec, err := ociSpec(in)
	if err != nil {
		return nil, err
	}
	if err := e.addDevices(spec, c.Spec.Resources.DeviceRequests); err != nil {
		return nil, err
	}
	if err := e.addUsers(spec, c.Mounts, ep); err != nil {
		return nil, err
	}
	return spec, setLimits(spec.Linux.Resources, c.Spec.Resources)
}

// addDevices puts devices that somebody else describes into a specification.
func (e *base) addDevices(s *specs.Spec, requests []hull.DeviceRequest) error {
	switch {
	case len(requests) == 0:
		return nil
	case e.devices == nil:
		return fmt.Errorf("could not select device driver %q with capabilities: %v: %w", requests[0].Driver, requests[0].Capabilities, errdefs.ErrInvalidArgument)
	}
	return e.devices.Inject(s, requests)
}

// CreatePod records a pod that several containers will share. Its containers
// are made by CreateIn.
func (e *creation) CreatePod(_ context.Context, p hull.Pod) (hull.Pod, error) {
	p.ID, p.Created, p.Implicit, p.Status = newID(), time.Now().UTC(), false, hull.PodStatus{}
	if p.Isolation == "" {
		p.Isolation = e.cfg.DefaultIsolation
	}
	if _, err := e.driver(p.Isolation, p.Runtime); err != nil {
		return p, err
	}
	return p, e.store.PutPod(p, true)
}

// StartPod makes the boundary and the network; containers are started into it
// by Start. StopPod is its reverse.
func (e *runner) StartPod(ctx context.Context, id string) error {
	unlock, err := e.locks.Lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	p, err := e.store.Pod(id)
	if err != nil {
		return err
	}
	if e.runs.pod(id) != nil {
		return fmt.Errorf("pod %s is already running: %w", p.Name, hull.ErrNotModified)
	}
	drv, err := e.driver(p.Isolation, p.Runtime)
	if err != nil {
		return err
	}
	_, _, err = e.openPod(ctx, p, drv, false)
	return err
}

// StopPod ends every container of a pod, then its boundary and network.
func (e *runner) StopPod(ctx context.Context, id string, r hull.StopRequest) error {
	for _, c := range e.store.Containers() {
		if c.PodID != id {
			continue
		}
		if err := e.Stop(ctx, c.ID, r); err != nil && !isNotModified(err) {
			return err
		}
	}
	unlock, err := e.locks.Lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	return e.closePod(ctx, id)
}

// RemovePod removes a pod that does not run, with its containers.
func (e *runner) RemovePod(ctx context.Context, id string) error {
	if e.runs.pod(id) != nil {
		return fmt.Errorf("pod %s is running; stop it first: %w", id, errdefs.ErrConflict)
	}
	for _, c := range e.store.Containers() {
		if c.PodID != id {
			continue
		}
		if err := e.Remove(ctx, c.ID, hull.RemoveRequest{Volumes: true}); err != nil {
			return err
		}
	}
	return e.store.DeletePod(id)
}
