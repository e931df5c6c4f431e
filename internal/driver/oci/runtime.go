package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"hull/internal/dns"
	"hull/internal/driver"
	"hull/internal/linux"
	wire "hull/internal/monitor/oci"
)

const (
	// undoLimit bounds the clean-up after a failure.
	undoLimit = 15 * time.Second
	// askLimit is how long a runtime may take to say its version.
	askLimit = 20 * time.Second
	// kvmLimit is how long a sandbox with KVM may take to run nothing. Where KVM does
	// not serve it spins.
	kvmLimit = 8 * time.Second
	// probeNice leaves that sandbox a tenth of what any other process gets.
	probeNice = 10
)

// found is a runtime as it was found.
type found struct {
	path    string
	style   wire.Style
	version string
	mask    bool // needs the v2 controllers of a hybrid host hidden
	err     error
}

// asked remembers a runtime that answered. One that did not is asked again: it may
// have been installed meanwhile.
type asked struct {
	mu sync.Mutex
	f  *found
}

// find asks the runtime what it is.
func (d *Driver) find() found {
	d.asked.mu.Lock()
	defer d.asked.mu.Unlock()
	if d.asked.f != nil {
		return *d.asked.f
	}
	f := ask(d.cfg.Runtime)
	if f.err == nil {
		d.asked.f = &f
	}
	return f
}

// ask runs "RUNTIME --version".
func ask(path string) found {
	f := found{path: path, style: wire.Runc}
	if filepath.Base(path) == filepath.Base(RunscName) { // what is missing has a name, too
		f.style = wire.Runsc
	}
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		f.err = fmt.Errorf("OCI runtime %s is not there; install it, or say where it is (%s): %w", path, hint(f.style), errdefs.ErrNotFound)
		return f
	case err != nil:
		f.err = fmt.Errorf("OCI runtime: %w", err)
		return f
	case !st.Mode().IsRegular() || st.Mode()&0o111 == 0:
		f.err = fmt.Errorf("OCI runtime %s is not an executable file: %w", path, errdefs.ErrInvalidArgument)
		return f
	}
	ctx, cancel := context.WithTimeout(context.Background(), askLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version") //nolint:gosec // the user's own choice of a runtime, by absolute path
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	r, w, err := os.Pipe()
	if err != nil {
		f.err = err
		return f
	}
	defer r.Close()
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	w.Close()
	if err != nil {
		f.err = fmt.Errorf("OCI runtime %s: %w", path, err)
		return f
	}
	_ = r.SetReadDeadline(time.Now().Add(askLimit))
	out := make([]byte, 4096)
	n, _ := io.ReadFull(r, out) // shorter is the rule; what is wrong shows in the text
	r.Close()
	err = cmd.Wait()
	text := strings.TrimSpace(strings.ToValidUTF8(string(out[:n]), "?"))
	first, _, _ := strings.Cut(text, "\n")
	switch {
	case ctx.Err() != nil:
		f.err = fmt.Errorf("OCI runtime %s did not say its version within %v and was killed; is it one?: %w", path, askLimit, errdefs.ErrUnavailable)
	case err != nil && n < len(out): // one that says more is cut short by us
		f.err = fmt.Errorf("OCI runtime %s --version: %w: %q", path, err, first)
	case err != nil || !strings.Contains(first, " version "):
		f.err = fmt.Errorf("%s does not answer --version as an OCI runtime does but with %q; give the path of runc, crun, runsc or the like: %w",
			path, clip(first), errdefs.ErrInvalidArgument)
	}
	f.version = clip(first)
	if strings.HasPrefix(first, "runsc ") {
		f.style = wire.Runsc
	} else {
		f.style = wire.Runc
	}
	f.mask = strings.HasPrefix(first, "crun ")
	return f
}

func hint(s wire.Style) string {
	if s == wire.Runsc {
		return "make install puts runsc beside hulld; hulld --add-runtime runsc=PATH names another"
	}
	return "hulld --add-runtime NAME=PATH"
}

func clip(s string) string {
	if len(s) > 120 {
		return s[:120] + "..."
	}
	return s
}

// RunscName is what gVisor's runtime is called beside hulld.
const RunscName = "runsc"

