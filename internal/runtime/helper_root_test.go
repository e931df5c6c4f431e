package runtime

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/require"
)

// rootfs makes a tiny root file system of static busybox.
func rootfs(t testing.TB) string {
	t.Helper()
	require.Root(t)
	src := require.Program(t, "busybox")
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"bin", "etc", "tmp", "root", "proc", "sys", "dev", "home/u"} {
		must(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	must(t, os.Chmod(dir, 0o755))
	b, err := os.ReadFile(src)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "bin/busybox"), b, 0o755))
	for _, a := range strings.Fields("sh true false cat ls id env pwd echo sleep mount mkdir kill touch stty readlink wc ps hostname ln rm test head mknod dd nc umount chroot grep stat") {
		must(t, os.Symlink("busybox", filepath.Join(dir, "bin", a)))
	}
	must(t, os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("root:x:0:0:root:/root:/bin/sh\nu:x:1000:1000:u:/home/u:/bin/sh\n"), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "etc/group"), []byte("root:x:0:\nu:x:1000:\n"), 0o644))
	return dir
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var dockerCaps = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// testSpec is like what Docker makes.
func testSpec(args ...string) *specs.Spec {
	ns := func(t ...specs.LinuxNamespaceType) (out []specs.LinuxNamespace) {
		for _, t := range t {
			out = append(out, specs.LinuxNamespace{Type: t})
		}
		return out
	}
	return &specs.Spec{
		Version: "1.2.0",
		Process: &specs.Process{
			Args: args, Cwd: "/", Env: []string{"PATH=/bin:/usr/bin", "A=b"},
			Capabilities: &specs.LinuxCapabilities{Bounding: dockerCaps, Effective: dockerCaps, Permitted: dockerCaps},
		},
		Root:     &specs.Root{Path: "rootfs"},
		Hostname: "box",
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		},
		Linux: &specs.Linux{
			Namespaces: ns(specs.MountNamespace, specs.PIDNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace),
			MaskedPaths: []string{
				"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
				"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
			},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}

// overlayOf gives a root file system its own layer on lower.
func overlayOf(t testing.TB, lower string) Rootfs {
	t.Helper()
	d := t.TempDir()
	up, work := filepath.Join(d, "upper"), filepath.Join(d, "work")
	must(t, os.Mkdir(up, 0o755))
	must(t, os.Mkdir(work, 0o755))
	return Rootfs{Lower: []string{lower}, Upper: up, Work: work}
}

type result struct {
	out    string
	status syscall.WaitStatus
}

func plan(t testing.TB, s *specs.Spec, o Options) *Plan {
	t.Helper()
	p, err := Prepare(s, o)
	must(t, err)
	b, err := p.MarshalBinary()
	must(t, err)
	q := &Plan{}
	must(t, q.UnmarshalBinary(b)) // as the monitor gets it
	return q
}

// run runs a container to its end.
func run(t testing.TB, s *specs.Spec, root Rootfs, cg Cgroup) result {
	t.Helper()
	r, err := tryRun(t, s, Options{Rootfs: root}, cg)
	must(t, err)
	return r
}

func tryRun(t testing.TB, s *specs.Spec, o Options, cg Cgroup) (res result, err error) {
	t.Helper()
	ctx := context.Background()
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	c, err := Create(ctx, plan(t, s, o), Stdio{Out: w, Err: w}, cg)
	w.Close()
	if err != nil {
		return res, err
	}
	defer func() { must(t, c.Destroy()) }()
	if err := c.Start(ctx); err != nil {
		return res, err
	}
	var b bytes.Buffer
	_, err = io.Copy(&b, r)
	must(t, err)
	ws, err := c.Init().Wait(ctx)
	must(t, err)
	return result{strings.TrimSpace(b.String()), ws}, nil
}

// noLeaks compares mounts, children, threads in namespaces and descriptors
// before and after the test.
func noLeaks(t testing.TB) {
	t.Helper()
	own := filepath.Dir(t.TempDir()) // other processes mount things meanwhile, also in tests
	count := func() (mounts, fds int) {
		b, err := os.ReadFile("/proc/self/mountinfo")
		must(t, err)
		d, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return bytes.Count(b, []byte(own+"/")), len(d)
	}
	// The poller's own descriptors appear with the first pipe.
	r, w, err := os.Pipe()
	must(t, err)
	r.Close()
	w.Close()
	m0, f0 := count()
	t.Cleanup(func() {
		m1, f1 := count()
		if m0 != m1 || f0 != f1 {
			t.Errorf("leak: mounts %d, then %d; descriptors %d, then %d", m0, m1, f0, f1)
		}
		if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); err != syscall.ECHILD {
			t.Errorf("leak: a child is left: %d, %v", pid, err)
		}
	})
}

// start makes a container that stays until the end of the test.
func start(t testing.TB, s *specs.Spec, o Options) *Container {
	t.Helper()
	ctx := context.Background()
	c, err := Create(ctx, plan(t, s, o), Stdio{}, Cgroup{})
	must(t, err)
	t.Cleanup(func() { must(t, c.Destroy()) })
	must(t, c.Start(ctx))
	return c
}

// execIn runs another process to its end.
func execIn(t testing.TB, c *Container, s *specs.Spec, p *specs.Process, privileged bool) (result, error) {
	t.Helper()
	ctx := context.Background()
	x, err := PrepareExec(s, p, privileged)
	must(t, err)
	b, err := x.MarshalBinary()
	must(t, err)
	y := &ExecPlan{}
	must(t, y.UnmarshalBinary(b))
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	pr, err := c.Exec(ctx, y, Stdio{Out: w, Err: w}, Cgroup{})
	w.Close()
	if err != nil {
		return result{}, err
	}
	defer func() { must(t, pr.Close()) }()
	if err := pr.Start(ctx); err != nil {
		return result{}, err
	}
	var out bytes.Buffer
	_, err = io.Copy(&out, r)
	must(t, err)
	ws, err := pr.Wait(ctx)
	must(t, err)
	return result{strings.TrimSpace(out.String()), ws}, nil
}

// exitCode is what a shell would say for a wait status.
func exitCode(ws syscall.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}
