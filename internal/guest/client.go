package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
)

const (
	// maxGuestStreams bounds how many queries a guest may have under way.
	maxGuestStreams = 64
	// maxUnsent bounds how many requests wait for a guest that takes nothing.
	maxUnsent = 1024
)

// Client is the monitor's end. What comes from the guest is bounded and checked:
// a guest that breaks the protocol loses its connection, and with it its life.
type Client struct {
	s       *Session
	exited  func(Exited)
	resolve func(st io.ReadWriter) error

	mu      sync.Mutex
	next    uint32 // request and stream ids
	waiting map[uint32]chan Reply
	asking  int // streams of the guest's
	unsent  int // requests that it has not taken yet
	isReady bool
	ready   chan struct{}
}

// Dial begins the conversation on conn, which it takes over. exited is told each
// end of a process, resolve answers one DNS query (its framing is DNS over
// TCP's); it may be nil. Both are called on goroutines of their own.
func Dial(conn io.ReadWriteCloser, exited func(Exited), resolve func(io.ReadWriter) error) *Client {
	c := &Client{exited: exited, resolve: resolve, waiting: map[uint32]chan Reply{}, ready: make(chan struct{})}
	c.s = NewSession(conn, MaxFromGuest, c.receive)
	go func() {
		_ = c.s.Run() // Err has it
		c.mu.Lock()
		waiting := c.waiting
		c.waiting = nil
		c.mu.Unlock()
		for _, ch := range waiting {
			close(ch)
		}
	}()
	return c
}

// Gone is closed when the conversation has ended.
func (c *Client) Gone() <-chan struct{} { return c.s.gone }

// Err is why it ended, after Gone.
func (c *Client) Err() error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return c.s.err
}

// Ready is closed when the guest has said that it waits for its first request. One
// restored from a template has said it before.
func (c *Client) Ready() <-chan struct{} { return c.ready }

// Close ends it.
func (c *Client) Close() { c.s.end(ErrClosed) }

func (c *Client) receive(f Frame) error {
	switch f.Kind {
	case KindReply:
		var r Reply
		if err := json.Unmarshal(f.Payload, &r); err != nil {
			return fmt.Errorf("reply: %w: %w", err, ErrProtocol)
		}
		c.mu.Lock()
		ch := c.waiting[f.ID]
		delete(c.waiting, f.ID)
		c.mu.Unlock()
		if ch != nil {
			ch <- r
		}
		return nil
	case KindExited:
		var x Exited
		if err := json.Unmarshal(f.Payload, &x); err != nil {
			return fmt.Errorf("exit: %w: %w", err, ErrProtocol)
		}
		x.Error = clean(x.Error)
		go c.exited(x)
		return nil
	case KindOpen:
		return c.asked(f.ID)
	case KindReady:
		c.mu.Lock()
		defer c.mu.Unlock()
		if !c.isReady {
			c.isReady = true
			close(c.ready)
		}
		return nil
	}
	return fmt.Errorf("frame kind %d: %w", f.Kind, ErrProtocol)
}

// asked serves a stream that the guest has opened.
func (c *Client) asked(id uint32) error {
	if id&GuestsBit == 0 {
		return fmt.Errorf("stream %d: %w", id, ErrProtocol)
	}
	c.mu.Lock()
	full := c.asking >= maxGuestStreams
	if !full {
		c.asking++
	}
	c.mu.Unlock()
	if full {
		return fmt.Errorf("more than %d queries: %w", maxGuestStreams, ErrProtocol)
	}
	st, err := c.s.Open(id)
	if err != nil {
		return err
	}
	go func() {
		if c.resolve != nil {
			_ = c.resolve(st) // without an answer the guest gets the stream's end
		}
		_ = st.Close()
		c.mu.Lock()
		c.asking--
		c.mu.Unlock()
	}()
	return nil
}

// streamID numbers a stream of ours.
func (c *Client) streamID() uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next = (c.next + 1) &^ GuestsBit
	return c.next
}

// call asks and waits for the answer.
func (c *Client) call(ctx context.Context, r Request) (Reply, error) {
	return c.callThen(ctx, r, func() {})
}

