package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hull/internal/driver"
	"hull/internal/guest"
	"hull/internal/hull"
	monitorvm "hull/internal/monitor/vm"
	"hull/internal/vmm"
)

// offLimit is how long a guest may take to write its disk back and go.
const offLimit = 30 * time.Second

// Files implements the ability driver.RunningFiles.
func (b *sandbox) Files(id string) driver.Files { return running{b, id} }

// running are the files of a container that runs: its machine is asked through the
// monitor, and archives go through pipes.
type running struct {
	b  *sandbox
	id string
}

var _ driver.Files = running{}

// Stat implements driver.Files.
func (f running) Stat(ctx context.Context, path string) (hull.PathStat, error) {
	body, err := json.Marshal(monitorvm.Path{ID: f.id, Path: path})
	if err != nil {
		return hull.PathStat{}, err
	}
	raw, _, err := f.b.Call(ctx, monitorvm.OpStat, body)
	if err != nil {
		return hull.PathStat{}, err
	}
	var st guest.FileStat
	if err := json.Unmarshal(raw, &st); err != nil {
		return hull.PathStat{}, fmt.Errorf("file status: %w", err)
	}
	return pathStat(st), nil
}

func pathStat(st guest.FileStat) hull.PathStat {
	return hull.PathStat{Name: st.Name, Size: st.Size, Mode: os.FileMode(st.Mode), Mtime: time.Unix(0, st.ModTime), LinkTarget: st.LinkTarget}
}

// Pack implements driver.Files.
func (f running) Pack(ctx context.Context, r hull.CopyFromRequest, w io.Writer) error {
	return f.receive(ctx, monitorvm.OpCopy, monitorvm.Path{ID: f.id, Path: r.Path, As: r.As}, w)
}

// Layer implements driver.Files.
func (f running) Layer(ctx context.Context, w io.Writer) error {
	return f.receive(ctx, monitorvm.OpUpper, monitorvm.Path{}, w)
}

// Close implements driver.Files.
func (running) Close(context.Context) error { return nil }

func (f running) receive(ctx context.Context, op string, p monitorvm.Path, w io.Writer) error {
	body, err := json.Marshal(p)
	if err != nil {
		return err
	}
	r, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	copied := make(chan error, 1)
	go func() {
		_, err := io.Copy(w, r)
		r.Close() // who writes on is told
		copied <- err
	}()
	_, _, err = f.b.Call(ctx, op, body, theirs)
	theirs.Close()
	if cerr := <-copied; cerr != nil {
		return cerr
	}
	return err
}

// Unpack implements driver.Files.
func (f running) Unpack(ctx context.Context, q hull.CopyToRequest, owner string, tar io.Reader) error {
	body, err := json.Marshal(monitorvm.Path{ID: f.id, Path: q.Path, KeepKinds: q.NoOverwriteDirNonDir, Owner: owner})
	if err != nil {
		return err
	}
	theirs, w, err := os.Pipe()
	if err != nil {
		return err
	}
	copied := make(chan error, 1)
	go func() {
		_, err := io.Copy(w, tar)
		w.Close()
		if errors.Is(err, unix.EPIPE) {
			err = nil // what the guest did not want to read it has said why
		}
		copied <- err
	}()
	_, _, err = f.b.Call(ctx, monitorvm.OpUnpack, body, theirs)
	theirs.Close()
	if err != nil {
		return err // the tar's reader may wait for its client
	}
	return <-copied
}

// disk are the files of a container that does not run: a machine with its disks,
// and nothing else, reads them. This host's kernel never does (ADR 0017).
type disk struct {
	m *vmm.Machine
	c *guest.Client
}

var _ driver.Files = (*disk)(nil)

// OpenDisk implements the ability driver.DiskFiles.
func (d *Driver) OpenDisk(ctx context.Context, root hull.Rootfs) (_ driver.Files, err error) {
	if root.Kind != hull.RootfsBlock || root.Disk == "" {
		return nil, fmt.Errorf("root file system of kind %q: %w", root.Kind, errdefs.ErrNotImplemented)
	}
	k, err := d.kind(ctx, "files", hull.Resources{})
	if err != nil {
		return nil, err
	}
	state, memory, err := d.template(ctx, k, false, nil)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, bootSeconds*time.Second)
	defer cancel()
	c := k.machine
	c.Disks = monitorvm.Disks(root.Block, root.Disk)
	c.Nets = monitorvm.Nets(nil)
	c.UID = vmm.User(root.Disk)
	var x *disk
	err = monitorvm.Boot(ctx, state, func(s string) { d.cfg.Log.Warn(s) }, func(ctx context.Context, restore bool) error {
		if c.MemoryFile, c.Incoming = "", restore; restore {
			c.MemoryFile = memory
		}
		x, err = startDisk(ctx, c, state)
		return err
	})
	if err != nil {
		return nil, err
	}
	return x, nil
}

// startDisk starts a machine without a container.
func startDisk(ctx context.Context, c vmm.Config, state string) (*disk, error) {
	var f vmm.Files
	if c.Incoming {
		st, err := os.Open(state)
		if err != nil {
			return nil, fmt.Errorf("open template: %w", err)
		}
		defer st.Close()
		f.State = st
	}
	m, err := vmm.Start(ctx, c, f)
	if err != nil {
		return nil, err
	}
	g, _ := talk(m)
	x := &disk{m: m, c: g}
	if err := x.c.Boot(ctx, guest.Boot{Now: time.Now().UnixNano(), Root: true, Disk: true}); err != nil {
		err = m.Explain(fmt.Errorf("boot the guest: %w", err))
		m.Kill()
		<-m.Done()
		x.c.Close()
		return nil, err
	}
	return x, nil
}

// Stat implements driver.Files.
func (x *disk) Stat(ctx context.Context, path string) (hull.PathStat, error) {
	st, err := x.c.Stat(ctx, "", path)
	return pathStat(st), err
}

// Pack implements driver.Files.
func (x *disk) Pack(ctx context.Context, r hull.CopyFromRequest, w io.Writer) error {
	return x.c.Copy(ctx, "", r.Path, r.As, w)
}

// Unpack implements driver.Files.
func (x *disk) Unpack(ctx context.Context, r hull.CopyToRequest, owner string, tar io.Reader) error {
	return x.c.Unpack(ctx, "", r.Path, owner, r.NoOverwriteDirNonDir, tar)
}

// Layer implements driver.Files.
func (x *disk) Layer(ctx context.Context, w io.Writer) error { return x.c.Upper(ctx, w) }

// Close implements driver.Files: the disk is written back.
func (x *disk) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, offLimit)
	defer cancel()
	err := x.c.Off(ctx)
	if err == nil {
		select {
		case <-x.m.Done():
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	x.m.Kill()
	<-x.m.Done()
	x.c.Close()
	if err != nil {
		return fmt.Errorf("write the disk back: %w", err)
	}
	return nil
}
