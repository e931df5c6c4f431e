package monitor

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"hull/internal/hull"
	"hull/internal/runtime"
)

// The conversation. Every request has one reply of the same id, except pod,
// which is the first frame and has none: what is wrong with it, the next reply
// says. A container starts with two round trips, add and start.
//
//	hulld                                  hull-monitor (ready in the pool)
//	  |-- seat(cgroup) ---------------------->|  only if of use: see runtime.Seat
//	  |<------------------------ done | fail --|
//	  |-- ahead(backend) [fds] -------------->|  only if of use: see Ahead
//	  |<------------------------ done | fail --|
//	  |-- pod(id, run dir, backend) --------->|  listens on <run dir>/monitor.sock
//	  |-- add(container, plan, io) [client] ->|  namespaces, mounts; process waits
//	  |<------------------------ done(pid) ---|
//	  |-- start(container) ------------------>|  the workload runs
//	  |<------------------------------ done --|
//	  |-- exec, signal, resize, attach [fd],  |
//	  |   close stdin, list, call [fds],      |  call: what a backend and its driver agreed on
//	  |   names, exec now ------------------->|  names: dns.conf is there by now; exec and
//	  |                                       |  start are one: done says that it runs
//	  |<------------------ done [fds] | fail --|  descriptors come back from a call only
//	  |<------------- exited(process, exit) ---|  its output is in the log by then
//	  |<------------------------ warn(text) ---|  e.g. log not writable
//	  |-- destroy --------------------------->|  kills, answers, goes when clients have all
//
// A new hulld connects to the socket and starts with list. Several may be
// connected; each gets every exited.
const (
	kindPod uint8 = iota + 1
	kindAdd
	kindStart
	kindExec
	kindSignal
	kindResize
	kindAttach
	kindCloseStdin
	kindList
	kindDestroy
	kindSeat
	kindCall
	kindNames
	kindExecNow
	kindRetire
	kindAhead
)

// What the monitor says. Monitors of older builds say it by the same numbers.
const (
	kindDone uint8 = iota + 64
	kindFail
	kindExited
	kindWarn
	kindReady
)

// version is the first byte of pod and list; a monitor outlives the hulld that
// started it, so the two can be of different builds.
const version = 1

// attachMsg is hull.Attach; the socket rides beside it.
type attachMsg struct {
	stdin, stdout, stderr, mux bool
	keysSet                    bool
	keys, prelude              []byte
}

func toAttachMsg(a *hull.Attach) attachMsg {
	return attachMsg{a.Stdin, a.Stdout, a.Stderr, a.Mux, a.DetachKeys != nil, a.DetachKeys, a.Prelude}
}

func (m *attachMsg) put(e *enc) {
	e.flag(m.stdin)
	e.flag(m.stdout)
	e.flag(m.stderr)
	e.flag(m.mux)
	e.flag(m.keysSet)
	e.bytes(m.keys)
	e.bytes(m.prelude)
}

func (m *attachMsg) get(d *dec) {
	m.stdin, m.stdout, m.stderr, m.mux, m.keysSet = d.flag(), d.flag(), d.flag(), d.flag(), d.flag()
	m.keys, m.prelude = d.bytes(), d.bytes()
}

// addMsg is add and exec: container is "" in add.
type addMsg struct {
	id, container string
	plan          []byte
	seated        bool // the cgroup is the seat's, renamed
	cgroup        runtime.Cgroup
	io            hull.IO // without Attach
	attach        *attachMsg
}

func (m *addMsg) encode() []byte {
	var e enc
	e.str(m.id)
	e.str(m.container)
	e.bytes(m.plan)
	e.flag(m.seated)
	putCgroup(&e, m.cgroup)
	e.flag(m.io.TTY)
	e.flag(m.io.Stdin)
	e.flag(m.io.StdinOnce)
	e.u16(m.io.Rows)
	e.u16(m.io.Cols)
	l := &m.io.Log
	e.str(l.Driver)
	e.str(l.Path)
	e.u64(uint64(l.MaxSize))
	e.u32(uint32(l.MaxFiles))
	e.flag(l.Compress)
	e.pairs(l.Attrs)
	e.pairs(l.Options)
	e.str(l.ContainerID)
	e.str(l.ContainerName)
	e.str(l.ImageName)
	e.flag(m.attach != nil)
	if m.attach != nil {
		m.attach.put(&e)
	}
	return e.b
}

func (m *addMsg) decode(b []byte) error {
	d := dec{b: b}
	m.id, m.container = d.str(), d.str()
	m.plan = d.bytes()
	m.seated = d.flag()
	m.cgroup = getCgroup(&d)
	m.io.TTY, m.io.Stdin, m.io.StdinOnce = d.flag(), d.flag(), d.flag()
	m.io.Rows, m.io.Cols = d.u16(), d.u16()
	l := &m.io.Log
	l.Driver, l.Path = d.str(), d.str()
	l.MaxSize = int64(d.u64())
	l.MaxFiles = int(int32(d.u32()))
	l.Compress = d.flag()
	l.Attrs, l.Options = d.pairs(), d.pairs()
	l.ContainerID, l.ContainerName, l.ImageName = d.str(), d.str(), d.str()
	if d.flag() {
		m.attach = new(attachMsg)
		m.attach.get(&d)
	}
	if !d.done() || !goodID(m.id) {
		return errFrame
	}
	return nil
}

