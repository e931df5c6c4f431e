package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hull/internal/guest"
	"hull/internal/monitor"
	"hull/internal/vmm"
)

const (
	// offLimit is how long a guest may take to write its disk back and go.
	offLimit = 8 * time.Second
	// callLimit bounds a short question to the guest.
	callLimit = 30 * time.Second
	// shareName is the directory of a pod that its guest sees.
	shareName = "share"
	// clockEvery is how often the guest is told the time.
	clockEvery = time.Minute
	// maxExits bounds the exits kept of processes that the monitor never asks after.
	maxExits = 1024
)

// backend is one pod's machine.
type backend struct {
	pod  monitor.BackendPod
	conf Config

	linking sync.Mutex // held while the machine boots, too
	links   links
	plugged bool // the machine's network device is the tap's other end
	copied  []copied

	mu      sync.Mutex
	m       *vmm.Machine
	c       *guest.Client
	made    bool
	ahead   bool // its machine was made before it, and is nobody's yet
	closed  bool
	procs   map[string]*process
	unasked map[string]guest.Exited // of processes that Add has not told of yet
}

// New is the backend's monitor.NewBackend.
func New(p monitor.BackendPod) (monitor.Backend, error) {
	b, ok := p.Ahead.(*backend)
	if !ok {
		b = newBackend()
	}
	b.pod, b.conf = p, Config{}
	if err := json.Unmarshal(p.Config, &b.conf); err != nil {
		return nil, fmt.Errorf("decode configuration: %w", err)
	}
	b.links.netns = b.conf.NetNS
	return b, nil
}

func newBackend() *backend {
	return &backend{procs: map[string]*process{}, unasked: map[string]guest.Exited{}}
}

// Create implements monitor.Backend.
func (b *backend) Create(ctx context.Context, r monitor.CreateRequest) (_ monitor.Container, err error) {
	var s Spec
	if err := json.Unmarshal(r.Spec, &s); err != nil {
		return nil, fmt.Errorf("decode container: %w", err)
	}
	b.mu.Lock()
	again := b.made
	b.made = true
	b.mu.Unlock()
	if again {
		return nil, fmt.Errorf("a virtual machine holds one container; use --isolation container for pods of several: %w", errdefs.ErrNotImplemented)
	}
	defer func() {
		if err != nil {
			b.kill()
			b.mu.Lock()
			b.made = false
			b.mu.Unlock()
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, time.Duration(b.conf.BootSeconds)*time.Second)
	defer cancel()
	if err := b.boot(ctx, s); err != nil {
		return nil, err
	}
	p, err := b.add(ctx, guest.Start{
		ID: r.ID, Plan: s.Plan, Container: s.Container, TTY: r.TTY, Stdin: s.Stdin, Rows: r.Stdio.Rows, Cols: r.Stdio.Cols,
	}, r.Stdio)
	if err != nil {
		return nil, err
	}
	return &container{b: b, id: r.ID, main: p}, nil
}

// boot gives the container its machine and waits until the guest has its disks and
// its network: the one that waits for it, else one restored where there is a
// template.
func (b *backend) boot(ctx context.Context, s Spec) error {
	b.linking.Lock()
	defer b.linking.Unlock()
	if err := b.links.update(); err != nil {
		return fmt.Errorf("connect the machine: %w", err)
	}
	b.copied = copies(s)
	if b.ahead {
		b.ahead = false
		err := b.adopt(ctx, s)
		if err == nil {
			return nil
		}
		b.pod.Warn("the machine that was made ahead is of no use: " + err.Error())
		b.m.Kill()
		<-b.m.Done()
	}
	return Boot(ctx, s.State, b.pod.Warn, func(ctx context.Context, restore bool) error {
		t := s
		if !restore {
			t.State, t.Memory = "", ""
		}
		return b.tryBoot(ctx, t)
	})
}

func (b *backend) tryBoot(ctx context.Context, s Spec) (err error) {
	m, err := b.start(ctx, s)
	if err != nil {
		return err
	}
	if err := b.keep(m, b.exited); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			m.Kill()
			<-m.Done()
		}
	}()
	return b.introduce(ctx, s)
}

