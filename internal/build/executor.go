package build

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	bk "github.com/moby/buildkit/executor"
	resourcestypes "github.com/moby/buildkit/executor/resources/types"
	gatewayapi "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/driver"
	"hull/internal/hull"
	"hull/internal/undo"
)

// undoLimit bounds what the end of a step takes.
const undoLimit = 30 * time.Second

// defaultHostname is what a step's host is called: always the same, or what a
// step writes down would differ from build to build.
const defaultHostname = "buildkitsandbox"

// executor runs steps of a build as pods of one, through the driver seam: with
// the specification, the limits and the network that a container would have.
type executor struct {
	cfg   Config
	parts Parts
	mnt   string
	log   *slog.Logger

	mu      sync.Mutex
	running map[string]*step // by the builder's own id
	late    sync.WaitGroup   // steps whose remains are being removed
}

var _ bk.Executor = (*executor)(nil)

func newExecutor(cfg Config, p Parts, mnt string) *executor {
	return &executor{cfg: cfg, parts: p, mnt: mnt, log: p.Log, running: map[string]*step{}}
}

// close waits for what steps leave to do.
func (e *executor) close() { e.late.Wait() }

// step is a running one.
type step struct {
	id      string // of the pod and the container
	box     driver.Sandbox
	spec    *specs.Spec
	started chan struct{} // closed when it runs, or will not
}

// Run implements executor.Executor. It is a list, as engine.Start is: acquire,
// register the release, next.
func (e *executor) Run(ctx context.Context, id string, root bk.Mount, mounts []bk.Mount, p bk.ProcessInfo, started chan<- struct{}) (_ resourcestypes.Recorder, err error) {
	var tell sync.Once
	begun := func() {
		tell.Do(func() {
			if started != nil {
				close(started)
			}
		})
	}
	defer begun() // whoever waits must not wait for ever

	st := &step{id: newID(), started: make(chan struct{})}
	defer sync.OnceFunc(func() {
		select {
		case <-st.started:
		default:
			close(st.started)
		}
	})()
	if id != "" {
		if err := e.enter(id, st); err != nil {
			return nil, err
		}
		defer e.leave(id)
	}

	var back undo.Stack
	defer func() { err = errors.Join(err, back.Run(context.WithoutCancel(ctx), undoLimit)) }()

	by, cgroup, err := isolationOf(p.Meta.CgroupParent)
	if err != nil {
		return nil, err
	}
	p.Meta.CgroupParent = cgroup
	drv, info, err := e.driver(by)
	if err != nil {
		return nil, err
	}

	fs, release, err := e.rootfs(ctx, root)
	if err != nil {
		return nil, fmt.Errorf("root file system of the step: %w", err)
	}
	back.Add("release root file system", release)
	fs.ReadOnly = root.Readonly || p.Meta.ReadonlyRootFS

	binds, release, err := e.binds(ctx, mounts)
	back.Add("release mounts", release)
	if err != nil {
		return nil, err
	}
	if err := connectable(binds, info); err != nil {
		return nil, err
	}
	scaffold, release, err := e.scaffold(st.id, fs, binds)
	if err != nil {
		return nil, fmt.Errorf("mount points of the step: %w", err)
	}
	back.Add("remove mount points", release)
	fs.Lower = append([]string{scaffold}, fs.Lower...)

	c := container(st.id, info.Name, p.Meta, binds)
	dir := filepath.Join(e.cfg.RunDir, "pods", st.id)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make run directory: %w", err)
	}
	back.Add("remove run directory", func(context.Context) error { return os.RemoveAll(dir) })

	pod := hull.Pod{
		ID: st.id, Name: "build step", Isolation: info.Name, Implicit: true, Hostname: c.Spec.Hostname, Network: c.Spec.Network, Resources: c.Spec.Resources,
		Machine: info.OnDisk(), OwnStack: slices.Contains(info.Abilities, driver.AbilityOwnStack),
	}
	if pod.Users, err = e.parts.Users(ctx, c); err != nil {
		return nil, fmt.Errorf("user namespace of the step: %w", err)
	}
	endpoint, detach, err := e.parts.Networks.Attach(ctx, pod, dir)
	if err != nil {
		return nil, fmt.Errorf("network of the step: %w", err)
	}
	back.Add("detach network", detach)

	if st.spec, err = e.parts.Spec(c, endpoint); err != nil {
		return nil, fmt.Errorf("specification of the step: %w", err)
	}
	st.spec.Process.Env = p.Meta.Env // and nothing that differs from build to build

	st.box, err = drv.Create(ctx, driver.SandboxSpec{ID: st.id, RunDir: dir, NetNS: endpoint.NetNS, Resources: c.Spec.Resources, Shares: true})
	if err != nil {
		return nil, fmt.Errorf("sandbox of the step: %w", err)
	}
	back.Add("destroy sandbox", st.box.Destroy)

	proc, wait, err := e.process(p, func(io hull.IO) (driver.Process, error) {
		return st.box.Add(ctx, driver.ContainerSpec{ID: st.id, Rootfs: fs, OCI: st.spec, User: p.Meta.User}, io)
	})
	if err != nil {
		return nil, stepError(err)
	}
	if err := proc.Start(ctx); err != nil {
		return nil, stepError(errors.Join(err, wait()))
	}
	close(st.started)
	begun()
	return nil, e.await(ctx, proc, p, wait)
}

