// Package drivertest is the contract of a driver as a test suite. Every driver
// passes it, the fake included: else tests over the fake prove nothing.
//
// The suite speaks to containers through a shell (busybox's in a real one, a toy
// in the fake) and branches on what Info says, never on a driver's name.
package drivertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/driver"
	"hull/internal/hull"
)

// patience bounds every wait of the suite; nothing in it takes nearly as long.
const patience = 3 * time.Minute

// World is what a driver under test lives in.
type World interface {
	// Driver makes a driver; a second one is an engine that was restarted.
	Driver() driver.Driver
	// Rootfs is a root file system with a shell and busybox's tools, writable by
	// one container. It has a file /notexec that may not be run, and a user alice,
	// 1000:100, who is in group 2000, too.
	Rootfs() hull.Rootfs
	// RunDir makes the run directory of pod id.
	RunDir(id string) string
	// NetNS is the network namespace of sandboxes; "" = the host's.
	NetNS() string
	// Log is where container id logs to, and Logged what it has logged.
	Log(id string) hull.LogTarget
	Logged(id string) string
	// KillMonitor does to a pod what kill -9 of its monitor does.
	KillMonitor(podID string)
	// Leaks lists what pods left on the host since the world was made: processes,
	// cgroups, mounts, namespaces, descriptors. It waits a moment for what is on
	// its way out.
	Leaks() []string
}

// Run runs the suite. make is called for each test.
func Run(t *testing.T, makeWorld func(t *testing.T) World) {
	for _, c := range []struct {
		name string
		fn   func(*run)
	}{
		{"lifecycle", lifecycle},
		{"exit codes", exitCodes},
		{"exec error", execError},
		{"signals", signals},
		{"dead", dead},
		{"double destroy", doubleDestroy},
		{"again at once", again},
		{"never started", neverStarted},
		{"wait twice", waitTwice},
		{"stdio order", stdioOrder},
		{"log without client", logged},
		{"attach", attach},
		{"stdin", stdin},
		{"stdin once", stdinOnce},
		{"terminal", terminal},
		{"detach", detach},
		{"exec", execs},
		{"exec stdin", execStdin},
		{"users", users},
		{"exec outlived", execOutlived},
		{"two containers", twoContainers},
		{"out of memory", outOfMemory},
		{"pause", pause},
		{"stats", stats},
		{"recover", recovered},
		{"recover after exit", recoverAfterExit},
		{"recover gone", recoverGone},
		{"recover broken handle", recoverBroken},
		{"monitor killed", monitorKilled},
		{"cancelled", cancelled},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := makeWorld(t)
			t.Cleanup(func() { // runs after the test's own, which destroy
				if l := w.Leaks(); len(l) > 0 {
					t.Errorf("left behind: %s", strings.Join(l, "; "))
				}
			})
			c.fn(&run{T: t, w: w, d: w.Driver()})
		})
	}
}

// run is one test.
type run struct {
	*testing.T
	w     World
	d     driver.Driver
	boxes int
}

const podID = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func (r *run) ctx() context.Context {
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	r.Cleanup(cancel)
	return ctx
}

func (r *run) ok(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// box makes a sandbox that is destroyed at the end.
func (r *run) box() driver.Sandbox {
	r.Helper()
	return r.boxOf(podID)
}

// next is b for another container, or another sandbox where b takes one only.
func (r *run) next(b driver.Sandbox) driver.Sandbox {
	r.Helper()
	if !r.d.Info().OneEach {
		return b
	}
	r.ok(b.Destroy(r.ctx()))
	r.boxes++
	return r.boxOf(fmt.Sprintf("%s%04x", podID[:60], r.boxes))
}

func (r *run) boxOf(id string) driver.Sandbox {
	r.Helper()
	b, err := r.d.Create(r.ctx(), driver.SandboxSpec{ID: id, RunDir: r.w.RunDir(id), NetNS: r.w.NetNS()})
	r.ok(err)
	r.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := b.Destroy(ctx); err != nil {
			r.Error(err)
		}
	})
	return b
}

// Spec is a small specification for args, with what Docker gives by default.
func Spec(args ...string) *specs.Spec {
	caps := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SYS_CHROOT"}
	return &specs.Spec{
		Version:  specs.Version,
		Hostname: "box",
		Root:     &specs.Root{Path: "rootfs"},
		Process: &specs.Process{
			Args: args, Env: []string{"PATH=/bin:/usr/bin:/sbin"}, Cwd: "/", NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		},
		Linux: &specs.Linux{
			Resources: &specs.LinuxResources{},
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
			},
			MaskedPaths:   []string{"/proc/kcore", "/proc/keys"},
			ReadonlyPaths: []string{"/proc/sys", "/proc/bus"},
		},
	}
}

func sh(script string) *specs.Spec { return Spec("/bin/sh", "-c", script) }