// keep makes m the pod's machine, and begins to speak with its guest.
func (b *backend) keep(m *vmm.Machine, exited func(guest.Exited)) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		m.Kill()
		return fmt.Errorf("the pod is being destroyed: %w", errdefs.ErrFailedPrecondition)
	}
	c := guest.Dial(m.Agent, exited, b.resolve)
	b.m, b.c = m, c
	go func() {
		// A guest that breaks the protocol, or whose process 1 has ended, is no use.
		<-c.Gone()
		m.Kill()
	}()
	go func() {
		<-m.Done()
		c.Close()
		b.lost(m)
	}()
	return nil
}

// introduce tells the guest who it is, and limits its machine. To join a cgroup waits
// for all processors of the host, for which the guest need not wait: nothing of the
// container's runs before both are done.
func (b *backend) introduce(ctx context.Context, s Spec) error {
	limited := make(chan error, 1)
	go func() { limited <- b.limit(b.m.Pid) }()
	err := introduce(ctx, b.c, b.conf.Hostname, b.links.nets, s)
	if err != nil {
		err = b.m.Explain(fmt.Errorf("boot the guest with kernel %s (hulld --vm-kernel FILE takes another): %w", b.conf.Machine.Kernel, err))
	}
	if err := errors.Join(err, <-limited); err != nil {
		return err
	}
	c := b.c
	go keepTime(b.m.Done(), func(ctx context.Context) error { return tellTime(ctx, c) })
	return nil
}

// keepTime has a guest told the time, of which it knows nothing when the host was
// suspended, or it was, as long as its machine lives.
func keepTime(done <-chan struct{}, tell func(context.Context) error) {
	t := time.NewTicker(clockEvery)
	defer t.Stop()
	for {
		select {
		case <-done:
			return
		case <-t.C:
		}
		ctx, cancel := context.WithTimeout(context.Background(), callLimit)
		_ = tell(ctx) // a guest that does not answer is told again
		cancel()
	}
}

// tellTime tells a guest the time.
func tellTime(ctx context.Context, c *guest.Client) error {
	return c.Boot(ctx, guest.Boot{Now: time.Now().UnixNano()})
}

func introduce(ctx context.Context, c *guest.Client, hostname string, nets []Net, s Spec) error {
	seed := make([]byte, 64)
	if _, err := unix.Getrandom(seed, 0); err != nil {
		return fmt.Errorf("seed for the guest: %w", err)
	}
	return c.Boot(ctx, guest.Boot{
		Now: time.Now().UnixNano(), Seed: seed, Hostname: hostname, Nets: nets, DNS: true,
		Root: s.Root != "", Disk: s.Disk != "", Share: len(s.Binds) > 0,
	})
}

// start runs QEMU.
func (b *backend) start(ctx context.Context, s Spec) (*vmm.Machine, error) {
	c := b.conf.Machine
	var f vmm.Files
	if b.plugged = b.links.tap != nil; b.plugged {
		f.Taps = []*os.File{b.links.tap}
	}
	if s.State != "" {
		st, err := os.Open(s.State)
		if err != nil {
			return nil, fmt.Errorf("open template: %w", err)
		}
		defer st.Close()
		f.State, c.Incoming, c.MemoryFile = st, true, s.Memory
	}
	// The same devices in the same order as in the template.
	c.Disks = Disks(s.Root, s.Disk)
	c.Nets = Nets(b.links.tap)
	c.UID = vmm.User(b.pod.Dir)
	if len(s.Binds) > 0 {
		fs, err := b.share(s)
		if err != nil {
			return nil, err
		}
		defer fs.Close()
		c.VirtioFS, f.FS = guest.ShareTag, fs
	}
	return vmm.Start(ctx, c, f)
}

