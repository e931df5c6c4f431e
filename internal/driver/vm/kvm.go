package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"hull/internal/guest"
	"hull/internal/linux"
	"hull/internal/vmm"
)

const (
	kvmDevice = "/dev/kvm"
	// kvmLimit is how long a guest on real processors may take until it answers. Ours
	// takes a third of a second.
	kvmLimit = 10 * time.Second
	// kvmFile keeps the verdict.
	kvmFile = "kvm.json"
)

// kvm knows whether this host's KVM runs our guests. The device says nothing about
// that: a host that is a virtual machine itself may have one that boots no kernel, or
// lets it hang. So a guest is booted with it, once for each kernel, QEMU and boot of
// the host, and the verdict is kept.
type kvm struct {
	device string // kvmDevice
	file   string
	limit  time.Duration

	mu sync.Mutex // one boot at a time
}

// verdict is what is kept of a boot with KVM.
type verdict struct {
	Of    string // what was tried: another kernel or QEMU is tried again
	Works bool
	Why   string // what went wrong
}

// known is the verdict that is kept, if any is.
func (k *kvm) known() (v verdict, ok bool) {
	b, err := os.ReadFile(k.file)
	if err != nil || json.Unmarshal(b, &v) != nil || v.Of == "" {
		return verdict{}, false
	}
	return v, true
}

// works says whether machines run with KVM; of names kernel, QEMU and host, boot
// boots a guest. A boot that does not end is not waited for longer than k.limit.
func (k *kvm) works(ctx context.Context, of string, boot func(context.Context) error) (bool, error) {
	if _, err := os.Stat(k.device); err != nil {
		return false, nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if v, ok := k.known(); ok && v.Of == of {
		return v.Works, nil
	}
	limited, cancel := context.WithTimeout(ctx, k.limit)
	defer cancel()
	err := boot(limited)
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	v := verdict{Of: of, Works: err == nil}
	switch {
	case errors.Is(limited.Err(), context.DeadlineExceeded) && err != nil:
		v.Why = fmt.Sprintf("a guest did not boot within %v", k.limit)
	case err != nil:
		v.Why = strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	return v.Works, writeFile(k.file, func(w io.Writer) error { return json.NewEncoder(w).Encode(v) })
}

// says is for hull info, without trying anything.
func (k *kvm) says() (a vmm.Accel, why string) {
	if _, err := os.Stat(k.device); err != nil {
		return vmm.TCG, "instructions are emulated: this host has no " + k.device
	}
	v, ok := k.known()
	switch {
	case !ok:
		return vmm.TCG, k.device + " is there; the first machine finds out whether it boots a guest"
	case !v.Works:
		return vmm.TCG, "instructions are emulated: " + k.device + " is there and boots no guest: " + v.Why + "; it is tried again after a boot of the host, or when " + k.file + " is removed"
	}
	return vmm.KVM, "a guest has been booted with " + k.device
}

// accelerator decides how a machine runs.
func (d *Driver) accelerator(ctx context.Context, c vmm.Config, k Kernel) (vmm.Accel, error) {
	boot, err := linux.BootID()
	if err != nil {
		return vmm.TCG, nil //nolint:nilerr // a host that hides itself: no verdict could be kept
	}
	ids, err := identify(c.QEMU, c.Kernel, c.Initrd)
	if err != nil {
		return "", err
	}
	c.Accel, c.CPUs, c.Memory, c.Cmdline, c.Name = vmm.KVM, 1, defaultMemory, k.cmdline(vmm.KVM, 1, 0), "hull-kvm"
	c.UID = vmm.User(d.kvm.file)
	ok, err := d.kvm.works(ctx, strings.Join(append(ids, boot), " "), func(ctx context.Context) error { return answers(ctx, c) })
	if err != nil && ctx.Err() == nil {
		d.cfg.Log.Warn("whether KVM works cannot be kept; the next machine tries it again", "error", err)
		err = nil
	}
	if !ok || err != nil {
		return vmm.TCG, err
	}
	return vmm.KVM, nil
}

// answers boots a machine and waits until its guest is there.
func answers(ctx context.Context, c vmm.Config) error {
	m, err := vmm.Start(ctx, c, vmm.Files{})
	if err != nil {
		return err
	}
	defer func() {
		m.Kill()
		<-m.Done()
	}()
	g, _ := talk(m)
	defer g.Close()
	return booted(ctx, m, g)
}

// talk begins the conversation with a guest that has no pod. ended tells of one
// process's end.
func talk(m *vmm.Machine) (c *guest.Client, ended <-chan guest.Exited) {
	ch := make(chan guest.Exited, 1)
	c = guest.Dial(m.Agent, func(x guest.Exited) {
		select {
		case ch <- x:
		default:
		}
	}, func(io.ReadWriter) error { return nil })
	return c, ch
}

// booted waits until a machine's guest is there.
func booted(ctx context.Context, m *vmm.Machine, g *guest.Client) error {
	select {
	case <-g.Ready():
		return nil
	case <-m.Done():
		return m.Why()
	case <-ctx.Done():
		return m.Explain(fmt.Errorf("the guest did not boot: %w", context.Cause(ctx)))
	}
}

// identify names files by what changes with their content.
func identify(paths ...string) ([]string, error) {
	var ids []string
	for _, p := range paths {
		st, err := os.Stat(p)
		if err != nil {
			return nil, err
		}
		ids = append(ids, fmt.Sprintf("%s %d %d", p, st.Size(), st.ModTime().UnixNano()))
	}
	return ids, nil
}

func newKVM(dir string) *kvm {
	return &kvm{device: kvmDevice, file: filepath.Join(dir, kvmFile), limit: kvmLimit}
}
