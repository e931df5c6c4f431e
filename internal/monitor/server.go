package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hull/internal/hull"
	"hull/internal/linux"
	"hull/internal/monitor/stdio"
	"hull/internal/runtime"
)

const (
	// SocketName is the monitor's socket in the pod's run directory.
	SocketName = "monitor.sock"
	// CrashName is the file in the run directory that a monitor's own crash is
	// written to.
	CrashName = "monitor.crash"
	// settleAfter is when a container that was started counts as running quietly.
	settleAfter = time.Second
	// keepExecs is how many ended execs are remembered for a hulld that restarts;
	// health checks alone make thousands a day.
	keepExecs = 32
	// maxBusy is how many slow requests (add, start, exec) run at a time.
	maxBusy = 32
	// killLimit bounds the wait for killed processes. One in uninterruptible sleep
	// (a dead NFS server) may take longer; then destroy says so.
	killLimit = 10 * time.Second
)

// Process is what the server needs of runtime.Process; its contract is there. A
// backend's process may be none of this host: then Pid is 0 and Pidfd -1, and Wait
// blocks until it has ended.
type Process interface {
	Pid() int
	Pidfd() int
	Console() *os.File
	Start(ctx context.Context) error
	Signal(sig syscall.Signal) error
	Wait(ctx context.Context) (syscall.WaitStatus, error)
	Resize(rows, cols uint16) error
	Close() error
}

// Container is what the server needs of runtime.Container.
type Container interface {
	Main() Process
	Exec(ctx context.Context, plan []byte, s runtime.Stdio, cg runtime.Cgroup) (Process, error)
	Destroy() error
}

// Config is what a server is made of.
type Config struct {
	// Create carries out a plan (Launch). It takes the seat, which may be nil, over.
	Create func(ctx context.Context, seat *runtime.Seat, plan []byte, s runtime.Stdio, cg runtime.Cgroup) (Container, error)
	// Seat makes a seat (runtime.NewSeat); nil = there are none.
	Seat func(cg runtime.Cgroup) (*runtime.Seat, error)
	// Backends make the processes of pods that are not this process's own clones, by
	// the name that pod carries. See Backend.
	Backends map[string]NewBackend
	// Ahead are those backends that make something in the pool.
	Ahead map[string]Ahead
	// OpenLog opens a container's log; a nil writer = none.
	OpenLog func(t hull.LogTarget) (stdio.LogWriter, error)
	// Names serves the pod's names, as the files in its run directory say, and
	// returns what ends that. nil = they are never served.
	Names func(dir string) (end func(), err error)
	// WarmUp is called in the pool, when there is nothing to do; may be nil.
	WarmUp func()
	// OnIdle is called when output has stopped flowing; may be nil.
	OnIdle func()
	// Renew is called before this process may have another pod, the nth after its
	// first one: from then on it answers to ProcessName(n). nil = it serves one.
	Renew func(n int) error
}

// proc is one process.
type proc struct {
	id, container string
	tty           bool
	cgroup        runtime.Cgroup
	seated        bool // execs are born in cgroup
	run           Process
	box           Container // main processes only
	streams       *stdio.Streams
	done          chan struct{} // closed when exit is set
	released      chan struct{} // closed when it holds nothing of the host any more

	startMu sync.Mutex // held during start
	tried   bool
	started bool
	code    int // of a start that failed, else -1

	exit hull.Exit // valid after done
}

func (p *proc) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// server is a monitor while it has one pod.
type server struct {
	cfg    Config
	pool   *stdio.Buffers
	settle *settler
	engine *conn // of who started this process
	busy   chan struct{}
	quit   chan struct{} // closed by destroy, after its answer

	mu       sync.Mutex
	pod, dir string
	podErr   error
	backend  Backend // nil = processes are clones of this one
	ahead    any     // what the backend made in the pool
	listener *os.File
	seat     *runtime.Seat // not used yet
	conns    map[*conn]struct{}
	procs    map[string]*proc // nil values are ids being made
	endedEx  []string         // ended execs, oldest first
	dying    bool             // destroy has begun: no new processes
	closing  bool             // quit is closed
	wanted   bool             // the engine has a use for this process after destroy
	names    names
}

