package perf

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"hull/test/harness"
	"hull/test/images"
)

// guestKernel is one that machines can boot.
type guestKernel struct{ name, path string }

const ourKernel = "our kernel"

// kernels are the guest kernels that are kept on this machine: ours (make kernel),
// then Debian's (make kernel-debian). HULL_VM_KERNEL names another.
func kernels(b *bench) (out []guestKernel) {
	b.t.Helper()
	if k := os.Getenv("HULL_VM_KERNEL"); k != "" {
		return []guestKernel{{"HULL_VM_KERNEL", k}}
	}
	cache, err := images.CacheDir()
	if err != nil {
		b.t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(cache, "kernel", "*", "vmlinux"))
	if err != nil {
		b.t.Fatal(err)
	}
	var ours, debians string // the last of each
	for _, k := range found {
		if isDebians(k) {
			debians = k
		} else {
			ours = k
		}
	}
	for _, k := range []guestKernel{{ourKernel, ours}, {"Debian's kernel", debians}} {
		if k.path != "" {
			out = append(out, k)
		}
	}
	return out
}

func isDebians(kernel string) bool {
	return strings.HasPrefix(filepath.Base(filepath.Dir(kernel)), "debian-")
}

// kernel is the one to boot where only one is measured; "" when there is none.
func kernel(b *bench) string {
	for _, k := range kernels(b) {
		return k.path
	}
	return ""
}

// machines are starts of --isolation vm: the first, which makes the template, those
// from it, without and with a volume, and one that boots; what idle ones take; and QEMU
// without us.
func machines(b *bench) {
	all := kernels(b)
	if len(all) == 0 {
		b.missing("machines", "hull", "no guest kernel: run make kernel or make kernel-debian")
		return
	}
	for _, k := range all {
		b.machinesOn(k.name, k.path)
	}
}

func (b *bench) machinesOn(name, kernel string) {
	e, hull, _ := b.engine([]string{"busybox"}, harness.Args("--vm-kernel", kernel))
	run := func(options ...string) contender {
		c := command(hull, slices.Concat([]string{"run", "--rm", "--isolation", "vm"}, options, []string{"busybox", "true"})...)
		c.who = name
		return c
	}
	plain, shared := run(), run("-v", "bench-vm:/data")
	b.alone(contest{what: "the first machine of a size: boots, and leaves the template", n: 1, limit: time.Minute, cold: true}, plain)
	if b.t.Failed() {
		return
	}
	for _, x := range []struct {
		what string
		contender
		goal goal
	}{{"run --isolation vm", plain, atMost(250)}, {"run --isolation vm -v", shared, goal{}}} {
		ready := contender{who: name, do: func() (float64, error) {
			if err := machineReady(hull); err != nil {
				return 0, err
			}
			return x.do()
		}}
		b.alone(contest{what: x.what + ", a machine is ready", n: scale(20), limit: 60 * time.Second, goal: x.goal}, ready)
		b.alone(contest{what: x.what + " from the template, one after the other", n: scale(20), limit: 30 * time.Second, note: "each waits for the machine that is made for it"}, x.contender)
	}
	b.output(hull, "volume", "rm", "bench-vm")
	limit := 2000.0
	if name == ourKernel {
		limit = 800
	}
	b.withoutTemplates(e, func() {
		b.alone(contest{what: "run --isolation vm, booted", n: scale(6), limit: 30 * time.Second, goal: atMost(limit), note: "there is no template"}, plain)
	})
	b.machineMemory(e, hull, name)
	b.bareQEMU(e, hull, name, kernel)
}

// withoutTemplates has do done while e can neither find nor make templates.
func (b *bench) withoutTemplates(e *harness.Engine, do func()) {
	b.t.Helper()
	dir := filepath.Join(e.Root, "vm", "templates")
	aside := dir + ".aside"
	if err := errors.Join(os.Rename(dir, aside), os.WriteFile(dir, nil, 0o600)); err != nil {
		b.t.Fatal(err)
	}
	do()
	if err := errors.Join(os.Remove(dir), os.Rename(aside, dir)); err != nil {
		b.t.Fatal(err)
	}
}

