package runtime

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// sh runs a shell line in a container like Docker's.
func sh(t testing.TB, line string, edit ...func(*specs.Spec)) result {
	t.Helper()
	s := testSpec("sh", "-c", line)
	for _, e := range edit {
		e(s)
	}
	return run(t, s, overlayOf(t, rootfs(t)), Cgroup{})
}

func want(t testing.TB, r result, out string) {
	t.Helper()
	if r.out != out || exitCode(r.status) != 0 {
		t.Errorf("exit code %d, output:\n%s\nwant:\n%s", exitCode(r.status), r.out, out)
	}
}

func TestBasics(t *testing.T) {
	noLeaks(t)
	want(t, sh(t, "echo hello; echo $$; hostname; pwd; echo $A; echo $HOME; id -u; umask"), "hello\n1\nbox\n/\nb\n/root\n0\n0022")
}

func TestExitCodes(t *testing.T) {
	noLeaks(t)
	for line, code := range map[string]int{"exit 0": 0, "exit 7": 7, "exit 255": 255} {
		if r := sh(t, line); exitCode(r.status) != code {
			t.Errorf("%q: %d", line, exitCode(r.status))
		}
	}
	ctx := context.Background()
	c := start(t, testSpec("sleep", "60"), Options{Rootfs: overlayOf(t, rootfs(t))})
	must(t, c.Init().Signal(syscall.SIGKILL))
	ws, err := c.Init().Wait(ctx)
	if err != nil || exitCode(ws) != 137 {
		t.Errorf("killed: %v %d", err, exitCode(ws))
	}
	if err := c.Init().Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signal to a dead process: %v", err)
	}
	if _, err := execIn(t, c, testSpec("true"), &specs.Process{Args: []string{"true"}}, false); !errdefs.IsNotFound(err) {
		t.Errorf("exec in a dead container: %v", err)
	}
}

// TestOwnNamespaces: no namespace is the host's.
func TestOwnNamespaces(t *testing.T) {
	noLeaks(t)
	r := sh(t, "for n in mnt pid net ipc uts cgroup; do readlink /proc/self/ns/$n; done")
	for _, l := range strings.Split(r.out, "\n") {
		kind, _, _ := strings.Cut(l, ":")
		host, err := os.Readlink("/proc/self/ns/" + kind)
		must(t, err)
		if l == host || l == "" {
			t.Errorf("%s is the host's: %s", kind, l)
		}
	}
	s := testSpec("readlink", "/proc/self/ns/net")
	s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}}
	s.Hostname = ""
	host, err := os.Readlink("/proc/self/ns/net")
	must(t, err)
	want(t, run(t, s, overlayOf(t, rootfs(t)), Cgroup{}), host)
}

func TestHostPIDNamespace(t *testing.T) {
	noLeaks(t)
	s := testSpec("readlink", "/proc/self/ns/pid")
	s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	s.Hostname = ""
	host, err := os.Readlink("/proc/self/ns/pid")
	must(t, err)
	want(t, run(t, s, overlayOf(t, rootfs(t)), Cgroup{}), host)
}

// TestJoinNamespaces: a second container in the first one's pid, network and ipc
// namespaces.
func TestJoinNamespaces(t *testing.T) {
	noLeaks(t)
	lower := rootfs(t)
	c := start(t, testSpec("sleep", "60"), Options{Rootfs: overlayOf(t, lower)})
	s := testSpec("sh", "-c", "readlink /proc/self/ns/net; ps | grep -c 'sleep 6[0]'")
	for i, n := range s.Linux.Namespaces {
		switch n.Type {
		case specs.NetworkNamespace, specs.IPCNamespace, specs.PIDNamespace:
			kind := map[specs.LinuxNamespaceType]string{"network": "net", "ipc": "ipc", "pid": "pid"}[n.Type]
			s.Linux.Namespaces[i].Path = "/proc/" + itoa(c.Init().Pid()) + "/ns/" + kind
		}
	}
	net, err := os.Readlink("/proc/" + itoa(c.Init().Pid()) + "/ns/net")
	must(t, err)
	want(t, run(t, s, overlayOf(t, lower), Cgroup{}), net+"\n1")
}

