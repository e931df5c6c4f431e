package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hull/internal/hull"
	"hull/internal/linux"
	"hull/internal/runtime"
)

// socketFd is where a spawned monitor finds its socket.
const socketFd = 3

// Events is where a client delivers notifications, one at a time.
type Events struct {
	Exited func(id string, x hull.Exit)
	Warned func(id, text string)
	// Freed takes the monitor, with a client of its own, when it has ended its pod and
	// can have another one. nil = it shall end with its pod. Only of a monitor that
	// this process started.
	Freed func(c *Client)
}

// Client is the engine's end of a monitor. Its methods may be called by many.
type Client struct {
	c     *conn
	pid   int
	child *os.Process // of a monitor that this process started
	pods  int         // that it served before
	gone  chan struct{}

	mu        sync.Mutex
	next      uint32
	calls     map[uint32]chan<- frame // nil after the connection's end
	listening bool
	expected  bool // the end of the connection is
	reuse     bool // Freed has a use for it
	passed    bool // the connection is another client's
}

func newClient(c *conn, pid int, child *os.Process) *Client {
	return &Client{c: c, pid: pid, child: child, gone: make(chan struct{}), calls: map[uint32]chan<- frame{}}
}

// Program is the monitor's binary, opened once: all monitors of an engine are of
// the same build, also when the file is replaced meanwhile.
type Program struct {
	path string
	exe  *os.File // on a read-only mount; nil = run by path
}

// Open opens the binary at path. A process of a container that executes
// /proc/self/exe before its program does (a script "#!/proc/self/exe") gets this
// file: it must not be writable through it (CVE-2019-5736). The mount is made here
// and not for each monitor because the kernel waits for a grace period, and
// interrupts every processor, when one goes.
func Open(path string) (*Program, error) {
	exe, err := linux.OpenReadOnlyExe(path)
	// Without the right to mount, containers have none to our files either.
	if err != nil && !errors.Is(err, unix.EPERM) {
		return nil, fmt.Errorf("open monitor: %w", err)
	}
	return &Program{path: path, exe: exe}, nil
}

// Close gives the file up; monitors that run from it go on.
func (p *Program) Close() error {
	if p.exe == nil {
		return nil
	}
	if err := p.exe.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// Spawn starts a monitor: in a session of its own, in /, with no descriptor but
// its socket. It waits for a pod, and exits when the client is closed before it
// has one. Call Listen once.
func (p *Program) Spawn() (*Client, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	theirs := os.NewFile(uintptr(pair[1]), "monitor's end")
	defer theirs.Close()
	c, err := newConn(pair[0])
	if err != nil {
		return nil, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		c.close()
		return nil, err
	}
	defer null.Close()
	path := p.path
	if p.exe != nil {
		path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), linux.FD(p.exe))
	}
	child, err := os.StartProcess(path, []string{"hull-monitor"}, &os.ProcAttr{
		Dir: "/",
		// Few threads, whatever the machine has: see the memory budget. Nothing else of
		// the engine's environment is a container's or a monitor's business.
		Env:   []string{"GOMAXPROCS=2", "GOMEMLIMIT=16MiB", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		Files: []*os.File{null, null, null, theirs},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		c.close()
		return nil, fmt.Errorf("start monitor: %w", err)
	}
	return newClient(c, child.Pid, child), nil
}

// Spawn is Program.Spawn for whoever starts monitors seldom.
func Spawn(path string) (*Client, error) {
	p, err := Open(path)
	if err != nil {
		return nil, err
	}
	c, err := p.Spawn()
	return c, errors.Join(err, p.Close())
}

// Dial connects to the monitor of the pod whose run directory is dir. Call
// Listen once.
func Dial(dir string) (*Client, error) {
	d, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer func() { _ = unix.Close(d) }()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: viaFd(d, SocketName)}); err != nil {
		_ = unix.Close(fd)
		return nil, &os.PathError{Op: "connect", Path: filepath.Join(dir, SocketName), Err: err}
	}
	c, err := newConn(fd)
	if err != nil {
		return nil, err
	}
	u, err := c.peer()
	if err != nil {
		c.close()
		return nil, err
	}
	return newClient(c, int(u.Pid), nil), nil
}

