// Command hulld is the engine daemon: it builds every service, finds again what
// an earlier hulld left running, and serves the Docker Engine API.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	clog "github.com/containerd/log"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/docker/go-units"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"hull/internal/build"
	"hull/internal/cdi"
	"hull/internal/driver"
	"hull/internal/driver/proc"
	"hull/internal/driver/vm"
	"hull/internal/engine"
	"hull/internal/event"
	"hull/internal/files"
	"hull/internal/front/docker"
	"hull/internal/hull"
	"hull/internal/image"
	"hull/internal/linux"
	"hull/internal/logs"
	"hull/internal/network"
	"hull/internal/secret"
	"hull/internal/space"
	"hull/internal/store"
	"hull/internal/volume"
)

// Set by the linker.
var (
	version   = "dev"
	commit    = ""
	buildTime = ""
)

// options are the command line.
type options struct {
	root, run   string
	hosts       []string
	readyFD     int
	monitor     string
	vm          machineOptions
	logDriver   string
	logLevel    string
	insecure    []string
	mirrors     []string
	hostsDir    string
	trust       string
	trustMust   bool
	group       string
	bridge      string
	subnet      string
	subnet6     string
	userns      string
	cdiDirs     []string
	tls         tlsFiles
	limits      limits
	runtimes    []string
	showVersion bool
	examine     bool
}

// limits are the engine's own.
type limits struct {
	stop    time.Duration // between the stop signal and SIGKILL
	storage int64         // bytes of images and build cache; 0 = no cap
}

func main() {
	o, err := parse(os.Args[1:])
	if errors.Is(err, pflag.ErrHelp) {
		return
	}
	if err == nil && o.showVersion {
		fmt.Println("hulld version " + version) //nolint:forbidigo // what was asked for
		return
	}
	if err == nil && o.examine {
		if err = examine(o, os.Stdout); err == nil {
			return
		}
	}
	if err == nil {
		_ = linux.CalmSysmon() // where that is refused it wakes as it did
		floor := heapFloor()
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
		err = serve(ctx, o)
		stop()
		runtime.KeepAlive(floor)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "hulld:", err)
		os.Exit(1)
	}
}

// heapFloor has the garbage collector run every dozen starts instead of every
// fourth: it takes twice what lives as its goal, and an idle engine is so small
// that the goal is soon reached. The pages are never touched, so they take address
// space and no memory; a large engine is collected as it would be without.
func heapFloor() []byte { return make([]byte, 12<<20) }

func parse(args []string) (options, error) {
	var o options
	f := pflag.NewFlagSet("hulld", pflag.ContinueOnError)
	f.StringVar(&o.root, "root", envOr("HULL_ROOT", "/var/lib/hull"), "state directory: images, volumes, records")
	f.StringVar(&o.run, "run", envOr("HULL_RUN", "/run/hull"), "run directory on a tmpfs: socket, run files")
	f.StringArrayVarP(&o.hosts, "host", "H", nil, "more addresses to listen on (unix://PATH, tcp://HOST:PORT with TLS)")
	f.IntVar(&o.readyFD, "ready-fd", -1, "descriptor that gets one byte when the engine serves")
	f.StringVar(&o.monitor, "monitor", "", "path of hull-monitor (default: beside hulld)")
	f.StringVar(&o.vm.kernel, "vm-kernel", envOr("HULL_VM_KERNEL", ""), "guest kernel of --isolation vm (default: the installed one, else vmlinux beside hulld)")
	f.StringVar(&o.vm.qemu, "vm-qemu", "", "QEMU of --isolation vm (default: qemu-system-x86_64)")
	f.BoolVar(&o.vm.spare, "vm-spare", true, "keep a machine ready for the next --isolation vm, until 10 minutes after the last one")
	f.StringVar(&o.logDriver, "log-driver", "json-file", "default log driver of containers")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringArrayVar(&o.insecure, "insecure-registry", nil, "registry (HOST[:PORT] or CIDR) to reach without TLS")
	f.StringArrayVar(&o.mirrors, "registry-mirror", nil, "URL to ask before Docker Hub")
	f.StringVar(&o.hostsDir, "registry-hosts", "/etc/hull/certs.d", "directory of hosts.toml files")
	f.StringVar(&o.trust, "trust-policy", trustPolicy, "which images may be used (default: this file, if it is there)")
	f.StringVarP(&o.group, "group", "G", "hull", "group that may use the socket")
	f.StringVar(&o.bridge, "bridge", "", "interface name of the default bridge")
	f.StringVar(&o.subnet, "subnet", "", "IPv4 subnet of the default bridge (default: a free one)")
	f.StringVar(&o.subnet6, "subnet6", "", "IPv6 subnet of the default bridge (default: a free one)")
	f.StringVar(&o.userns, "userns", "private", "user namespace of containers that do not say: private or host")
	f.StringArrayVar(&o.cdiDirs, "cdi-spec-dir", []string{"/etc/cdi", "/var/run/cdi"}, "directory of CDI files, which describe devices for --device VENDOR/CLASS=NAME and --gpus")
	f.StringVar(&o.tls.ca, "tlscacert", "", "CA that signs clients' certificates (tcp:// only)")
	f.StringVar(&o.tls.cert, "tlscert", "", "server certificate (tcp:// only)")
	f.StringVar(&o.tls.key, "tlskey", "", "server key (tcp:// only)")
	f.DurationVar(&o.limits.stop, "stop-timeout", 10*time.Second, "time between the stop signal and SIGKILL")
	f.StringArrayVar(&o.runtimes, "add-runtime", nil, "OCI runtime for --runtime NAME, as NAME=PATH[ ARGUMENT...]")
	storage := f.String("max-storage", "", "bytes that images and build cache take at most (20GB); what was used least recently goes first (default: no cap)")
	f.BoolVar(&o.examine, "examine", false, "print what stands against the engine on this host (JSON) and quit; hull doctor asks for it when there is no engine")
	f.BoolVarP(&o.showVersion, "version", "v", false, "print the version and quit")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if o.userns != "private" && o.userns != "host" {
		return o, fmt.Errorf("--userns %q: use private or host", o.userns)
	}
	o.trustMust = f.Changed("trust-policy")
	if *storage != "" {
		n, err := units.FromHumanSize(*storage)
		if err != nil || n <= 0 {
			return o, fmt.Errorf("--max-storage %q is no number of bytes: 500MB, 20GB", *storage)
		}
		o.limits.storage = n
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q; see hulld --help", f.Arg(0))
	}
	return o, absolute(&o)
}

