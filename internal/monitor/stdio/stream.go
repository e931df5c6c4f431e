// Package stdio holds a process's standard streams from outside: it copies
// output to a log and to attached clients, and clients' input to the process.
package stdio

import (
	"errors"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/hull"
)

// The streams of an output chunk, as Docker's stdcopy numbers them.
const (
	Stdout byte = 1
	Stderr byte = 2
)

const (
	// pipeSize lets a workload run ahead of the log by as much as the kernel allows
	// without asking; memory is only taken for what is in the pipe.
	pipeSize = 1 << 20
	// drainIdle and drainLimit bound the wait for output after a process has
	// ended. What it wrote itself is in the pipe by then and always read. Only a
	// background child that kept the pipe (an exec of "sleep 1000 &") can hold it
	// open: it is heard as long as it keeps talking, and not longer than Docker
	// waits for it.
	drainIdle  = 200 * time.Millisecond
	drainLimit = 2 * time.Second
	// readPatience bounds awaitRead.
	readPatience = 50 * time.Millisecond
)

// LogWriter takes a container's output. Calls come one at a time.
type LogWriter interface {
	// Write logs a chunk, which need not end with a line, of stream 1 (stdout) or 2
	// (stderr). It does not keep p and never waits for whoever reads the log. An
	// error says, once for each time it happens, that output is being lost.
	Write(stream byte, p []byte, at time.Time) error
	// Close logs unfinished lines and closes the log.
	Close() error
}

// Streams are the standard streams of one process, from outside: they copy its
// output to the log and to every attached client, and the clients' input to it.
//
//	workload --pipe or terminal--> reader --> log
//	                                  |
//	                                  +-----> client: socket, else backlog (attach.go)
//
// The log comes first and waits for nobody, so a client cannot lose it lines;
// but as the chunks are shared, a client that does not read holds up the
// workload once its backlog is full. See attachment.send for when it is cut off.
type Streams struct {
	tty, once bool
	pool      *Buffers
	log       LogWriter // nil = none
	warn      func(string)

	logMu sync.Mutex // one chunk at a time is logged

	inMu sync.Mutex // one chunk at a time is written to stdin

	mu      sync.Mutex
	in      *os.File // stdin's write end or the terminal; nil = none, or closed
	outs    []*reader
	clients []*attachment
	started bool

	ended   atomic.Int64 // when the process ended, Unix ns; 0 = it has not
	copying sync.WaitGroup
	serving sync.WaitGroup // clients
}

// New makes pipes unless io asks for a terminal, which SetConsole brings
// later. The caller closes the child's ends when the process has them. log may be nil; warn is told when it cannot be written.
func New(hio hull.IO, log LogWriter, pool *Buffers, warn func(string)) (_ *Streams, child Child, err error) {
	s := &Streams{tty: hio.TTY, once: hio.StdinOnce, log: log, pool: pool, warn: warn}
	if s.tty {
		return s, child, nil
	}
	defer func() {
		if err != nil {
			child.Close()
			s.closeFiles()
		}
	}()
	if hio.Stdin {
		if child.In, s.in, err = pipe(1); err != nil {
			return nil, child, err
		}
	}
	if child.Out, err = s.addOut(); err != nil {
		return nil, child, err
	}
	child.Err, err = s.addOut()
	return s, child, err
}

// Child are the process's ends. nil = none.
type Child struct{ In, Out, Err *os.File }

// Close closes them.
func (c Child) Close() {
	for _, f := range []*os.File{c.In, c.Out, c.Err} {
		if f != nil {
			f.Close()
		}
	}
}

// pipe makes a pipe of which our end (0 = read, 1 = write) is non-blocking; the
// workload's must not be, or programs that do not expect it break.
func pipe(ours int) (r, w *os.File, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, err
	}
	if err := unix.SetNonblock(p[ours], true); err != nil {
		_ = unix.Close(p[0])
		_ = unix.Close(p[1])
		return nil, nil, err
	}
	_, _ = unix.FcntlInt(uintptr(p[1]), unix.F_SETPIPE_SZ, pipeSize) // smaller is only slower
	return os.NewFile(uintptr(p[0]), "pipe"), os.NewFile(uintptr(p[1]), "pipe"), nil
}

func (s *Streams) addOut() (*os.File, error) {
	r, w, err := pipe(0)
	if err != nil {
		return nil, err
	}
	rd, err := newReader(r, s.pool)
	if err != nil {
		r.Close()
		w.Close()
		return nil, err
	}
	s.outs = append(s.outs, rd)
	return w, nil
}

// SetConsole gives the terminal's master side; the caller keeps its own.
func (s *Streams) SetConsole(console *os.File) error {
	rc, err := console.SyscallConn()
	if err != nil {
		return err
	}
	fd := -1
	if e := rc.Control(func(c uintptr) { fd, err = unix.FcntlInt(c, unix.F_DUPFD_CLOEXEC, 0) }); e != nil {
		return e
	}
	if err != nil {
		return err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return err
	}
	f := os.NewFile(uintptr(fd), "console")
	r, err := newReader(f, s.pool)
	if err != nil {
		f.Close()
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.in, s.outs = f, []*reader{r}
	return nil
}

// Run starts copying. It is called once, when the process exists.
func (s *Streams) Run() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, r := range s.outs {
		s.copying.Add(1)
		go s.copyOut(r, Stdout+byte(i))
	}
}

