// Package oci is the driver for containers that an OCI runtime of the host makes:
// gVisor's runsc (isolation "sandbox"), or any other by its path ("--runtime").
//
// Running that program is what this driver is. It does so through a monitor's
// backend (monitor/oci), so that streams, logs, exits and recovery are what they
// are for every container. What a pod has on the host:
//
//	<cgroup parent>/<container>   limits and accounting; kill by name
//	<run dir>/monitor.sock        the monitor, parent of everything the runtime leaves
//	<run dir>/oci/                bundles and the runtime's state
//	<run dir>/exit-<id>.json      how a main process ended (written by the monitor)
package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/errdefs"

	"hull/internal/driver"
	"hull/internal/driver/group"
	"hull/internal/driver/pod"
	"hull/internal/hull"
	"hull/internal/linux"
	"hull/internal/linux/cgroup"
	"hull/internal/monitor"
	wire "hull/internal/monitor/oci"
)

// Config is what a Driver needs.
type Config struct {
	Runtime      string   // absolute path of the runtime's program
	Args         []string // the user's global arguments for it
	MonitorPath  string   // the hull-monitor binary
	CgroupParent string   // of this engine instance ("/hull-x"); exists
	RunDir       string   // pods' run directories are RunDir/pods/<id>
	CacheDir     string   // keeps what a probe found out; "" = nothing is kept
	Log          *slog.Logger
}

// Driver isolates with one OCI runtime.
type Driver struct {
	cfg  Config
	cg   *cgroup.System
	pods pod.Config

	asked  asked
	probed sync.Once // whether KVM serves
	late   sync.WaitGroup
	life   context.Context //nolint:containedctx // ends the probe with the driver, whoever's call began it
	end    context.CancelFunc

	mu      sync.Mutex
	program *monitor.Program // nil until it is needed
}

var _ driver.Driver = (*Driver)(nil)

// New makes a driver. The runtime is not run before it is needed.
func New(cfg Config) (*Driver, error) {
	if !filepath.IsAbs(cfg.MonitorPath) || !filepath.IsAbs(cfg.Runtime) {
		return nil, fmt.Errorf("monitor %q and runtime %q must be absolute paths: %w", cfg.MonitorPath, cfg.Runtime, errdefs.ErrInvalidArgument)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	sys, err := cgroup.Detect()
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	d := &Driver{cfg: cfg, cg: sys}
	d.life, d.end = context.WithCancel(context.Background())
	d.pods = pod.Config{Backend: wire.Backend, MonitorPath: cfg.MonitorPath, RunDir: cfg.RunDir, Log: cfg.Log, Release: d.release}
	return d, nil
}

// Info implements driver.Driver.
func (d *Driver) Info() driver.Info {
	f := d.find()
	i := driver.Info{
		Name:      hull.IsolationContainer,
		Rootfs:    []hull.RootfsKind{hull.RootfsOverlay},
		Abilities: []string{"attach", "exec", "pause", "pids", "resize", "root", "stats", "update"},
		Details: map[string]string{
			"runtime": d.cfg.Runtime, "version": f.version,
			"boundary": "the host's kernel, as the runtime " + d.cfg.Runtime + " makes it",
		},
	}
	if f.err != nil {
		i.Unavailable = f.err.Error()
	}
	if f.style == wire.Runsc {
		i.Name, i.MinMemory = hull.IsolationSandbox, minSandboxMemory
		i.Details["platform"] = d.platform(f)
		i.Details["boundary"] = "a kernel in user space (gVisor) that serves the program's system calls, and asks few of the host's"
		i.Abilities = append(i.Abilities, driver.AbilityOwnStack)
		i.Details["network"] = "gVisor's own stack; the pod's namespace's on networks with names"
	} else {
		i.Abilities = append(i.Abilities, driver.AbilitySockets)
	}
	return i
}

// Close ends what goes on beside. Pods live on.
func (d *Driver) Close() error {
	d.end()
	d.late.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.program == nil {
		return nil
	}
	return d.program.Close()
}

// spawn starts a monitor.
func (d *Driver) spawn() (*monitor.Client, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.program == nil {
		p, err := monitor.Open(d.cfg.MonitorPath)
		if err != nil {
			return nil, err
		}
		d.program = p
	}
	return d.program.Spawn()
}

// Create implements driver.Driver.
func (d *Driver) Create(_ context.Context, s driver.SandboxSpec) (driver.Sandbox, error) {
	f := d.find()
	if f.err != nil {
		return nil, f.err
	}
	d.probe(f)
	w := wire.Config{Style: f.style, Runtime: f.path, Args: d.global(f, s), NetNS: s.NetNS, MaskControllers: f.mask}
	if f.style == wire.Runsc {
		w.Pause = d.cfg.MonitorPath
		w.Cgroup = group.Of(d.cg.Group(d.groupPath(wire.PausePrefix+s.ID, nil)))
	}
	conf, err := json.Marshal(w)
	if err != nil {
		return nil, fmt.Errorf("encode configuration: %w", err)
	}
	if err := os.Mkdir(filepath.Join(s.RunDir, dirName), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("make bundle directory: %w", err)
	}
	if err := saveNetNS(s.RunDir, s.NetNS); err != nil {
		return nil, err
	}
	var p *pod.Pod
	c, err := d.spawn()
	if err == nil {
		p, err = pod.StartIn(d.pods, s, conf, c)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(filepath.Join(s.RunDir, dirName)))
	}
	return &sandbox{Pod: p, d: d, f: f, netns: s.NetNS}, nil
}

// Recover implements driver.Driver.
func (d *Driver) Recover(ctx context.Context, id string, h hull.Handle) (driver.Sandbox, error) {
	p, err := pod.Recover(ctx, d.pods, id, h)
	if err != nil {
		return nil, err
	}
	b := &sandbox{Pod: p, d: d, f: d.find(), netns: loadNetNS(p.Dir())}
	b.alone = p.Has(id)
	_, err = os.Lstat(groupFile(p.Dir(), wire.PausePrefix+id))
	b.shared = err == nil
	return b, nil
}

// netnsFile keeps the path of a pod's network namespace for an engine that takes the
// pod over.
func netnsFile(dir string) string { return filepath.Join(dir, dirName, "netns") }

func saveNetNS(dir, path string) error {
	if path == "" {
		return nil
	}
	if err := linux.WriteFile(netnsFile(dir), []byte(path), 0o600, false); err != nil {
		return fmt.Errorf("record network namespace: %w", err)
	}
	return nil
}

func loadNetNS(dir string) string {
	b, err := os.ReadFile(netnsFile(dir))
	if err != nil {
		return ""
	}
	return string(b)
}