// absolute makes paths independent of the working directory.
func absolute(o *options) error {
	for _, p := range []*string{&o.root, &o.run, &o.trust} {
		if *p == "" {
			continue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return fmt.Errorf("directory %s: %w", *p, err)
		}
		*p = abs
	}
	if o.monitor != "" {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find hull-monitor: %w", err)
	}
	o.monitor = filepath.Join(filepath.Dir(self), "hull-monitor")
	return nil
}

func envOr(name, def string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return def
}

// serve builds the engine and answers until ctx is done. Containers go on
// when it returns.
func serve(ctx context.Context, o options) (err error) {
	if err := clog.SetLevel("fatal"); err != nil { // the libraries log through a global one; what they return is logged by us
		return err
	}
	log, err := newLog(o.logLevel)
	if err != nil {
		return err
	}
	if err := directories(o); err != nil {
		return err
	}
	closers := closeStack{}
	defer closers.close(&err)

	inst, err := instanceOf(o.root, o.run)
	if err != nil {
		return err
	}
	host, err := describeHost(o, inst)
	if err != nil {
		return err
	}
	if err := temporary(o.root); err != nil {
		return err
	}
	idle := &rest{give: func() { giveBack(log) }}
	closers.add(idle.close)
	started := idle.begin()
	events := event.New(4096)
	keeper := space.New(space.Config{Cap: o.limits.storage, Log: log})
	st, err := store.Open(store.Config{Root: o.root, RunDir: o.run, Log: log})
	if err != nil {
		return err
	}
	closers.add(st.Close)

	images, err := image.New(ctx, image.Config{
		Root: filepath.Join(o.root, "images"), HostsDir: o.hostsDir, DockerConfig: dockerConfig(), Insecure: o.insecure, Mirrors: o.mirrors,
		Unpack: unpacker(o), Trust: o.trust, TrustMust: o.trustMust, Ask: asker(o), Busy: idle.begin, Log: log,
		Events: func(e hull.Event) {
			events.Publish(e)
			keeper.Poke()
		},
	})
	if err != nil {
		return err
	}
	closers.add(images.Close)

	volumes, err := volume.New(volume.Config{Root: o.root, Store: st, Events: events.Publish, Log: log})
	if err != nil {
		return err
	}
	secrets, err := secret.New(secret.Config{Root: o.root, Containers: st.Containers, Events: events.Publish})
	if err != nil {
		return err
	}
	ids, users := userNamespaces(o, log)
	addUsers(&host, users)
	networks, err := network.New(networkConfig(o, inst, st, events, ids, log))
	if err != nil {
		return err
	}
	closers.add(networks.Close)

	box, err := proc.New(proc.Config{MonitorPath: o.monitor, CgroupParent: inst.cgroup, RunDir: o.run, Log: log})
	if err != nil {
		return err
	}
	closers.add(box.Close)
	ofMachines := vmConfig(o, inst, images.Blank, log)
	machines, err := vm.New(ofMachines)
	if err != nil {
		return err
	}
	closers.add(machines.Close)

	runtimes, sandboxes, err := ociRuntimes(o, inst, log)
	if err != nil {
		return err
	}
	closers.add(runtimes.Close)

	logService, err := logs.New(logs.Config{Root: o.root, DefaultDriver: o.logDriver, Log: log})
	if err != nil {
		return err
	}
	closers.add(logService.Close)
	host.LogDrivers = logs.Drivers()

	drivers := map[hull.Isolation]driver.Driver{hull.IsolationContainer: box, hull.IsolationSandbox: sandboxes, hull.IsolationVM: machines}
	eng := engine.New(engine.Config{
		RunDir: o.run, DefaultIsolation: hull.IsolationContainer, DefaultLogDriver: o.logDriver, CgroupParent: inst.cgroup,
		StopTimeout: o.limits.stop, Host: host, UserNS: users, Examine: examinations(o),
	}, engine.Parts{
		Drivers: drivers, Runtimes: runtimes,
		Images: images, Volumes: volumes, Secrets: secrets, Devices: cdi.New(o.cdiDirs, log), Networks: networks, Logs: logService, Store: st, Events: events,
		Files: files.Files{}, Log: log,
	})
	if err := eng.Recover(ctx); err != nil {
		// What could be recovered was; the rest is named and must not keep the engine down.
		log.Error("recovery", "error", err)
	}
	closers.add(func() error { eng.Close(); return nil })

	builder, err := build.New(build.Config{Root: filepath.Join(o.root, "build"), RunDir: o.run, Version: version}, build.Parts{
		Images: images, Networks: networks, Drivers: drivers, Spec: eng.Spec, Users: eng.Users, Log: log,
		Ended: keeper.Now, Busy: idle.begin,
	})
	if err != nil {
		return err
	}
	closers.add(builder.Close)
	keeper.Keep(images, builder)

	front := docker.New(docker.Config{Version: version, GitCommit: commit, BuildTime: buildTime, LogDriver: o.logDriver, CDIDirs: o.cdiDirs, MinAPI: os.Getenv("DOCKER_MIN_API_VERSION")}, docker.Parts{
		Containers: eng, Images: images, Volumes: volumes, Secrets: secrets, Files: eng, Networks: networks, Events: events, Builder: builder, Caches: []docker.Cache{machines, image.DisksOf(images)}, Space: keeper, Log: log,
		Kernels: &vm.KernelPlace{Dir: kernelDir(o), Used: ofMachines.Kernels},
	})
	listeners, err := listen(o)
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, l := range listeners {
		g.Go(func() error { return front.Serve(gctx, l) })
	}
	g.Go(func() error { keeper.Run(gctx); return nil })
	log.Info("serving", "root", o.root, "run", o.run, "version", version)
	if err := ready(o.readyFD); err != nil {
		return err
	}
	started()
	return g.Wait()
}

