package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"

	"hull/internal/linux"
)

// sysctls is /proc/sys/net of one network namespace, with ipv4 and ipv6 in it held
// open. These the kernel has as often as there are namespaces that looked, all with
// one name in one directory, and compares with one after the other at each look:
// with 500 containers that was half of the processor time of an attach.
type sysctls struct {
	dir      *os.File
	families map[string]*os.File
}

// openSysctls opens those of the calling thread's namespace below proc, a proc file
// system.
func openSysctls(proc *os.File) (_ sysctls, err error) {
	s := sysctls{families: map[string]*os.File{}}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.dir, err = linux.OpenBeneath(proc, "sys/net", os.O_RDONLY, 0); err != nil {
		return s, err
	}
	for _, name := range []string{"ipv4", "ipv6"} {
		f, err := linux.OpenBeneath(s.dir, name, os.O_RDONLY, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return s, err
		}
		s.families[name] = f
	}
	return s, nil
}

// openOwnSysctls is openSysctls below /proc.
func openOwnSysctls() (sysctls, error) {
	proc, err := os.Open("/proc")
	if err != nil {
		return sysctls{}, err
	}
	defer proc.Close()
	return openSysctls(proc)
}

func (s sysctls) close() {
	if s.dir != nil {
		s.dir.Close()
	}
	for _, f := range s.families {
		f.Close()
	}
}

// open opens one, such as ipv4/ip_forward. fs.ErrNotExist: the kernel has it not.
func (s sysctls) open(name string, flags int) (*os.File, error) {
	family, rest, _ := strings.Cut(name, "/")
	if dir := s.families[family]; dir != nil && rest != "" {
		return linux.OpenBeneath(dir, rest, flags, 0)
	}
	return linux.OpenBeneath(s.dir, name, flags, 0)
}

func (s sysctls) set(name, value string) error {
	f, err := s.open(name, os.O_WRONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(value); err != nil {
		return fmt.Errorf("set %s to %s: %w", name, strconv.Quote(value), err)
	}
	return nil
}

func (s sysctls) get(name string) (string, error) {
	f, err := s.open(name, os.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer f.Close()
	const page = 4096
	b, err := linux.ReadAll(f, page)
	return strings.TrimSpace(string(b)), err
}

// has says whether there is a file or directory.
func (s sysctls) has(name string) bool {
	f, err := s.open(name, os.O_RDONLY)
	if err == nil {
		f.Close()
	}
	return err == nil
}

// bridgedFiltered says whether packets that stay on a bridge go through the
// firewall all the same. kind is iptables or ip6tables, whatever firewall it is.
func (s sysctls) bridgedFiltered(kind string) bool {
	on, err := s.get("bridge/bridge-nf-call-" + kind)
	return err == nil && on == "1"
}

// procs is where namespaces' sysctls are looked for: proc file systems of our own,
// mounted nowhere, each of which few namespaces have ever been looked for in.
type procs struct {
	mu   sync.Mutex
	now  *os.File // nil = none yet
	left int      // namespaces that it is still good for
}

const namespacesOfAProc = 32

// with runs fn with one that stays open as long.
func (p *procs) with(fn func(proc *os.File) error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left == 0 {
		fresh, err := linux.MountFS("proc", "proc", "")
		if err != nil { // not allowed to
			if fresh, err = os.Open("/proc"); err != nil {
				return err
			}
		}
		p.close()
		p.now, p.left = fresh, namespacesOfAProc
	}
	p.left--
	return fn(p.now)
}

func (p *procs) close() {
	if p.now != nil {
		p.now.Close()
	}
}

// withSysctls runs fn with the sysctls of the namespace at path, inside of it.
func (h *host) withSysctls(path string, fn func(sysctls) error) error {
	return linux.InNetNS(path, func() error {
		var s sysctls
		err := h.procs.with(func(proc *os.File) (err error) {
			s, err = openSysctls(proc)
			return err
		})
		if err != nil {
			return err
		}
		defer s.close()
		return fn(s)
	})
}
