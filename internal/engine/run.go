package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/driver"
	"hull/internal/hull"
)

// undoLimit bounds giving back what a failed start or an ended run holds.
const undoLimit = 30 * time.Second

// startLimit bounds the last step of a start, which no client's going away ends.
const startLimit = 2 * time.Minute

// Start begins one run of a created or stopped container.
//
// Everything acquired here lives until the run ends and is given back by the
// releases registered beside it: at once when a later step fails, else by exit
// (exit.go) or by recovery after a crash of the engine (recover.go).
func (e *runner) Start(ctx context.Context, ref string) error {
	c, unlock, err := e.locked(ctx, ref)
	if err != nil {
		return err
	}
	defer unlock()
	return e.start(ctx, c, 0)
}

// start is Start with the pod's lock held. restarts is how often the restart policy
// has started the container since somebody else did.
func (e *runner) start(ctx context.Context, c hull.Container, restarts int) (err error) {
	id := c.ID
	if err := c.CanStart(); err != nil {
		return err
	}
	drv, err := e.driver(c.Spec.Isolation, c.Spec.Runtime)
	if err != nil {
		return err
	}
	e.runs.cancelBackoff(id)

	x := &run{id: id, pod: c.PodID, exited: make(chan struct{}), done: make(chan struct{})}
	defer e.startFailed(ctx, c, &err)             // second: record why
	defer x.release.OnError(ctx, undoLimit, &err) // first: newest first, own deadline, joined into err

	// Intent first: from here a crash leaves a record that recovery can act on.
	if err := e.store.UpdateStatus(id, starting(restarts)); err != nil {
		return err
	}

	root, unmount, err := e.images.Mount(ctx, id, drv.Info().Rootfs)
	if err != nil {
		return fmt.Errorf("mount root file system of %s: %w", c.Name, err)
	}
	x.release.Add("unmount root file system", unmount)
	root.ReadOnly = c.Spec.Security.ReadOnlyRootfs

	// From here c.Mounts is what the driver binds; the record keeps what inspect shows.
	var unvolume, unimages hull.Release
	c.Mounts, unvolume, err = e.volumes.Mount(ctx, id, c.Mounts, e.opener(ctx, id))
	if err != nil {
		return fmt.Errorf("mount volumes of %s: %w", c.Name, err)
	}
	x.release.Add("unmount volumes", unvolume)

	box, endpoint, unpod, err := e.enterPod(ctx, c, drv)
	if err != nil {
		return err
	}
	x.release.Add("leave pod", unpod)

	c.Mounts, unimages, err = e.showImages(ctx, c, endpoint.IDs)
	if err != nil {
		return err
	}
	x.release.Add("close image mounts", unimages)

	c.Mounts, err = e.showSecrets(c, endpoint, &x.release)
	if err != nil {
		return err
	}

	target, err := e.logs.Target(c)
	if err != nil {
		return fmt.Errorf("open log of %s: %w", c.Name, err)
	}

	spec, err := e.oci(c, endpoint)
	if err != nil {
		return fmt.Errorf("OCI specification of %s: %w", c.Name, err)
	}
	if err := e.mapOwners(ctx, spec, c, endpoint); err != nil {
		return err
	}

	io, more := e.streams(c, target)
	proc, err := box.Add(ctx, containerSpec(c, root, spec), io)
	if err != nil {
		return fmt.Errorf("create process of %s: %w", c.Name, err)
	}
	x.proc = proc
	if err := e.attachAll(ctx, proc, more); err != nil {
		return err
	}

	// The facts are on record before the first instruction of the workload runs.
	if err := e.store.UpdateStatus(id, running(proc.Pid(), endpoint, target.Path)); err != nil {
		return err
	}
	if err := let(ctx, proc); err != nil {
		return fmt.Errorf("start %s: %w", c.Name, err)
	}
	x.started = time.Now()
	e.publish("start", c, nil)
	e.watch(ctx, x)
	return nil
}

// let starts what is made and on record. From here it is no longer the client's
// to call back: whoever has seen the first output of the workload may go away
// before the engine knows that the workload runs.
func let(ctx context.Context, p driver.Process) error {
	ctx, cancel := beyondClient(ctx)
	defer cancel()
	return p.Start(ctx)
}

// beyondClient is ctx without its client.
func beyondClient(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), startLimit)
}

// startFailed puts the record back to where a failed start found it, with the
// reason and the exit code that Docker gives: 127 executable missing, 126 not
// runnable, 128 anything else.
func (e *runner) startFailed(ctx context.Context, c hull.Container, err *error) {
	if *err == nil {
		return
	}
	for _, a := range e.runs.takePending(c.ID) {
		a.Conn.Close()
	}
	code := 128
	var xe *hull.ExecError
	if errors.As(*err, &xe) {
		code = xe.Code
	}
	text := (*err).Error()
	uerr := e.store.UpdateStatus(c.ID, func(s *hull.Status) error {
		s.Phase, s.Pid, s.ExitCode, s.Error, s.Restarting = c.Status.Phase, 0, code, text, false
		return nil
	})
	*err = errors.Join(*err, uerr)
	e.runs.notify(c.ID, false, hull.Exit{Code: code, At: time.Now()})
	if c.Spec.AutoRemove {
		*err = errors.Join(*err, e.remove(context.WithoutCancel(ctx), c, hull.RemoveRequest{Volumes: true}))
	}
}