func (r *run) spec(id string, s *specs.Spec) driver.ContainerSpec {
	return driver.ContainerSpec{ID: id, Rootfs: r.w.Rootfs(), OCI: s}
}

// add adds container id, logging.
func (r *run) add(b driver.Sandbox, id string, s *specs.Spec, hio hull.IO) driver.Process {
	r.Helper()
	hio.Log = r.w.Log(id)
	if s.Process.Terminal = hio.TTY; hio.TTY {
		s.Process.ConsoleSize = &specs.Box{Height: uint(hio.Rows), Width: uint(hio.Cols)}
	}
	p, err := b.Add(r.ctx(), r.spec(id, s), hio)
	r.ok(err)
	return p
}

func (r *run) exec(b driver.Sandbox, id, execID string, s *specs.Spec, hio hull.IO) driver.Process {
	r.Helper()
	s.Process.Terminal = hio.TTY
	p, err := b.Exec(r.ctx(), id, driver.ExecSpec{ID: execID, Process: s.Process}, hio)
	r.ok(err)
	return p
}

func (r *run) start(p driver.Process) {
	r.Helper()
	r.ok(p.Start(r.ctx()))
}

func (r *run) wait(p driver.Process) hull.Exit {
	r.Helper()
	x, err := p.Wait(r.ctx())
	r.ok(err)
	return x
}

// exits checks how a process ends.
func (r *run) exits(p driver.Process, code int) {
	r.Helper()
	if x := r.wait(p); x.Code != code {
		r.Errorf("exit code %d, want %d (%+v)", x.Code, code, x)
	} else if x.At.IsZero() || time.Since(x.At) > time.Hour {
		r.Errorf("exited at %v", x.At)
	}
}

// pair makes a connected socket pair: ours, and the end that a driver gets.
func (r *run) pair() (ours, theirs *os.File) {
	r.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	r.ok(err)
	ours, theirs = os.NewFile(uintptr(fds[0]), "client"), os.NewFile(uintptr(fds[1]), "server")
	r.Cleanup(func() { ours.Close(); theirs.Close() })
	r.ok(ours.SetDeadline(time.Now().Add(patience)))
	return ours, theirs
}

// attach connects a client and returns its end.
func (r *run) attach(p driver.Process, a hull.Attach) *os.File {
	r.Helper()
	ours, theirs := r.pair()
	a.Conn = theirs
	r.ok(driver.Attach(r.ctx(), p, a))
	r.ok(theirs.Close())
	return ours
}

func (r *run) readAll(f *os.File) string {
	r.Helper()
	b, err := io.ReadAll(f)
	r.ok(err)
	return string(b)
}

// until reads until the text has come.
func (r *run) until(f *os.File, text string) string {
	r.Helper()
	var got []byte
	buf := make([]byte, 4096)
	for !bytes.Contains(got, []byte(text)) {
		n, err := f.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil {
			r.Fatalf("waiting for %q: %v after %q", text, err, got)
		}
	}
	return string(got)
}

func (r *run) write(f *os.File, text string) {
	r.Helper()
	_, err := f.WriteString(text)
	r.ok(err)
}

// endInput closes the client's write side.
func (r *run) endInput(f *os.File) {
	r.Helper()
	rc, err := f.SyscallConn()
	r.ok(err)
	var e error
	r.ok(rc.Control(func(fd uintptr) { e = syscall.Shutdown(int(fd), syscall.SHUT_WR) }))
	r.ok(e)
}

// can says whether the driver has an ability.
func (r *run) can(ability string) bool {
	return slices.Contains(r.d.Info().Abilities, ability)
}

// demux splits Docker's framed stream.
func (r *run) demux(s string) (out, errs string) {
	r.Helper()
	for len(s) > 0 {
		if len(s) < 8 {
			r.Fatalf("half a header: %q", s)
		}
		n := int(s[4])<<24 | int(s[5])<<16 | int(s[6])<<8 | int(s[7])
		if len(s) < 8+n || s[0] != 1 && s[0] != 2 || s[1]|s[2]|s[3] != 0 {
			r.Fatalf("bad frame: %q", s)
		}
		if s[0] == 1 {
			out += s[8 : 8+n]
		} else {
			errs += s[8 : 8+n]
		}
		s = s[8+n:]
	}
	return out, errs
}

func isExecError(err error, code int) error {
	var x *hull.ExecError
	if !errors.As(err, &x) {
		return fmt.Errorf("got %v, want an ExecError", err)
	}
	if x.Code != code {
		return fmt.Errorf("code %d, want %d (%w)", x.Code, code, err)
	}
	return nil
}

func notFound(what string, err error) error {
	if !errdefs.IsNotFound(err) {
		return fmt.Errorf("%s: %v, want not found", what, err) //nolint:errorlint // the kind is what is wrong
	}
	return nil
}
