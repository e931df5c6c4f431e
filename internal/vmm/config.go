// Package vmm runs virtual machines with QEMU: its argument vector as a pure
// function of a Config, and a client of its monitor protocol (QMP). It knows
// nothing of containers.
package vmm

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// Accel is how instructions are executed.
type Accel string

// The accelerators.
const (
	KVM Accel = "kvm" // in hardware
	TCG Accel = "tcg" // emulated: works everywhere
)

// CodeBuffer is TCG's buffer of translated code, in MiB, of a machine that is restored.
// It is most of what an idle machine costs, and 32 hold a small kernel with a database.
// One that boots needs more until its container runs, 47 with our kernel and 68 with Debian's:
// when the buffer is full all is thrown away, and translated again.
const (
	CodeBuffer     = 40
	bootCodeBuffer = 96
)

// Layout changes when Args does: a template fits only machines of the same one.
const Layout = 6

// DiskSize is the size of every disk, whatever it holds: a template's device
// state holds its disks' sizes, and a machine restored from it has others.
const DiskSize = 64 << 30

// Config is a machine. It is pure data: Args says all that QEMU is told.
type Config struct {
	QEMU    string // the program
	Accel   Accel
	CPUs    int
	Memory  int64  // bytes
	Kernel  string // uncompressed ELF with a PVH entry
	Initrd  string
	Cmdline string
	Name    string // shown in process lists
	UID     uint32 // whom QEMU runs as, see User
	Disks   []Disk
	Nets    []Net
	// VirtioFS is the tag of a directory that another program serves, "" = none. Such a
	// machine shares its memory with that program, and can be neither saved nor, as it
	// is, restored: its device is plugged in afterwards, see PlugFS.
	VirtioFS string
	// ACPI is for kernels that find virtio devices in its tables only. Ours find
	// them on the command line, which QEMU completes, and start faster without.
	ACPI bool
	// MemoryFile backs the guest's memory; "" = anonymous memory. MemoryShared
	// writes through to it (a template being made), else pages are copied on
	// write (a machine made from one), or all of them at once, if they are shared
	// with the program of VirtioFS.
	MemoryFile   string
	MemoryShared bool
	// Incoming waits for a template's device state (QMP migrate-incoming).
	Incoming bool
}

// Disk is a raw image on a virtio-blk device, known to the guest by its serial.
type Disk struct {
	Path     string
	Serial   string
	ReadOnly bool
	Absent   bool // as large as all, but nothing is there
}

// Net is a virtio-net device. With Tap it is that descriptor's other end, else
// it is connected to nothing.
type Net struct {
	Mac string
	Tap bool
}

// Descriptors are the numbers that a machine's inherited files have in QEMU.
type Descriptors struct {
	QMP   int   // connected socket
	Agent int   // connected socket: the guest's port AgentPort
	Log   int   // connected socket: what the guest's kernel prints
	FS    int   // connected socket: virtiofsd, with Config.VirtioFS and without Incoming
	Taps  []int // one per Net with Tap
}

// AgentPort is the name of the virtio-serial port to the guest's process 1.
const AgentPort = "hull.agent"

