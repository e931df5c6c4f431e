package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/linux"
	"hull/internal/linux/cgroup"
	"hull/internal/runtime"
	"hull/internal/undo"
)

// createFlags are those of create and run.
type createFlags struct {
	bundle, consoleSocket, pidFile      string
	noPivot, noNewKeyring, detach, keep bool
	preserveFds                         int
}

func (f *createFlags) register(fs *flag.FlagSet) {
	fs.StringVar(&f.bundle, "bundle", "", "directory with config.json, default the current one")
	fs.StringVar(&f.bundle, "b", "", "short for --bundle")
	fs.StringVar(&f.consoleSocket, "console-socket", "", "socket that gets the terminal's master side")
	fs.StringVar(&f.pidFile, "pid-file", "", "file for the process id")
	fs.BoolVar(&f.noPivot, "no-pivot", false, "chroot instead of pivot_root (initramfs)")
	fs.BoolVar(&f.noNewKeyring, "no-new-keyring", false, "accepted for runc's sake")
	fs.IntVar(&f.preserveFds, "preserve-fds", 0, "hand over descriptors 3 to 3+N-1")
}

func (a *app) create(ctx context.Context, args []string) error {
	fs := flags("create")
	var f createFlags
	f.register(fs)
	id, err := oneID(fs, args)
	if err != nil {
		return err
	}
	f.detach = true
	_, _, err = a.make(ctx, id, &f)
	return err
}

func (a *app) run(ctx context.Context, args []string) error {
	fs := flags("run")
	var f createFlags
	f.register(fs)
	fs.BoolVar(&f.detach, "detach", false, "leave the container running")
	fs.BoolVar(&f.detach, "d", false, "short for --detach")
	fs.BoolVar(&f.keep, "keep", false, "do not delete the container when it has ended")
	id, err := oneID(fs, args)
	if err != nil {
		return err
	}
	c, h, err := a.make(ctx, id, &f)
	if err != nil {
		return err
	}
	term, err := attachTerminal(h.Init(), c.Spec.Process.Terminal && !f.detach)
	if err == nil {
		err = a.open(ctx, c)
	}
	if err != nil {
		term.restore()
		return errors.Join(err, a.remove(ctx, c, true))
	}
	if f.detach {
		return nil
	}
	ws := waitForwarding(h.Init(), term)
	if f.keep {
		return ws
	}
	if err := a.remove(ctx, c, true); err != nil {
		return err
	}
	return ws
}

// waitForwarding hands signals on until the process has ended, and gives its
// exit code as an error.
func waitForwarding(p *runtime.Process, term *terminal) error {
	sigs := make(chan os.Signal, 64)
	signal.Notify(sigs)
	defer signal.Stop(sigs)
	for {
		select {
		case s := <-sigs:
			switch n, ok := s.(syscall.Signal); {
			case !ok, n == unix.SIGCHLD, n == unix.SIGURG, n == unix.SIGPIPE:
			case n == unix.SIGWINCH && term != nil:
				term.resize()
			default:
				_ = p.Signal(n) // it may just have ended
			}
		case <-p.Done():
			ws, err := p.Wait(context.Background())
			term.drain()
			if err != nil {
				return err
			}
			if ws.Signaled() {
				return exitError(128 + int(ws.Signal()))
			}
			if ws.ExitStatus() != 0 {
				return exitError(ws.ExitStatus())
			}
			return nil
		}
	}
}

