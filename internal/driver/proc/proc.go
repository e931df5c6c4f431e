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
	"hull/internal/driver/pod"
	"hull/internal/hull"
	"hull/internal/linux/cgroup"
	"hull/internal/monitor"
)

// undoLimit bounds the clean-up after a failure.
const undoLimit = 15 * time.Second

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
	pods    pod.Config
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
	d.pods = pod.Config{MonitorPath: cfg.MonitorPath, RunDir: cfg.RunDir, Log: cfg.Log, Release: d.release, Freed: d.freed}
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
	m, err := d.pool.take()
	if err != nil {
		return nil, fmt.Errorf("start monitor: %w", err)
	}
	p, err := pod.StartAs(d.pods, s, nil, m.client, m.life)
	if err != nil {
		m.dismiss()
		return nil, err
	}
	return &sandbox{Pod: p, d: d, netns: s.NetNS, spare: m.spare, boxes: map[string]*box{}}, nil
}

// Recover implements driver.Driver.
func (d *Driver) Recover(ctx context.Context, id string, raw hull.Handle) (driver.Sandbox, error) {
	p, err := pod.Recover(ctx, d.pods, id, raw)
	if err != nil {
		return nil, err
	}
	b := &sandbox{Pod: p, d: d, boxes: map[string]*box{}}
	for cid, m := range d.metas(id, p.Dir()) {
		b.boxes[cid] = &box{group: d.cg.Group(m.Cgroup), spec: m.Spec}
	}
	return b, nil
}

// metas are what is known of a pod's containers.
func (d *Driver) metas(id, dir string) map[string]meta {
	metas, err := readMetas(dir)
	if err != nil {
		d.cfg.Log.Warn("read what is known of a pod", "pod", id, "error", err)
	}
	return metas
}

// release implements pod.Config.Release. The kernel kills what a monitor started when
// that dies, except for what has changed its parent-death signal, which the cgroup
// finds.
func (d *Driver) release(ctx context.Context, id, dir string) error {
	errs := []error{d.removeGroup(ctx, d.cg.Group(filepath.Join(d.cfg.CgroupParent, id)))}
	for _, m := range d.metas(id, dir) {
		errs = append(errs, d.removeGroup(ctx, d.cg.Group(m.Cgroup)))
	}
	return errors.Join(errs...)
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
