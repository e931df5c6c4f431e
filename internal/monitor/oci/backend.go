package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/monitor"
	"hull/internal/runtime"
)

// backend is one pod.
type backend struct {
	cfg    Config
	pod    string
	dir    string // everything of ours
	state  string // the runtime's own
	reaper *reaper
	serial atomic.Int64 // names log and pid files

	opening sync.Mutex
	pause   *container // the first of a sandbox that holds several; set under opening, before any other is made

	mu     sync.Mutex
	closed bool
	boxes  map[string]*container
}

var _ monitor.Backend = (*backend)(nil)

// New is the monitor.NewBackend of this package.
func New(p monitor.BackendPod) (monitor.Backend, error) {
	b := &backend{pod: p.ID, dir: filepath.Join(p.Dir, "oci"), boxes: map[string]*container{}}
	if err := json.Unmarshal(p.Config, &b.cfg); err != nil {
		return nil, fmt.Errorf("decode configuration: %w", err)
	}
	if !filepath.IsAbs(b.cfg.Runtime) {
		return nil, fmt.Errorf("runtime %q is not an absolute path: %w", b.cfg.Runtime, errdefs.ErrInvalidArgument)
	}
	b.state = filepath.Join(b.dir, "state")
	if err := os.MkdirAll(b.state, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	r, err := newReaper()
	if err != nil {
		return nil, err
	}
	b.reaper = r
	return b, nil
}

// Create implements monitor.Backend.
func (b *backend) Create(ctx context.Context, r monitor.CreateRequest) (monitor.Container, error) {
	var spec Container
	if err := json.Unmarshal(r.Spec, &spec); err != nil {
		return nil, fmt.Errorf("decode container: %w", err)
	}
	if b.cfg.Style == Runsc && !spec.Alone {
		if err := b.openSandbox(ctx); err != nil {
			return nil, err
		}
	}
	c, err := b.create(r, &spec)
	if err != nil {
		return nil, err // not a Container holding a nil pointer
	}
	return c, nil
}

// create makes a bundle and has the runtime make a container of it.
func (b *backend) create(r monitor.CreateRequest, spec *Container) (_ *container, err error) {
	c := &container{b: b, id: r.ID, binds: spec.Binds, cgroup: r.Cgroup, dir: filepath.Join(b.dir, r.ID), seat: newSeat(), args0: args0Of(spec.Spec)}
	c.log = filepath.Join(c.dir, "log")
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Destroy())
			if c.init != nil {
				err = errors.Join(err, c.init.Close())
			}
		}
	}()
	root := filepath.Join(c.dir, "rootfs")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("make bundle: %w", err)
	}
	config := spec.Spec
	err = c.seat.do(func() error {
		if err := c.seat.leave(); err != nil {
			return err
		}
		if b.cfg.MaskControllers {
			if err := c.maskControllers(); err != nil {
				return err
			}
		}
		if len(spec.Lower) > 0 {
			if err := c.seat.mountRoot(spec, root); err != nil {
				return err
			}
			if b.cfg.Style == Runsc {
				if err := c.seat.mountTmp(root, filepath.Join(c.dir, TmpDir)); err != nil {
					return err
				}
			}
		}
		places, err := c.seat.attach(c.binds, filepath.Join(c.dir, "mounts"))
		if err != nil {
			return err
		}
		if config, err = relocate(config, c.binds, places); err != nil || spec.RuntimeCgroup {
			return err
		}
		return c.seat.join(r.Cgroup)
	})
	if err != nil {
		return nil, err
	}
	if err := writeFile(filepath.Join(c.dir, "config.json"), config); err != nil {
		return nil, fmt.Errorf("write bundle: %w", err)
	}
	cmd := &command{name: "create", args: []string{"--bundle", c.dir}, dir: c.dir, stdio: r.Stdio, log: c.log}
	var console *socket
	shared := b.pause != nil
	if r.TTY && !shared {
		if console, err = listen(c.dir, consoleName); err != nil {
			return nil, fmt.Errorf("listen for the terminal: %w", err)
		}
		defer console.close()
		cmd.args = append(cmd.args, "--console-socket", consoleName)
		cmd.stdio = runtime.Stdio{}
	}
	c.made = true
	switch {
	case shared:
		err = c.createShared(cmd, r)
	case b.cfg.Style == Runsc:
		err = c.hold(cmd, console, r.Stdio.Rows, r.Stdio.Cols)
	default:
		err = c.createAlone(cmd, console, r.Stdio.Rows, r.Stdio.Cols)
	}
	if err != nil {
		return nil, asExecError(err, c.args0)
	}
	b.mu.Lock()
	b.boxes[c.id] = c
	b.mu.Unlock()
	return c, nil
}

