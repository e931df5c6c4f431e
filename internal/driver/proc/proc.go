// Package proc is the driver for isolation "container": namespaces, cgroups and
// hull's own OCI runtime, with one hull-monitor per pod.
//
// hulld's share of a start is small: the specification is compiled to a plan
// here (runtime.Prepare), the cgroup is made here, and a monitor that was ready
// before carries the plan out. Two messages per container: add and start.
//
// What a pod has on the host, and how it is found again by name:
//
//	<cgroup parent>/<container>   limits and accounting; kill by name
//	<run dir>/monitor.sock        the monitor, which holds everything else
//	<run dir>/spec-<id>.json      what exec and recovery need to know of a container
//	<run dir>/exit-<id>.json      how a main process ended (written by the monitor)
package proc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"

	"hull/internal/driver"
	"hull/internal/hull"
	"hull/internal/linux/cgroup"
	"hull/internal/monitor"
)

const (
	// undoLimit bounds the clean-up after a failure.
	undoLimit = 15 * time.Second
	// recoverLimit is how long a monitor may take to answer a new engine. One that
	// does not is killed with its pod, so a busy machine must not look like it.
	recoverLimit = time.Minute
)

// Config is what a Driver needs.
type Config struct {
	MonitorPath  string // the hull-monitor binary
	CgroupParent string // of this engine instance ("/hull-x"); made when missing, removed by Close when empty
	RunDir       string // pods' run directories are RunDir/pods/<id>
	PoolSize     int    // monitors kept ready; 0 = 4
	Log          *slog.Logger
}

// Driver isolates with namespaces and cgroups.
type Driver struct {
	cfg     Config
	cg      *cgroup.System
	program *monitor.Program
	pool    *pool
	late    removals
	users   users
}

var _ driver.Driver = (*Driver)(nil)