// Listen starts delivering replies and events.
func (c *Client) Listen(ev Events) {
	c.mu.Lock()
	c.listening = true
	c.reuse = ev.Freed != nil && c.child != nil
	c.mu.Unlock()
	go c.receive(ev)
}

// SameBuild reports whether the monitor was started by this process, and knows
// all that this build does.
func (c *Client) SameBuild() bool { return c.child != nil }

// Pid is the monitor's process id.
func (c *Client) Pid() int { return c.pid }

// Renewals is how many pods the monitor served before: see ProcessName.
func (c *Client) Renewals() int { return c.pods }

// Gone is closed when the connection has ended; Died then says why.
func (c *Client) Gone() <-chan struct{} { return c.gone }

// Died reports, after Gone, whether the connection ended without Close or
// Destroy: the monitor has died, or talks nonsense.
func (c *Client) Died() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.expected
}

// Close ends the conversation; the monitor and its pod live on, unless it has
// not got a pod yet.
func (c *Client) Close() {
	c.mu.Lock()
	c.expected = true
	reap, passed := !c.listening && c.child != nil, c.passed
	c.mu.Unlock()
	if passed {
		return
	}
	c.c.close()
	if reap {
		go func() { _, _ = c.child.Wait() }()
	}
}

func (c *Client) receive(ev Events) {
	pods := c.dispatch(ev)
	c.mu.Lock()
	calls := c.calls
	c.calls = nil
	c.passed = pods > 0 && c.reuse
	if c.passed {
		c.expected = true
	} else {
		c.c.close()
	}
	c.mu.Unlock()
	for _, ch := range calls {
		close(ch)
	}
	close(c.gone)
	switch {
	case c.passed:
		// Its numbers go on: what is still answered to us means nobody there.
		next := newClient(c.c, c.pid, c.child)
		next.next, next.pods = c.next, pods
		ev.Freed(next)
	case c.child != nil:
		_, _ = c.child.Wait() // it ends when its connection does, or will be killed
	}
}

// dispatch receives until the connection ends, or the monitor has served so many
// pods and can have another one.
func (c *Client) dispatch(ev Events) (pods int) {
	for {
		f, err := c.c.recv()
		if err != nil {
			return 0
		}
		d := dec{b: f.body}
		if f.kind == kindExited || f.kind == kindWarn {
			f.closeFiles()
		}
		switch f.kind {
		case kindExited:
			id, x := d.str(), getExit(&d)
			if !d.done() {
				return 0
			}
			if ev.Exited != nil {
				ev.Exited(id, x)
			}
		case kindWarn:
			id, text := d.str(), d.str()
			if !d.done() {
				return 0
			}
			if ev.Warned != nil {
				ev.Warned(id, text)
			}
		case kindReady:
			f.closeFiles()
			n := int(d.u32())
			if !d.done() {
				return 0
			}
			return n
		default:
			c.mu.Lock()
			ch := c.calls[f.id]
			delete(c.calls, f.id)
			c.mu.Unlock()
			if ch == nil { // whoever asked has gone
				f.closeFiles()
				continue
			}
			ch <- f
		}
	}
}

// errLost is what a call gives when the monitor has died meanwhile.
var errLost = fmt.Errorf("the pod's monitor has died: %w", errdefs.ErrUnavailable)

// call sends a request and waits for its reply. When ctx ends first the request
// may still be carried out.
func (c *Client) call(ctx context.Context, kind uint8, body []byte, files ...*os.File) ([]byte, error) {
	f, err := c.roundTrip(ctx, kind, body, files...)
	f.closeFiles() // only Call expects any
	return f.body, err
}

