package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hull/internal/guest"
	"hull/internal/linux"
	"hull/internal/runtime"
)

// CgroupDir is where containers' cgroups are, in the guest.
const CgroupDir = "/sys/fs/cgroup/hull"

// Main is hull-guest: it never returns while the machine lives. Where it is not
// the first process of a machine it ends at once: what it does there to mounts,
// network devices and cgroups would take a host apart.
func Main(port string) {
	if !inMachine(os.Getpid(), "/proc") {
		fmt.Fprintln(os.Stderr, "hull-guest: runs as the first process of a virtual machine only")
		os.Exit(1)
	}
	err := serve(port)
	fmt.Fprintln(os.Stderr, "hull-guest:", err)
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) // with -no-reboot the machine ends
}

// inMachine says whether process pid is the first one on the initramfs that hulld
// makes, which has nothing at proc; hosts and containers do.
func inMachine(pid int, proc string) bool {
	_, err := os.Lstat(proc)
	return pid == 1 && errors.Is(err, os.ErrNotExist)
}

func serve(port string) error {
	debug.SetGCPercent(200)
	if err := mountBase(); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	_ = linux.CalmSysmon() // where that is refused it wakes as it did
	if err := loadModules(guest.BootModules); err != nil {
		return err
	}
	if err := delegate(); err != nil {
		return fmt.Errorf("set up cgroups: %w", err)
	}
	device, err := nameDevice()
	if err != nil {
		return fmt.Errorf("set up network: %w", err)
	}
	f, err := openPort(port)
	if err != nil {
		return err
	}
	s := &server{device: device, boxes: map[string]*box{}, procs: map[string]*proc{}}
	s.session = guest.NewSession(f, guest.MaxFrame, s.request)
	go func() { _ = s.session.Send(guest.KindReady, 0, nil) }() // a broken line ends Run
	return s.session.Run()
}

// server is the guest's side.
type server struct {
	session *guest.Session

	mu       sync.Mutex
	booted   bool
	dns      []io.Closer // what serves it
	boxes    map[string]*box
	procs    map[string]*proc
	dnsNext  uint32
	shutdown sync.Once

	device  int // index of the network device
	linking sync.Mutex
	nets    []guest.Interface // as they are
}

// box is a container.
type box struct {
	run    *runtime.Container
	cgroup string
}

// proc is a process.
type proc struct {
	id      string
	run     *runtime.Process
	box     *box // of a main process
	outputs sync.WaitGroup
	files   []*os.File // pipes' read ends, to bound the wait for them
	ended   chan struct{}
	end     time.Time // valid after ended
}

func (s *server) request(f guest.Frame) error {
	if f.Kind != guest.KindRequest {
		return fmt.Errorf("frame kind %d: %w", f.Kind, guest.ErrProtocol)
	}
	var r guest.Request
	if err := json.Unmarshal(f.Payload, &r); err != nil {
		return err
	}
	// Streams exist before anything is sent on them: the next frame may be.
	var io3 [3]*guest.Stream
	for i, id := range []uint32{r.In, r.Out, r.Err} {
		if id == 0 || i > 0 && id == r.In {
			continue
		}
		st, err := s.session.Open(id)
		if err != nil {
			return err
		}
		io3[i] = st
	}
	id := f.ID
	go s.answer(id, &r, io3)
	return nil
}

func (s *server) answer(id uint32, r *guest.Request, st [3]*guest.Stream) {
	var rep guest.Reply
	body, pid, err := s.do(r, st)
	rep.Pid = pid
	if err != nil {
		rep.Error = guest.ToRemote(err)
		for _, x := range st {
			if x != nil {
				_ = x.Close()
			}
		}
	} else if body != nil {
		rep.Body, err = json.Marshal(body)
		if err != nil {
			rep.Error = guest.ToRemote(err)
		}
	}
	b, err := json.Marshal(rep)
	if err == nil {
		_ = s.session.Send(guest.KindReply, id, b) // a broken line ends the session
	}
	if r.Op == guest.OpOff {
		s.off()
	}
}