// make creates a container and its record.
func (a *app) make(ctx context.Context, id string, f *createFlags) (_ *container, _ *runtime.Container, err error) {
	var back undo.Stack
	defer back.OnError(ctx, 10*time.Second, &err)

	bundle, err := filepath.Abs(f.bundle)
	if err != nil {
		return nil, nil, err
	}
	spec, err := readSpec(filepath.Join(bundle, "config.json"))
	if err != nil {
		return nil, nil, err
	}
	if err := supported(spec); err != nil {
		return nil, nil, err
	}
	rootfs := spec.Root.Path
	if !filepath.IsAbs(rootfs) {
		rootfs = filepath.Join(bundle, rootfs)
	}
	if rootfs, err = filepath.EvalSymlinks(rootfs); err != nil {
		return nil, nil, fmt.Errorf("root file system: %w", err)
	}
	if err := checkConsole(spec.Process, f); err != nil {
		return nil, nil, err
	}
	plan, err := runtime.Prepare(spec, runtime.Options{Rootfs: runtime.Rootfs{Dir: rootfs}, Bundle: bundle, NoPivot: f.noPivot})
	if err != nil {
		return nil, nil, err
	}
	for _, w := range plan.Warnings {
		fmt.Fprintln(os.Stderr, "hull-runc: warning:", w)
	}

	c := &container{dir: filepath.Join(a.root, id)}
	if err := os.MkdirAll(a.root, 0o711); err != nil {
		return nil, nil, err
	}
	if err := os.Mkdir(c.dir, 0o711); errors.Is(err, os.ErrExist) {
		return nil, nil, fmt.Errorf("container with id %s exists already: %w", id, errdefs.ErrAlreadyExists)
	} else if err != nil {
		return nil, nil, err
	}
	back.Add("remove state", func(context.Context) error { return os.RemoveAll(c.dir) })

	gate, err := newGate(c.dir)
	if err != nil {
		return nil, nil, err
	}
	defer linux.CloseAll([]*os.File{gate.Start, gate.Result})

	path := "/" + id
	if spec.Linux != nil && spec.Linux.CgroupsPath != "" {
		path = spec.Linux.CgroupsPath
	}
	sys, err := cgroup.Detect()
	if err != nil {
		return nil, nil, err
	}
	c.cg = sys.Group(path)
	resources := &specs.LinuxResources{}
	if spec.Linux != nil && spec.Linux.Resources != nil {
		resources = spec.Linux.Resources
	}
	warn, err := c.cg.Create(resources)
	if errdefs.IsAlreadyExists(err) {
		// Somebody prepared it (the caller's own cgroup): it is used as it is.
		warn, err = c.cg.Set(resources)
	} else if err == nil {
		back.Add("remove cgroup", c.cg.Destroy)
	}
	if err != nil {
		return nil, nil, err
	}
	for _, w := range warn {
		fmt.Fprintln(os.Stderr, "hull-runc: warning:", w)
	}

	io := runtime.Stdio{Detached: gate}
	if !spec.Process.Terminal {
		io.In, io.Out, io.Err = os.Stdin, os.Stdout, os.Stderr
	}
	if io.Extra, err = preserved(f.preserveFds); err != nil {
		return nil, nil, err
	}
	h, err := runtime.Create(ctx, plan, io, cgroupDirs(c.cg))
	if err != nil {
		return nil, nil, err
	}
	back.Add("end process", func(context.Context) error { return h.Destroy() })

	_, started, err := procStat(h.Init().Pid())
	if err != nil {
		return nil, nil, err
	}
	c.record = record{
		OCIVersion: ociVersion, ID: id, Pid: h.Init().Pid(), Started: started, Bundle: bundle, Rootfs: rootfs, Created: time.Now().UTC(),
		Cgroup: c.cg.Path(), Namespaces: plan.Namespaces(), Args0: spec.Process.Args[0], Spec: spec, Annot: spec.Annotations,
	}
	if err := c.save(); err != nil {
		return nil, nil, err
	}
	if spec.Hooks != nil {
		st := c.ociState()
		st.Status = specs.StateCreating
		if err := runHooks(ctx, append(append([]specs.Hook{}, spec.Hooks.Prestart...), spec.Hooks.CreateRuntime...), st); err != nil { //nolint:staticcheck // prestart is deprecated, and used
			return nil, nil, err
		}
	}
	if spec.Process.Terminal && f.consoleSocket != "" {
		if err := sendConsole(f.consoleSocket, h.Init().Console()); err != nil {
			return nil, nil, err
		}
	}
	if f.pidFile != "" {
		if err := linux.WriteFile(f.pidFile, []byte(strconv.Itoa(c.Pid)), 0o644, false); err != nil {
			return nil, nil, err
		}
	}
	back.Release()
	return c, h, nil
}

func checkConsole(p *specs.Process, f *createFlags) error {
	switch {
	case f.detach && p.Terminal && f.consoleSocket == "":
		return errors.New("cannot allocate tty if runc will detach without setting console socket")
	case (!f.detach || !p.Terminal) && f.consoleSocket != "":
		return errors.New("cannot use console socket if runc will not detach or allocate tty")
	}
	return nil
}

func readSpec(path string) (*specs.Spec, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("JSON specification file %s not found", path)
	}
	if err != nil {
		return nil, err
	}
	var s specs.Spec
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if s.Root == nil || s.Root.Path == "" {
		return nil, fmt.Errorf("%s: root must be specified", path)
	}
	if s.Process == nil {
		return nil, fmt.Errorf("%s: process must be specified", path)
	}
	return &s, nil
}

// supported refuses what would otherwise be left out silently.
func supported(s *specs.Spec) error {
	var what string
	switch l := s.Linux; {
	case s.Hooks != nil && len(s.Hooks.CreateContainer)+len(s.Hooks.StartContainer) > 0:
		what = "createContainer and startContainer hooks"
	case l == nil:
		return nil
	case l.IntelRdt != nil:
		what = "Intel RDT"
	case l.MemoryPolicy != nil:
		what = "memory policies"
	case len(l.NetDevices) > 0:
		what = "network devices"
	default:
		return nil
	}
	return fmt.Errorf("%s are not supported: %w", what, errdefs.ErrNotImplemented)
}