// TestForeignBind: what another container has mounted is the same mount here.
func TestForeignBind(t *testing.T) {
	noLeaks(t)
	lower := rootfs(t)
	donor := testSpec("sh", "-c", "ln -s /dev/shm /dev/link; echo theirs > /dev/shm/f; sleep 60")
	c := start(t, donor, Options{Rootfs: overlayOf(t, lower)})
	root := "/proc/" + itoa(c.Init().Pid()) + "/root"
	for i := 0; ; i++ {
		if b, err := os.ReadFile(root + "/dev/shm/f"); err == nil && len(b) > 0 {
			break
		}
		if i > 1000 {
			t.Fatal("the donor has written nothing")
		}
		time.Sleep(10 * time.Millisecond)
	}
	join := func(src string) (result, error) {
		s := testSpec("sh", "-c", "cat /dev/shm/f; touch /dev/shm/g")
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/dev/shm", Type: "bind", Source: src, Options: []string{"bind", "private", "nosuid"}})
		return tryRun(t, s, Options{Rootfs: overlayOf(t, lower)}, Cgroup{})
	}
	for _, src := range []string{"/dev/shm", "/dev/link"} { // a link is the donor's, and stays in there
		r, err := join(root + src)
		must(t, err)
		want(t, r, "theirs")
		if _, err := os.Stat(root + "/dev/shm/g"); err != nil {
			t.Errorf("written through %s: %v", src, err)
		}
		must(t, os.Remove(root+"/dev/shm/g"))
	}
	if _, err := join(root + "/dev/none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing source: %v", err)
	}
}

func itoa(n int) string { return string(appendInt(nil, n)) }

func appendInt(b []byte, n int) []byte {
	if n >= 10 {
		b = appendInt(b, n/10)
	}
	return append(b, byte('0'+n%10))
}

func TestCapabilities(t *testing.T) {
	noLeaks(t)
	want(t, sh(t, "grep Cap /proc/self/status"),
		"CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000")
	// As another user nothing is effective, the bounding set stays.
	want(t, sh(t, "grep -E 'Cap(Inh|Eff|Bnd)' /proc/self/status", func(s *specs.Spec) { s.Process.User = specs.User{UID: 1000, GID: 1000} }),
		"CapInh:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t00000000a80425fb")
	want(t, sh(t, "grep -E 'Cap(Inh|Eff|Amb)' /proc/self/status", func(s *specs.Spec) {
		s.Process.User = specs.User{UID: 1000}
		s.Process.Capabilities.Inheritable = []string{"CAP_NET_RAW"}
		s.Process.Capabilities.Ambient = []string{"CAP_NET_RAW"}
	}), "CapInh:\t0000000000002000\nCapEff:\t0000000000002000\nCapAmb:\t0000000000002000")
}

func TestUsers(t *testing.T) {
	noLeaks(t)
	want(t, sh(t, "id; echo $HOME; touch /tmp/x 2>/dev/null || echo denied; echo ok > /dev/stdout", func(s *specs.Spec) {
		s.Process.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{1000, 7, 8}}
	}), "uid=1000(u) gid=1000(u) groups=7,8,1000(u)\n/home/u\ndenied\nok")
	// No entry in passwd.
	want(t, sh(t, "id -u; echo $HOME", func(s *specs.Spec) { s.Process.User = specs.User{UID: 4242} }), "4242\n/")
}