// callThen is call; sent is called when the guest has been asked: what is sent on
// the request's streams before that, it throws away, because it knows none of them.
// A guest that takes nothing any more holds up what is sent, but not the caller.
func (c *Client) callThen(ctx context.Context, r Request, sent func()) (Reply, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return Reply{}, err
	}
	if len(b) > MaxFrame-headLen {
		return Reply{}, fmt.Errorf("request of %d bytes is too large for the guest: %w", len(b), errdefs.ErrInvalidArgument)
	}
	id := c.streamID()
	ch := make(chan Reply, 1)
	c.mu.Lock()
	if c.waiting == nil {
		c.mu.Unlock()
		return Reply{}, c.lost()
	}
	if c.unsent >= maxUnsent {
		c.mu.Unlock()
		return Reply{}, fmt.Errorf("the guest takes no requests (%s): %w", r.Op, errdefs.ErrUnavailable)
	}
	c.unsent++
	c.waiting[id] = ch
	c.mu.Unlock()
	line := make(chan error, 1)
	go func() {
		err := c.s.Send(KindRequest, id, b)
		c.mu.Lock()
		c.unsent--
		c.mu.Unlock()
		line <- err
	}()
	for {
		select {
		case err := <-line:
			if err != nil {
				return Reply{}, c.lost()
			}
			sent()
		case rep, ok := <-ch:
			switch {
			case !ok:
				return Reply{}, c.lost()
			case rep.Error != nil:
				return Reply{}, rep.Error.err()
			}
			return rep, nil
		case <-ctx.Done():
			c.mu.Lock()
			delete(c.waiting, id)
			c.mu.Unlock()
			return Reply{}, fmt.Errorf("the guest does not answer (%s): %w", r.Op, errors.Join(context.Cause(ctx), errdefs.ErrUnavailable))
		}
	}
}

// abandon closes a stream for which nobody waits.
func abandon(st *Stream) {
	go func() { _ = st.Close() }() // only says that the other side closed first
}

func (c *Client) lost() error {
	err := c.Err()
	if errors.Is(err, ErrProtocol) {
		return fmt.Errorf("connection to the guest: %w: %w", err, errdefs.ErrUnavailable)
	}
	return fmt.Errorf("%w: %w", ErrClosed, errdefs.ErrUnavailable)
}

// Boot tells the machine who it is.
func (c *Client) Boot(ctx context.Context, b Boot) error {
	b.Version = Version
	_, err := c.call(ctx, Request{Op: OpBoot, Boot: &b})
	return err
}

// Start is what a process needs to be made ready.
type Start struct {
	ID         string
	Box        string // the container of an exec
	Plan       []byte // runtime.Plan or runtime.ExecPlan
	Container  Container
	TTY, Stdin bool
	Rows, Cols uint16
}

// Streams are a process's standard streams. With a terminal Out is both ways and
// In and Err are nil.
type Streams struct{ In, Out, Err *Stream }

// Add makes a container's main process ready, or an exec.
func (c *Client) Add(ctx context.Context, p Start) (pid int, st Streams, err error) {
	r := Request{Op: OpAdd, ID: p.ID, Box: p.Box, Plan: p.Plan, Rows: p.Rows, Cols: p.Cols, Add: &p.Container}
	if p.Box != "" {
		r.Op = OpExec
	}
	var open []*Stream
	stream := func(id *uint32) *Stream {
		*id = c.streamID()
		var s *Stream
		if s, err = c.s.Open(*id); err == nil {
			open = append(open, s)
		}
		return s
	}
	if st.Out = stream(&r.Out); p.TTY {
		r.In = r.Out
	}
	if !p.TTY && err == nil {
		st.Err = stream(&r.Err)
	}
	if !p.TTY && p.Stdin && err == nil {
		st.In = stream(&r.In)
	}
	if err == nil {
		var rep Reply
		rep, err = c.call(ctx, r)
		pid = rep.Pid
	}
	if err != nil {
		for _, s := range open {
			abandon(s)
		}
		return 0, Streams{}, err
	}
	return pid, st, nil
}

// Run starts a process.
func (c *Client) Run(ctx context.Context, id string) error {
	_, err := c.call(ctx, Request{Op: OpStart, ID: id})
	return err
}

// Signal sends sig to a process.
func (c *Client) Signal(ctx context.Context, id string, sig syscall.Signal) error {
	_, err := c.call(ctx, Request{Op: OpSignal, ID: id, Sig: int(sig)})
	return err
}

// Resize sets the size of a process's terminal.
func (c *Client) Resize(ctx context.Context, id string, rows, cols uint16) error {
	_, err := c.call(ctx, Request{Op: OpResize, ID: id, Rows: rows, Cols: cols})
	return err
}

// Discard gives back what a process holds, and kills it if it lives.
func (c *Client) Discard(ctx context.Context, id string) error {
	_, err := c.call(ctx, Request{Op: OpClose, ID: id})
	return err
}