// newGate makes the fifos that start uses.
func newGate(dir string) (*runtime.Gate, error) {
	g := &runtime.Gate{}
	for name, f := range map[string]**os.File{startFifo: &g.Start, resultFifo: &g.Result} {
		p := filepath.Join(dir, name)
		err := unix.Mkfifo(p, 0o600)
		if err == nil {
			*f, err = os.OpenFile(p, os.O_RDWR, 0)
		}
		if err != nil {
			linux.CloseAll([]*os.File{g.Start, g.Result})
			return nil, fmt.Errorf("make %s: %w", p, err)
		}
	}
	return g, nil
}

func cgroupDirs(g *cgroup.Group) runtime.Cgroup {
	cg := runtime.Cgroup{V2: g.V2()}
	for _, d := range g.Dirs() {
		cg.Dirs = append(cg.Dirs, runtime.CgroupDir(d))
	}
	return cg
}

func preserved(n int) ([]*os.File, error) {
	// systemd's socket activation is preserved as runc does it.
	if s := os.Getenv("LISTEN_FDS"); s != "" && n == 0 {
		l, err := strconv.Atoi(s)
		if err != nil || l < 0 {
			return nil, fmt.Errorf("LISTEN_FDS=%q", s)
		}
		n = l
	}
	var out []*os.File
	for i := range n {
		fd := 3 + i
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
			return nil, fmt.Errorf("descriptor %d to preserve: %w", fd, err)
		}
		out = append(out, os.NewFile(uintptr(fd), "preserved"))
	}
	return out, nil
}

// sendConsole passes the terminal as runc does: one message with its name.
func sendConsole(socket string, master *os.File) error {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return fmt.Errorf("console socket: %w", err)
	}
	defer conn.Close()
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.New("console socket is not a unix socket")
	}
	return linux.SendFds(uc, []byte("/dev/ptmx"), master)
}

// start lets a created container's process run.
func (a *app) start(ctx context.Context, args []string) error {
	id, err := oneID(flags("start"), args)
	if err != nil {
		return err
	}
	c, err := a.load(id)
	if err != nil {
		return err
	}
	switch s := c.status(); s {
	case specs.StateCreated:
		return a.open(ctx, c)
	case specs.StateStopped:
		return errors.New("cannot start a container that has stopped")
	default:
		return errors.New("cannot start an already running container")
	}
}

// open opens a created container's gate.
func (a *app) open(ctx context.Context, c *container) error {
	start, err := os.OpenFile(filepath.Join(c.dir, startFifo), os.O_WRONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ENXIO) {
		return errors.New("cannot start a container that has stopped")
	}
	if err != nil {
		return err
	}
	defer start.Close()
	// Opened while the process holds the other end, so that its end of file is the
	// process's, whether it has executed or died.
	fd, err := unix.Open(filepath.Join(c.dir, resultFifo), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", resultFifo, err)
	}
	result := os.NewFile(uintptr(fd), resultFifo)
	defer result.Close()
	// Its absence is what makes the state "running".
	if err := os.Remove(filepath.Join(c.dir, startFifo)); err != nil {
		return err
	}
	g := &runtime.Gate{Start: start, Result: result}
	if err := g.Open(c.Args0); err != nil {
		return err
	}
	if c.Spec.Hooks != nil {
		for _, h := range c.Spec.Hooks.Poststart {
			if err := runHooks(ctx, []specs.Hook{h}, c.ociState()); err != nil {
				fmt.Fprintln(os.Stderr, "hull-runc: warning:", err) // as the specification says
			}
		}
	}
	return nil
}

// runHooks runs programs of the host with the container's state on their standard
// input.
func runHooks(ctx context.Context, hooks []specs.Hook, st specs.State) error {
	b, err := json.Marshal(st)
	if err != nil {
		return err
	}
	for _, h := range hooks {
		hctx, cancel := ctx, context.CancelFunc(func() {})
		if h.Timeout != nil {
			hctx, cancel = context.WithTimeout(ctx, time.Duration(*h.Timeout)*time.Second)
		}
		cmd := exec.CommandContext(hctx, h.Path)
		cmd.Args, cmd.Env, cmd.Stdin = h.Args, h.Env, bytes.NewReader(b)
		if len(cmd.Args) == 0 {
			cmd.Args = []string{h.Path}
		}
		out, err := cmd.CombinedOutput()
		cancel()
		if err != nil {
			return fmt.Errorf("hook %s: %w, output: %s", h.Path, err, bytes.TrimSpace(out))
		}
	}
	return nil
}