func (s *server) do(r *guest.Request, st [3]*guest.Stream) (body any, pid int, err error) {
	switch r.Op {
	case guest.OpBoot:
		return nil, 0, s.boot(r.Boot)
	case guest.OpAdd, guest.OpExec:
		pid, err = s.add(r, st)
		return nil, pid, err
	case guest.OpUpper, guest.OpCopy, guest.OpUnpack:
		return nil, 0, s.archive(r, st)
	case guest.OpLimit:
		b, err := s.box(r.ID)
		if err != nil {
			return nil, 0, err
		}
		return nil, 0, writeLimits(b.cgroup, *r.Lim)
	case guest.OpStats:
		b, err := s.box(r.ID)
		if err != nil {
			return nil, 0, err
		}
		return readStats(b.cgroup), 0, nil
	case guest.OpTop:
		b, err := s.box(r.ID)
		if err != nil {
			return nil, 0, err
		}
		return processes(b.cgroup), 0, nil
	case guest.OpStat:
		return s.stat(r)
	case guest.OpPause, guest.OpResume:
		return nil, 0, s.freeze(r.ID, r.Op == guest.OpPause)
	case guest.OpOff:
		return nil, 0, s.stopAll()
	case guest.OpRelink:
		return nil, 0, s.change(r.Nets)
	case guest.OpReset:
		return nil, 0, s.reset()
	}
	p, err := s.proc(r.ID)
	if err != nil {
		return nil, 0, err
	}
	switch r.Op {
	case guest.OpStart:
		return nil, 0, p.run.Start(context.Background())
	case guest.OpSignal:
		return nil, 0, p.run.Signal(syscall.Signal(r.Sig))
	case guest.OpResize:
		return nil, 0, p.run.Resize(r.Rows, r.Cols)
	case guest.OpClose:
		return nil, 0, s.discard(p)
	}
	return nil, 0, fmt.Errorf("operation %q: %w", r.Op, errdefs.ErrNotImplemented)
}

func (s *server) boot(b *guest.Boot) error {
	if b == nil || b.Version != guest.Version {
		return fmt.Errorf("guest speaks version %d: %w", guest.Version, errdefs.ErrInvalidArgument)
	}
	s.mu.Lock()
	again := s.booted
	s.booted = true
	s.mu.Unlock()
	if again {
		return correctClock(b.Now)
	}
	if err := uniquify(b); err != nil {
		return err
	}
	if err := mountDisks(b); err != nil {
		return err
	}
	if err := s.relink(b.Nets); err != nil {
		return err
	}
	if b.DNS {
		if err := s.serveDNS(); err != nil {
			return fmt.Errorf("serve DNS: %w", err)
		}
	}
	return nil
}

// relink makes the machine's networks nets.
func (s *server) relink(nets []guest.Interface) error {
	s.linking.Lock()
	defer s.linking.Unlock()
	var err error
	s.nets, err = relink(s.device, s.nets, nets)
	return err
}

// change takes other networks, and what comes with them.
func (s *server) change(n *guest.Networks) error {
	if n == nil {
		return fmt.Errorf("no networks: %w", errdefs.ErrInvalidArgument)
	}
	if err := s.relink(n.Nets); err != nil {
		return err
	}
	for _, f := range n.Files {
		flags := os.O_WRONLY | os.O_TRUNC // the file itself is mounted in the container
		if f.Append {
			flags = os.O_WRONLY | os.O_APPEND
		}
		if err := rewrite(filepath.Join(guest.FilesDir, filepath.Base(f.Name)), flags, f.Data); err != nil {
			return err
		}
	}
	return nil
}

func rewrite(path string, flags int, data []byte) error {
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

func (s *server) box(id string) (*box, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.boxes[id]; b != nil {
		return b, nil
	}
	return nil, fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound)
}

func (s *server) proc(id string) (*proc, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.procs[id]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("process %s: %w", id, errdefs.ErrNotFound)
}

// add makes a container's main process, or an exec, ready.
func (s *server) add(r *guest.Request, st [3]*guest.Stream) (pid int, err error) {
	p := &proc{id: r.ID, ended: make(chan struct{})}
	var std runtime.Stdio
	std.Rows, std.Cols = r.Rows, r.Cols
	var theirs []*os.File
	defer func() {
		linux.CloseAll(theirs)
		if err != nil {
			linux.CloseAll(p.files)
		}
	}()
	tty := r.In != 0 && r.In == r.Out
	if !tty {
		var in *os.File
		if std.In, in, err = pipeFor(st[0], &theirs, false); err != nil {
			return 0, err
		}
		if in != nil {
			go copyIn(in, st[0])
		}
		for i, dst := range []**os.File{&std.Out, &std.Err} {
			var out *os.File
			if *dst, out, err = pipeFor(st[1+i], &theirs, true); err != nil {
				return 0, err
			}
			if out != nil {
				p.files = append(p.files, out)
				p.outputs.Add(1)
				go p.copyOut(out, st[1+i])
			}
		}
	}
	if r.Op == guest.OpAdd {
		err = s.create(p, r, std)
	} else {
		err = s.exec(p, r, std)
	}
	if err != nil {
		return 0, err
	}
	if tty {
		console := p.run.Console()
		if console == nil {
			return 0, errors.Join(errors.New("the process has no terminal"), s.kill(p))
		}
		p.outputs.Add(1)
		go p.copyOut(dup(console), st[0])
		go copyConsole(dup(console), st[0])
	}
	s.mu.Lock()
	s.procs[r.ID] = p
	if p.box != nil {
		s.boxes[r.ID] = p.box
	}
	s.mu.Unlock()
	go s.watch(p)
	return p.run.Pid(), nil
}