// createAlone makes a container whose process is the runtime's child, until its
// command has ended.
func (c *container) createAlone(cmd *command, console *socket, rows, cols uint16) error {
	b, pidFile := c.b, filepath.Join(c.dir, "pid")
	cmd.args = append(cmd.args, "--pid-file", pidFile, c.id)
	if err := b.run(c.seat, cmd, createLimit); err != nil {
		return err
	}
	pid, err := readPid(pidFile)
	if err != nil {
		return fmt.Errorf("%s create: %w", b.cfg.Runtime, err)
	}
	child, err := b.reaper.adopt(pid)
	if err != nil {
		return fmt.Errorf("%s create: %w", b.cfg.Runtime, err)
	}
	c.init = &process{c: c, child: child}
	if console != nil {
		c.init.console, err = console.receiveTTY(time.Now().Add(controlLimit), nil, rows, cols)
	}
	return err
}

// createShared makes one of several containers of a sandbox.
func (c *container) createShared(cmd *command, r monitor.CreateRequest) error {
	cmd.args = append(cmd.args, c.id)
	if err := c.b.run(c.seat, cmd, createLimit); err != nil {
		return err
	}
	c.init = &process{c: c, shared: true, started: make(chan struct{}), stdio: dup(r.Stdio)}
	if r.TTY {
		return c.init.openConsole(r.Stdio.Rows, r.Stdio.Cols)
	}
	return nil
}

// relocate gives binds, and the mounts of a specification, the sources' places.
func relocate(config []byte, binds []Bind, places map[string]string) ([]byte, error) {
	if len(places) == 0 {
		return config, nil
	}
	for i := range binds {
		if at, ok := places[binds[i].Source]; ok {
			binds[i].Source = at
		}
	}
	var s specs.Spec
	if err := json.Unmarshal(config, &s); err != nil {
		return nil, fmt.Errorf("decode specification: %w", err)
	}
	for i := range s.Mounts {
		if at, ok := places[s.Mounts[i].Source]; ok {
			s.Mounts[i].Source = at
		}
	}
	return json.Marshal(&s)
}

// openSandbox makes the sandbox of a pod that holds several containers, once:
// gVisor's first container is the sandbox, and lives as long.
func (b *backend) openSandbox(ctx context.Context) error {
	b.opening.Lock()
	defer b.opening.Unlock()
	if b.pause != nil {
		return nil
	}
	p, err := b.createPause(ctx)
	if err != nil {
		return fmt.Errorf("create sandbox: %w", err)
	}
	b.pause = p
	return nil
}

func (b *backend) createPause(ctx context.Context) (*container, error) {
	spec, err := pauseSpec(b.cfg)
	if err != nil {
		return nil, err
	}
	// Its root file system is a directory with one mount point.
	root := filepath.Join(b.dir, PausePrefix+b.pod, "rootfs")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, err
	}
	if err := writeFile(filepath.Join(root, PauseMode), nil); err != nil {
		return nil, err
	}
	c, err := b.create(monitor.CreateRequest{ID: PausePrefix + b.pod, Cgroup: b.cfg.Cgroup}, &Container{Spec: spec})
	if err != nil {
		return nil, err
	}
	if err := c.init.Start(ctx); err != nil {
		return nil, errors.Join(err, c.Destroy())
	}
	return c, nil
}

// Call implements monitor.Backend.
func (b *backend) Call(_ context.Context, op string, body []byte, _ []*os.File) ([]byte, []*os.File, error) {
	b.mu.Lock()
	c := b.boxes[string(body)]
	b.mu.Unlock()
	if c == nil {
		return nil, nil, fmt.Errorf("container %s: %w", body, errdefs.ErrNotFound)
	}
	switch op {
	case CallProcesses:
		out, err := c.processes()
		return out, nil, err
	case CallRoot:
		f, err := c.root()
		if err != nil {
			return nil, nil, err
		}
		return nil, []*os.File{f}, nil
	}
	return nil, nil, fmt.Errorf("%s: %w", op, errdefs.ErrNotImplemented)
}

// Close implements monitor.Backend.
func (b *backend) Close() error {
	b.mu.Lock()
	closed := b.closed
	b.closed = true
	b.mu.Unlock()
	b.opening.Lock()
	pause := b.pause
	b.opening.Unlock()
	if closed {
		return nil
	}
	var err error
	if pause != nil {
		_ = pause.init.Signal(syscall.SIGKILL)
		err = pause.Destroy()
	}
	b.reaper.close()
	return err
}

// file names a file that nobody else uses, in a container's directory.
func (b *backend) file(c *container, kind string) string {
	return filepath.Join(c.dir, kind+"-"+strconv.FormatInt(b.serial.Add(1), 10))
}

// writeFile writes on tmpfs: there is nothing to sync.
func writeFile(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}

func args0Of(spec []byte) string {
	var s struct{ Process struct{ Args []string } }
	if json.Unmarshal(spec, &s) != nil || len(s.Process.Args) == 0 {
		return ""
	}
	return s.Process.Args[0]
}