// Args is the argument vector, program first.
func Args(c Config, fd Descriptors) []string {
	a := []string{
		c.QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-name", comma(c.Name),
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-machine", "microvm,rtc=on,isa-serial=on,memory-backend=mem,acpi=" + onOff(c.ACPI),
		"-accel", accel(c), "-cpu", cpu(c.Accel), "-smp", processors(c), "-m", strconv.FormatInt(c.Memory>>20, 10) + "M",
		"-object", memory(c),
		"-kernel", c.Kernel, "-initrd", c.Initrd, "-append", cmdline(c),
		"-global", "virtio-mmio.force-legacy=false", // virtio-fs needs it, and a template's devices are all machines'
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", fd.QMP), "-mon", "chardev=qmp,mode=control",
		"-chardev", fmt.Sprintf("socket,id=log,fd=%d", fd.Log), "-serial", "chardev:log",
		"-device", "virtio-serial-device,max_ports=2",
		"-chardev", fmt.Sprintf("socket,id=agent,fd=%d", fd.Agent),
		"-device", "virtserialport,chardev=agent,name=" + AgentPort,
		"-device", "virtio-rng-device",
		"-device", "virtio-balloon-device,free-page-reporting=on,deflate-on-oom=on",
	}
	for i, d := range c.Disks {
		id := diskName(i)
		file := fmt.Sprintf("driver=file,node-name=%s,filename=%s,locking=off", backName(i, 0), comma(d.Path))
		if d.Absent {
			file = fmt.Sprintf("driver=null-co,node-name=%s,size=%d,read-zeroes=on", backName(i, 0), int64(DiskSize))
		}
		// No discards: see keepTemplate.
		a = append(
			a, "-blockdev", file+",read-only="+onOff(d.ReadOnly),
			"-blockdev", fmt.Sprintf("driver=raw,node-name=%s,read-only=%s,discard=ignore,detect-zeroes=off,file=%s", id, onOff(d.ReadOnly), backName(i, 0)),
			"-device", fmt.Sprintf("virtio-blk-device,drive=%s,serial=%s,discard=off,write-zeroes=off", id, comma(d.Serial)),
		)
	}
	taps := fd.Taps
	for i, n := range c.Nets {
		id := netName(i)
		// Without a peer the device reports no link. A hub leads nowhere, but takes what is
		// sent only if it has somebody to give it to: another port, which leads nowhere.
		back := "hubport,id=" + id + ",hubid=" + strconv.Itoa(i)
		if n.Tap {
			back = fmt.Sprintf("tap,id=%s,fd=%d,vhost=off", id, taps[0])
			taps = taps[1:]
		} else {
			a = append(a, "-netdev", "hubport,id="+sinkName(i)+",hubid="+strconv.Itoa(i))
		}
		a = append(a, "-netdev", back, "-device", fmt.Sprintf("virtio-net-device,netdev=%s,mac=%s", id, n.Mac))
	}
	switch {
	case c.VirtioFS == "":
	case c.Incoming:
		a = append(a, "-device", fmt.Sprintf("virtio-scsi-device,id=%s,bus=%s", plugger, pluggerBus))
	default:
		a = append(
			a, "-chardev", fmt.Sprintf("socket,id=fs,fd=%d", fd.FS),
			"-device", fmt.Sprintf("%s,chardev=fs,queue-size=%d,tag=%s", fsDevice, fsQueue, comma(c.VirtioFS)),
		)
	}
	if c.Incoming {
		a = append(a, "-incoming", "defer")
	}
	return a
}

func accel(c Config) string {
	if c.Accel == KVM {
		return "kvm"
	}
	buffer := bootCodeBuffer
	if c.Incoming {
		buffer = CodeBuffer
	}
	return fmt.Sprintf("tcg,thread=multi,tb-size=%d", buffer)
}

// processors tells TCG of two at least, of which the second never comes: a guest's memory
// barriers and atomic instructions are none where QEMU knows of one processor only, though
// its I/O runs beside that one. Then each may miss the other's last word in virtio's queues,
// and both wait for ever.
func processors(c Config) string {
	n := strconv.Itoa(c.CPUs)
	if c.Accel == TCG && c.CPUs == 1 {
		n += ",maxcpus=2"
	}
	return n
}

// cpu is the most that there is. Under TCG without five-level page tables, which
// only make each look-up longer, and without "fast" string instructions: a guest
// that believes in them copies and clears memory by bytes, where it would by words
// of eight (a quarter less of processor time for initdb).
func cpu(a Accel) string {
	if a == KVM {
		return "host"
	}
	return "max,la57=off,erms=off"
}

// cmdline tells the kernel of the virtio-fs device's place, too, where there is no
// device yet: QEMU tells it only of those that are there.
func cmdline(c Config) string {
	if c.ACPI || c.VirtioFS != "" {
		return c.Cmdline
	}
	return c.Cmdline + " virtio_mmio.device=512@0xfeb00200:6" // of QEMU's microvm: where fsBus is
}

func memory(c Config) string {
	size := strconv.FormatInt(c.Memory>>20, 10) + "M"
	switch {
	case c.MemoryFile == "" && c.VirtioFS == "": // in pages of two megabytes: a third of the faults
		return "memory-backend-ram,id=mem,size=" + size
	case c.MemoryFile == "":
		return "memory-backend-memfd,id=mem,share=on,size=" + size
	case c.copiesMemory():
		return fmt.Sprintf("memory-backend-file,id=mem,size=%s,mem-path=%s,share=on", size, filepath.Join(memoryDir, memoryName))
	}
	return fmt.Sprintf("memory-backend-file,id=mem,size=%s,mem-path=%s,share=%s", size, comma(c.MemoryFile), onOff(c.MemoryShared))
}

func onOff(v bool) string {
	if v {
		return "on"
	}
	return "off"
}

// comma quotes a value: QEMU splits options at commas.
func comma(s string) string { return strings.ReplaceAll(s, ",", ",,") }