func (s *server) create(p *proc, r *guest.Request, std runtime.Stdio) error {
	if r.Add == nil {
		return fmt.Errorf("container without description: %w", errdefs.ErrInvalidArgument)
	}
	var plan runtime.Plan
	if err := plan.UnmarshalBinary(r.Plan); err != nil {
		return fmt.Errorf("decode plan: %w", err)
	}
	for _, f := range r.Add.Files {
		path := filepath.Join(guest.FilesDir, filepath.Base(f.Name))
		if err := os.WriteFile(path, f.Data, os.FileMode(f.Mode)&0o777); err != nil {
			return fmt.Errorf("write file: %w", err)
		}
		if err := os.Chown(path, f.UID, f.GID); err != nil {
			return fmt.Errorf("give file to %d:%d: %w", f.UID, f.GID, err)
		}
	}
	if r.Add.Lookup {
		if err := lookup(&plan.Process, &plan.Rootfs, r.Add); err != nil {
			return err
		}
	}
	cg := filepath.Join(CgroupDir, filepath.Base(r.ID))
	if err := os.Mkdir(cg, 0o755); err != nil {
		return fmt.Errorf("make cgroup: %w", err)
	}
	if err := writeLimits(cg, r.Add.Limits); err != nil {
		return errors.Join(err, os.Remove(cg))
	}
	c, err := runtime.Create(context.Background(), &plan, std, runtime.Cgroup{V2: true, Dirs: []runtime.CgroupDir{{Path: cg}}})
	if err != nil {
		return errors.Join(err, os.Remove(cg))
	}
	p.box, p.run = &box{run: c, cgroup: cg}, c.Init()
	return nil
}

func (s *server) exec(p *proc, r *guest.Request, std runtime.Stdio) error {
	b, err := s.box(r.Box)
	if err != nil {
		return err
	}
	var plan runtime.ExecPlan
	if err := plan.UnmarshalBinary(r.Plan); err != nil {
		return fmt.Errorf("decode plan: %w", err)
	}
	if r.Add != nil && r.Add.Lookup {
		root, err := b.run.Root()
		if err != nil {
			return err
		}
		err = setUser(root, &plan.Process, r.Add)
		root.Close()
		if err != nil {
			return err
		}
	}
	p.run, err = b.run.Exec(context.Background(), &plan, std, runtime.Cgroup{V2: true, Dirs: []runtime.CgroupDir{{Path: b.cgroup}}})
	return err
}

// lookup finds the user in the files of a container that is not mounted yet.
func lookup(p *runtime.ProcPlan, fs *runtime.Rootfs, c *guest.Container) error {
	lower := fs.Lower
	switch {
	case fs.Dir != "":
		lower = []string{fs.Dir}
	case fs.Upper != "":
		lower = append([]string{fs.Upper}, lower...)
	}
	root, err := linux.MountOverlay(linux.Overlay{Lower: lower, ReadOnly: true})
	if err != nil {
		return fmt.Errorf("open root file system: %w", err)
	}
	defer root.Close()
	return setUser(root, p, c)
}

func setUser(root *os.File, p *runtime.ProcPlan, c *guest.Container) error {
	u, err := linux.LookupUser(root, c.User, c.Groups)
	if err != nil {
		return fmt.Errorf("find user: %w", err)
	}
	p.UID, p.GID = u.UID, u.GID
	p.Groups = []uint32{u.GID} // see CVE-2022-36109
	for _, g := range u.Groups {
		if g != u.GID {
			p.Groups = append(p.Groups, g)
		}
	}
	return nil
}