// roundTrip is call with the descriptors that come back, which are the caller's.
func (c *Client) roundTrip(ctx context.Context, kind uint8, body []byte, files ...*os.File) (frame, error) {
	ch := make(chan frame, 1)
	c.mu.Lock()
	if c.calls == nil {
		c.mu.Unlock()
		return frame{}, errLost
	}
	c.next++
	id := c.next
	c.calls[id] = ch
	c.mu.Unlock()
	if err := c.c.send(kind, id, body, files...); err != nil {
		c.mu.Lock()
		delete(c.calls, id)
		c.mu.Unlock()
		if errors.Is(err, errFrame) {
			return frame{}, fmt.Errorf("request of %d bytes is too large for the monitor: %w", len(body), errdefs.ErrInvalidArgument)
		}
		return frame{}, errLost
	}
	select {
	case f, ok := <-ch:
		switch {
		case !ok:
			return frame{}, errLost
		case f.kind == kindDone:
			return f, nil
		case f.kind == kindFail:
			f.closeFiles()
			return frame{}, decodeErr(f.body)
		}
		f.closeFiles()
		return frame{}, errFrame
	case <-ctx.Done():
		c.mu.Lock()
		delete(c.calls, id)
		c.mu.Unlock()
		return frame{}, context.Cause(ctx)
	}
}

// Pod gives a ready monitor its pod. There is no reply: the next call has it.
func (c *Client) Pod(id, dir string) error { return c.PodWith(id, dir, "", nil) }

// PodWith is Pod for one whose processes a backend makes. conf is for the
// backend's eyes only.
func (c *Client) PodWith(id, dir, backend string, conf []byte) error {
	var e enc
	e.u8(version)
	e.str(id)
	e.str(dir)
	if backend != "" {
		e.str(backend)
		e.bytes(conf)
	}
	return c.c.send(kindPod, 0, e.b)
}

// Call has the pod's backend do what is its own: op and body are between a
// driver and its backend. The descriptors that come back are the caller's.
func (c *Client) Call(ctx context.Context, op string, body []byte, files ...*os.File) ([]byte, []*os.File, error) {
	var e enc
	e.str(op)
	e.bytes(body)
	f, err := c.roundTrip(ctx, kindCall, e.b, files...)
	return f.body, f.files, err
}

// Seat has a monitor without a pod take a seat in cg, ahead of the container
// that will have it under another name. It is called before Listen, if at all.
func (c *Client) Seat(cg runtime.Cgroup) error {
	var e enc
	putCgroup(&e, cg)
	return c.early(kindSeat, e.b, sendLimit)
}

// Ahead has a monitor without a pod make what a pod of the backend would wait for,
// within limit. It is called once, before Listen, if at all. After an error the
// monitor is of no use.
func (c *Client) Ahead(backend string, conf []byte, limit time.Duration, files ...*os.File) error {
	var e enc
	e.str(backend)
	e.bytes(conf)
	return c.early(kindAhead, e.b, limit, files...)
}

// early is a request before Listen.
func (c *Client) early(kind uint8, body []byte, limit time.Duration, files ...*os.File) error {
	c.next++
	if err := c.c.send(kind, c.next, body, files...); err != nil {
		return err
	}
	if err := c.c.f.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	for {
		f, err := c.c.recv()
		if err != nil {
			return err
		}
		f.closeFiles()
		switch {
		case f.id != c.next: // of the pod before
		case f.kind != kindDone:
			return decodeErr(f.body)
		default:
			return c.c.f.SetReadDeadline(time.Time{})
		}
	}
}

// AddRequest is a container's main process, or an exec in Container.
type AddRequest struct {
	ID        string
	Container string // "" = a main process
	Now       bool   // an exec: it runs when Add returns, as after Start; for a monitor of this build
	Plan      []byte // runtime.Plan or runtime.ExecPlan, encoded
	Seated    bool   // Cgroup is the one of Seat, renamed
	Cgroup    runtime.Cgroup
	IO        hull.IO
}

