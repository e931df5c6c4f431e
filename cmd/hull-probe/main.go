// Command hull-probe is what "hull compare" runs inside of an instance, to measure
// there what only the inside can see.
//
//	hull-probe serve     says which kernel it sees, then answers on a port
//	hull-probe measure   prints figures of system calls and files as JSON
//
// See cmd/internal/probe for the port and the figures.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hull/cmd/internal/probe"
)

const mib = 1 << 20

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "hull-probe:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "serve":
		return serve()
	case len(args) == 1 && args[0] == "measure":
		return measure()
	}
	return errors.New("usage: hull-probe serve|measure")
}

// serve runs until it is killed.
func serve() error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return os.NewSyscallError("uname", err)
	}
	fmt.Printf(probe.Up+"%s %s\n", unix.ByteSliceToString(u.Sysname[:]), unix.ByteSliceToString(u.Release[:]))
	l, err := net.Listen("tcp", fmt.Sprint(":", probe.Port))
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			_ = answer(c) // the other side has seen what there is to see
		}()
	}
}

func answer(c net.Conn) error {
	var what [1]byte
	if _, err := io.ReadFull(c, what[:]); err != nil {
		return err
	}
	buf := make([]byte, 256<<10)
	switch what[0] {
	case probe.Echo:
		for {
			if _, err := io.ReadFull(c, buf[:probe.Frame]); err != nil {
				return err
			}
			if _, err := c.Write(buf[:probe.Frame]); err != nil {
				return err
			}
		}
	case probe.Download:
		for {
			if _, err := c.Write(buf); err != nil {
				return err
			}
		}
	}
	return nil
}

func measure() error {
	var f probe.Figures
	f.SyscallNS = syscalls(200 * time.Millisecond)
	dir, err := os.MkdirTemp(writable(), ".hull-probe")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if f.FileWrite, f.FileRead, err = bulk(filepath.Join(dir, "bulk"), 32*mib); err != nil {
		return err
	}
	if f.FilesPerS, err = small(dir, 500); err != nil {
		return err
	}
	if f.ProcessMS, err = processes(20); err != nil {
		return err
	}
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err == nil {
		f.Processors = set.Count()
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err == nil {
		f.MemoryTotal = info.Totalram * uint64(info.Unit) / mib
	}
	return json.NewEncoder(os.Stdout).Encode(f)
}

// writable is a directory of the root file system, where that can be written.
func writable() string {
	for _, dir := range []string{"/", "/var/tmp", "/tmp"} {
		if unix.Access(dir, unix.W_OK) == nil {
			return dir
		}
	}
	return os.TempDir()
}

// syscalls is the cost of the cheapest system call, ns: the least of ten parts.
func syscalls(d time.Duration) float64 {
	best := 0.0
	for range 10 {
		n, start := 0, time.Now()
		for time.Since(start) < d/10 {
			for range 100 {
				syscall.RawSyscall(syscall.SYS_GETPPID, 0, 0, 0)
			}
			n += 100
		}
		if per := float64(time.Since(start)) / float64(n); best == 0 || per < best {
			best = per
		}
	}
	return best
}

func bulk(path string, size int) (write, read float64, err error) {
	buf := make([]byte, mib)
	for i := range buf {
		buf[i] = byte(i * i >> 3)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	start := time.Now()
	for range size / len(buf) {
		if _, err := f.Write(buf); err != nil {
			return 0, 0, err
		}
	}
	if err := f.Sync(); err != nil {
		return 0, 0, err
	}
	write = float64(size/mib) / time.Since(start).Seconds()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return 0, 0, err
	}
	start = time.Now()
	for range size / len(buf) {
		if _, err := io.ReadFull(f, buf); err != nil {
			return 0, 0, err
		}
	}
	return write, float64(size/mib) / time.Since(start).Seconds(), nil
}

func small(dir string, n int) (float64, error) {
	start := time.Now()
	for i := range n {
		path := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(path, []byte(path), 0o600); err != nil {
			return 0, err
		}
		if _, err := os.Stat(path); err != nil {
			return 0, err
		}
		if err := os.Remove(path); err != nil {
			return 0, err
		}
	}
	return float64(n) / time.Since(start).Seconds(), nil
}

// processes is the time of one start and end of a program, ms: this one, which
// ends at once without arguments.
func processes(n int) (float64, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	for range n {
		p, err := os.StartProcess(self, []string{self}, &os.ProcAttr{})
		if err != nil {
			return 0, err
		}
		if _, err := p.Wait(); err != nil {
			return 0, err
		}
	}
	return time.Since(start).Seconds() * 1000 / float64(n), nil
}