// Exec implements executor.Executor: another process in a running step.
func (e *executor) Exec(ctx context.Context, id string, p bk.ProcessInfo) error {
	e.mu.Lock()
	st := e.running[id]
	e.mu.Unlock()
	if st == nil {
		return fmt.Errorf("build container %s does not run: %w", id, errdefs.ErrNotFound)
	}
	select {
	case <-st.started:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if st.box == nil {
		return fmt.Errorf("build container %s has ended: %w", id, errdefs.ErrNotFound)
	}
	main := st.spec.Process
	args := specs.Process{
		Terminal: p.Meta.Tty, Args: p.Meta.Args, Env: p.Meta.Env, Cwd: p.Meta.Cwd,
		Capabilities: main.Capabilities, NoNewPrivileges: main.NoNewPrivileges, Rlimits: main.Rlimits, ApparmorProfile: main.ApparmorProfile,
	}
	if len(args.Env) == 0 {
		args.Env = main.Env
	}
	if args.Cwd == "" {
		args.Cwd = main.Cwd
	}
	proc, wait, err := e.process(p, func(io hull.IO) (driver.Process, error) {
		return st.box.Exec(ctx, st.id, driver.ExecSpec{ID: newID(), Process: &args, User: p.Meta.User, Seccomp: st.spec.Linux.Seccomp}, io)
	})
	if err != nil {
		return stepError(err)
	}
	if err := proc.Start(ctx); err != nil {
		return stepError(errors.Join(err, wait()))
	}
	return e.await(ctx, proc, p, wait)
}

func (e *executor) enter(id string, st *step) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.running[id] != nil {
		return fmt.Errorf("build container %s: %w", id, errdefs.ErrAlreadyExists)
	}
	e.running[id] = st
	return nil
}

func (e *executor) leave(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.running, id)
}

// process makes a process whose streams are p's. wait returns when its output
// has been copied.
func (e *executor) process(p bk.ProcessInfo, add func(hull.IO) (driver.Process, error)) (driver.Process, func() error, error) {
	near, far, err := socketpair()
	if err != nil {
		return nil, nil, err
	}
	at := &hull.Attach{Conn: far, Stdin: p.Stdin != nil, Stdout: true, Stderr: true, Mux: !p.Meta.Tty}
	proc, err := add(hull.IO{TTY: p.Meta.Tty, Stdin: p.Stdin != nil, StdinOnce: true, Attach: at})
	far.Close()
	if err != nil {
		near.Close()
		return nil, nil, err
	}
	return proc, pump(near, p), nil
}