// Add makes a process ready and returns its pid. What Now adds fails as Start does.
func (c *Client) Add(ctx context.Context, r AddRequest) (pid int, err error) {
	m := addMsg{id: r.ID, container: r.Container, plan: r.Plan, seated: r.Seated, cgroup: r.Cgroup, io: r.IO}
	var files []*os.File
	if a := r.IO.Attach; a != nil {
		am := toAttachMsg(a)
		m.attach = &am
		files = []*os.File{a.Conn}
	}
	kind := kindAdd
	if r.Container != "" {
		kind = kindExec
		if r.Now {
			kind = kindExecNow
		}
	}
	b, err := c.call(ctx, kind, m.encode(), files...)
	if err != nil {
		return 0, err
	}
	d := dec{b: b}
	pid = int(d.u32())
	if !d.done() {
		return 0, errFrame
	}
	return pid, nil
}

// Start runs a process. *hull.ExecError when the executable cannot be run.
func (c *Client) Start(ctx context.Context, id string) error {
	_, err := c.StartPid(ctx, id)
	return err
}

// StartPid is Start for a backend's process, which may have its pid only now. 0:
// the one of Add stands.
func (c *Client) StartPid(ctx context.Context, id string) (pid int, err error) {
	var e enc
	e.str(id)
	b, err := c.call(ctx, kindStart, e.b)
	if err != nil || len(b) == 0 {
		return 0, err
	}
	d := dec{b: b}
	pid = int(d.u32())
	if !d.done() {
		return 0, errFrame
	}
	return pid, nil
}

// Signal sends sig to a process. errdefs.ErrNotFound when it has ended. Signal 0
// only asks whether it has.
func (c *Client) Signal(ctx context.Context, id string, sig syscall.Signal) error {
	if sig < 0 || sig > 64 {
		return fmt.Errorf("signal %d: %w", int(sig), errdefs.ErrInvalidArgument)
	}
	var e enc
	e.str(id)
	e.u8(uint8(sig))
	_, err := c.call(ctx, kindSignal, e.b)
	return err
}

// Resize sets the size of a process's terminal.
func (c *Client) Resize(ctx context.Context, id string, rows, cols uint16) error {
	var e enc
	e.str(id)
	e.u16(rows)
	e.u16(cols)
	_, err := c.call(ctx, kindResize, e.b)
	return err
}

// Attach connects a client to a process.
func (c *Client) Attach(ctx context.Context, id string, a hull.Attach) error {
	var e enc
	e.str(id)
	m := toAttachMsg(&a)
	m.put(&e)
	_, err := c.call(ctx, kindAttach, e.b, a.Conn)
	return err
}

// CloseStdin gives a process end of file.
func (c *Client) CloseStdin(ctx context.Context, id string) error {
	var e enc
	e.str(id)
	_, err := c.call(ctx, kindCloseStdin, e.b)
	return err
}

// Names has the pod's names served: it has come to a network that has some.
func (c *Client) Names(ctx context.Context) error {
	_, err := c.call(ctx, kindNames, nil)
	return err
}

// List is what the monitor holds: main processes, and execs that live or ended
// not long ago.
func (c *Client) List(ctx context.Context) (pod string, procs []Proc, err error) {
	b, err := c.call(ctx, kindList, nil)
	if err != nil {
		return "", nil, err
	}
	d := dec{b: b}
	if v := d.u8(); v != version {
		return "", nil, fmt.Errorf("monitor speaks version %d: %w", v, errdefs.ErrNotImplemented)
	}
	pod = d.str()
	procs = make([]Proc, d.count(15))
	for i := range procs {
		procs[i].get(&d)
	}
	if !d.done() {
		return "", nil, errFrame
	}
	return pod, procs, nil
}

// Destroy kills the pod's processes; the monitor answers when they have ended,
// and exits, or is Freed, when its clients have their output.
func (c *Client) Destroy(ctx context.Context) error {
	c.expect(true)
	kind := kindDestroy
	if c.reuse {
		kind = kindRetire
	}
	_, err := c.call(ctx, kind, nil)
	if err != nil && !errors.Is(err, errLost) {
		c.expect(false)
	}
	return err
}

func (c *Client) expect(v bool) {
	c.mu.Lock()
	c.expected = v
	c.mu.Unlock()
}
