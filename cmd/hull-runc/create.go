package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
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
	bundle, consoleSocket, pidfdSocket, pidFile string
	noPivot, noNewKeyring, detach, keep         bool
	waits                                       bool // for start
	preserveFds                                 int
}

func (f *createFlags) register(fs *flag.FlagSet) {
	fs.StringVar(&f.bundle, "bundle", "", "directory with config.json, default the current one")
	fs.StringVar(&f.bundle, "b", "", "short for --bundle")
	fs.BoolVar(&f.noPivot, "no-pivot", false, "chroot instead of pivot_root (initramfs)")
	fs.BoolVar(&f.noNewKeyring, "no-new-keyring", false, "keep the caller's session keyring")
	f.registerIO(fs)
}

// registerIO registers what exec has, too.
func (f *createFlags) registerIO(fs *flag.FlagSet) {
	fs.StringVar(&f.consoleSocket, "console-socket", "", "socket that gets the terminal's master side")
	fs.StringVar(&f.pidfdSocket, "pidfd-socket", "", "socket that gets a pidfd of the process")
	fs.StringVar(&f.pidFile, "pid-file", "", "file for the process id")
	fs.IntVar(&f.preserveFds, "preserve-fds", 0, "hand over N descriptors more, after the standard streams and LISTEN_FDS")
}

func (a *app) create(ctx context.Context, cmd *command, args []string) error {
	fs := cmd.flags()
	f := createFlags{detach: true, waits: true}
	f.register(fs)
	id, err := oneID(fs, args)
	if errors.Is(err, flag.ErrHelp) {
		return err
	}
	if err == nil {
		err = a.make(ctx, id, &f, func(*container, *runtime.Container) error { return nil })
	}
	if err != nil {
		return fmt.Errorf("runc create failed: %w", err)
	}
	return nil
}

// make creates a container and its record, and hands it to then while a failure
// still takes everything back.
func (a *app) make(ctx context.Context, id string, f *createFlags, then func(*container, *runtime.Container) error) (err error) {
	var back undo.Stack
	defer back.OnError(ctx, 10*time.Second, &err)

	bundle, config, spec, err := readBundle(f.bundle)
	if err != nil {
		return err
	}
	if err := checkConsole(spec.Process, f); err != nil {
		return err
	}
	rootfs, err := filepath.EvalSymlinks(absolute(bundle, spec.Root.Path))
	if err != nil {
		return fmt.Errorf("root file system: %w", err)
	}
	extra, err := preserved(spec.Process, f.preserveFds)
	if err != nil {
		return err
	}
	plan, err := runtime.Prepare(spec, runtime.Options{
		Rootfs: runtime.Rootfs{Dir: rootfs}, Bundle: bundle, NoPivot: f.noPivot, KeepKeyring: f.noNewKeyring,
	})
	if err != nil {
		return err
	}
	a.tell(plan)

	c := &container{dir: filepath.Join(a.root, id), Spec: spec, record: record{
		OCIVersion: spec.Version, ID: id, Bundle: bundle, Rootfs: rootfs, Created: time.Now().UTC(),
		Namespaces: plan.Namespaces(), OwnPids: plan.Unshare&unix.CLONE_NEWPID != 0, Args0: spec.Process.Args[0], Config: config, Annot: spec.Annotations,
	}}
	if err := a.mkdir(c.dir); err != nil {
		return err
	}
	back.Add("remove state", func(context.Context) error { return os.RemoveAll(c.dir) })
	made, err := a.makeCgroup(ctx, c)
	if err != nil {
		return err
	}
	if made {
		back.Add("remove cgroup", c.cg.Destroy)
	}

	io := runtime.Stdio{Extra: extra, Outlive: true, Leave: f.detach, Hooks: a.hooks(ctx, c)}
	if !spec.Process.Terminal {
		io.In, io.Out, io.Err = os.Stdin, os.Stdout, os.Stderr
	}
	if f.waits {
		if io.Gate, err = newGate(c.dir); err != nil {
			return err
		}
		defer linux.CloseAll([]*os.File{io.Gate.Start, io.Gate.Result})
	}
	a.log.debugf("nsexec container setup")
	h, err := runtime.Create(ctx, plan, io, cgroupOf(c.cg))
	if err != nil {
		return startError(err)
	}
	a.log.debugf("child process in init()")
	back.Add("end process", func(context.Context) error { return h.Destroy() })

	c.Pid, c.Result = h.Init().Pid(), h.Init().ResultFd()
	born, err := linux.ReadStat(c.Pid)
	if err != nil {
		return err
	}
	c.Started = born.Started
	if err := c.save(); err != nil {
		return err
	}
	if err := handOver(h.Init(), f); err != nil {
		return err
	}
	a.log.debugf("init: closing the pipe to signal completion")
	if err := then(c, h); err != nil {
		return err
	}
	back.Release()
	return nil
}