// await passes signals and sizes on until the process has ended; when ctx ends
// first, it is killed.
func (e *executor) await(ctx context.Context, proc driver.Process, p bk.ProcessInfo, wait func() error) error {
	whole := context.WithoutCancel(ctx)
	ended := make(chan struct{})
	var aside sync.WaitGroup
	aside.Go(func() {
		kill := ctx.Done()
		for {
			select {
			case <-ended:
				return
			case <-kill:
				kill = nil
				if err := proc.Signal(whole, syscall.SIGKILL); err != nil && !errdefs.IsNotFound(err) {
					e.log.Warn("kill build step", "error", err)
				}
			case sig, ok := <-p.Signal:
				if !ok {
					p.Signal = nil
				} else if err := proc.Signal(whole, sig); err != nil && !errdefs.IsNotFound(err) {
					e.log.Warn("signal build step", "signal", sig, "error", err)
				}
			case size, ok := <-p.Resize:
				if !ok {
					p.Resize = nil
				} else if err := driver.Resize(whole, proc, uint16(size.Rows), uint16(size.Cols)); err != nil { //nolint:gosec // a terminal
					e.log.Debug("resize build step", "error", err)
				}
			}
		}
	})
	exit, err := proc.Wait(whole)
	close(ended)
	aside.Wait()
	if err = errors.Join(err, wait()); err != nil {
		return fmt.Errorf("wait for the step: %w", err)
	}
	return exitError(ctx, exit, p.Meta.ValidExitCodes)
}

// exitError words an end that is no success as BuildKit expects it.
func exitError(ctx context.Context, exit hull.Exit, valid []int) error {
	if len(valid) == 0 {
		valid = []int{0}
	}
	if slices.Contains(valid, exit.Code) {
		return nil
	}
	xe := &gatewayapi.ExitError{ExitCode: uint32(exit.Code)} //nolint:gosec // 0 to 255
	switch {
	case ctx.Err() != nil:
		xe.Err = context.Cause(ctx)
	case exit.OOMKilled:
		xe.Err = syscall.ENOMEM
	case exit.Error != "":
		xe.Err = errors.New(exit.Error)
	}
	return xe
}

// stepError words a step that could not be started.
func stepError(err error) error {
	var xe *hull.ExecError
	if errors.As(err, &xe) {
		return &gatewayapi.ExitError{ExitCode: uint32(xe.Code), Err: err} //nolint:gosec // 126 or 127
	}
	return err
}

// container is a step as a container's record.
func container(id string, isolation hull.Isolation, m bk.Meta, binds []bind) hull.Container {
	c := hull.Container{ID: id, PodID: id, Name: "build-" + id[:12]}
	c.Spec.Isolation = isolation
	c.Spec.Hostname = m.Hostname
	if c.Spec.Hostname == "" {
		c.Spec.Hostname = defaultHostname
	}
	c.Spec.Process.TTY = m.Tty
	c.Spec.Security.Privileged = m.SecurityMode == pb.SecurityMode_INSECURE
	c.Spec.Security.ReadOnlyRootfs = m.ReadonlyRootFS
	c.Spec.Resources.ShmSize = 64 << 20
	c.Spec.Resources.CgroupParent = m.CgroupParent
	for _, u := range m.Ulimit {
		c.Spec.Resources.Ulimits = append(c.Spec.Resources.Ulimits, hull.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	limit(&c.Spec.Resources, m.LinuxResources)
	c.Spec.Network.Mode = networkMode(m.NetMode)
	for _, h := range m.ExtraHosts {
		c.Spec.Network.ExtraHosts = append(c.Spec.Network.ExtraHosts, h.Host+":"+h.IP.String())
	}
	c.Resolved = hull.Resolved{Path: m.Args[0], Args: m.Args[1:], Env: m.Env, WorkDir: m.Cwd, User: m.User}
	for _, b := range binds {
		c.Mounts = append(c.Mounts, b.point())
	}
	return c
}

func networkMode(m pb.NetMode) string {
	switch m {
	case pb.NetMode_HOST:
		return "host"
	case pb.NetMode_NONE:
		return "none"
	}
	return "bridge"
}

func limit(r *hull.Resources, l *pb.LinuxResources) {
	if l == nil {
		return
	}
	r.Memory, r.MemorySwap = l.Memory, l.MemorySwap
	r.CPUShares, r.CPUPeriod, r.CPUQuota = int64(l.CpuShares), int64(l.CpuPeriod), l.CpuQuota //nolint:gosec // small
	r.CpusetCpus, r.CpusetMems = l.CpusetCpus, l.CpusetMems
}

func newID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// socketpair makes a pair of connected streams; far goes to a monitor.
func socketpair() (near net.Conn, far *os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make streams: %w", err)
	}
	f := os.NewFile(uintptr(fds[0]), "step")
	defer f.Close()
	far = os.NewFile(uintptr(fds[1]), "step")
	if near, err = net.FileConn(f); err != nil {
		far.Close()
		return nil, nil, fmt.Errorf("make streams: %w", err)
	}
	return near, far, nil
}