// Serve is a monitor's life, from the first frame on fd to the end; it takes fd
// over. It returns without error when the engine gives it no pod, or no other one.
func Serve(fd int, cfg Config) error {
	c, err := newConn(fd)
	if err != nil {
		return fmt.Errorf("open engine's socket: %w", err)
	}
	clean, err := openFiles()
	if err != nil {
		return err
	}
	pool, settle := stdio.NewBuffers(cfg.OnIdle), &settler{idle: cfg.OnIdle}
	for n := 1; ; n++ {
		s := &server{
			cfg: cfg, pool: pool, settle: settle, engine: c, busy: make(chan struct{}, maxBusy), quit: make(chan struct{}),
			conns: map[*conn]struct{}{}, procs: map[string]*proc{},
		}
		if err := s.life(); err != nil || !s.renew(n, clean) {
			return err
		}
		cfg.WarmUp = nil // it is
	}
}

// life is that of one pod.
func (s *server) life() error {
	f, err := s.waitPod(s.engine)
	if errors.Is(err, errClosed) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := s.setPod(f.body); err != nil {
		s.podErr = fmt.Errorf("set up monitor: %w", err)
	}
	s.serve(s.engine)
	<-s.quit
	s.linger()
	return nil
}

// received is a frame that another goroutine has waited for.
type received struct {
	f   frame
	err error
}

// waitPod is the time in the pool.
func (s *server) waitPod(c *conn) (frame, error) {
	var next chan received // has the next frame, if not nil
	for {
		var r received
		if next != nil {
			r, next = <-next, nil
		} else {
			r.f, r.err = c.recv()
		}
		f, err := r.f, r.err
		if err != nil {
			return f, err
		}
		if f.kind == kindAhead && s.ahead == nil {
			next = make(chan received, 1)
			if err := s.prepare(c, &f, next); err != nil {
				return f, err
			}
			continue
		}
		f.closeFiles()
		switch {
		case f.kind == kindPod:
			return f, nil
		case f.kind != kindSeat: // crossed the news that the pod before has ended
			if err := c.send(kindFail, f.id, encodeErr(stdio.ErrEnded)); err != nil {
				return f, err
			}
			continue
		case s.seat != nil || s.cfg.Seat == nil:
			return f, errFrame
		}
		d := dec{b: f.body}
		cg := getCgroup(&d)
		if !d.done() {
			return f, errFrame
		}
		if s.seat, err = s.cfg.Seat(cg); err != nil {
			err = fmt.Errorf("take seat: %w", err)
		}
		if err := s.answerEarly(c, f.id, err); err != nil {
			return f, err
		}
		if s.cfg.WarmUp != nil {
			s.cfg.WarmUp()
		}
	}
}

// answerEarly answers a request of the time in the pool.
func (s *server) answerEarly(c *conn, id uint32, err error) error {
	if err != nil {
		return c.send(kindFail, id, encodeErr(err))
	}
	return c.send(kindDone, id, nil)
}

// takeSeat is the seat for a new container, nil = none. One that was made ahead
// goes to the first that has its cgroup; another container gets its own, for
// the sake of its execs.
func (s *server) takeSeat(m *addMsg) *runtime.Seat {
	s.mu.Lock()
	seat := s.seat
	s.seat = nil
	s.mu.Unlock()
	if seat != nil {
		if m.seated {
			return seat
		}
		seat.Close()
	}
	if s.cfg.Seat == nil || !runtime.CanSeat(m.cgroup) {
		return nil
	}
	seat, err := s.cfg.Seat(m.cgroup)
	if err != nil {
		return nil // the slow way tells what is wrong
	}
	return seat
}

