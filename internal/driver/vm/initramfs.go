package vm

import (
	"bytes"
	"fmt"
	"io"

	"hull/internal/vmm"
)

// initramfs writes what the guest's kernel starts from: hull-guest as /init, and
// the modules it loads, behind an ACPI table if that is not nil. It is not compressed:
// to unpack it would take the guest longer than to copy it takes the host.
func initramfs(w io.Writer, guest, table []byte, lists []moduleList) error {
	c := &cpio{w: w}
	if table != nil { // its directory is not there: the kernel reads it, and unpacks it nowhere
		c.entry(vmm.ACPIPlaceFile, cpioFile|0o644, table)
	}
	for _, d := range []string{"dev", "root", "modules"} {
		c.entry(d, cpioDir|0o755, nil)
	}
	// The kernel opens it for process 1 before anything is mounted.
	c.node("dev/console", cpioChar|0o600, 5, 1)
	c.entry("init", cpioFile|0o755, guest)
	for _, l := range lists {
		var names []byte
		for _, m := range l.modules {
			c.entry("modules/"+m.name, cpioFile|0o644, m.data)
			names = fmt.Appendln(names, m.name)
		}
		if len(names) > 0 {
			c.entry("modules/"+l.name, cpioFile|0o644, names)
		}
	}
	c.entry("TRAILER!!!", 0, nil)
	return c.err
}

// moduleList is modules that are loaded together, in order.
type moduleList struct {
	name    string // guest.BootModules, guest.VLANModules
	modules []module
}

// module is a kernel module, uncompressed.
type module struct {
	name string
	data []byte
}

const (
	cpioDir  = 0o040000
	cpioFile = 0o100000
	cpioChar = 0o020000
)

// cpio writes the "newc" format.
type cpio struct {
	w   io.Writer
	ino int
	err error
}

func (c *cpio) entry(name string, mode uint32, data []byte) { c.write(name, mode, 0, 0, data) }

func (c *cpio) node(name string, mode, major, minor uint32) { c.write(name, mode, major, minor, nil) }

func (c *cpio) write(name string, mode, major, minor uint32, data []byte) {
	if c.err != nil {
		return
	}
	c.ino++
	links := 1
	if mode&cpioDir != 0 && mode&cpioFile == 0 {
		links = 2
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		c.ino, mode, 0, 0, links, 0, len(data), 0, 0, major, minor, len(name)+1, 0)
	b.WriteString(name)
	b.WriteByte(0)
	pad(&b)
	if _, c.err = c.w.Write(b.Bytes()); c.err != nil {
		return
	}
	if _, c.err = c.w.Write(data); c.err != nil {
		return
	}
	if rest := len(data) % 4; rest != 0 {
		_, c.err = c.w.Write(make([]byte, 4-rest))
	}
}

func pad(b *bytes.Buffer) {
	for b.Len()%4 != 0 {
		b.WriteByte(0)
	}
}