// global are the arguments before the command.
func (d *Driver) global(f found, s driver.SandboxSpec) []string {
	if f.style != wire.Runsc {
		return d.cfg.Args
	}
	// gVisor's own network stack has a loopback of its own: the name server that a pod
	// has at 127.0.0.11 of its namespace is out of its reach. A pod that has one uses
	// the namespace's stack (ADR 0013).
	network := "sandbox"
	if _, err := os.Lstat(filepath.Join(s.RunDir, dns.ConfigName)); err == nil || s.NetNS == "" {
		network = "host"
	}
	// Cgroups: the sandbox is born in the container's. The overlay is ours: what the
	// container writes goes through to its upper directory, where cp, diff, commit and
	// export look for it; and what cp writes there must be seen inside (shared).
	// Raw sockets and set-user-id programs are as free as in any container.
	args := []string{
		"--platform=" + d.platform(f), "--network=" + network, "--ignore-cgroups", "--overlay2=none", "--file-access=shared",
		"--net-raw", "--allow-suid", "--host-settings=ignore",
	}
	return append(args, d.cfg.Args...)
}

// platformFile keeps the answer to the question whether KVM serves.
const platformFile = "runsc-platform.json"

type platformAnswer struct{ Version, Kernel, Platform string }

// platform is how gVisor gets at system calls: KVM where a sandbox really ran with
// it, else systrap. The first sandbox is not kept waiting for the answer.
func (d *Driver) platform(f found) string {
	if d.cfg.CacheDir == "" || f.err != nil {
		return "systrap"
	}
	if a, ok := d.answer(f); ok {
		return a.Platform
	}
	return "systrap"
}

func (d *Driver) answer(f found) (platformAnswer, bool) {
	var a platformAnswer
	b, err := os.ReadFile(filepath.Join(d.cfg.CacheDir, platformFile))
	if err != nil || json.Unmarshal(b, &a) != nil {
		return a, false
	}
	return a, a.Version == f.version && a.Kernel == kernel() && (a.Platform == "kvm" || a.Platform == "systrap")
}

// probe finds out, once for a kernel and a runsc, beside what else goes on.
func (d *Driver) probe(f found) {
	if d.cfg.CacheDir == "" || f.style != wire.Runsc {
		return
	}
	d.probed.Do(func() {
		if _, ok := d.answer(f); ok {
			return
		}
		d.late.Go(func() {
			a := platformAnswer{Version: f.version, Kernel: kernel(), Platform: "systrap"}
			if _, err := os.Stat("/dev/kvm"); err == nil {
				ctx, cancel := context.WithTimeout(d.life, kvmLimit)
				defer cancel()
				if err := d.tryKVM(ctx, f); err == nil {
					a.Platform = "kvm"
				} else {
					d.cfg.Log.Info("gVisor does not run with KVM here, systrap is used", "error", err)
				}
				if d.life.Err() != nil {
					return
				}
			}
			b, err := json.Marshal(a)
			if err == nil {
				err = linux.WriteFile(filepath.Join(d.cfg.CacheDir, platformFile), b, 0o600, false)
			}
			if err != nil {
				d.cfg.Log.Warn("keep the answer about KVM", "error", err)
			}
		})
	})
}

// tryKVM runs a sandbox with KVM. It happens in a mount namespace of its own, for
// runsc leaves a mount behind.
func (d *Driver) tryKVM(ctx context.Context, f found) error {
	dir, err := os.MkdirTemp(d.cfg.RunDir, "kvm-probe-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	spec, err := wire.ProbeSpec(d.cfg.MonitorPath)
	if err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(dir, "rootfs"), 0o755); err != nil { //nolint:gosec // a root directory is passable
		return err
	}
	if err := linux.WriteFile(filepath.Join(dir, "config.json"), spec, 0o600, false); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, f.path, "--root", filepath.Join(dir, "state"), //nolint:gosec // our own arguments
		"--platform=kvm", "--network=none", "--ignore-cgroups", "--overlay2=none", "run", "--bundle", dir, filepath.Base(dir))
	// runsc takes its sandbox with it when it dies, and dies with this process: the
	// signal is tied to the thread that starts it. Where KVM does not serve it spins until
	// it is killed, while the first sandboxes of this machine start: they go first.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	return linux.InThread(func() error {
		if err := unix.Setpriority(unix.PRIO_PROCESS, 0, probeNice); err != nil {
			return os.NewSyscallError("setpriority", err)
		}
		return cmd.Run()
	})
}

func kernel() string {
	var u syscall.Utsname
	if syscall.Uname(&u) != nil {
		return ""
	}
	var b strings.Builder
	for _, c := range u.Release {
		if c == 0 {
			break
		}
		b.WriteByte(byte(c))
	}
	return b.String()
}
