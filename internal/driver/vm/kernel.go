package vm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"hull/internal/guest"
	"hull/internal/linux"
	"hull/internal/vmm"
)

// KernelInfo is the file beside a kernel that says how to boot it. A kernel
// without one is one of ours: everything built in, devices on the command line.
const KernelInfo = "hull-kernel.json"

// Kernel is a guest kernel and what belongs to it.
type Kernel struct {
	Path    string   `json:"-"`
	Name    string   // version, for people
	ACPI    bool     // finds its devices in ACPI tables only
	Args    []string // of its command line, beside ours
	Modules []string // file names below modules/, in the order to load
	VLAN    []string // those that a second network needs beside, loaded with it
	// VirtioFS: it has the file system by which host directories are shown to it.
	VirtioFS bool
}

const nextKernel = "'hull vm kernel install' installs the distribution's, 'hull vm kernel install FILE' another"

// findKernel looks in the places of Config, in order.
func findKernel(places []string) (Kernel, error) {
	for _, p := range places {
		if p == "" {
			continue
		}
		if _, err := os.Stat(p); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			return Kernel{}, fmt.Errorf("guest kernel: %w", err)
		}
		k := Kernel{Path: p, Name: "hull", VirtioFS: true}
		b, err := os.ReadFile(filepath.Join(filepath.Dir(p), KernelInfo))
		if errors.Is(err, fs.ErrNotExist) {
			return k, nil
		}
		if k.VirtioFS = false; err == nil {
			err = json.Unmarshal(b, &k)
		}
		if err != nil {
			return Kernel{}, fmt.Errorf("description of guest kernel %s: %w", p, err)
		}
		return k, nil
	}
	return Kernel{}, fmt.Errorf("no guest kernel: %s: %w", nextKernel, errdefs.ErrFailedPrecondition)
}

// cmdline is the kernel's command line for a machine of cpus processors on a host
// whose time stamp counter runs at khz, 0 = unknown. What costs time and gives a
// guest of one tenant nothing is off. With KVM the guest has the host's clock.
func (k Kernel) cmdline(a vmm.Accel, cpus, khz int) string {
	if a == vmm.KVM {
		return strings.Join(append(always(), k.Args...), " ")
	}
	return strings.Join(append(k.emulated(cpus, khz), k.Args...), " ")
}

// always are the arguments of every kernel.
func always() []string {
	return []string{"console=ttyS0", "quiet", "loglevel=4", "panic=-1", "oops=panic", "reboot=t", "mitigations=off", "random.trust_cpu=on", "page_reporting.page_reporting_order=5"}
}

func (k Kernel) emulated(cpus, khz int) []string {
	// hull-guest's environment: emulated, every goroutine runs for longer than Go thinks
	// is fair, and would be interrupted by signals all the time.
	a := append(always(), "GODEBUG=asyncpreemptoff=1")
	if khz > 0 { // a machine has nothing by which to find out
		a = append(a, "tsc=reliable", "tsc_early_khz="+strconv.Itoa(khz))
	}
	if cpus == 1 {
		a = append(a, "nr_cpus=1") // QEMU says that there may be more
	}
	if !k.ACPI {
		a = append(a, "nolapic_timer")
		if cpus == 1 {
			a = append(a, "nosmp", "noreplace-smp")
		}
	}
	return a
}

// clockFile keeps the rate of the host's time stamp counter, so that it is the
// same for all machines: it is on their command line, and templates go by that.
const clockFile = "clock"

// clockSlack is how far, in millionths, a measurement may be from the last one and
// mean the same clock.
const clockSlack = 100

// hostClock is the rate of the host's time stamp counter in kHz, measured once for
// each boot of the host.
func (d *Driver) hostClock() int {
	d.clock.Lock()
	defer d.clock.Unlock()
	boot, err := linux.BootID()
	if err != nil {
		return 0
	}
	path := filepath.Join(d.cfg.Dir, clockFile)
	var last int
	if b, err := os.ReadFile(path); err == nil {
		var of string
		if n, _ := fmt.Sscan(string(b), &of, &last); n == 2 && of == boot {
			return last
		}
	}
	khz := vmm.HostTSC()
	if diff := khz - last; khz > 0 && max(diff, -diff)*1e6 <= khz*clockSlack {
		khz = last
	}
	err = writeFile(path, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, boot, khz)
		return err
	})
	if err != nil {
		d.cfg.Log.Warn("the host's clock rate cannot be kept; machines may not find their templates", "error", err)
	}
	return khz
}