func TestSeccomp(t *testing.T) {
	noLeaks(t)
	for _, nnp := range []bool{false, true} {
		with := func(s *specs.Spec) { s.Linux.Seccomp, s.Process.NoNewPrivileges = defaultProfile(t), nnp }
		n := "0"
		if nnp {
			n = "1"
		}
		want(t, sh(t, "grep -E 'NoNewPrivs|Seccomp:' /proc/self/status; busybox unshare -m true 2>&1 | grep -o 'Operation not permitted'", with),
			"NoNewPrivs:\t"+n+"\nSeccomp:\t2\nOperation not permitted")
	}
	r := sh(t, "mkdir /tmp/x; echo alive", func(s *specs.Spec) {
		s.Linux.Seccomp = &specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow,
			Syscalls:      []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActKillProcess}},
		}
	})
	if !strings.Contains(r.out, "alive") || !strings.Contains(r.out, "Bad system call") {
		t.Errorf("killing rule: %q", r.out)
	}
}

func TestRlimits(t *testing.T) {
	noLeaks(t)
	want(t, sh(t, "ulimit -Sn; ulimit -n 2000 && ulimit -Hn", func(s *specs.Spec) {
		s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 512, Hard: 2048}}
	}), "512\n2000")
	// More than this host may give: clamped, not refused.
	want(t, sh(t, "echo ok", func(s *specs.Spec) {
		s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1 << 19, Hard: 1 << 20}}
		low := -999
		s.Process.OOMScoreAdj = &low
	}), "ok")
	want(t, sh(t, "ulimit -Sn; cat /proc/self/oom_score_adj", func(s *specs.Spec) {
		n := 500
		s.Process.OOMScoreAdj = &n
	}), "1024\n500")
}

func TestReadOnlyRoot(t *testing.T) {
	noLeaks(t)
	want(t, sh(t, "touch /x 2>/dev/null || echo ro; echo y > /dev/shm/y && echo rw; echo z > /dev/null && echo null", func(s *specs.Spec) { s.Root.Readonly = true }), "ro\nrw\nnull")
}

func TestMaskedAndReadOnlyPaths(t *testing.T) {
	noLeaks(t)
	want(t, sh(t, "wc -c < /proc/keys; ls /proc/acpi /sys/firmware; (echo 1 > /proc/sys/kernel/hostname) 2>&1 | grep -o Read-only"),
		"0\n/proc/acpi:\n\n/sys/firmware:\nRead-only")
}

// TestOnlyThreeDescriptors: nothing of the host leaks into the workload.
func TestOnlyThreeDescriptors(t *testing.T) {
	noLeaks(t)
	f, err := os.Open("/")
	must(t, err)
	defer f.Close()
	// One that is not close-on-exec, as a careless library leaves behind.
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD, 3)
	must(t, err)
	defer unix.Close(fd)
	want(t, sh(t, "ls /proc/$$/fd; echo"), "0\n1\n2")
	s := testSpec("sleep", "60")
	c := start(t, s, Options{Rootfs: overlayOf(t, rootfs(t))})
	r, err := execIn(t, c, s, &specs.Process{Args: []string{"sh", "-c", "ls /proc/$$/fd; ls /proc/1/fd; echo"}}, false)
	must(t, err)
	want(t, r, "0\n1\n2\n0\n1\n2")
}

func TestMissingExecutable(t *testing.T) {
	noLeaks(t)
	root := rootfs(t)
	must(t, os.WriteFile(filepath.Join(root, "bin/garbage"), []byte("garbage"), 0o755))
	must(t, os.WriteFile(filepath.Join(root, "bin/plain"), []byte("#!/bin/sh\n"), 0o644))
	must(t, os.WriteFile(filepath.Join(root, "bin/nointerp"), []byte("#!/no/such\n"), 0o755))
	for _, x := range []struct {
		arg, msg string
		code     int
	}{
		{"foo", `exec: "foo": executable file not found in $PATH`, 127},
		{"/foo", `exec: "/foo": stat /foo: no such file or directory`, 127},
		{"/bin", `exec: "/bin": is a directory`, 126},
		{"plain", `exec: "plain": permission denied`, 126},
		{"/bin/plain", `exec: "/bin/plain": permission denied`, 126},
		{"garbage", `exec garbage: exec format error`, 126},
		{"/bin/nointerp", `exec /bin/nointerp: no such file or directory`, 127},
		{"/proc/self/exe", `exec: "/proc/self/exe": stat /proc/self/exe: no such file or directory`, 127},
	} {
		_, err := tryRun(t, testSpec(x.arg), Options{Rootfs: overlayOf(t, root)}, Cgroup{})
		var e *ExecError
		if !errors.As(err, &e) || e.Error() != x.msg || e.Code() != x.code {
			t.Errorf("%s: %v", x.arg, err)
		}
	}
}

