package vmm

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"hull/internal/linux"
)

// In a jail, where a machine that cannot share its template's memory has a copy.
const (
	memoryDir  = "/memory"
	memoryName = "memory"
)

// copiesMemory says that a machine made from a template has all of its memory copied:
// what it shares with another program cannot be copied page by page, when written to.
func (c Config) copiesMemory() bool { return c.MemoryFile != "" && c.Incoming && c.VirtioFS != "" }

// ownMemory is a copy of a template's memory.
type ownMemory struct {
	mount  *os.File   // a file system of its own, mounted nowhere yet
	copied chan error // told once; the machine must not be restored before
}

// dir is what is mounted in the jail, nil = nothing.
func (o *ownMemory) dir() *os.File {
	if o == nil {
		return nil
	}
	return o.mount
}

// copyMemory begins to copy c's memory, of which most is holes. It goes with the
// machine, or with the mount where there was none.
func copyMemory(c Config) (_ *ownMemory, err error) {
	o := &ownMemory{copied: make(chan error, 1)}
	if o.mount, err = linux.MountFS("tmpfs", "", fmt.Sprintf("nosuid,nodev,noexec,mode=0711,size=%d", c.Memory)); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			o.mount.Close()
		}
	}()
	to, err := linux.OpenBeneath(o.mount, memoryName, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	from, err := os.Open(c.MemoryFile)
	if err == nil {
		err = to.Chown(int(c.UID), int(c.UID))
	}
	if err != nil {
		to.Close()
		return nil, err
	}
	go func() {
		defer to.Close()
		defer from.Close()
		o.copied <- linux.CopyData(from, to, c.Memory)
	}()
	return o, nil
}