// machineReady waits until a machine has been made for the next start.
func machineReady(hull *cli) error {
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		info, err := hull.try("info")
		if err != nil || strings.Contains(info, "a machine waits for the next start") {
			return err
		}
		if time.Now().After(end) {
			return errors.New("no machine is made ahead")
		}
	}
}

// machineMemory is what idle machines of one template take on the host.
func (b *bench) machineMemory(e *harness.Engine, hull *cli, who string) {
	names := numbered("vm", 10)
	defer removeAll(hull, names...)
	idle := engineMemory(e)
	count := func(n int) float64 {
		time.Sleep(settle)
		sum := engineMemory(e) - idle
		own := map[int]bool{}
		for _, pid := range e.Processes() {
			own[pid] = true
		}
		for _, name := range names[:n] {
			if pid := number(b.t, b.output(hull, "inspect", "-f", "{{.State.Pid}}", name)); !own[pid] {
				sum += pss(pid) / 1024
			}
		}
		return sum
	}
	boot := func(name string) {
		b.output(hull, "run", "-d", "--isolation", "vm", "--name", name, "busybox", "sleep", "10000")
	}
	boot(names[0])
	one := count(1)
	b.figure("PSS of one idle machine", who, "MiB", goal{}, one, "QEMU, monitor, what hulld grew")
	for _, name := range names[1:] {
		boot(name)
	}
	b.figure("PSS of each further of ten", who, "MiB", atMost(45), (count(len(names))-one)/float64(len(names)-1), "")
}

// bareQEMU boots the same kernel into a shell of busybox without us.
func (b *bench) bareQEMU(e *harness.Engine, hull *cli, who, kernel string) {
	const what = "bare QEMU: microvm, kernel, busybox from an initrd, its first word"
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		b.missing(what, who, err.Error())
		return
	}
	root := e.Dir("initrd")
	script := `set -e; cd "$1"; mkdir -p bin; cat > bin/busybox; chmod 755 bin/busybox
printf '#!/bin/busybox sh\necho UP\nexec /bin/busybox poweroff -f\n' > init; chmod 755 init
find . | cpio -o -H newc --quiet > ../initrd.img`
	busybox, err := hull.try("run", "--rm", "--network", "none", "busybox", "sh", "-c", "cat $(readlink -f $(which busybox))")
	if err == nil {
		_, err = (&cli{cmd: func(args ...string) *exec.Cmd {
			return exec.Command("sh", append([]string{"-c", script, "sh"}, args...)...)
		}}).tryIn(busybox, root)
	}
	if err != nil {
		b.missing(what, who, err.Error())
		return
	}
	acpi := "off"
	if isDebians(kernel) { // it finds no device without
		acpi = "on"
	}
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-m", "256", "-smp", "1", "-accel", "tcg", "-cpu", "max",
		"-M", "microvm,rtc=on,isa-serial=on,acpi=" + acpi, "-kernel", kernel, "-initrd", filepath.Join(filepath.Dir(root), "initrd.img"),
		"-serial", "stdio", "-append", "console=ttyS0 quiet loglevel=4 panic=-1 reboot=t mitigations=off random.trust_cpu=on",
	}
	bare := contender{who: who, do: func() (float64, error) {
		cmd := exec.Command(qemu, args...)
		out, err := cmd.StdoutPipe()
		if err != nil {
			return 0, err
		}
		start := time.Now()
		if err := cmd.Start(); err != nil {
			return 0, err
		}
		timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
		defer func() {
			timer.Stop()
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}()
		var said strings.Builder
		buf := make([]byte, 512)
		for !strings.Contains(said.String(), "UP") {
			n, err := out.Read(buf)
			said.Write(buf[:n])
			if err != nil {
				return 0, fmt.Errorf("%w; the console ends with %q", err, lastLine(said.String()))
			}
		}
		return msSince(start), nil
	}}
	if _, err := bare.do(); err != nil { // a floor that is missing is no failure of ours
		b.missing(what, who, err.Error())
		return
	}
	b.alone(contest{what: what, n: scale(8), limit: 20 * time.Second, note: "the floor of a boot"}, bare)
}