func TestExec(t *testing.T) {
	noLeaks(t)
	s := testSpec("sleep", "60")
	s.Linux.Seccomp = defaultProfile(t)
	c := start(t, s, Options{Rootfs: overlayOf(t, rootfs(t))})
	r, err := execIn(t, c, s, &specs.Process{
		Args: []string{"sh", "-c", "hostname; id -u; pwd; echo $X; grep -E 'CapInh|CapEff|Seccomp:' /proc/self/status; ps | grep -c sleep; readlink /proc/self/ns/cgroup > /tmp/me; readlink /proc/1/ns/cgroup > /tmp/init; cmp /tmp/me /tmp/init && echo same"},
		Env:  []string{"PATH=/bin", "X=y"}, Cwd: "/tmp",
	}, false)
	must(t, err)
	if !strings.HasPrefix(r.out, "box\n0\n/tmp\ny\nCapInh:\t0000000000000000\nCapEff:\t00000000a80425fb\nSeccomp:\t2\n") {
		t.Errorf("%s", r.out)
	}
	r, err = execIn(t, c, s, &specs.Process{Args: []string{"sh", "-c", "grep -E 'Seccomp:' /proc/self/status; mount -t tmpfs x /tmp && echo mounted"}}, true)
	must(t, err)
	want(t, r, "Seccomp:\t0\nmounted")
	_, err = execIn(t, c, s, &specs.Process{Args: []string{"nope"}}, false)
	var e *ExecError
	if !errors.As(err, &e) || e.Code() != 127 {
		t.Errorf("missing executable: %v", err)
	}
	r, err = execIn(t, c, s, &specs.Process{Args: []string{"sh", "-c", "kill -9 $$"}}, false)
	must(t, err)
	if exitCode(r.status) != 137 {
		t.Errorf("killed: %d", exitCode(r.status))
	}
}

// TestCwdOutside: a working directory behind a descriptor of the host
// (CVE-2024-21626).
func TestCwdOutside(t *testing.T) {
	noLeaks(t)
	f, err := os.Open("/")
	must(t, err)
	defer f.Close()
	root := rootfs(t)
	s := testSpec("sleep", "60")
	c := start(t, s, Options{Rootfs: overlayOf(t, root)})
	for n := 3; n < 40; n++ {
		cwd := "/proc/self/fd/" + itoa(n)
		line := []string{"sh", "-c", "pwd; ls ../../../etc/hostname"}
		x := testSpec(line...)
		x.Process.Cwd = cwd
		if r, err := tryRun(t, x, Options{Rootfs: overlayOf(t, root)}, Cgroup{}); err == nil {
			t.Errorf("cwd %s: started: %q", cwd, r.out)
		}
		if r, err := execIn(t, c, s, &specs.Process{Args: line, Cwd: cwd}, false); err == nil {
			t.Errorf("exec with cwd %s: started: %q", cwd, r.out)
		}
	}
}

func TestCwd(t *testing.T) {
	noLeaks(t)
	want(t, sh(t, "pwd", func(s *specs.Spec) { s.Process.Cwd = "/made/up" }), "/made/up")
	root := rootfs(t)
	must(t, os.Mkdir(filepath.Join(root, "closed"), 0o700))
	must(t, os.Chown(filepath.Join(root, "closed"), 1000, 1000))
	s := testSpec("pwd")
	s.Process.Cwd, s.Process.User = "/closed", specs.User{UID: 1000, GID: 1000}
	s.Process.Capabilities = &specs.LinuxCapabilities{}
	want(t, run(t, s, overlayOf(t, root), Cgroup{}), "/closed")
}

