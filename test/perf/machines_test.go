package perf

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"hull/test/harness"
	"hull/test/images"
)

// kernels are the guest kernels that are kept on this machine, by name: ours (make
// kernel) and Debian's (make kernel-debian). HULL_VM_KERNEL names another.
func kernels(b *bench) map[string]string {
	b.t.Helper()
	out := map[string]string{}
	if k := os.Getenv("HULL_VM_KERNEL"); k != "" {
		out["HULL_VM_KERNEL"] = k
		return out
	}
	cache, err := images.CacheDir()
	if err != nil {
		b.t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(cache, "kernel", "*", "vmlinux"))
	if err != nil {
		b.t.Fatal(err)
	}
	for _, k := range found {
		if strings.HasPrefix(filepath.Base(filepath.Dir(k)), "debian-") {
			out["Debian's kernel"] = k
		} else {
			out["our kernel"] = k
		}
	}
	return out
}

// kernel is the one to boot where only one is measured; "" when there is none.
func kernel(b *bench) string {
	all := kernels(b)
	for _, name := range []string{"HULL_VM_KERNEL", "our kernel", "Debian's kernel"} {
		if k := all[name]; k != "" {
			return k
		}
	}
	return ""
}

// machines are starts of --isolation vm: the first, which makes the template, those
// from it, and one that boots; what idle ones take; and QEMU without us.
func machines(b *bench) {
	all := kernels(b)
	if len(all) == 0 {
		b.missing("machines", "hull", "no guest kernel: run make kernel or make kernel-debian")
		return
	}
	for _, name := range []string{"HULL_VM_KERNEL", "our kernel", "Debian's kernel"} {
		if all[name] != "" {
			b.machinesOn(name, all[name])
		}
	}
}

func (b *bench) machinesOn(name, kernel string) {
	e, hull, _ := b.engine([]string{"busybox"}, harness.Args("--vm-kernel", kernel))
	args := []string{"run", "--rm", "--isolation", "vm", "busybox", "true"}
	first := contest{what: "the first machine of a size: boots, and leaves the template", n: 1, limit: time.Minute, cold: true}
	c := command(hull, args...)
	c.who = name
	b.alone(first, c)
	if b.t.Failed() {
		return
	}
	b.alone(contest{what: "run --isolation vm from the template", n: scale(20), limit: 40 * time.Second, goal: atMost(250)}, c)
	cold := command(hull, append([]string{"run", "--rm", "--isolation", "vm", "-v", "bench-cold:/data"}, args[4:]...)...)
	cold.who = name
	limit := 2000.0
	if name == "our kernel" {
		limit = 800
	}
	b.alone(contest{what: "run --isolation vm, booted", n: scale(6), limit: 30 * time.Second, goal: atMost(limit), note: "a machine with a volume boots"}, cold)
	b.output(hull, "volume", "rm", "bench-cold")
	b.machineMemory(e, hull, name)
	b.bareQEMU(e, hull, name, kernel)
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
			pid, err := strconv.Atoi(b.output(hull, "inspect", "-f", "{{.State.Pid}}", name))
			if err != nil {
				b.t.Fatal(err)
			}
			if !own[pid] {
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
	if strings.HasPrefix(filepath.Base(filepath.Dir(kernel)), "debian-") { // it finds no device without
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
		return float64(time.Since(start).Microseconds()) / 1000, nil
	}}
	if _, err := bare.do(); err != nil { // a floor that is missing is no failure of ours
		b.missing(what, who, err.Error())
		return
	}
	b.alone(contest{what: what, n: scale(8), limit: 20 * time.Second, note: "the floor of a boot"}, bare)
}