func (s *server) setPod(body []byte) error {
	d := dec{b: body}
	v := d.u8()
	s.pod, s.dir = d.str(), d.str()
	name, conf := "", []byte(nil)
	if !d.done() {
		name, conf = d.str(), d.bytes()
	}
	if v != version || !d.done() || !filepath.IsAbs(s.dir) {
		return errFrame
	}
	if err := keepCrash(filepath.Join(s.dir, CrashName)); err != nil {
		return err
	}
	l, err := listen(filepath.Join(s.dir, SocketName))
	if err != nil {
		return err
	}
	s.listener = l
	rc, err := l.SyscallConn()
	if err != nil {
		return err
	}
	go s.accept(rc)
	s.names.begin(s.cfg.Names, s.dir)
	if name != "" {
		return s.open(name, conf)
	}
	return nil
}

// keepCrash has the Go runtime write a crash to a file: there is no terminal to
// write it to.
func keepCrash(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	return debug.SetCrashOutput(f, debug.CrashOptions{})
}

// listen makes the socket. Paths longer than sun_path go through the directory's
// descriptor. The mode is set before anyone can connect.
func listen(path string) (*os.File, error) {
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: filepath.Dir(path), Err: err}
	}
	defer func() { _ = unix.Close(dir) }()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Fchmod(fd, 0o600); err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: viaFd(dir, filepath.Base(path))})
		if err == nil {
			err = unix.Listen(fd, 16)
		}
		if err == nil {
			return os.NewFile(uintptr(fd), path), nil
		}
		_ = unix.Close(fd)
		return nil, &os.PathError{Op: "listen", Path: path, Err: err}
	}
	_ = unix.Close(fd)
	return nil, &os.PathError{Op: "chmod", Path: path, Err: err}
}

func (s *server) accept(rc syscall.RawConn) {
	for {
		fd := -1
		var err error
		if e := rc.Read(func(l uintptr) bool {
			fd, _, err = unix.Accept4(int(l), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			return !retry(err) && !errors.Is(err, unix.ECONNABORTED)
		}); e != nil {
			return // closed
		}
		if err != nil { // out of descriptors, most likely: others must go first
			time.Sleep(100 * time.Millisecond)
			continue
		}
		c, err := newConn(fd)
		if err != nil {
			continue
		}
		u, err := c.peer()
		if err != nil || u.Uid != 0 && int(u.Uid) != os.Getuid() {
			c.close()
			continue
		}
		s.serve(c)
	}
}

func (s *server) serve(c *conn) {
	s.mu.Lock()
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	go s.receive(c)
}

func (s *server) receive(c *conn) {
	for {
		f, err := c.recv()
		if err != nil {
			s.drop(c)
			return
		}
		if c == s.engine && f.kind == kindRetire { // what comes after it is of the next pod
			if s.answer(c, f) == nil {
				return
			}
			continue
		}
		s.busy <- struct{}{}
		go func() {
			defer func() { <-s.busy }()
			_ = s.answer(c, f)
		}()
	}
}

func (s *server) drop(c *conn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	c.close()
}

// answer handles one request, and returns the error that it has answered. A bug in
// here must not take a pod's containers with it, so a panic becomes an answer.
func (s *server) answer(c *conn, f frame) (err error) {
	var body []byte
	var files []*os.File
	func() {
		defer func() {
			if r := recover(); r != nil {
				err = fmt.Errorf("monitor: panic: %v", r)
			}
		}()
		if f.kind == kindCall {
			body, files, err = s.call(&f)
			return
		}
		body, err = s.handle(&f)
	}()
	f.closeFiles()
	kind := kindDone
	if err != nil {
		kind, body = kindFail, encodeErr(err)
	}
	if e := c.send(kind, f.id, body, files...); e != nil {
		s.drop(c)
	}
	linux.CloseAll(files)
	if err == nil && (f.kind == kindDestroy || f.kind == kindRetire) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.wanted = s.wanted || f.kind == kindRetire && c == s.engine
		if !s.closing {
			s.closing = true
			close(s.quit)
		}
	}
	return err
}