// temporary gives the engine a directory of its own for files that do not last:
// /tmp is anybody's, and may be small.
func temporary(root string) error {
	dir := filepath.Join(root, "tmp")
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("empty temporary directory: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make temporary directory: %w", err)
	}
	return os.Setenv("TMPDIR", dir)
}

// closeStack closes newest first and keeps every error.
type closeStack struct{ fns []func() error }

func (c *closeStack) add(f func() error) { c.fns = append(c.fns, f) }

func (c *closeStack) close(err *error) {
	for i := len(c.fns) - 1; i >= 0; i-- {
		*err = errors.Join(*err, c.fns[i]())
	}
}

func newLog(level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level %q: use debug, info, warn or error", level)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l})), nil
}

// directories makes the state and run directories. Others may pass through (a
// volume's owner must reach it) but not look (CVE-2021-41091).
func directories(o options) error {
	for dir, mode := range map[string]os.FileMode{o.root: 0o701, o.run: 0o711, filepath.Join(o.run, "pods"): 0o700} {
		if err := os.MkdirAll(dir, mode); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	return nil
}

// ready tells whoever started this engine that it serves: systemd (sd_notify(3),
// Type=notify) and the one that passed --ready-fd.
func ready(fd int) error {
	if _, err := daemon.SdNotify(true, daemon.SdNotifyReady); err != nil {
		return fmt.Errorf("tell systemd: %w", err)
	}
	if fd < 0 {
		return nil
	}
	f := os.NewFile(uintptr(fd), "ready")
	if f == nil {
		return fmt.Errorf("--ready-fd %d is not open", fd)
	}
	if _, err := f.Write([]byte{1}); err != nil {
		return fmt.Errorf("write --ready-fd %d: %w", fd, err)
	}
	return f.Close()
}

func dockerConfig() string {
	if d := os.Getenv("DOCKER_CONFIG"); d != "" {
		return d
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return filepath.Join(home, ".docker")
}

// tlsFiles are the PEM files of a tcp listener.
type tlsFiles struct{ ca, cert, key string }

var errTLS = errors.New("tcp:// needs --tlscacert, --tlscert and --tlskey: without client certificates anybody who reaches the port is root here")

func (t tlsFiles) config() (*tls.Config, error) {
	if t.ca == "" || t.cert == "" || t.key == "" {
		return nil, errTLS
	}
	return loadTLS(t)
}