// Freeze stops or continues a container's processes.
func (c *Client) Freeze(ctx context.Context, id string, on bool) error {
	op := OpResume
	if on {
		op = OpPause
	}
	_, err := c.call(ctx, Request{Op: op, ID: id})
	return err
}

// Limit changes limits of a container.
func (c *Client) Limit(ctx context.Context, id string, l Limits) error {
	_, err := c.call(ctx, Request{Op: OpLimit, ID: id, Lim: &l})
	return err
}

// Stats reads a container's cgroup.
func (c *Client) Stats(ctx context.Context, id string) (Stats, error) {
	rep, err := c.call(ctx, Request{Op: OpStats, ID: id})
	if err != nil {
		return nil, err
	}
	s := Stats{}
	if err := json.Unmarshal(rep.Body, &s); err != nil {
		return nil, fmt.Errorf("stats: %w: %w", err, ErrProtocol)
	}
	return s, nil
}

// Top lists a container's processes.
func (c *Client) Top(ctx context.Context, id string) ([]ProcessInfo, error) {
	rep, err := c.call(ctx, Request{Op: OpTop, ID: id})
	if err != nil {
		return nil, err
	}
	var list []ProcessInfo
	if err := json.Unmarshal(rep.Body, &list); err != nil {
		return nil, fmt.Errorf("processes: %w: %w", err, ErrProtocol)
	}
	for i := range list {
		list[i].Command = clean(list[i].Command)
	}
	return list, nil
}

// Stat describes a path of a container.
func (c *Client) Stat(ctx context.Context, id, path string) (FileStat, error) {
	var st FileStat
	rep, err := c.call(ctx, Request{Op: OpStat, ID: id, Path: path})
	if err != nil {
		return st, err
	}
	if err := json.Unmarshal(rep.Body, &st); err != nil {
		return st, fmt.Errorf("stat: %w: %w", err, ErrProtocol)
	}
	return st, nil
}

// Upper writes the writable layer as a layer's tar to w.
func (c *Client) Upper(ctx context.Context, w io.Writer) error {
	return c.fetch(ctx, Request{Op: OpUpper}, w)
}

// Copy writes a path of a container as a tar to w, with names that come from as.
func (c *Client) Copy(ctx context.Context, id, path, as string, w io.Writer) error {
	return c.fetch(ctx, Request{Op: OpCopy, ID: id, Path: path, As: as}, w)
}

// Unpack unpacks a tar below a path of a container. What is in it belongs to
// owner, a user of the container; "" = to whom the tar says.
func (c *Client) Unpack(ctx context.Context, id, path, owner string, keepKinds bool, r io.Reader) error {
	return c.push(ctx, Request{Op: OpUnpack, ID: id, Path: path, User: owner, Keep: keepKinds}, r)
}

func (c *Client) fetch(ctx context.Context, r Request, w io.Writer) error {
	r.Out = c.streamID()
	st, err := c.s.Open(r.Out)
	if err != nil {
		return err
	}
	defer abandon(st)
	copied := make(chan error, 1)
	go func() {
		_, err := io.Copy(w, st)
		if err != nil {
			_ = st.Close()
		}
		copied <- err
	}()
	if _, err := c.call(ctx, r); err != nil {
		return err
	}
	select {
	case err := <-copied:
		return err
	case <-ctx.Done():
		return fmt.Errorf("the guest does not end what it sends (%s): %w", r.Op, errors.Join(context.Cause(ctx), errdefs.ErrUnavailable))
	}
}

func (c *Client) push(ctx context.Context, r Request, in io.Reader) error {
	r.In = c.streamID()
	st, err := c.s.Open(r.In)
	if err != nil {
		return err
	}
	defer abandon(st)
	// What cannot be read of in ends the stream, which the guest notices: a tar has
	// an end of its own.
	_, err = c.callThen(ctx, r, func() {
		go func() {
			_, _ = io.Copy(st, in)
			_ = st.CloseWrite()
		}()
	})
	return err
}

// Relink has the machine's networks be nets, and changes copies of files.
func (c *Client) Relink(ctx context.Context, nets []Interface, files []FileChange) error {
	_, err := c.call(ctx, Request{Op: OpRelink, Nets: &Networks{nets, files}})
	return err
}

// Off ends the containers, writes the disk back and ends the machine.
func (c *Client) Off(ctx context.Context) error {
	_, err := c.call(ctx, Request{Op: OpOff})
	return err
}

// Reset has the guest forget what Boot has told it: it ends the containers, takes
// its disks and network down and waits for the next Boot.
func (c *Client) Reset(ctx context.Context) error {
	_, err := c.call(ctx, Request{Op: OpReset})
	return err
}