// New makes a driver and begins to start its pool of monitors.
func New(cfg Config) (*Driver, error) {
	if cfg.MonitorPath == "" || !filepath.IsAbs(cfg.MonitorPath) {
		return nil, fmt.Errorf("monitor path %q is not absolute: %w", cfg.MonitorPath, errdefs.ErrInvalidArgument)
	}
	if cfg.PoolSize == 0 {
		cfg.PoolSize = 4
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	program, err := monitor.Open(cfg.MonitorPath)
	if err != nil {
		return nil, err
	}
	d, err := newDriver(cfg, program)
	if err != nil {
		return nil, errors.Join(err, program.Close())
	}
	return d, nil
}

func newDriver(cfg Config, program *monitor.Program) (*Driver, error) {
	sys, err := cgroup.Detect()
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	// Made here, before containers do it at the same time: a v1 cpuset is not ready
	// for children at once.
	if err := sys.Group(cfg.CgroupParent).CreateParent(); err != nil {
		return nil, fmt.Errorf("create cgroup parent: %w", err)
	}
	d := &Driver{cfg: cfg, cg: sys, program: program}
	// An engine that was killed left some behind. Those with anything in them stay.
	done, cancel := context.WithCancel(context.Background())
	cancel()
	for _, g := range sys.Children(cfg.CgroupParent) {
		if err := g.Destroy(done); err != nil {
			cfg.Log.Debug("cgroup in use", "cgroup", g.Path(), "error", err)
		}
	}
	d.pool = newPool(d.spawn, d.sit, cfg.PoolSize, cfg.Log)
	return d, nil
}

// Close ends the monitors that have no pod. Pods live on.
func (d *Driver) Close() error {
	d.pool.close()
	d.late.all.Wait()
	// Gone unless pods live on in it.
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := d.cg.Group(d.cfg.CgroupParent).Destroy(ctx); err != nil {
		d.cfg.Log.Debug("cgroup parent in use", "cgroup", d.cfg.CgroupParent, "error", err)
	}
	return d.program.Close()
}

// Info implements driver.Driver.
func (d *Driver) Info() driver.Info {
	version := "1"
	if d.cg.V2 {
		version = "2"
	}
	return driver.Info{
		Name:      hull.IsolationContainer,
		Rootfs:    []hull.RootfsKind{hull.RootfsOverlay},
		Abilities: []string{"attach", "exec", "pause", "pids", "resize", "root", "stats", "update", driver.AbilitySockets, driver.AbilityUserNS},
		Details: map[string]string{
			"cgroup":   version,
			"boundary": "the host's kernel, behind namespaces, a user namespace, few capabilities and a seccomp filter",
		},
	}
}

// Create implements driver.Driver. The boundary of a pod of containers is its
// network namespace, which the network service has made, and its monitor.
func (d *Driver) Create(_ context.Context, s driver.SandboxSpec) (driver.Sandbox, error) {
	if s.ID == "" || !filepath.IsAbs(s.RunDir) {
		return nil, fmt.Errorf("sandbox %q with run directory %q: %w", s.ID, s.RunDir, errdefs.ErrInvalidArgument)
	}
	m, err := d.pool.take()
	if err != nil {
		return nil, fmt.Errorf("start monitor: %w", err)
	}
	h, err := newHandle(m.life, m.client.Pid(), s.RunDir)
	if err == nil {
		err = m.client.Pod(s.ID, s.RunDir)
	}
	if err != nil {
		m.dismiss()
		return nil, fmt.Errorf("give the monitor its pod: %w", err)
	}
	b := d.newSandbox(s.ID, s.RunDir, h, m.client)
	b.netns, b.spare = s.NetNS, m.spare
	b.run()
	return b, nil
}

// Recover implements driver.Driver.
func (d *Driver) Recover(ctx context.Context, id string, raw hull.Handle) (driver.Sandbox, error) {
	h, err := parseHandle(raw)
	if err != nil {
		// Nothing but names is left to go by.
		h = handle{Dir: filepath.Join(d.cfg.RunDir, "pods", id)}
		d.cfg.Log.Warn("pod without a usable handle is destroyed", "pod", id, "error", err)
		return nil, d.gone(ctx, id, h)
	}
	if !h.alive() {
		return nil, d.gone(ctx, id, h)
	}
	b, err := d.reconnect(ctx, id, h, raw)
	if err == nil {
		return b, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	// A monitor that cannot be talked to is as good as dead: its pod can be
	// neither stopped nor watched.
	d.cfg.Log.Warn("pod whose monitor does not answer is destroyed", "pod", id, "error", err)
	return nil, d.gone(ctx, id, h)
}

// gone releases what is left of a pod and returns its *driver.GoneError.
func (d *Driver) gone(ctx context.Context, id string, h handle) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	g := &driver.GoneError{ID: id, Exits: map[string]hull.Exit{}}
	metas, err := readMetas(h.Dir)
	if err != nil {
		d.cfg.Log.Warn("read what is known of a pod", "pod", id, "error", err)
	}
	errs := []error{h.kill()}
	groups := []string{filepath.Join(d.cfg.CgroupParent, id)}
	for cid, m := range metas {
		groups = append(groups, m.Cgroup)
		if x, err := readExit(h.Dir, cid); err == nil {
			g.Exits[cid] = x
		}
	}
	for _, p := range groups {
		errs = append(errs, d.removeGroup(ctx, d.cg.Group(p)))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("release sandbox %s: %w", id, err)
	}
	return g
}

// removeGroup kills what is in a cgroup and removes it.
func (d *Driver) removeGroup(ctx context.Context, g *cgroup.Group) error {
	if err := d.killGroup(ctx, g); err != nil {
		return err
	}
	if err := g.Destroy(ctx); err != nil {
		return fmt.Errorf("remove cgroup %s: %w", g.Path(), err)
	}
	return nil
}

func (d *Driver) killGroup(ctx context.Context, g *cgroup.Group) error {
	if !g.Exists() {
		return nil
	}
	if err := g.Kill(ctx); err != nil {
		return fmt.Errorf("kill cgroup %s: %w", g.Path(), err)
	}
	return nil
}

// removeLater removes a cgroup that holds no process any more. The monitor's
// thread in it is on its way out, but takes the container's mounts down first,
// for 10 ms or so, and nobody needs to wait for that but a container of the same
// name. What an engine that dies leaves the next one removes.
func (d *Driver) removeLater(g *cgroup.Group) {
	d.late.begin(g, func(g *cgroup.Group) {
		ctx, cancel := context.WithTimeout(context.Background(), undoLimit)
		defer cancel()
		if err := d.removeGroup(ctx, g); err != nil {
			d.cfg.Log.Error("remove cgroup", "error", err)
		}
	})
}