func TestTTY(t *testing.T) {
	noLeaks(t)
	ctx := context.Background()
	s := testSpec("sh", "-c", "test -t 0 && test -t 1 && test -t 2 && echo tty; stty size; ls -l /dev/console | cut -c1-10; readlink /proc/self/fd/0; read x; echo got $x; stty size; exit 3")
	s.Process.Terminal = true
	s.Process.User = specs.User{UID: 1000, GID: 1000}
	c, err := Create(ctx, plan(t, s, Options{Rootfs: overlayOf(t, rootfs(t))}), Stdio{Rows: 33, Cols: 101}, Cgroup{})
	must(t, err)
	defer func() { must(t, c.Destroy()) }()
	must(t, c.Start(ctx))
	con := bufio.NewReader(c.Init().Console())
	line := func() string {
		l, err := con.ReadString('\n')
		must(t, err)
		return strings.TrimRight(l, "\r\n")
	}
	for _, w := range []string{"tty", "33 101", "crw--w----", "/dev/pts/0"} {
		if got := line(); got != w {
			t.Errorf("%q, want %q", got, w)
		}
	}
	must(t, c.Init().Resize(40, 80))
	_, err = c.Init().Console().WriteString("word\n")
	must(t, err)
	for _, w := range []string{"word", "got word", "40 80"} {
		if got := line(); got != w {
			t.Errorf("%q, want %q", got, w)
		}
	}
	ws, err := c.Init().Wait(ctx)
	if err != nil || exitCode(ws) != 3 {
		t.Errorf("%v %d", err, exitCode(ws))
	}
}

func TestExecTTY(t *testing.T) {
	noLeaks(t)
	ctx := context.Background()
	s := testSpec("sleep", "60")
	c := start(t, s, Options{Rootfs: overlayOf(t, rootfs(t))})
	x, err := PrepareExec(s, &specs.Process{Args: []string{"sh", "-c", "stty size; tty; sleep 60"}, Terminal: true}, false)
	must(t, err)
	p, err := c.Exec(ctx, x, Stdio{Rows: 5, Cols: 6}, Cgroup{})
	must(t, err)
	defer func() { must(t, p.Close()) }()
	must(t, p.Start(ctx))
	con := bufio.NewReader(p.Console())
	for _, w := range []string{"5 6\r\n", "/dev/pts/0\r\n"} {
		if got, err := con.ReadString('\n'); err != nil || got != w {
			t.Errorf("%q, %v, want %q", got, err, w)
		}
	}
	// Control-C reaches the foreground process: the terminal is its own.
	_, err = p.Console().Write([]byte{3})
	must(t, err)
	ws, err := p.Wait(ctx)
	if err != nil || exitCode(ws) != 130 {
		t.Errorf("%v %d", err, exitCode(ws))
	}
}