// Disks are a machine's, in order; "" = none there.
func Disks(root, disk string) []vmm.Disk {
	return []vmm.Disk{
		{Path: root, Serial: guest.RootSerial, ReadOnly: true, Absent: root == ""},
		{Path: disk, Serial: guest.DiskSerial, Absent: disk == ""},
	}
}

// deviceMac is the network device's address as long as it is nobody's.
const deviceMac = "02:68:75:6c:6c:00"

// Nets is a machine's network device, connected to tap, nil = to nothing yet.
func Nets(tap *os.File) []vmm.Net { return []vmm.Net{{Mac: deviceMac, Tap: tap != nil}} }

// limit puts QEMU into the pod's cgroups.
func (b *backend) limit(pid int) error {
	for _, dir := range b.conf.Cgroups {
		fd, err := unix.Open(filepath.Join(dir, "cgroup.procs"), unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open cgroup %s: %w", dir, err)
		}
		_, err = unix.Write(fd, []byte(strconv.Itoa(pid)))
		_ = unix.Close(fd)
		if err != nil {
			return fmt.Errorf("join cgroup %s: %w", dir, err)
		}
	}
	return nil
}

// Call implements monitor.Backend.
func (b *backend) Call(ctx context.Context, op string, body []byte, files []*os.File) ([]byte, []*os.File, error) {
	if op == monitor.CallRelink {
		return nil, nil, b.relink(ctx)
	}
	b.mu.Lock()
	c, m := b.c, b.m
	b.mu.Unlock()
	if c == nil {
		return nil, nil, fmt.Errorf("the machine does not run: %w", errdefs.ErrNotFound)
	}
	switch op {
	case OpCopy, OpUnpack, OpUpper: // as long as it takes
		if len(files) != 1 {
			return nil, nil, fmt.Errorf("%s with %d files: %w", op, len(files), errdefs.ErrInvalidArgument)
		}
		return nil, nil, archive(ctx, c, op, body, files[0])
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	switch op {
	case OpPause, OpResume:
		if op == OpResume { // the host may have been suspended meanwhile
			if err := tellTime(ctx, c); err != nil {
				return nil, nil, fmt.Errorf("tell the guest the time: %w", err)
			}
		}
		return nil, nil, c.Freeze(ctx, string(body), op == OpPause)
	case OpStats:
		st, err := c.Stats(ctx, string(body))
		if err != nil {
			return nil, nil, err
		}
		out, err := json.Marshal(Sample{Guest: st, Pid: m.Pid})
		return out, nil, err
	case OpTop:
		list, err := c.Top(ctx, string(body))
		if err != nil {
			return nil, nil, err
		}
		out, err := json.Marshal(list)
		return out, nil, err
	case OpLimit:
		var l Limit
		if err := json.Unmarshal(body, &l); err != nil {
			return nil, nil, err
		}
		return nil, nil, c.Limit(ctx, l.ID, l.Limits)
	case OpStat:
		var p Path
		if err := json.Unmarshal(body, &p); err != nil {
			return nil, nil, err
		}
		st, err := c.Stat(ctx, p.ID, p.Path)
		if err != nil {
			return nil, nil, err
		}
		out, err := json.Marshal(st)
		return out, nil, err
	}
	return nil, nil, fmt.Errorf("operation %q: %w", op, errdefs.ErrNotImplemented)
}

func archive(ctx context.Context, c *guest.Client, op string, body []byte, f *os.File) error {
	if op == OpUpper {
		return c.Upper(ctx, f)
	}
	var p Path
	if err := json.Unmarshal(body, &p); err != nil {
		return err
	}
	if op == OpCopy {
		return c.Copy(ctx, p.ID, p.Path, p.As, f)
	}
	return c.Unpack(ctx, p.ID, p.Path, p.Owner, p.KeepKinds, f)
}

// relink has the machine's networks be what the pod's are now, and its copies of
// files what they are on the host: names and their servers change with networks.
func (b *backend) relink(ctx context.Context) error {
	b.linking.Lock()
	defer b.linking.Unlock()
	b.mu.Lock()
	c := b.c
	b.mu.Unlock()
	if c == nil {
		return nil // a machine sees them when it boots
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if err := b.links.update(); err != nil {
		return fmt.Errorf("connect the machine: %w", err)
	}
	if err := b.plugNet(ctx); err != nil {
		return err
	}
	changed, err := renewed(b.copied)
	if err != nil {
		return err
	}
	if err := c.Relink(ctx, b.links.nets, changed); err != nil {
		return fmt.Errorf("tell the machine of its networks: %w", err)
	}
	return nil
}

// plugNet connects the network device of a running machine, which was connected to
// nothing.
func (b *backend) plugNet(ctx context.Context) error {
	if b.plugged || b.links.tap == nil {
		return nil
	}
	if err := b.m.PlugNet(ctx, 0, b.links.tap); err != nil {
		return fmt.Errorf("connect the network: %w", err)
	}
	b.plugged = true
	return nil
}

// Close implements monitor.Backend: the guest writes its disk back and goes, or is
// ended.
func (b *backend) Close() error {
	b.mu.Lock()
	b.closed = true
	c, m := b.c, b.m
	b.mu.Unlock()
	if m != nil {
		ctx, cancel := context.WithTimeout(context.Background(), offLimit)
		err := c.Off(ctx)
		if err == nil {
			select {
			case <-m.Done():
			case <-ctx.Done():
				err = context.Cause(ctx)
			}
		}
		cancel()
		select {
		case <-m.Done():
		default:
			b.pod.Warn("the machine is ended because the guest does not end it: " + fmt.Sprint(err))
		}
	}
	b.kill()
	return nil
}

// kill ends the machine at once and gives back what it had.
func (b *backend) kill() {
	b.mu.Lock()
	m := b.m
	b.mu.Unlock()
	if m != nil {
		m.Kill()
		<-m.Done()
	}
	b.linking.Lock()
	defer b.linking.Unlock()
	b.links.close()
}

// lost tells every process that the machine has gone.
func (b *backend) lost(m *vmm.Machine) {
	err := m.Why()
	b.mu.Lock()
	if b.m != m { // one whose template was no good
		b.mu.Unlock()
		return
	}
	procs := b.procs
	b.procs = map[string]*process{}
	b.mu.Unlock()
	for _, p := range procs {
		p.end(guest.Exited{}, &monitor.LostError{Text: err.Error()})
	}
}

// exited is told by the guest. The process may not be known yet: the frame can
// overtake the answer's way to us.
func (b *backend) exited(x guest.Exited) {
	b.mu.Lock()
	p := b.procs[x.ID]
	delete(b.procs, x.ID)
	if p == nil && len(b.unasked) < maxExits {
		b.unasked[x.ID] = x
	}
	b.mu.Unlock()
	if p != nil {
		p.end(x, nil)
	}
}

// resolve answers a query of the guest's with the pod's name server, in the pod's
// network namespace. Both ends frame as DNS over TCP does.
func (b *backend) resolve(st io.ReadWriter) error {
	s, err := dialResolver(b.conf.NetNS)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.SetDeadline(time.Now().Add(callLimit)); err != nil {
		return err
	}
	if err := copyMessage(s, st); err != nil {
		return err
	}
	return copyMessage(st, s)
}

// copyMessage copies one message with its length in front.
func copyMessage(w io.Writer, r io.Reader) error {
	b := make([]byte, 2, 514)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	n := int(b[0])<<8 | int(b[1])
	b = append(b, make([]byte, n)...)
	if _, err := io.ReadFull(r, b[2:]); err != nil {
		return err
	}
	_, err := w.Write(b)
	return err
}
