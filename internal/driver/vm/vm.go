// Package vm is the driver for isolation "vm": each pod is a machine of its own,
// QEMU's microvm, with a kernel of its own; the container in it is run by
// hull-guest with the runtime that runs it on a host.
//
// The pod's monitor starts QEMU (internal/monitor/vm) and keeps it when hulld
// dies. Machines are restored from a template where there is one (template.go).
//
// What a pod has on the host, and how it is found again by name:
//
//	<cgroup parent>/<pod>     QEMU; kill by name
//	<run dir>/monitor.sock    the monitor, QEMU's parent: QEMU dies with it
//	<run dir>/share           where virtiofsd, and nobody else, sees the container's volumes
package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/driver"
	"hull/internal/driver/pod"
	"hull/internal/guest"
	"hull/internal/hull"
	"hull/internal/linux/cgroup"
	"hull/internal/monitor"
	monitorvm "hull/internal/monitor/vm"
	"hull/internal/undo"
	"hull/internal/vmm"
)

const (
	undoLimit = 15 * time.Second
	// bootSeconds is how long a guest may take until its container is ready. A
	// machine without hardware help on processors that ten others want takes more
	// than a minute; one that hangs, hangs.
	bootSeconds = 300
	mib         = 1 << 20
	// defaultMemory is a machine's without --memory, and guestOverhead what its
	// kernel needs beside the container's limit.
	defaultMemory = 512 * mib
	guestOverhead = 64 * mib
	minMemory     = 16 * mib // of a container
	memoryStep    = 64 * mib // so that limits that are near to each other share a template
	maxCPUs       = 32
)

// Config is what a Driver needs.
type Config struct {
	MonitorPath  string
	GuestPath    string   // the hull-guest binary
	QEMU         string   // the program; "" = qemu-system-x86_64 of the usual places
	Kernels      []string // where a guest kernel may be, in order; the first that exists
	Dir          string   // for initramfs and templates
	CgroupParent string
	RunDir       string
	// Blank is what machines rehearse with that are made ahead; nil = none are made.
	Blank Blank
	Log   *slog.Logger
}

// Driver isolates with machines.
type Driver struct {
	cfg       Config
	cg        *cgroup.System
	pods      pod.Config
	templates *templates
	spares    *spares[*monitor.Client]
	kvm       *kvm
	clock     sync.Mutex // of clockFile
	last      lastInitrd
}

var _ driver.Driver = (*Driver)(nil)

// New makes a driver. Without QEMU or a kernel it is one that says so when asked
// for a machine.
func New(cfg Config) (*Driver, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	sys, err := cgroup.Detect()
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	d := &Driver{cfg: cfg, cg: sys, templates: newTemplates(filepath.Join(cfg.Dir, "templates"), cfg.Blank, cfg.Log), kvm: newKVM(cfg.Dir)}
	var build func(context.Context, monitorvm.AheadConfig) (*monitor.Client, error)
	if cfg.Blank != nil {
		build = func(ctx context.Context, a monitorvm.AheadConfig) (*monitor.Client, error) {
			return ahead(ctx, cfg.MonitorPath, cfg.Blank, a)
		}
	}
	d.spares = newSpares(build, roomFor, cfg.Log)
	d.pods = pod.Config{Backend: monitorvm.Name, MonitorPath: cfg.MonitorPath, RunDir: cfg.RunDir, Log: cfg.Log, Release: d.release}
	if err := errors.Join(d.templates.sweep(nil), sweepInitrds(cfg.Dir, d.templates.initrds())); err != nil {
		cfg.Log.Warn("templates of no use stay", "error", err)
	}
	return d, nil
}

// Close ends what is made in the background. Pods live on.
func (d *Driver) Close() error {
	d.spares.close()
	d.templates.close()
	return nil
}