func putCgroup(e *enc, c runtime.Cgroup) {
	e.flag(c.V2)
	e.u32(uint32(len(c.Dirs)))
	for _, d := range c.Dirs {
		e.str(d.Hierarchy)
		e.str(d.Path)
	}
}

func getCgroup(d *dec) (c runtime.Cgroup) {
	c.V2 = d.flag()
	for range d.count(8) {
		h := d.str()
		c.Dirs = append(c.Dirs, runtime.CgroupDir{Hierarchy: h, Path: d.str()})
	}
	return c
}

// goodID accepts what can be part of a file name.
func goodID(id string) bool {
	return id != "" && len(id) <= 128 && !strings.ContainsAny(id, "/\x00")
}

// Proc is a process as the monitor knows it.
type Proc struct {
	ID        string
	Container string // the container an exec runs in, "" for a main process
	Pid       int
	TTY       bool
	Started   bool
	Exit      *hull.Exit // nil while it has not ended
}

func (p *Proc) put(e *enc) {
	e.str(p.ID)
	e.str(p.Container)
	e.u32(uint32(p.Pid))
	e.flag(p.TTY)
	e.flag(p.Started)
	e.flag(p.Exit != nil)
	if p.Exit != nil {
		putExit(e, *p.Exit)
	}
}

func (p *Proc) get(d *dec) {
	p.ID, p.Container = d.str(), d.str()
	p.Pid = int(d.u32())
	p.TTY, p.Started = d.flag(), d.flag()
	if d.flag() {
		x := getExit(d)
		p.Exit = &x
	}
}

func putExit(e *enc, x hull.Exit) {
	e.u8(uint8(x.Code))
	e.flag(x.OOMKilled)
	e.u64(uint64(x.At.UnixNano()))
	e.str(x.Error)
}

func getExit(d *dec) hull.Exit {
	return hull.Exit{
		Code: int(d.u8()), OOMKilled: d.flag(),
		At: time.Unix(0, int64(d.u64())).UTC(), Error: d.str(),
	}
}

// Error kinds of a fail reply.
const (
	failOther uint8 = iota
	failNotFound
	failConflict
	failInvalid
	failPrecondition
	failUnsupported
	failExec // an ExecError: code, errno and path follow
)

func encodeErr(err error) []byte {
	var e enc
	var x *runtime.ExecError
	if errors.As(err, &x) {
		e.u8(failExec)
		e.str(x.Msg)
		e.u8(uint8(x.Code()))
		e.u32(uint32(x.Errno))
		e.str(x.Path)
		return e.b
	}
	e.u8(failKind(err))
	e.str(err.Error())
	return e.b
}

func failKind(err error) uint8 {
	switch {
	case errors.Is(err, os.ErrProcessDone), errdefs.IsNotFound(err), errors.Is(err, syscall.ESRCH):
		return failNotFound
	case errdefs.IsConflict(err), errdefs.IsAlreadyExists(err):
		return failConflict
	case errdefs.IsInvalidArgument(err), errors.Is(err, errFrame):
		return failInvalid
	case errdefs.IsFailedPrecondition(err):
		return failPrecondition
	case errdefs.IsNotImplemented(err), errors.Is(err, errors.ErrUnsupported):
		return failUnsupported
	}
	return failOther
}

func decodeErr(b []byte) error {
	d := dec{b: b}
	kind, text := d.u8(), d.str()
	if kind == failExec {
		code, errno, path := d.u8(), syscall.Errno(d.u32()), d.str()
		if !d.done() {
			return errFrame
		}
		// The text names the path, and so does an ExecError.
		text = strings.TrimPrefix(text, "exec: "+strconv.Quote(path)+": ")
		return &hull.ExecError{Code: int(code), Path: path, Err: &remoteError{text, errnoOr(errno)}}
	}
	if !d.done() {
		return errFrame
	}
	kinds := [...]error{
		failNotFound: errdefs.ErrNotFound, failConflict: errdefs.ErrConflict, failInvalid: errdefs.ErrInvalidArgument,
		failPrecondition: errdefs.ErrFailedPrecondition, failUnsupported: errdefs.ErrNotImplemented,
	}
	var cause error
	if int(kind) < len(kinds) {
		cause = kinds[kind]
	}
	return &remoteError{text, cause}
}

// errnoOr is ENOENT for "not found in $PATH", which has no errno.
func errnoOr(e syscall.Errno) error {
	if e == 0 {
		return syscall.ENOENT
	}
	return e
}

// remoteError is an error of the other side: its text, and its kind to unwrap.
type remoteError struct {
	text string
	kind error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.kind }