func (s *server) handle(f *frame) ([]byte, error) {
	if s.podErr != nil && f.kind != kindDestroy && f.kind != kindRetire {
		return nil, s.podErr
	}
	switch f.kind {
	case kindAdd, kindExec, kindExecNow:
		p, err := s.add(f)
		if err == nil && f.kind == kindExecNow {
			err = s.start(p) // its end is told as any other's
		}
		if err != nil {
			return nil, err
		}
		var e enc
		e.u32(uint32(p.run.Pid()))
		return e.b, nil
	case kindList:
		return s.list(), nil
	case kindDestroy, kindRetire:
		return nil, s.destroy()
	case kindNames:
		s.names.begin(s.cfg.Names, s.dir)
		return nil, s.names.wait()
	}
	d := dec{b: f.body}
	p, err := s.find(d.str())
	if err != nil {
		return nil, err
	}
	switch f.kind {
	case kindStart:
		return s.pidAfter(p, s.start(p))
	case kindSignal:
		sig := syscall.Signal(d.u8())
		if !d.done() {
			return nil, errFrame
		}
		if p.ended() {
			return nil, stdio.ErrEnded
		}
		return nil, p.run.Signal(sig)
	case kindResize:
		rows, cols := d.u16(), d.u16()
		if !d.done() {
			return nil, errFrame
		}
		if p.ended() {
			return nil, stdio.ErrEnded
		}
		return nil, p.run.Resize(rows, cols)
	case kindAttach:
		var m attachMsg
		if m.get(&d); !d.done() {
			return nil, errFrame
		}
		return nil, s.attach(p, f, &m)
	case kindCloseStdin:
		p.streams.CloseStdin()
		return nil, nil
	}
	return nil, errFrame
}

func (s *server) find(id string) (*proc, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.procs[id]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("process %s: %w", id, errdefs.ErrNotFound)
}

// add makes a container's main process, or an exec, ready.
func (s *server) add(f *frame) (_ *proc, err error) {
	var m addMsg
	if err := m.decode(f.body); err != nil {
		return nil, err
	}
	if (f.kind != kindAdd) != (m.container != "") {
		return nil, errFrame
	}
	p := &proc{id: m.id, container: m.container, tty: m.io.TTY, cgroup: m.cgroup, code: -1, done: make(chan struct{}), released: make(chan struct{})}
	if err := s.reserve(m.id); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.mu.Lock()
			delete(s.procs, m.id)
			s.mu.Unlock()
		}
	}()

	var log stdio.LogWriter
	if f.kind == kindAdd {
		if log, err = s.cfg.OpenLog(m.io.Log); err != nil {
			return nil, fmt.Errorf("open log: %w", err)
		}
	}
	streams, child, err := stdio.New(m.io, log, s.pool, func(text string) { s.warn(m.id, text) })
	if err != nil {
		if log != nil {
			_ = log.Close()
		}
		return nil, fmt.Errorf("open standard streams: %w", err)
	}
	p.streams = streams
	err = s.create(p, f.kind, &m, child)
	child.Close()
	if err == nil && m.io.TTY {
		if console := p.run.Console(); console == nil {
			err = errors.New("the process has no terminal")
		} else {
			err = streams.SetConsole(console)
		}
	}
	if err == nil && m.attach != nil {
		err = s.attach(p, f, m.attach)
	}
	if err != nil {
		s.discard(p)
		return nil, err
	}
	streams.Run()
	s.mu.Lock()
	s.procs[m.id] = p
	s.mu.Unlock()
	go s.watch(p)
	return p, nil
}

// reserve takes an id, unless the monitor is on its way out.
func (s *server) reserve(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dying {
		return fmt.Errorf("the pod is being destroyed: %w", errdefs.ErrFailedPrecondition)
	}
	if _, taken := s.procs[id]; taken {
		return fmt.Errorf("process %s exists: %w", id, errdefs.ErrAlreadyExists)
	}
	s.procs[id] = nil
	return nil
}

