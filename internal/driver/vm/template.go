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
	making map[string]*making
	wg     sync.WaitGroup
	stop   context.CancelFunc
	ctx    context.Context //nolint:containedctx // the life of what is made: longer than the start that asked first
}

// making is a template under way, or one that could not be made.
type making struct {
	done chan struct{}
	err  error // valid after done
}

func newTemplates(dir string) *templates {
	ctx, stop := context.WithCancel(context.Background())
	return &templates{dir: dir, making: map[string]*making{}, ctx: ctx, stop: stop}
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

// get gives a template's files, and makes it if it is not there. Who comes
// meanwhile waits: to boot beside the machine that is being made would take
// longer than to be restored from it. What could not be made is not tried again
// by this engine.
func (t *templates) get(ctx context.Context, key string, c vmm.Config, slots int) (state, memory string, err error) {
	if state, memory = t.find(key); state != "" {
		return state, memory, nil
	}
	t.mu.Lock()
	m := t.making[key]
	if m == nil {
		if t.ctx.Err() != nil {
			t.mu.Unlock()
			return "", "", context.Cause(t.ctx)
		}
		m = &making{done: make(chan struct{})}
		t.making[key] = m
		t.wg.Go(func() {
			m.err = t.make(key, c, slots)
			if m.err == nil {
				t.mu.Lock()
				delete(t.making, key)
				t.mu.Unlock()
			}
			close(m.done)
		})
	}
	t.mu.Unlock()
	select {
	case <-m.done:
	case <-ctx.Done():
		return "", "", context.Cause(ctx)
	}
	if m.err != nil {
		return "", "", m.err
	}
	state, memory = t.find(key)
	return state, memory, nil
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
	c.MemoryFile, c.MemoryShared = filepath.Join(tmp, memoryName), true
	c.Disks = monitorvm.Disks("", "")
	for i := range slots {
		c.Nets = append(c.Nets, vmm.Net{Mac: monitorvm.SpareMac(i)})
	}
	c.Name = "hull-template"
	// Machines open it for writing, though none writes to it (see keepTemplate of vmm).
	mem, err := os.OpenFile(c.MemoryFile, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(mem.Chmod(0o666), mem.Close()); err != nil {
		return err
	}
	c.UID = vmm.User(tmp)
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
	// What lies there without a state is a template that could not be restored.
	if old, _ := t.find(key); old == "" {
		if err := os.RemoveAll(filepath.Join(t.dir, key)); err != nil {
			return err
		}
	}
	err = os.Rename(tmp, filepath.Join(t.dir, key))
	if errors.Is(err, fs.ErrExist) { // another engine was quicker
		return os.RemoveAll(tmp)
	}
	return err
}