// Info implements driver.Driver. It looks, and runs nothing: what is installed
// while hulld runs can be used.
func (d *Driver) Info() driver.Info {
	how, why := d.kvm.says()
	details := map[string]string{
		"accelerator": string(how) + " (" + why + ")",
		"ready":       d.spares.says(),
		"boundary":    "a machine with a kernel of its own; the host sees QEMU, as a user of no rights with a seccomp filter",
	}
	q, err := d.qemu()
	if err == nil {
		details["qemu"] = q
	}
	k, kerr := findKernel(d.cfg.Kernels)
	if kerr == nil {
		kerr = checkKernel(k.Path)
	}
	if kerr == nil {
		details["kernel"] = k.Path
	}
	missing := ""
	if err := errors.Join(err, kerr, d.guest()); err != nil {
		missing = strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	return driver.Info{
		Name: hull.IsolationVM, Unavailable: missing, Rootfs: []hull.RootfsKind{hull.RootfsBlock, hull.RootfsOverlay},
		OneEach: true, MinMemory: minMemory,
		Abilities: []string{"attach", "exec", "pause", "processes", "resize", "stats", "update"},
		Details:   details,
	}
}

// guest says whether the program that runs in the machine is there.
func (d *Driver) guest() error {
	if _, err := os.Stat(d.cfg.GuestPath); err != nil {
		return fmt.Errorf("hull-guest belongs beside hulld: %w", err)
	}
	return nil
}

// qemu finds the program.
func (d *Driver) qemu() (string, error) {
	for _, p := range []string{d.cfg.QEMU, "/usr/bin/qemu-system-x86_64", "/usr/local/bin/qemu-system-x86_64"} {
		if p == "" {
			continue
		}
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
		if p == d.cfg.QEMU {
			return "", fmt.Errorf("qemu %s is not there: %w", p, errdefs.ErrFailedPrecondition)
		}
	}
	return "", fmt.Errorf("qemu is not installed; install Debian's package qemu-system-x86: %w", errdefs.ErrFailedPrecondition)
}

// Create implements driver.Driver. The machine starts with its container.
func (d *Driver) Create(ctx context.Context, s driver.SandboxSpec) (_ driver.Sandbox, err error) {
	var back undo.Stack
	defer back.OnError(ctx, undoLimit, &err)
	if s.NetNS == "" {
		return nil, fmt.Errorf("a virtual machine cannot use the host's network; use --network bridge or --isolation container: %w", errdefs.ErrInvalidArgument)
	}
	k, err := d.kind(ctx, s.ID[:min(12, len(s.ID))], s.Resources)
	if err != nil {
		return nil, err
	}
	conf := monitorvm.Config{Machine: k.machine, NetNS: s.NetNS, BootSeconds: bootSeconds}
	g := d.cg.Group(filepath.Join(d.cfg.CgroupParent, s.ID))
	if _, err := g.Create(&specs.LinuxResources{}); err != nil { // limited when it has booted, see Add
		return nil, fmt.Errorf("create cgroup: %w", err)
	}
	back.Add("remove cgroup", func(ctx context.Context) error { return d.release(ctx, s.ID, s.RunDir) })
	for _, x := range g.Dirs() {
		conf.Cgroups = append(conf.Cgroups, x.Path)
	}
	raw, err := json.Marshal(conf)
	if err != nil {
		return nil, err
	}
	p, err := d.start(ctx, s, raw, k)
	if err != nil {
		return nil, err
	}
	return &sandbox{Pod: p, d: d, kind: k, group: g, limits: s.Resources}, nil
}

// start starts the pod's monitor, which has its machine already where one was made
// ahead.
func (d *Driver) start(ctx context.Context, s driver.SandboxSpec, conf []byte, k kind) (*pod.Pod, error) {
	if m, ok := d.spares.take(ctx, k.spare(s.Shares)); ok {
		p, err := pod.StartIn(d.pods, s, conf, m)
		if err == nil {
			return p, nil
		}
		d.cfg.Log.Warn("a machine that was made ahead is of no use", "error", err)
	}
	return pod.Start(d.pods, s, conf)
}

// kind is what machines of a size have in common.
type kind struct {
	machine vmm.Config // without what belongs to its container
	kernel  Kernel
	key     string // names its template
}

// spare names the kind of a machine that is made ahead: its template's, and whether it
// can show directories of the host.
func (k kind) spare(shares bool) string { return fmt.Sprintf("%s %t", k.key, shares) }

// kind is that of a machine for a container's limits.
func (d *Driver) kind(ctx context.Context, name string, r hull.Resources) (k kind, err error) {
	q, err := d.qemu()
	if err != nil {
		return k, err
	}
	if k.kernel, err = findKernel(d.cfg.Kernels); err != nil {
		return k, err
	}
	if err := checkKernel(k.kernel.Path); err != nil {
		return k, err
	}
	initrd, err := d.initrd(ctx, k.kernel)
	if err != nil {
		return k, fmt.Errorf("make initramfs: %w", err)
	}
	memory, err := memoryOf(r.Memory)
	if err != nil {
		return k, err
	}
	c := vmm.Config{QEMU: q, CPUs: cpusOf(r), Memory: memory, Kernel: k.kernel.Path, Initrd: initrd, ACPI: k.kernel.ACPI, Name: "hull-" + name}
	if c.Accel, err = d.accelerator(ctx, c, k.kernel); err != nil {
		return k, err
	}
	khz := 0
	if c.Accel == vmm.TCG {
		khz = d.hostClock()
	}
	c.Cmdline = k.kernel.cmdline(c.Accel, c.CPUs, khz)
	k.machine = c
	if k.key, err = key(c); err != nil {
		return k, fmt.Errorf("name the machine's template: %w", err)
	}
	return k, nil
}

// memoryOf is the machine's memory for a container's limit: that and what the
// kernel needs, in steps.
func memoryOf(limit int64) (int64, error) {
	switch {
	case limit <= 0:
		return defaultMemory, nil
	case limit < minMemory:
		return 0, fmt.Errorf("--memory %d MiB is too little for a virtual machine; give %d MiB or more: %w", limit/mib, int64(minMemory)/mib, errdefs.ErrInvalidArgument)
	}
	return (limit + guestOverhead + memoryStep - 1) / memoryStep * memoryStep, nil
}

// cpusOf is how many processors a machine has: what --cpus asks for, rounded up, or
// those of --cpuset-cpus.
func cpusOf(r hull.Resources) int {
	n := int64(1)
	switch {
	case r.NanoCPUs > 0:
		n = (r.NanoCPUs + 1e9 - 1) / 1e9
	case r.CPUQuota > 0:
		period := max(r.CPUPeriod, 0)
		if period == 0 {
			period = 100000
		}
		n = (r.CPUQuota + period - 1) / period
	case r.CpusetCpus != "":
		n = int64(processors(r.CpusetCpus))
	}
	return int(min(max(n, 1), maxCPUs))
}

// processors is how many a list names; the engine has refused one that is none.
func processors(list string) int {
	all, err := hull.ParseRanges(list)
	if err != nil {
		return 0
	}
	named := map[int]bool{}
	for _, r := range all {
		for n := r.First; n <= r.Last; n++ {
			named[n] = true
		}
	}
	return len(named)
}

// checkKernel refuses a file that is no kernel for this machine before QEMU
// wonders about it.
func checkKernel(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("guest kernel: %w", err)
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Mode()&0o004 == 0 {
		return fmt.Errorf("guest kernel %s can be read by its owner only, and QEMU runs as nobody: chmod a+r it: %w", path, errdefs.ErrFailedPrecondition)
	}
	h := make([]byte, 0x206)
	if n, _ := f.ReadAt(h, 0); n < len(h) {
		return fmt.Errorf("guest kernel %s is no kernel (%d bytes): %s: %w", path, n, nextKernel, errdefs.ErrInvalidArgument)
	}
	elf := string(h[:4]) == "\x7fELF" && h[18] == 62 && h[19] == 0 // x86-64
	if !elf && string(h[0x202:0x206]) != "HdrS" {
		return fmt.Errorf("guest kernel %s is not for x86-64: %s: %w", path, nextKernel, errdefs.ErrInvalidArgument)
	}
	return nil
}

// template gives the files of a machine's template. Without one it boots, as the first of a
// kind does, which has it made afterwards (another); first says whether this one may be that.
// A template that is made rehearses r, if that is not nil.
func (d *Driver) template(ctx context.Context, k kind, first bool, r *monitorvm.Rehearsal) (state, memory string, err error) {
	if k.key == "" { // a machine that a former engine made
		return "", "", nil
	}
	if state, memory = d.templates.find(k.key); state != "" || first && d.templates.first(k.key) {
		return state, memory, nil
	}
	state, memory, err = d.templates.get(ctx, k.key, k.machine, r)
	if ctx.Err() != nil {
		return "", "", fmt.Errorf("wait for the machine's template: %w", context.Cause(ctx))
	}
	if err != nil {
		d.cfg.Log.Warn("machines boot, because their template cannot be made", "error", err)
	}
	return state, memory, nil
}

// another has a machine made ahead for the next start of a kind, and before that their
// template, if that is not there.
func (d *Driver) another(k kind, shares bool, state, memory string, r monitorvm.Rehearsal) {
	if k.key == "" { // as above
		return
	}
	if state == "" {
		d.templates.later(func(ctx context.Context) {
			if state, memory, err := d.templates.get(ctx, k.key, k.machine, &r); err == nil && state != "" {
				d.another(k, shares, state, memory, r)
			}
		})
		return
	}
	c := k.machine
	c.Name = "hull-spare"
	if shares {
		c.VirtioFS = guest.ShareTag
	}
	d.spares.want(k.spare(shares), monitorvm.AheadConfig{Machine: c, State: state, Memory: memory, Rehearsal: r})
}

// virtiofsd finds the program that shows host directories to machines.
func (d *Driver) virtiofsd() (string, error) {
	for _, p := range []string{"/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"} {
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("virtiofsd is not installed; install Debian's package virtiofsd: %w", errdefs.ErrFailedPrecondition)
}

// Recover implements driver.Driver.
func (d *Driver) Recover(ctx context.Context, id string, h hull.Handle) (driver.Sandbox, error) {
	p, err := pod.Recover(ctx, d.pods, id, h)
	if err != nil {
		return nil, err
	}
	k, err := findKernel(d.cfg.Kernels)
	if err != nil {
		d.cfg.Log.Warn("pod runs a kernel that is not there any more", "pod", id)
	}
	b := &sandbox{Pod: p, d: d, kind: kind{kernel: k}, group: d.cg.Group(filepath.Join(d.cfg.CgroupParent, id))}
	return b, b.readSpec()
}

// release ends QEMU and removes the pod's cgroup.
func (d *Driver) release(ctx context.Context, id, _ string) error {
	g := d.cg.Group(filepath.Join(d.cfg.CgroupParent, id))
	if !g.Exists() {
		return nil
	}
	if err := g.Kill(ctx); err != nil {
		return fmt.Errorf("kill cgroup of %s: %w", id, err)
	}
	return g.Destroy(ctx)
}