func (s *server) create(p *proc, kind uint8, m *addMsg, child stdio.Child) (err error) {
	ctx := context.Background() // a process outlives the request that made it
	std := runtime.Stdio{In: child.In, Out: child.Out, Err: child.Err, Rows: m.io.Rows, Cols: m.io.Cols}
	if kind == kindAdd && s.backend != nil {
		if p.box, err = s.backend.Create(ctx, CreateRequest{ID: m.id, Spec: m.plan, Stdio: std, Cgroup: m.cgroup, TTY: m.io.TTY}); err != nil {
			return err
		}
		p.run = p.box.Main()
		return nil
	}
	if kind == kindAdd {
		seat := s.takeSeat(m)
		if p.box, err = s.cfg.Create(ctx, seat, m.plan, std, m.cgroup); err != nil {
			return err
		}
		p.run, p.seated = p.box.Main(), seat != nil
		return nil
	}
	c, err := s.find(m.container)
	if err != nil {
		return err
	}
	if c.box == nil || c.ended() {
		return fmt.Errorf("container %s is not running: %w", m.container, errdefs.ErrNotFound)
	}
	cg := c.cgroup
	if c.seated {
		cg = runtime.Cgroup{} // born there
	}
	p.run, err = c.box.Exec(ctx, m.plan, std, cg)
	return err
}

// discard undoes an add that failed half way.
func (s *server) discard(p *proc) {
	if p.run != nil {
		_ = p.run.Close()
	}
	if p.box != nil {
		_ = p.box.Destroy()
	}
	p.streams.Ended()
}

// start runs a process.
func (s *server) start(p *proc) error {
	p.startMu.Lock()
	defer p.startMu.Unlock()
	if p.tried {
		return fmt.Errorf("process %s was started before: %w", p.id, errdefs.ErrConflict)
	}
	if p.ended() {
		return stdio.ErrEnded
	}
	if err := s.names.wait(); err != nil {
		return err
	}
	p.tried = true
	err := p.run.Start(context.Background())
	var x *runtime.ExecError
	if errors.As(err, &x) {
		p.code = x.Code()
	}
	if err == nil {
		p.started = true
		p.streams.Started()
	}
	s.settle.started()
	return err
}

// settler calls idle, which may be nil, some time after the last start: what that
// needed of memory is garbage by then, and an idle monitor collects none by itself.
type settler struct {
	idle  func()
	mu    sync.Mutex
	timer *time.Timer
}

func (s *settler) started() {
	if s.idle == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer == nil {
		s.timer = time.AfterFunc(settleAfter, s.idle)
		return
	}
	s.timer.Reset(settleAfter)
}

// watch waits for the end of a process and tells about it.
func (s *server) watch(p *proc) {
	if fd := p.run.Pidfd(); fd >= 0 {
		waitReadable(fd)
	}
	st, err := p.run.Wait(context.Background())
	x := hull.Exit{At: time.Now(), Code: exitCode(st)}
	if err != nil {
		x.Code, x.Error = waitFailed(err)
	}
	main := p.box != nil
	cleaned := make(chan struct{})
	if main {
		// Begun now, so that the container's thread is out of its cgroups when the
		// engine comes to remove them.
		go func() {
			_ = p.box.Destroy()
			close(cleaned)
		}()
		// What shares the host's or another container's pid namespace has not died
		// with its main process; and it may hold the output open.
		killCgroup(p.cgroup)
		x.OOMKilled = oomKilled(p.cgroup)
		if o, ok := p.run.(oomReporter); ok {
			x.OOMKilled = x.OOMKilled || o.OOMKilled()
		}
	}
	p.startMu.Lock() // a start under way knows better how it ended
	if p.code >= 0 {
		x.Code = p.code
	}
	p.startMu.Unlock()
	p.streams.Ended()
	if main {
		if err := writeExit(s.dir, p.id, x, st); err != nil {
			s.warn(p.id, "write exit file: "+err.Error())
		}
	}
	p.exit = x
	close(p.done)
	var e enc
	e.str(p.id)
	putExit(&e, x)
	s.tell(kindExited, e.b)

	if main {
		<-cleaned
	}
	_ = p.run.Close()
	close(p.released)
	if !main {
		s.forget(p.id)
	}
}