// enterPod gives the container's boundary: the running one of an explicit pod,
// or a new one for a pod of one, released with the run.
func (e *runner) enterPod(ctx context.Context, c hull.Container, drv driver.Driver) (driver.Sandbox, hull.Endpoint, hull.Release, error) {
	if p := e.runs.pod(c.PodID); p != nil {
		pod, err := e.store.Pod(c.PodID)
		if err != nil {
			return nil, hull.Endpoint{}, nil, err
		}
		return p.box, pod.Status.Endpoint, func(context.Context) error { return nil }, nil
	}
	if c.PodID != c.ID {
		return nil, hull.Endpoint{}, nil, fmt.Errorf("pod %s of container %s does not run; start the pod first: %w", c.PodID, c.Name, errdefs.ErrConflict)
	}
	pod, err := e.podOf(ctx, c, drv)
	if err != nil {
		return nil, hull.Endpoint{}, nil, err
	}
	shares := slices.ContainsFunc(c.Mounts, func(m hull.MountPoint) bool { return m.Type != hull.MountTmpfs })
	p, endpoint, err := e.openPod(ctx, pod, drv, shares)
	if err != nil {
		return nil, hull.Endpoint{}, nil, err
	}
	return p.box, endpoint, func(ctx context.Context) error { return e.closePod(ctx, pod.ID) }, nil
}

// openPod makes a pod's network and boundary; shares says that its container has
// directories of the host. closePod is its reverse.
func (e *runner) openPod(ctx context.Context, pod hull.Pod, drv driver.Driver, shares bool) (_ *podRun, _ hull.Endpoint, err error) {
	p := &podRun{}
	defer p.release.OnError(ctx, undoLimit, &err)

	dir := e.podDir(pod.ID)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, hull.Endpoint{}, fmt.Errorf("make run directory: %w", err)
	}
	p.release.Add("remove run directory", func(context.Context) error { return os.RemoveAll(dir) })

	endpoint, detach, err := e.networks.Attach(ctx, pod, dir)
	if err != nil {
		return nil, endpoint, fmt.Errorf("attach %s to its networks: %w", pod.Name, err)
	}
	p.detach = detach
	p.release.Add("detach networks", detach)

	box, err := drv.Create(ctx, driver.SandboxSpec{ID: pod.ID, RunDir: dir, NetNS: endpoint.NetNS, Resources: pod.Resources, Shares: shares})
	if err != nil {
		return nil, endpoint, fmt.Errorf("create %s sandbox of %s: %w", pod.Isolation, pod.Name, err)
	}
	p.box = box
	p.release.Add("destroy sandbox", box.Destroy)

	pod.Status = hull.PodStatus{Running: true, Handle: box.Handle(), Endpoint: endpoint, StartedAt: time.Now()}
	if err := e.store.PutPod(pod, !pod.Implicit); err != nil {
		return nil, endpoint, fmt.Errorf("record pod: %w", err)
	}
	e.runs.setPod(pod.ID, p)
	return p, endpoint, nil
}

// closePod destroys a pod's boundary and gives its network back.
func (e *runner) closePod(ctx context.Context, id string) error {
	p := e.runs.pod(id)
	if p == nil {
		return nil
	}
	e.runs.setPod(id, nil)
	return errors.Join(p.release.Run(ctx, undoLimit), e.forgetPod(id))
}

// forgetPod takes the facts of a run out of a pod's record; the record of a pod
// of one goes with them.
func (e *runner) forgetPod(id string) error {
	pod, err := e.store.Pod(id)
	switch {
	case errdefs.IsNotFound(err):
		return nil
	case err != nil:
		return err
	case pod.Implicit:
		return e.store.DeletePod(id)
	}
	return e.store.UpdatePod(id, func(s *hull.PodStatus) error { *s = hull.PodStatus{}; return nil })
}

func (e *base) podDir(id string) string { return filepath.Join(e.cfg.RunDir, "pods", id) }

// starting leaves what restarts a restarting container, for whoever looks, until it runs.
func starting(restarts int) func(*hull.Status) error {
	return func(s *hull.Status) error {
		s.Phase, s.Error, s.StopRequested, s.RestartCount = hull.Starting, "", false, restarts
		s.OOMKilled, s.ExitCode, s.Health = false, 0, nil
		return nil
	}
}

func running(pid int, ep hull.Endpoint, logPath string) func(*hull.Status) error {
	return func(s *hull.Status) error {
		s.Phase, s.Pid, s.Endpoint, s.LogPath, s.Restarting = hull.Running, pid, ep, logPath, false
		s.StartedAt, s.FinishedAt = time.Now().UTC(), time.Time{}
		return nil
	}
}

func containerSpec(c hull.Container, root hull.Rootfs, spec *specs.Spec) driver.ContainerSpec {
	return driver.ContainerSpec{
		ID: c.ID, Rootfs: root, OCI: spec,
		User: c.Resolved.User, Groups: c.Spec.Process.Groups,
		Init: c.Spec.Process.Init != nil && *c.Spec.Process.Init,
	}
}
