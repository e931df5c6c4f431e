package jail

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"hull/internal/image/archive"
	"hull/internal/linux"
)

// Unpacker starts children.
type Unpacker struct {
	Program string // path of hull-unpack
}

// Unpack is packed.Layer in a child of its own, which ends with ctx. Errors are
// Layer's; the digest is that of what the child has read, and no better than it.
func (u *Unpacker) Unpack(ctx context.Context, r io.Reader, root *os.File, o archive.Options) (archive.Result, digest.Digest, error) {
	life, cancel := context.WithCancel(ctx)
	defer cancel()
	c, err := u.start(life, r)
	if err != nil {
		return archive.Result{}, "", fmt.Errorf("start %s: %w", u.Program, err)
	}
	got, err := c.serve(life, root, o)
	source := c.sourceError()
	cancel() // it has nothing more to say
	waited := c.wait()
	switch {
	case source != nil: // what comes after it is its consequence
		return got.Result, "", fmt.Errorf("read layer: %w", source)
	case err == nil:
		return got.Result, got.Digest, got.Failure.error()
	case ctx.Err() != nil:
		return got.Result, "", context.Cause(ctx)
	}
	return got.Result, "", fmt.Errorf("the process that unpacks the layer ended early: %w", errors.Join(err, waited))
}

// child is a running hull-unpack.
type child struct {
	cmd    *exec.Cmd
	conn   *net.UnixConn
	stdin  *os.File
	said   tail
	fed    chan struct{} // closed when the layer was passed on, or not
	source error         // of the layer's reader; valid when fed is closed
}

func (u *Unpacker) start(ctx context.Context, r io.Reader) (_ *child, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control")
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		return nil, err
	}
	out, in, err := os.Pipe()
	if err != nil {
		conn.Close()
		return nil, err
	}
	defer out.Close()
	// Fewer switches between the two: decompressing takes longer than copying.
	_, _ = unix.FcntlInt(uintptr(linux.FD(in)), unix.F_SETPIPE_SZ, 1<<20)        //nolint:errcheck // a smaller one works
	c := &child{conn: conn.(*net.UnixConn), stdin: in, fed: make(chan struct{})} //nolint:forcetypeassert // of a unix socket
	c.cmd = exec.CommandContext(ctx, u.Program)                                  // #nosec G204: our own program
	c.cmd.Stdin, c.cmd.Stderr = out, &c.said
	c.cmd.ExtraFiles = []*os.File{theirs}
	c.cmd.Env = []string{"GOMAXPROCS=2"}
	c.cmd.Dir = "/"
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC}
	if err := c.cmd.Start(); err != nil {
		return nil, errors.Join(err, conn.Close(), in.Close())
	}
	go c.feed(r)
	context.AfterFunc(ctx, func() { _ = c.conn.Close() }) // serve sees it
	return c, nil
}

// feed passes the layer on.
func (c *child) feed(r io.Reader) {
	defer c.stdin.Close()
	defer close(c.fed) // before the child notices: see sourceError
	w := &sink{c.stdin, nil}
	_, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, 256<<10))
	if w.err == nil { // else the child has read all that it wants
		c.source = err
	}
}

// sourceError is why the layer ended early, nil = it did not, so far.
func (c *child) sourceError() error {
	select {
	case <-c.fed:
		return c.source
	default:
		return nil
	}
}

// sink tells the errors of writing from those of reading.
type sink struct {
	w   io.Writer
	err error
}

func (s *sink) Write(p []byte) (n int, err error) {
	n, s.err = s.w.Write(p)
	return n, s.err
}

// serve gives the child its order and what it asks for, until it has an answer.
func (c *child) serve(ctx context.Context, root *os.File, o archive.Options) (answer, error) {
	// As a mount of its own: nothing above it can be reached through the descriptor.
	dir, err := linux.CloneAt(root, false)
	if err != nil {
		return answer{}, err
	}
	err = send(c.conn, order{
		Limits: o.Limits, User: o.User, SkipOwner: o.SkipOwner, Plain: o.Plain, Packed: o.Packed, HasLower: o.Lower != nil,
	}, dir)
	dir.Close()
	if err != nil {
		return answer{}, err
	}
	for asked := false; ; asked = true {
		var a answer
		if err := receive(c.conn, &a, nil, 0); err != nil {
			return answer{}, err
		}
		if !a.WantLower {
			return a, nil
		}
		if asked || o.Lower == nil {
			return answer{}, fmt.Errorf("it asks for layers that it must not have: %w", errdefs.ErrFailedPrecondition)
		}
		if err := c.sendLower(ctx, o); err != nil {
			return answer{}, err
		}
	}
}

// sendLower answers with the layers below, read-only and each a mount of its own.
func (c *child) sendLower(ctx context.Context, o archive.Options) error {
	dirs, err := o.Lower(ctx)
	defer func() { linux.CloseAll(dirs) }()
	if err == nil && len(dirs) > maxLower {
		err = fmt.Errorf("more than %d layers below: %w", maxLower, errdefs.ErrResourceExhausted)
	}
	var mounts []*os.File
	defer func() { linux.CloseAll(mounts) }()
	for i := 0; err == nil && i < len(dirs); i++ {
		var m *os.File
		if m, err = linux.OpenTreeReadOnly(linux.ProcPath(dirs[i])); err == nil {
			mounts = append(mounts, m)
		}
	}
	if err != nil {
		return send(c.conn, lower{toFailure(err)})
	}
	return send(c.conn, lower{}, mounts...)
}

// wait ends the child.
func (c *child) wait() error {
	c.stdin.Close() // ends feed, unless the reader stalls
	err := c.cmd.Wait()
	_ = c.conn.Close() // by the end of ctx already, mostly
	<-c.fed
	if c.said.Len() > 0 {
		return fmt.Errorf("%w: %s", err, c.said.String())
	}
	return err
}

// tail keeps the first of what a program says.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p[:min(len(p), max(0, 2000-len(t.b)))]...)
	return len(p), nil
}

func (t *tail) Len() int       { return len(t.b) }
func (t *tail) String() string { return string(t.b) }

func send(c *net.UnixConn, v any, files ...*os.File) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return linux.SendFds(c, b, files...)
}

// receive reads a message and, when files is set, its descriptors, at most limit.
func receive(c *net.UnixConn, v any, files *[]*os.File, limit int) error {
	buf := make([]byte, maxMessage)
	n, got, err := linux.RecvFds(c, buf, limit)
	if err != nil {
		return err
	}
	if n == 0 {
		linux.CloseAll(got)
		return io.ErrUnexpectedEOF
	}
	if files != nil {
		*files = got
	} else {
		linux.CloseAll(got)
	}
	return json.Unmarshal(buf[:n], v)
}