// forget drops the oldest of too many ended execs.
func (s *server) forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endedEx = append(s.endedEx, id)
	if len(s.endedEx) > keepExecs {
		delete(s.procs, s.endedEx[0])
		s.endedEx = slices.Delete(s.endedEx, 0, 1)
	}
}

// exitCode is what shells make of a wait status.
func exitCode(st syscall.WaitStatus) int {
	if st.Signaled() {
		return 128 + int(st.Signal())
	}
	return st.ExitStatus()
}

func (s *server) attach(p *proc, f *frame, m *attachMsg) error {
	if len(f.files) != 1 {
		return errFrame
	}
	c := f.files[0]
	f.files = nil
	a := hull.Attach{Stdin: m.stdin, Stdout: m.stdout, Stderr: m.stderr, Mux: m.mux, Prelude: m.prelude}
	if m.keysSet {
		a.DetachKeys = m.keys
		if a.DetachKeys == nil {
			a.DetachKeys = []byte{}
		}
	}
	return p.streams.Attach(c, a, p.container != "")
}

func (s *server) list() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	var e enc
	e.u8(version)
	e.str(s.pod)
	at := len(e.b)
	e.u32(0)
	n := 0
	for _, p := range s.procs {
		if p == nil {
			continue
		}
		n++
		x := Proc{ID: p.id, Container: p.container, Pid: p.run.Pid(), TTY: p.tty, Started: true}
		if p.ended() {
			x.Exit = &p.exit
		} else if p.startMu.TryLock() { // else it is being started right now
			x.Started = p.started
			p.startMu.Unlock()
		}
		x.put(&e)
	}
	e.b[at], e.b[at+1] = byte(n), byte(n>>8)
	return e.b
}

// tell sends a notification to every hulld. One that does not read is dropped:
// it will list when it comes back.
func (s *server) tell(kind uint8, body []byte) {
	s.mu.Lock()
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	for _, c := range conns {
		if c.send(kind, 0, body) != nil {
			s.drop(c)
		}
	}
}

func (s *server) warn(id, text string) {
	var e enc
	e.str(id)
	e.str(text)
	go s.tell(kindWarn, e.b) // the caller holds up output
}

// destroy kills every process and waits until they are gone and drained.
func (s *server) destroy() error {
	procs, err := s.lastProcs()
	if err != nil {
		return err
	}
	s.mu.Lock()
	if s.seat != nil {
		s.seat.Close()
		s.seat = nil
	}
	s.mu.Unlock()
	for _, p := range procs {
		if p.ended() {
			continue
		}
		_ = p.run.Signal(syscall.SIGKILL)
		if p.box != nil {
			killCgroup(p.cgroup)
		}
	}
	limit := time.After(killLimit)
	for _, p := range procs {
		select {
		case <-p.released:
		case <-limit:
			return fmt.Errorf("process %s (pid %d) did not die of SIGKILL: %w", p.id, p.run.Pid(), errdefs.ErrUnavailable)
		}
	}
	if s.backend != nil {
		return s.backend.Close()
	}
	return nil
}

// lastProcs closes the pod for new processes and returns those it has, after
// those that are just being made.
func (s *server) lastProcs() ([]*proc, error) {
	for limit := time.Now().Add(killLimit); ; time.Sleep(time.Millisecond) {
		s.mu.Lock()
		s.dying = true
		busy := ""
		procs := make([]*proc, 0, len(s.procs))
		for id, p := range s.procs {
			if p == nil {
				busy = id
				continue
			}
			procs = append(procs, p)
		}
		s.mu.Unlock()
		if busy == "" {
			return procs, nil
		}
		if time.Now().After(limit) {
			return nil, fmt.Errorf("process %s is being created: %w", busy, errdefs.ErrUnavailable)
		}
	}
}

// linger lets clients take the rest of their output.
func (s *server) linger() {
	s.mu.Lock()
	procs := s.procs
	s.procs = nil
	if s.listener != nil {
		s.listener.Close()
	}
	s.mu.Unlock()
	_ = os.Remove(filepath.Join(s.dir, SocketName))
	s.names.end()
	for _, p := range procs {
		if p != nil {
			p.streams.Linger()
		}
	}
}