const initrdPrefix = "initrd-"

// sweepInitrds removes what no template was made with: it belonged to a kernel or a
// hull-guest that was replaced. Machines that run have theirs in memory.
func sweepInitrds(dir string, used []string) error {
	all, err := filepath.Glob(filepath.Join(dir, initrdPrefix+"*"))
	for _, path := range all {
		if !slices.Contains(used, path) {
			err = errors.Join(err, os.Remove(path))
		}
	}
	return err
}

// lastInitrd is the initramfs that was asked for last, and what it was made of: to read all that for each start would take some milliseconds.
type lastInitrd struct {
	mu   sync.Mutex
	of   []string
	path string
}

// initrd is the initramfs of this kernel and guest, which is made unless it lies there.
func (d *Driver) initrd(ctx context.Context, k Kernel) (string, error) {
	parts := []string{d.cfg.GuestPath}
	for _, name := range slices.Concat(k.Modules, k.VLAN) {
		parts = append(parts, k.module(name))
	}
	of, err := identify(parts...)
	if err != nil {
		return "", fmt.Errorf("hull-guest belongs beside hulld, and modules beside their kernel; install again what is missing: %w", err)
	}
	of = append(of, fmt.Sprint(k.Modules, k.VLAN, k.ACPI))
	d.last.mu.Lock()
	defer d.last.mu.Unlock()
	if _, err := os.Stat(d.last.path); err == nil && slices.Equal(of, d.last.of) {
		return d.last.path, nil
	}
	path, err := d.makeInitrd(ctx, k)
	if err == nil {
		d.last.of, d.last.path = of, path
	}
	return path, err
}

// module is the path of one of the kernel's modules.
func (k Kernel) module(name string) string {
	return filepath.Join(filepath.Dir(k.Path), "modules", filepath.Base(name))
}

// makeInitrd makes the initramfs of this kernel and guest, unless it lies there, and
// returns its path, which names its content.
func (d *Driver) makeInitrd(ctx context.Context, k Kernel) (string, error) {
	g, err := os.ReadFile(d.cfg.GuestPath)
	if err != nil {
		return "", fmt.Errorf("read hull-guest: %w", err)
	}
	if err := static(g); err != nil {
		return "", err
	}
	lists := []moduleList{{name: guest.BootModules}, {name: guest.VLANModules}}
	h := sha256.New()
	h.Write(g)
	for i, names := range [][]string{k.Modules, k.VLAN} {
		for _, name := range names {
			b, err := os.ReadFile(k.module(name))
			if err != nil {
				return "", fmt.Errorf("read module of guest kernel: %w", err)
			}
			h.Write(b)
			lists[i].modules = append(lists[i].modules, module{filepath.Base(name), b})
		}
		h.Write([]byte(lists[i].name))
	}
	var table []byte
	if k.ACPI {
		table = vmm.ACPIPlace()
		h.Write(table)
	}
	path := filepath.Join(d.cfg.Dir, initrdPrefix+hex.EncodeToString(h.Sum(nil)[:12]))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	return path, writeFile(path, func(w io.Writer) error { return initramfs(w, g, table, lists) })
}

// static refuses a hull-guest that wants a dynamic linker: there is none in the
// machine, and the kernel would only say that there is no init.
func static(b []byte) error {
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return fmt.Errorf("hull-guest is no program: %w: %w", err, errdefs.ErrFailedPrecondition)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("hull-guest is linked dynamically; build it with CGO_ENABLED=0, as make does: %w", errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}

// writeFile makes a file that is whole or not there.
func writeFile(path string, fill func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new*")
	if err != nil {
		return err
	}
	err = errors.Join(fill(f), f.Chmod(0o444), f.Close()) // machines read it, as users of their own
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
