package vm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"hull/internal/guest"
	monitorvm "hull/internal/monitor/vm"
	"hull/internal/vmm"
)

const (
	// templateLimit bounds the making of a template.
	templateLimit = 5 * time.Minute
	stateName     = "state"
	memoryName    = "memory"
)

// templates keeps machines that were booted once. A template is named by all that
// its device state and memory depend on; what has changed has another name.
//
//	DIR/templates/<key>/state    the devices
//	DIR/templates/<key>/memory   the memory, mapped privately by every machine made of it
type templates struct {
	dir string

	mu     sync.Mutex
	making map[string]bool
	wg     sync.WaitGroup
	stop   context.CancelFunc
	ctx    context.Context //nolint:containedctx // the life of what is made in the background
}

func newTemplates(dir string) *templates {
	ctx, stop := context.WithCancel(context.Background())
	return &templates{dir: dir, making: map[string]bool{}, ctx: ctx, stop: stop}
}

func (t *templates) close() {
	t.stop()
	t.wg.Wait()
}

// key names the template of a machine.
func key(c vmm.Config, slots int) (string, error) {
	h := sha256.New()
	var ids []string
	for _, p := range []string{c.QEMU, c.Kernel, c.Initrd} {
		st, err := os.Stat(p)
		if err != nil {
			return "", err
		}
		ids = append(ids, fmt.Sprintf("%s %d %d", p, st.Size(), st.ModTime().UnixNano()))
	}
	err := json.NewEncoder(h).Encode([]any{vmm.Layout, guest.Version, ids, c.Accel, c.CPUs, c.Memory, c.Cmdline, c.ACPI, slots})
	return hex.EncodeToString(h.Sum(nil)[:16]), err
}

// find gives a template's files, "" when it is not there yet.
func (t *templates) find(key string) (state, memory string) {
	dir := filepath.Join(t.dir, key)
	state, memory = filepath.Join(dir, stateName), filepath.Join(dir, memoryName)
	if _, err := os.Stat(state); err != nil {
		return "", ""
	}
	return state, memory
}

// begin makes a template in the background, once.
func (t *templates) begin(key string, c vmm.Config, slots int, failed func(error)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.making[key] || t.ctx.Err() != nil {
		return
	}
	t.making[key] = true
	t.wg.Go(func() {
		if err := t.make(key, c, slots); err != nil && t.ctx.Err() == nil {
			failed(err) // and is not tried again by this engine
			return
		}
		t.mu.Lock()
		delete(t.making, key)
		t.mu.Unlock()
	})
}

// make boots a machine with empty disks and saves it in the moment in which it
// waits to be told who it is.
func (t *templates) make(key string, c vmm.Config, slots int) (err error) {
	ctx, cancel := context.WithTimeout(t.ctx, templateLimit)
	defer cancel()
	if err := os.MkdirAll(t.dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(t.dir, "new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("make template: %w", err), os.RemoveAll(tmp))
		}
	}()
	share := filepath.Join(tmp, "share")
	if err := os.Mkdir(share, 0o700); err != nil {
		return err
	}
	c.MemoryFile, c.MemoryShared = filepath.Join(tmp, memoryName), true
	c.Disks = monitorvm.Disks("", "")
	for i := range slots {
		c.Nets = append(c.Nets, vmm.Net{Mac: monitorvm.SpareMac(i)})
	}
	c.Share, c.ShareTag, c.Name = share, guest.ShareTag, "hull-template"
	state, err := os.OpenFile(filepath.Join(tmp, stateName), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer state.Close()
	m, err := vmm.Start(ctx, c, vmm.Files{State: state})
	if err != nil {
		return err
	}
	defer func() {
		m.Kill()
		<-m.Done()
	}()
	g := guest.Dial(m.Agent, func(guest.Exited) {}, func(io.ReadWriter) error { return nil })
	select {
	case <-g.Ready():
	case <-m.Done():
		return m.Why()
	case <-ctx.Done():
		return m.Explain(fmt.Errorf("the guest did not boot: %w", context.Cause(ctx)))
	}
	if err := m.Save(ctx); err != nil {
		return err
	}
	if err := os.Remove(share); err != nil {
		return err
	}
	err = os.Rename(tmp, filepath.Join(t.dir, key))
	if errors.Is(err, fs.ErrExist) { // another engine was quicker
		return os.RemoveAll(tmp)
	}
	return err
}