// TestInit: a reaping process 1 in front of the workload.
func TestInit(t *testing.T) {
	noLeaks(t)
	ctx := context.Background()
	root := rootfs(t)
	r, err := tryRun(t, testSpec("sh", "-c", "echo $$; (sleep 0.05; exit 3) & exit 5"), Options{Rootfs: overlayOf(t, root), Init: true}, Cgroup{})
	must(t, err)
	if r.out != "2" || exitCode(r.status) != 5 {
		t.Errorf("%q %d", r.out, exitCode(r.status))
	}
	// It goes by Docker's name for it.
	r, err = tryRun(t, testSpec("sh", "-c", "cat /proc/1/comm; tr '\\0' ' ' < /proc/1/cmdline; ps -o args | grep -c '^docker-ini[t]'"), Options{Rootfs: overlayOf(t, root), Init: true}, Cgroup{})
	must(t, err)
	if f := strings.Fields(r.out); len(f) != 3 || f[0] != "docker-init" || f[1] != "docker-init" || f[2] != "1" {
		t.Errorf("name: %q", r.out)
	}
	// Orphans are reaped.
	s := testSpec("sh", "-c", "sh -c 'sleep 0.01 & sleep 0.02 &'; i=0; while sleep 0.1; n=$(grep -l '^State:.Z' /proc/[0-9]*/status | wc -l); [ $n != 0 ] && [ $i -lt 600 ]; do i=$((i+1)); done; echo $n")
	r, err = tryRun(t, s, Options{Rootfs: overlayOf(t, root), Init: true}, Cgroup{})
	must(t, err)
	if r.out != "0" {
		t.Errorf("zombies: %q", r.out)
	}
	// A signal is handed on, and one that kills the workload is the exit code.
	c := start(t, testSpec("sleep", "60"), Options{Rootfs: overlayOf(t, root), Init: true})
	must(t, c.Init().Signal(syscall.SIGTERM))
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	ws, err := c.Init().Wait(ctx)
	if err != nil || exitCode(ws) != 143 {
		t.Errorf("%v %d", err, exitCode(ws))
	}
}

func TestSysctls(t *testing.T) {
	noLeaks(t)
	want(t, sh(t, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced /proc/sys/fs/mqueue/msg_max", func(s *specs.Spec) {
		s.Linux.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "0", "kernel.shm_rmid_forced": "1", "fs.mqueue.msg_max": "20"}
	}), "0\n1\n20")
}

func TestBinds(t *testing.T) {
	noLeaks(t)
	host := t.TempDir()
	must(t, os.WriteFile(filepath.Join(host, "f"), []byte("data"), 0o644))
	must(t, os.Mkdir(filepath.Join(host, "sub"), 0o755))
	bind := func(dst, src string, opt ...string) func(*specs.Spec) {
		return func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: dst, Source: src, Type: "bind", Options: append([]string{"rbind", "rprivate"}, opt...)})
		}
	}
	want(t, sh(t, "cat /vol/f; echo x > /vol/new; cat /made/up/file; touch /ro/y 2>&1 | grep -o Read-only; (echo no > /rof) 2>/dev/null || echo denied",
		bind("/vol", host), bind("/made/up/file", filepath.Join(host, "f")), bind("/ro", host, "ro"), bind("/rof", filepath.Join(host, "f"), "rro")), "datadataRead-only\ndenied")
	if b, err := os.ReadFile(filepath.Join(host, "new")); err != nil || string(b) != "x\n" {
		t.Errorf("written through the bind: %q %v", b, err)
	}
	_, err := tryRun(t, func() *specs.Spec { s := testSpec("true"); bind("/vol", "/no/such")(s); return s }(), Options{Rootfs: overlayOf(t, rootfs(t))}, Cgroup{})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing source: %v", err)
	}
}

// TestSymlinkTargets: mount targets that the image made links to the outside stay
// inside.
func TestSymlinkTargets(t *testing.T) {
	noLeaks(t)
	canary := t.TempDir()
	must(t, os.WriteFile(filepath.Join(canary, "c"), []byte("canary"), 0o644))
	root := rootfs(t)
	for name, to := range map[string]string{"abs": canary, "up": "../../../../../../.." + canary, "file": canary + "/c", "deep": canary + "/new"} {
		must(t, os.Symlink(to, filepath.Join(root, name)))
	}
	must(t, os.WriteFile(filepath.Join(t.TempDir(), "x"), nil, 0o644))
	src := t.TempDir()
	must(t, os.WriteFile(filepath.Join(src, "f"), []byte("vol"), 0o644))
	s := testSpec("sh", "-c", "cat /abs/f /up/f /deep/f; cat /file")
	for _, d := range []string{"/abs", "/up", "/deep/x/..", "/deep"} {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: d, Source: src, Type: "bind", Options: []string{"bind"}})
	}
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/file", Source: src + "/f", Type: "bind", Options: []string{"bind"}})
	r, err := tryRun(t, s, Options{Rootfs: overlayOf(t, root)}, Cgroup{})
	if err == nil && !strings.HasPrefix(r.out, "volvol") {
		t.Errorf("%q", r.out)
	}
	b, err := os.ReadFile(filepath.Join(canary, "c"))
	d, _ := os.ReadDir(canary)
	if err != nil || string(b) != "canary" || len(d) != 1 {
		t.Errorf("the host was touched: %q %v %v", b, d, err)
	}
}

