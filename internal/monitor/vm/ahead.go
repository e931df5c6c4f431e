package vm

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"hull/internal/guest"
	"hull/internal/linux"
	"hull/internal/monitor"
	"hull/internal/vmm"
)

// AheadConfig is a machine that is made before there is a pod for it.
type AheadConfig struct {
	Machine       vmm.Config // without disks, nets and template
	State, Memory string     // of its template
	Rehearsal     Rehearsal
}

// Rehearsal is a container that a machine runs before it is anybody's: what the
// guest executes then has been translated when it counts. It has nothing of any
// user's, and its program ends by itself.
type Rehearsal struct {
	Plan      []byte // runtime.Plan
	Container guest.Container
}

// files of Ahead, in order.
const (
	aheadRoot = iota // the rehearsal's file system, read-only
	aheadDisk        // a writable disk
	aheadFiles
)

// rehearsed is the rehearsal's container.
const rehearsed = "rehearsal"

var _ monitor.Ahead = Ahead

// Ahead is the backend's monitor.Ahead: a machine is restored from its template,
// rehearses, and waits for a pod. It goes with this process.
func Ahead(ctx context.Context, conf []byte, files []*os.File) (_ any, err error) {
	var a AheadConfig
	if err := json.Unmarshal(conf, &a); err != nil {
		return nil, fmt.Errorf("decode configuration: %w", err)
	}
	if len(files) != aheadFiles {
		return nil, fmt.Errorf("%d files for a machine made ahead, not %d", len(files), aheadFiles)
	}
	ctx, cancel := context.WithTimeout(ctx, restoreLimit)
	defer cancel()
	st, err := os.Open(a.State)
	if err != nil {
		return nil, fmt.Errorf("open template: %w", err)
	}
	defer st.Close()
	c := a.Machine
	c.Incoming, c.MemoryFile, c.Disks = true, a.Memory, Disks("", "")
	c.Nets = Nets(nil)
	c.UID = vmm.User(fmt.Sprintf("ahead %d", os.Getpid()))
	m, err := vmm.Start(ctx, c, vmm.Files{State: st})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			m.Kill()
			<-m.Done()
		}
	}()
	b := newBackend()
	b.ahead = true
	ended := make(chan guest.Exited, 1)
	if err := b.keep(m, func(x guest.Exited) {
		if x.ID != rehearsed { // a container's id is another
			b.exited(x)
			return
		}
		select {
		case ended <- x:
		default:
		}
	}); err != nil {
		return nil, err
	}
	if err := Rehearse(ctx, m, b.c, ended, a.Rehearsal, files[aheadRoot], files[aheadDisk]); err != nil {
		return nil, err
	}
	return b, nil
}

// Rehearse runs r in a machine that is nobody's, with the disks root and disk, and
// leaves the guest as if there had been none. ended tells of the end of its program.
func Rehearse(ctx context.Context, m *vmm.Machine, c *guest.Client, ended <-chan guest.Exited, r Rehearsal, root, disk *os.File) error {
	err := plug(ctx, m, root, disk)
	if err == nil {
		err = rehearse(ctx, m, c, ended, r)
	}
	if err == nil {
		err = plug(ctx, m, nil, nil)
	}
	if err != nil {
		return m.Explain(fmt.Errorf("rehearse: %w", err))
	}
	return nil
}

func rehearse(ctx context.Context, m *vmm.Machine, c *guest.Client, ended <-chan guest.Exited, r Rehearsal) error {
	if err := introduce(ctx, c, rehearsed, []Net{practiceNet()}, Spec{Root: rehearsed, Disk: rehearsed}); err != nil {
		return err
	}
	_, st, err := c.Add(ctx, guest.Start{ID: rehearsed, Plan: r.Plan, Container: r.Container})
	if err != nil {
		return err
	}
	if err := c.Run(ctx, rehearsed); err != nil {
		return err
	}
	select {
	case x := <-ended:
		if x.Status != 0 || x.Error != "" {
			return fmt.Errorf("its program ends with status %#x %s", x.Status, x.Error)
		}
	case <-m.Done():
		return m.Why()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	// Both sides close a stream, or its number stays in use.
	for _, s := range []*guest.Stream{st.Out, st.Err} {
		if err := s.Close(); err != nil {
			return err
		}
	}
	if err := c.Discard(ctx, rehearsed); err != nil {
		return err
	}
	return c.Reset(ctx)
}

// adopt makes the machine that was made ahead the container's.
func (b *backend) adopt(ctx context.Context, s Spec) error {
	var files [aheadFiles]*os.File
	defer func() { linux.CloseAll(files[:]) }()
	for i, x := range []struct {
		path string
		mode int
	}{aheadRoot: {s.Root, unix.O_RDONLY}, aheadDisk: {s.Disk, unix.O_RDWR}} {
		if x.path == "" {
			continue
		}
		f, err := os.OpenFile(x.path, x.mode|unix.O_NOFOLLOW, 0)
		if err != nil {
			return fmt.Errorf("open disk: %w", err)
		}
		files[i] = f
	}
	if err := plug(ctx, b.m, files[aheadRoot], files[aheadDisk]); err != nil {
		return err
	}
	if err := b.plugNet(ctx); err != nil {
		return err
	}
	if len(s.Binds) > 0 {
		fs, err := b.share(s)
		if err != nil {
			return err
		}
		defer fs.Close()
		if err := b.m.PlugFS(ctx, fs); err != nil {
			return err
		}
	}
	return b.introduce(ctx, s)
}

// plug exchanges the machine's disks; nil = nothing there.
func plug(ctx context.Context, m *vmm.Machine, disks ...*os.File) error {
	for i, f := range disks {
		if err := m.Plug(ctx, i, f); err != nil {
			return fmt.Errorf("exchange disk %d: %w", i, err)
		}
	}
	return nil
}

// practiceNet is a network that leads nowhere, with addresses of both kinds that are for
// documentation (RFC 5737, RFC 3849).
func practiceNet() Net {
	return Net{
		Name: "eth0", Mac: deviceMac, MTU: 1500,
		Addrs:  []string{"192.0.2.2/24", "2001:db8::2/64"},
		Routes: []guest.Route{{Gateway: "192.0.2.1"}},
	}
}