// tell says what Prepare found worth saying.
func (a *app) tell(plan *runtime.Plan) {
	for _, w := range plan.Warnings {
		a.log.warnf("%s", w)
	}
	if s := plan.Process.Seccomp; s != nil {
		a.log.debugf("seccomp filter flags: %d", s.Flags)
	}
}

// startError puts an error of a creation into runc's words.
func startError(err error) error {
	return fmt.Errorf("unable to start container process: error during container init: %w", err)
}

func absolute(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// mkdir makes a container's state directory, which is the claim to its id.
func (a *app) mkdir(dir string) error {
	if err := os.MkdirAll(a.root, 0o711); err != nil {
		return err
	}
	err := os.Mkdir(dir, 0o711)
	if errors.Is(err, os.ErrExist) {
		return errExist
	}
	return err
}

// makeCgroup makes the container's cgroup with its limits, and says whether it
// was there before.
func (a *app) makeCgroup(ctx context.Context, c *container) (made bool, err error) {
	sys, err := cgroup.DetectNamed()
	if err != nil {
		return false, err
	}
	path, resources := "/"+c.ID, &specs.LinuxResources{}
	if l := c.Spec.Linux; l != nil {
		if l.CgroupsPath != "" {
			path = l.CgroupsPath
		}
		if l.Resources != nil {
			resources = l.Resources
		}
	}
	c.cg = sys.Group(path)
	c.Cgroup = c.cg.Path()
	warn, err := c.cg.Create(resources)
	made = err == nil
	if errdefs.IsAlreadyExists(err) {
		// Somebody prepared it: it is used, when nobody else uses it.
		if err := vacant(c.cg); err != nil {
			return false, err
		}
		warn, err = c.cg.Adopt(resources)
	}
	for _, w := range warn {
		a.log.warnf("%s", w)
	}
	return made, err
}

// vacant refuses a cgroup in which a container would not be alone, or would not
// run.
func vacant(g *cgroup.Group) error {
	pids, err := g.Pids()
	if err != nil {
		return fmt.Errorf("unable to get cgroup PIDs: %w", err)
	}
	if len(pids) > 0 {
		return fmt.Errorf("container's cgroup is not empty: %d process(es) found", len(pids))
	}
	frozen, err := g.FreezerSet()
	if err != nil {
		return fmt.Errorf("unable to get cgroup freezer state: %w", err)
	}
	if frozen {
		return errors.New("container's cgroup unexpectedly frozen")
	}
	return nil
}

// hooks are what a creation waits for.
func (a *app) hooks(ctx context.Context, c *container) *runtime.Hooks {
	h := a.notifier(c)
	if c.Spec.Hooks == nil && (c.Spec.Linux == nil || len(c.Spec.Linux.NetDevices) == 0) {
		return h
	}
	run := func(pid int, dir string, kinds ...string) error {
		st := c.ociState(specs.StateCreating)
		st.Pid = pid
		for _, k := range kinds {
			if err := runHooks(ctx, c.Spec, k, dir, st); err != nil {
				return err
			}
		}
		return nil
	}
	h.Runtime = func(pid int) error {
		if err := moveDevices(c.Spec, pid); err != nil {
			return err
		}
		return run(pid, c.Bundle, "prestart", "createRuntime")
	}
	if len(hooksOf(c.Spec, "createContainer")) > 0 {
		h.Container = func(pid int) error { return run(pid, "", "createContainer") }
	}
	return h
}

// handOver tells the caller about the process.
func handOver(p *runtime.Process, f *createFlags) error {
	if f.consoleSocket != "" {
		if err := sendFile(f.consoleSocket, "/dev/ptmx", p.Console()); err != nil {
			return fmt.Errorf("console socket: %w", err)
		}
	}
	if f.pidfdSocket != "" {
		fd, err := unix.FcntlInt(uintptr(p.Pidfd()), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("fcntl", err)
		}
		file := os.NewFile(uintptr(fd), "pidfd")
		defer file.Close()
		if err := sendFile(f.pidfdSocket, "standard", file); err != nil {
			return fmt.Errorf("pidfd socket: %w", err)
		}
	}
	if f.pidFile == "" {
		return nil
	}
	return linux.WriteFile(f.pidFile, []byte(strconv.Itoa(p.Pid())), 0o644, false)
}

// sendFile passes a file as runc does: one message with its name.
func sendFile(socket, name string, file *os.File) error {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // everything is sent
	return linux.SendFds(conn, []byte(name), file)
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

// readBundle reads the specification of the bundle at dir, "" = the current
// directory. config is its text.
func readBundle(dir string) (bundle string, config []byte, s *specs.Spec, err error) {
	if bundle, err = filepath.Abs(dir); err != nil {
		return "", nil, nil, err
	}
	if bundle, err = filepath.EvalSymlinks(bundle); err != nil {
		return "", nil, nil, err
	}
	config, err = os.ReadFile(filepath.Join(bundle, "config.json"))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil, nil, errors.New("JSON specification file config.json not found")
	}
	if err != nil {
		return "", nil, nil, err
	}
	if s, err = decodeSpec(config); err != nil {
		return "", nil, nil, fmt.Errorf("config.json: %w", err)
	}
	if s.Root == nil || s.Root.Path == "" {
		return "", nil, nil, errors.New("config.json: root must be specified")
	}
	if err := checkProcess(s.Process); err != nil {
		return "", nil, nil, err
	}
	return bundle, config, s, supported(s)
}

// decodeSpec decodes a specification without what is for other systems. Before the first
// byte encoding/json works out all types that could come, and how to encode them: theirs
// are a third of that time.
func decodeSpec(config []byte) (*specs.Spec, error) {
	s := &specs.Spec{}
	return s, json.Unmarshal(config, &struct {
		*specs.Spec
		Solaris json.RawMessage `json:"solaris"`
		Windows json.RawMessage `json:"windows"`
		VM      json.RawMessage `json:"vm"`
		ZOS     json.RawMessage `json:"zos"`
		FreeBSD json.RawMessage `json:"freebsd"`
	}{Spec: s})
}

// checkProcess is runc's.
func checkProcess(p *specs.Process) error {
	switch {
	case p == nil:
		return errors.New("process property must not be empty")
	case p.Cwd == "":
		return errors.New("Cwd property must not be empty") //nolint:staticcheck // runc's words
	case !filepath.IsAbs(p.Cwd):
		return errors.New("Cwd must be an absolute path") //nolint:staticcheck // runc's words
	case len(p.Args) == 0:
		return errors.New("args must not be empty")
	}
	return nil
}

// supported refuses what would otherwise be left out silently.
func supported(s *specs.Spec) error {
	switch l := s.Linux; {
	case l == nil:
		return nil
	case l.IntelRdt != nil:
		return errors.New("intelRdt is specified in config, but Intel RDT is not enabled")
	default:
		return checkDevices(l)
	}
}

// newGate makes what start uses: a fifo to be found by name, and a pipe that start
// finds at the process's own descriptor.
func newGate(dir string) (*runtime.Gate, error) {
	p := filepath.Join(dir, startFifo)
	if err := unix.Mkfifo(p, 0o600); err != nil {
		return nil, &os.PathError{Op: "mkfifo", Path: p, Err: err}
	}
	start, err := os.OpenFile(p, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		start.Close()
		return nil, err
	}
	r.Close() // opened again through the process's
	return &runtime.Gate{Start: start, Result: w}, nil
}

func cgroupOf(g *cgroup.Group) runtime.Cgroup {
	cg := runtime.Cgroup{V2: g.V2()}
	for _, d := range g.Dirs() {
		cg.Dirs = append(cg.Dirs, runtime.CgroupDir(d))
	}
	return cg
}

// preserved are the caller's descriptors that the process gets, from 3 on: those
// of systemd's socket activation, which p is told about, and n more.
func preserved(p *specs.Process, n int) ([]*os.File, error) {
	if n < 0 {
		return nil, fmt.Errorf("number of descriptors to preserve: %d", n)
	}
	listen := 0
	if s := os.Getenv("LISTEN_FDS"); s != "" && p != nil {
		l, err := strconv.Atoi(s)
		if err != nil || l < 0 || l > 1<<16 {
			return nil, fmt.Errorf("LISTEN_FDS=%q", s)
		}
		if os.Getenv("LISTEN_PID") == strconv.Itoa(os.Getpid()) {
			listen = l
		}
	}
	if listen > 0 {
		p.Env = append(p.Env, "LISTEN_FDS="+strconv.Itoa(listen), "LISTEN_PID=1")
	}
	var out []*os.File
	for i := range listen + n {
		fd := 3 + i
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
			return nil, fmt.Errorf("unable to stat preserved-fd %d (of %d): %w", i, listen+n, err)
		}
		out = append(out, os.NewFile(uintptr(fd), "preserved"))
	}
	return out, nil
}