// watch waits for the end of a process and tells about it, after its output.
func (s *server) watch(p *proc) {
	st, err := p.run.Wait(context.Background())
	x := guest.Exited{ID: p.id, Status: uint32(st)}
	if err != nil {
		x.Error = err.Error()
	}
	if p.box != nil {
		_ = writeFile(filepath.Join(p.box.cgroup, "cgroup.kill"), "1")
		x.OOM = oomKilled(p.box.cgroup)
	}
	p.drain()
	b, err := json.Marshal(x)
	if err == nil {
		_ = s.session.Send(guest.KindExited, 0, b)
	}
	if p.box == nil {
		_ = p.run.Close()
		s.forget(p.id)
	}
}

func (s *server) forget(id string) {
	s.mu.Lock()
	delete(s.procs, id)
	s.mu.Unlock()
}

func (s *server) kill(p *proc) error {
	_ = p.run.Signal(syscall.SIGKILL)
	if p.box != nil {
		return p.box.destroy()
	}
	return p.run.Close()
}

// discard gives back what a process holds.
func (s *server) discard(p *proc) error {
	if p.box == nil {
		return nil
	}
	s.mu.Lock()
	delete(s.boxes, p.id)
	delete(s.procs, p.id)
	s.mu.Unlock()
	return p.box.destroy()
}

func (b *box) destroy() error {
	err := b.run.Destroy()
	_ = writeFile(filepath.Join(b.cgroup, "cgroup.kill"), "1")
	for wait := time.Millisecond; wait < time.Second; wait *= 2 {
		if e := os.Remove(b.cgroup); e == nil || errors.Is(e, os.ErrNotExist) {
			return err
		}
		time.Sleep(wait)
	}
	return err
}

func (s *server) freeze(id string, on bool) error {
	b, err := s.box(id)
	if err != nil {
		return err
	}
	v := "0"
	if on {
		v = "1"
	}
	return writeFile(filepath.Join(b.cgroup, "cgroup.freeze"), v)
}

// stopAll ends the containers and writes the disk back.
func (s *server) stopAll() error {
	s.mu.Lock()
	boxes := make([]*box, 0, len(s.boxes))
	for _, b := range s.boxes {
		boxes = append(boxes, b)
	}
	s.mu.Unlock()
	var errs []error
	for _, b := range boxes {
		errs = append(errs, b.destroy())
	}
	if err := unix.Unmount(guest.DiskDir, 0); err != nil && !errors.Is(err, unix.EINVAL) {
		unix.Sync()
		errs = append(errs, fmt.Errorf("unmount disk: %w", err))
	}
	return errors.Join(errs...)
}

// reset undoes boot: the machine has been somebody for practice only.
func (s *server) reset() error {
	s.mu.Lock()
	dns := s.dns
	s.dns = nil
	s.mu.Unlock()
	var errs []error
	for _, c := range dns {
		errs = append(errs, c.Close())
	}
	errs = append(errs, s.stopAll(), s.relink(nil))
	if err := unix.Unmount(guest.RootDir, 0); err != nil && !errors.Is(err, unix.EINVAL) {
		errs = append(errs, fmt.Errorf("unmount root file system: %w", err))
	}
	errs = append(errs, released(guest.RootSerial), released(guest.DiskSerial))
	files, err := os.ReadDir(guest.FilesDir)
	errs = append(errs, err)
	for _, f := range files {
		errs = append(errs, os.Remove(filepath.Join(guest.FilesDir, f.Name())))
	}
	if err := errors.Join(errs...); err != nil {
		return err // and it stays booted
	}
	s.mu.Lock()
	s.booted = false
	s.mu.Unlock()
	return nil
}

func (s *server) off() {
	s.shutdown.Do(func() { _ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) })
}

func writeLimits(dir string, l guest.Limits) error {
	for name, v := range l {
		if err := writeFile(filepath.Join(dir, filepath.Base(name)), v); err != nil {
			if errors.Is(err, os.ErrNotExist) { // a controller that this kernel lacks
				continue
			}
			return fmt.Errorf("set limit: %w", err)
		}
	}
	return nil
}

func oomKilled(dir string) bool {
	b, err := os.ReadFile(filepath.Join(dir, "memory.events"))
	return err == nil && linux.OOMKilled(b)
}

func readStats(dir string) guest.Stats {
	s := guest.Stats{}
	for _, n := range []string{"cpu.stat", "memory.current", "memory.peak", "memory.max", "memory.stat", "pids.current", "pids.max", "io.stat", "cgroup.procs"} {
		if b, err := os.ReadFile(filepath.Join(dir, n)); err == nil {
			s[n] = string(b)
		}
	}
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err == nil {
		s["machine"] = strconv.FormatUint(si.Totalram*uint64(si.Unit), 10)
	}
	return s
}