// TestFakeProc: what masks and sysctls rely on cannot be replaced
// (CVE-2019-16884, CVE-2019-19921, CVE-2023-28642).
func TestFakeProc(t *testing.T) {
	noLeaks(t)
	fake := t.TempDir()
	must(t, os.Mkdir(filepath.Join(fake, "sys"), 0o755))
	for name, edit := range map[string]func(s *specs.Spec, root string){
		"bind on /proc": func(s *specs.Spec, _ string) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/proc", Source: fake, Type: "bind", Options: []string{"bind"}})
		},
		"bind in /proc": func(s *specs.Spec, _ string) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/proc/sys", Source: fake, Type: "bind", Options: []string{"bind"}})
		},
		"tmpfs in /proc": func(s *specs.Spec, _ string) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/proc/sys", Source: "tmpfs", Type: "tmpfs"})
		},
		"proc is a link": func(_ *specs.Spec, root string) {
			must(t, os.Remove(filepath.Join(root, "proc")))
			must(t, os.Symlink("tmp", filepath.Join(root, "proc")))
		},
		"sys is a link": func(_ *specs.Spec, root string) {
			must(t, os.Remove(filepath.Join(root, "sys")))
			must(t, os.Symlink("tmp", filepath.Join(root, "sys")))
		},
	} {
		s := testSpec("true")
		root := rootfs(t)
		edit(s, root)
		if _, err := tryRun(t, s, Options{Rootfs: overlayOf(t, root)}, Cgroup{}); err == nil {
			t.Errorf("%s: started", name)
		}
	}
}

// TestExeOfHost: a script whose interpreter is /proc/self/exe (CVE-2019-5736) ends
// nowhere near a writable file of the host.
func TestExeOfHost(t *testing.T) {
	noLeaks(t)
	root := rootfs(t)
	must(t, os.WriteFile(filepath.Join(root, "bin/evil"), []byte("#!/proc/self/exe\n"), 0o755))
	must(t, os.Symlink("/proc/self/exe", filepath.Join(root, "bin/link")))
	self, err := os.ReadFile("/proc/self/exe")
	must(t, err)
	_, err = tryRun(t, testSpec("link"), Options{Rootfs: overlayOf(t, root)}, Cgroup{})
	var e *ExecError
	if !errors.As(err, &e) {
		t.Errorf("link to /proc/self/exe: %v", err)
	}
	again, err := os.ReadFile("/proc/self/exe")
	if err != nil || !bytes.Equal(self, again) {
		t.Error("our executable has changed")
	}
}

// TestDiesWithParent is what makes a killed monitor take its pod along; here the
// thread's end stands for it.
func TestDiesWithParent(t *testing.T) {
	noLeaks(t)
	ctx := context.Background()
	c, err := Create(ctx, plan(t, testSpec("sleep", "60"), Options{Rootfs: overlayOf(t, rootfs(t))}), Stdio{}, Cgroup{})
	must(t, err)
	must(t, c.Start(ctx))
	c.t.end()
	ws, err := c.Init().Wait(ctx)
	if err != nil || !ws.Signaled() {
		t.Errorf("%v %v", err, ws)
	}
	c.t = startThread()
	must(t, c.Destroy())
	must(t, c.Destroy())
}

func TestNeverStarted(t *testing.T) {
	noLeaks(t)
	c, err := Create(context.Background(), plan(t, testSpec("true"), Options{Rootfs: overlayOf(t, rootfs(t))}), Stdio{}, Cgroup{})
	must(t, err)
	must(t, c.Destroy())
	if err := c.Start(context.Background()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("start after destroy: %v", err)
	}
}