// Started ends the time in which an attaching client becomes an owner.
func (s *Streams) Started() {
	s.mu.Lock()
	s.started = true
	s.mu.Unlock()
}

func (s *Streams) copyOut(r *reader, stream byte) {
	defer s.copying.Done()
	for {
		p, err := r.next()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			s.copyRest(r, stream)
			s.abandon(r)
			return
		}
		if err != nil {
			r.drop()
			return
		}
		s.emit(stream, p)
		s.armDrain(r)
	}
}

// abandon lets a background child that kept the pipe write on, to nobody: a pipe
// without a reader would kill it. A container's init that takes every end for that
// of a child of its own would then act on it: PostgreSQL restarts all its servers.
func (s *Streams) abandon(r *reader) {
	r.drop()
	if s.tty {
		return // hangs up
	}
	s.mu.Lock()
	s.outs = slices.DeleteFunc(s.outs, func(o *reader) bool { return o == r })
	s.mu.Unlock()
	_ = r.f.SetReadDeadline(time.Time{})
	go func() {
		defer r.f.Close()
		for {
			if _, err := r.next(); err != nil {
				r.drop()
				return
			}
		}
	}()
}

// copyRest takes what is in the pipe although time is up: a deadline may pass
// while a chunk is being logged, and then says nothing about the pipe.
func (s *Streams) copyRest(r *reader, stream byte) {
	for got := 0; got < pipeSize; {
		p, err := r.rest()
		if err != nil {
			return
		}
		got += len(p)
		s.emit(stream, p)
	}
}

// armDrain sets how long the next read may wait, once the process has ended.
func (s *Streams) armDrain(r *reader) {
	at := s.ended.Load()
	if at == 0 {
		return
	}
	idle, limit := time.Now().Add(drainIdle), time.Unix(0, at).Add(drainLimit)
	if limit.Before(idle) {
		idle = limit
	}
	_ = r.f.SetReadDeadline(idle)
}

// emit hands a chunk to the log and the clients.
func (s *Streams) emit(stream byte, p []byte) {
	if s.log != nil {
		s.logMu.Lock()
		s.logged(s.log.Write(stream, p, time.Now()))
		s.logMu.Unlock()
	}
	s.mu.Lock()
	clients := s.clients // copied on write
	s.mu.Unlock()
	for _, c := range clients {
		c.send(stream, p)
	}
}

// logged tells what the log says of a loss.
func (s *Streams) logged(err error) {
	if err != nil && s.warn != nil {
		s.warn(err.Error())
	}
}

// Ended is called when the process has ended: it returns when the output is in
// the log, and lets clients go once they have all of it.
func (s *Streams) Ended() {
	s.ended.Store(time.Now().UnixNano())
	s.mu.Lock()
	for _, c := range s.clients {
		c.wake() // what is left is bounded by the pipes: nobody waits for a client any more
	}
	if s.in != nil {
		_ = s.in.SetWriteDeadline(time.Now()) // frees who is writing to a process that is gone
	}
	for _, r := range s.outs {
		s.armDrain(r)
	}
	s.mu.Unlock()

	s.copying.Wait()
	if s.log != nil {
		s.logMu.Lock()
		s.logged(s.log.Close())
		s.log = nil
		s.logMu.Unlock()
	}
	s.mu.Lock()
	clients := s.clients
	s.clients = nil
	s.mu.Unlock()
	for _, c := range clients {
		c.finish()
	}
	s.closeFiles()
	awaitRead(clients)
}

// awaitRead gives clients a moment to read what is in their sockets, so that nobody
// hears of the end (from the event, on another connection) before the output: docker
// compose up ends then, whatever it has not printed yet. Who reads is waited for by
// as much as it takes; who does not, by readPatience in all.
func awaitRead(clients []*attachment) {
	pause := 20 * time.Microsecond
	for end := time.Now().Add(readPatience); slices.ContainsFunc(clients, (*attachment).unread) && time.Now().Before(end); {
		time.Sleep(pause) //nolint:forbidigo // nothing tells when a peer has read
		pause = min(2*pause, time.Millisecond)
	}
}

// Linger waits until every client has got its output, or has gone.
func (s *Streams) Linger() { s.serving.Wait() }

func (s *Streams) closeFiles() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.outs {
		r.f.Close()
	}
	if s.in != nil {
		s.in.Close() // for a terminal the second time, which is harmless
	}
	s.in, s.outs = nil, nil
}

// CloseStdin gives the process end of file. A terminal has none.
func (s *Streams) CloseStdin() {
	if s.tty {
		return
	}
	s.inMu.Lock() // after what is being written
	defer s.inMu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.in != nil {
		s.in.Close()
		s.in = nil
	}
}

// writeIn gives the process input. A process that reads none holds up the caller.
func (s *Streams) writeIn(p []byte) error {
	s.inMu.Lock()
	defer s.inMu.Unlock()
	s.mu.Lock()
	in := s.in
	s.mu.Unlock()
	if in == nil {
		return io.ErrClosedPipe
	}
	_, err := in.Write(p)
	return err
}

func (s *Streams) hasStdin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.in != nil
}

// leave takes a client off the list.
func (s *Streams) leave(c *attachment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients = slices.DeleteFunc(slices.Clone(s.clients), func(x *attachment) bool { return x == c })
}