func TestPrivileged(t *testing.T) {
	noLeaks(t)
	s := testSpec("sh", "-c", "mount -t tmpfs x /tmp && echo mounted; grep CapEff /proc/self/status; echo box2 > /proc/sys/kernel/hostname && hostname")
	var all []string
	for _, n := range capNames {
		all = append(all, "CAP_"+n)
	}
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
	s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
	have, err := hostCaps()
	must(t, err)
	p, err := Prepare(s, Options{Rootfs: Rootfs{Dir: "/"}})
	must(t, err)
	if have&(1<<24) == 0 && len(p.Warnings) == 0 {
		t.Error("no warning about CAP_SYS_RESOURCE, which this host lacks")
	}
	r := run(t, s, overlayOf(t, rootfs(t)), Cgroup{})
	if !strings.HasPrefix(r.out, "mounted\n") || !strings.HasSuffix(r.out, "box2") {
		t.Errorf("%q", r.out)
	}
}

func TestDirRootfs(t *testing.T) {
	noLeaks(t)
	root := rootfs(t)
	s := testSpec("sh", "-c", "echo x > /made && cat /made")
	want(t, run(t, s, Rootfs{Dir: root}, Cgroup{}), "x")
	if _, err := os.Stat(filepath.Join(root, "made")); err != nil {
		t.Error(err)
	}
}

// TestBlockingStreams: Go's own pipes are non-blocking; a workload's are not. Much
// output also shows that a full pipe makes it wait.
func TestBlockingStreams(t *testing.T) {
	noLeaks(t)
	r := sh(t, "busybox yes 0123456789 | head -n 50000; grep flags /proc/self/fdinfo/1")
	lines := strings.Split(r.out, "\n")
	flags, err := strconv.ParseInt(strings.TrimSpace(strings.TrimPrefix(lines[len(lines)-1], "flags:")), 8, 64)
	if err != nil || flags&unix.O_NONBLOCK != 0 || len(lines) != 50001 {
		t.Errorf("%d lines, %q, %v", len(lines), lines[len(lines)-1], err)
	}
}

func TestTmpfsCopyUp(t *testing.T) {
	noLeaks(t)
	root := rootfs(t)
	must(t, os.Mkdir(filepath.Join(root, "data"), 0o750))
	must(t, os.Chown(filepath.Join(root, "data"), 1000, 1000))
	must(t, os.WriteFile(filepath.Join(root, "data/f"), []byte("content"), 0o640))
	must(t, os.Symlink("/etc/passwd", filepath.Join(root, "data/link")))
	must(t, os.MkdirAll(filepath.Join(root, "data/d/e"), 0o711))
	s := testSpec("sh", "-c", "cat /data/f; echo; stat -c %a /data /data/f /data/d/e; readlink /data/link; stat -f -c %T /data; touch /data/x 2>&1 | grep -o Read-only")
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/data", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup", "ro"}})
	want(t, run(t, s, overlayOf(t, root), Cgroup{}), "content\n750\n640\n711\n/etc/passwd\ntmpfs\nRead-only")
}

// TestKilledWhileSetUp: the death of a new process is an error, not a wait for ever.
func TestKilledWhileSetUp(t *testing.T) {
	noLeaks(t)
	conn, err := newControl()
	must(t, err)
	defer conn.close()
	prog := newProgram(conn.child)
	prog.do("stop", unix.SYS_EXIT_GROUP, 9)
	c := &Container{plan: &Plan{}, t: startThread()}
	var p *Process
	must(t, c.t.do(func() (err error) {
		p, err = c.fork(prog, conn, 0, &cgroupFiles{})
		return err
	}))
	if _, err := conn.expect(prog, stepHello); err == nil {
		t.Error("no error")
	}
	must(t, p.Close())
	c.t.end()
}
