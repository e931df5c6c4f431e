package oci

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/linux"
	"hull/internal/require"
)

func TestRootLifeCycle(t *testing.T) {
	require.Root(t)
	b := newBundle(t, "sleep", "600")
	b.save()
	b.fails("container does not exist", "state", b.id)
	b.ok("create", "--pid-file", filepath.Join(b.dir, "pid"), b.id)
	if s := b.status(); s != "created" {
		t.Errorf("after create: %s", s)
	}
	b.fails("container with given ID already exists", "create", b.id)
	b.ok("start", b.id)
	if s := b.status(); s != "running" {
		t.Errorf("after start: %s", s)
	}
	b.fails("cannot start an already running container", "start", b.id)
	b.fails("that is not stopped: running", "delete", b.id)

	var st struct {
		OCIVersion, ID, Status, Bundle, Rootfs, Owner string
		Pid                                           int
		Created                                       time.Time
	}
	if err := json.Unmarshal([]byte(b.ok("state", b.id)), &st); err != nil {
		t.Fatal(err)
	}
	pid, err := os.ReadFile(filepath.Join(b.dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	if st.ID != b.id || st.Bundle != b.dir || st.Rootfs != b.dir+"/rootfs" || strconv.Itoa(st.Pid) != string(pid) || st.OCIVersion == "" || st.Created.IsZero() {
		t.Errorf("state: %+v, pid file %s", st, pid)
	}
	if out := b.ok("list"); !strings.HasPrefix(out, "ID ") || !strings.Contains(out, b.id) || !strings.Contains(out, "running") {
		t.Errorf("list: %s", out)
	}
	if out := b.ok("ps", "-f", "json", b.id); strings.TrimSpace(out) != "["+string(pid)+"]" {
		t.Errorf("ps: %s", out)
	}
	if out := b.ok("ps", b.id); !strings.Contains(out, "sleep 600") || !strings.Contains(out, "PID") {
		t.Errorf("ps: %s", out)
	}
	b.fails("unknown signal", "kill", b.id, "NOSUCH")
	b.ok("kill", b.id, "KILL")
	b.becomes("stopped")
	b.fails("container not running", "kill", b.id, "TERM")
	b.fails("cannot start a container that has stopped", "start", b.id)
	b.ok("delete", b.id)
	b.fails("container does not exist", "delete", b.id)
	b.ok("delete", "--force", b.id)
}

// A container that nobody has started ends when it is asked to.
func TestRootCreatedIsMortal(t *testing.T) {
	require.Root(t)
	b := newBundle(t, "sleep", "600")
	b.save()
	b.ok("create", b.id)
	b.ok("kill", b.id, "TERM")
	b.becomes("stopped")
	b.ok("delete", b.id)
}

func TestRootExitCodes(t *testing.T) {
	require.Root(t)
	b := newBundle(t)
	script := filepath.Join(b.dir, "rootfs/noshell")
	if err := os.WriteFile(script, []byte("#!/no/such/shell\n"), 0o755); err != nil { //nolint:gosec,forbidigo // a program
		t.Fatal(err)
	}
	for _, c := range []struct {
		args   []string
		code   int
		stdout string
		stderr string
	}{
		{[]string{"echo", "hi"}, 0, "hi\n", ""},
		{[]string{"sh", "-c", "echo out; echo err >&2; exit 42"}, 42, "out\n", "err\n"},
		{[]string{"sh", "-c", "sh -c 'kill -9 $$'; exit $?"}, 128 + 9, "", ""},
		{[]string{"nosuchprogram"}, 1, "", `exec: \"nosuchprogram\": executable file not found in $PATH`},
		{[]string{"/etc"}, 1, "", `exec: \"/etc\": is a directory`},
		{[]string{"/etc/passwd"}, 1, "", `exec: \"/etc/passwd\": permission denied`},
		{[]string{"/noshell"}, 255, "", "exec /noshell: no such file or directory\n"},
	} {
		b.spec.Process.Args = c.args
		r := b.run()
		if r.code != c.code || r.stdout != c.stdout || !strings.Contains(r.stderr, c.stderr) {
			t.Errorf("%v: exit code %d, %q, %q; want %d, %q, %q", c.args, r.code, r.stdout, r.stderr, c.code, c.stdout, c.stderr)
		}
	}
	b.spec.Process.Args = []string{"true"}
	b.save()
	b.ok("run", "--keep", b.id)
	if s := b.status(); s != "stopped" {
		t.Errorf("after run --keep: %s", s)
	}
}

func TestRootExec(t *testing.T) {
	require.Root(t)
	b := newBundle(t, "sleep", "600")
	b.spec.Process.Env = append(b.spec.Process.Env, "FROM=config", "TWICE=1", "TWICE=2")
	b.start()
	process := filepath.Join(b.dir, "process.json")
	if err := os.WriteFile(process, []byte(`{"args":["/bin/sh","-c","echo $FOO $FROM $PWD"],"env":["FOO=bar"],"cwd":"/tmp"}`), 0o600); err != nil { //nolint:forbidigo // a test's file
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{b.id, "sh", "-c", "echo $FROM $TWICE $HOME"}, "config 2 /root\n"},
		{[]string{"--user", "1000:1001", "-g", "7", "-g", "8", b.id, "id"}, "uid=1000 gid=1001 groups=7,8"},
		{[]string{"--cwd", "/etc", "--env", "A=b c", b.id, "sh", "-c", "pwd; echo $A"}, "/etc\nb c\n"},
		{[]string{"--cap", "CAP_SYS_CHROOT", b.id, "sh", "-c", "grep CapEff /proc/self/status"}, "CapEff:\t0000000020040420\n"},
		{[]string{"-p", process, b.id}, "bar /tmp\n"},
		{[]string{b.id, "sh", "-c", "ls /proc/self/fd | tr '\\n' ' '"}, "0 1 2 3 "},
		{[]string{"--", b.id, "echo", "--env"}, "--env\n"},
	} {
		if out := b.ok(append([]string{"exec"}, c.args...)...); !strings.HasPrefix(out, c.want) {
			t.Errorf("exec %v: %q, want %q", c.args, out, c.want)
		}
	}
	for _, c := range []struct {
		args []string
		code int
		err  string
	}{
		{[]string{b.id, "sh", "-c", "exit 42"}, 42, ""},
		{[]string{b.id, "nosuchprogram"}, 255, `exec failed: unable to start container process: exec: \"nosuchprogram\": executable file not found in $PATH`},
		{[]string{"nosuchcontainer", "true"}, 255, "container does not exist"},
		{[]string{b.id}, 255, "exec args cannot be empty"},
		{[]string{"--pid-file", "/no/such/dir/pid", b.id, "true"}, 255, "no such file or directory"},
		{[]string{"--user", "4294967296", b.id, "true"}, 255, "bad uid"},
		{[]string{"--preserve-fds", "300", b.id, "true"}, 255, "preserved-fd"},
		{[]string{"--cgroup", "../..", b.id, "true"}, 255, "bad sub cgroup path"},
		{[]string{"-t", "-d", b.id, "true"}, 255, "without setting console socket"},
	} {
		if r := b.runc(append([]string{"exec"}, c.args...)...); r.code != c.code || !strings.Contains(r.stderr, c.err) {
			t.Errorf("exec %v: exit code %d, %s; want %d, %s", c.args, r.code, r.stderr, c.code, c.err)
		}
	}
	pidFile := filepath.Join(b.dir, "exec.pid")
	b.ok("exec", "-d", "--pid-file", pidFile, b.id, "sleep", "601")
	pid, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	if cmd, err := os.ReadFile("/proc/" + string(pid) + "/cmdline"); err != nil || string(cmd) != "sleep\x00601\x00" {
		t.Errorf("detached process %s: %q, %v", pid, cmd, err)
	}
	b.ok("pause", b.id)
	if s := b.status(); s != "paused" {
		t.Errorf("after pause: %s", s)
	}
	b.fails("cannot exec in a paused container", "exec", b.id, "true")
	b.ok("resume", b.id)
	b.fails("container not paused", "resume", b.id)
	b.ok("exec", b.id, "true")
}

func TestRootPreserveFds(t *testing.T) {
	require.Root(t)
	b := newBundle(t, "sh", "-c", "cat <&3; cat <&4; ls /proc/self/fd | tr '\\n' ' '")
	b.save()
	cmd := b.command("run", "--preserve-fds", "2", b.id)
	for _, text := range []string{"three\n", "four\n"} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if _, err := w.WriteString(text); err != nil {
			t.Fatal(err)
		}
		w.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, r)
	}
	if r := b.finish(cmd); r.code != 0 || r.stdout != "three\nfour\n0 1 2 3 4 5 " {
		t.Errorf("exit code %d: %q %s", r.code, r.stdout, r.stderr)
	}
}

// listen makes a socket that takes one message with a descriptor.
func listen(t *testing.T, dir string) (path string, take func() (*os.File, []byte)) {
	t.Helper()
	path = filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return path, func() (*os.File, []byte) {
		t.Helper()
		if err := l.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		c, err := l.AcceptUnix()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		data, oob := make([]byte, 64<<10), make([]byte, 256)
		n, m, _, _, err := c.ReadMsgUnix(data, oob)
		if err != nil {
			t.Fatal(err)
		}
		msgs, err := syscall.ParseSocketControlMessage(oob[:m])
		if err != nil || len(msgs) != 1 {
			t.Fatalf("%d control messages, %v", len(msgs), err)
		}
		fds, err := syscall.ParseUnixRights(&msgs[0])
		if err != nil || len(fds) != 1 {
			t.Fatalf("descriptors %v, %v", fds, err)
		}
		if err := syscall.SetNonblock(fds[0], true); err != nil {
			t.Fatal(err)
		}
		return os.NewFile(uintptr(fds[0]), "received"), data[:n]
	}
}

func TestRootConsoleSocket(t *testing.T) {
	require.Root(t)
	b := newBundle(t, "sh", "-c", "stty size; tty; read x; echo got $x; sleep 600")
	b.spec.Process.Terminal = true
	b.spec.Process.ConsoleSize = &specs.Box{Height: 33, Width: 77}
	b.save()
	b.fails("without setting console socket", "create", b.id)
	socket, take := listen(t, b.dir)
	b.start("--console-socket", socket)
	master, _ := take()
	defer master.Close()
	if _, err := master.WriteString("word\n"); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	buf := make([]byte, 4096)
	for !strings.Contains(out.String(), "got word") {
		if err := master.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		n, err := master.Read(buf)
		if err != nil {
			t.Fatalf("%v after %q", err, out.String())
		}
		out.Write(buf[:n])
	}
	if !strings.Contains(out.String(), "33 77") || !strings.Contains(out.String(), "/dev/pts/0") {
		t.Errorf("terminal: %q", out.String())
	}
	if out := b.ok("exec", "-t", b.id, "sh", "-c", "tty; stat -c %u:%g $(tty)"); out != "/dev/pts/1\n0:5\n" {
		t.Errorf("exec -t: %q", out)
	}
}

func TestRootHooks(t *testing.T) {
	require.Root(t)
	b := newBundle(t, "sh", "-c", "echo main >> /trace")
	trace := filepath.Join(b.dir, "rootfs/trace")
	host := func(kind string) []specs.Hook {
		return []specs.Hook{{
			Path: "/bin/sh", Args: []string{"sh", "-c", `read s; echo "` + kind + ` $HOOK $s" >> ` + trace},
			Env: []string{"HOOK=" + kind, "PATH=/usr/bin:/bin"}, Timeout: ptr(60),
		}}
	}
	inside := host("startContainer")
	inside[0].Args[2] = strings.ReplaceAll(inside[0].Args[2], trace, "/trace")
	b.spec.Hooks = &specs.Hooks{
		Prestart:      host("prestart"), //nolint:staticcheck // deprecated, and used
		CreateRuntime: host("createRuntime"), CreateContainer: host("createContainer"),
		StartContainer: inside, Poststart: host("poststart"), Poststop: host("poststop"),
	}
	b.spec.Annotations = map[string]string{"a": "b"}
	b.save()
	b.ok("create", b.id)
	b.ok("start", b.id)
	b.becomes("stopped")
	b.ok("delete", b.id)
	raw, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"prestart creating", "createRuntime creating", "createContainer creating", "startContainer created", "poststart running", "poststop stopped"}
	var got []string
	main := -1
	for line := range strings.Lines(string(raw)) {
		f := strings.SplitN(strings.TrimSpace(line), " ", 3)
		if f[0] == "main" {
			main = len(got)
			continue
		}
		var st specs.State
		if len(f) != 3 || f[0] != f[1] {
			t.Fatalf("line %q", line)
		}
		if err := json.Unmarshal([]byte(f[2]), &st); err != nil {
			t.Fatal(err)
		}
		if st.ID != b.id || st.Bundle != b.dir || st.Annotations["a"] != "b" || (st.Pid == 0) != (st.Status == specs.StateStopped) {
			t.Errorf("state of %s: %+v", f[0], st)
		}
		got = append(got, f[0]+" "+string(st.Status))
	}
	if !slices.Equal(got, want) || main < 4 {
		t.Errorf("hooks: %q (main process after %d), want %q", got, main, want)
	}
}

// TestRootBegin: the program executes itself again from where nobody can write it, and
// what it sets for its own sake then is seen by nothing that it starts.
func TestRootBegin(t *testing.T) {
	require.Root(t)
	for procs, args := range map[string][]string{"": nil, "3": {"GOMAXPROCS=3"}} {
		b := newBundle(t, "sh", "-c", "read slack < /proc/self/timerslack_ns; echo $slack; cat")
		own := filepath.Join(b.dir, "own")
		b.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{
			Path: "/bin/sh", Args: []string{"sh", "-c", `read slack < /proc/self/timerslack_ns; echo "$slack $GOMAXPROCS" > ` + own},
		}}}
		b.save()
		cmd := b.command("run", b.id)
		cmd.Env = append(os.Environ(), args...)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		until(t, "the container", func() bool { _, err := os.Stat(own); return err == nil })
		exe := fmt.Sprintf("/proc/%d/exe", cmd.Process.Pid)
		var st unix.Statfs_t
		if err := unix.Statfs(exe, &st); err != nil || st.Flags&unix.ST_RDONLY == 0 {
			t.Errorf("%s can be written: %v", exe, err)
		}
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", cmd.Process.Pid))
		if err != nil {
			t.Error(err)
		}
		if runtime.GOARCH == "amd64" && !strings.Contains(string(env), "GOMAXPROCS=1\x00") {
			t.Error("it was built without -E entry")
		}
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %s", err, out.String())
		}
		const usual = "50000"
		if got := strings.TrimSpace(out.String()); got != usual {
			t.Errorf("timer slack of the container's process: %s", got)
		}
		hook, err := os.ReadFile(own)
		if got := strings.TrimSpace(string(hook)); err != nil || got != strings.TrimSpace(usual+" "+procs) {
			t.Errorf("timer slack and GOMAXPROCS of a hook: %q, %v", got, err)
		}
	}
}

func TestRootHooksFail(t *testing.T) {
	require.Root(t)
	no := specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", "echo why >&2; exit 3"}}
	slow := specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", "sleep 600"}, Timeout: ptr(1)}
	for _, c := range []struct {
		kind string
		set  func(*specs.Hooks, ...specs.Hook)
	}{
		{"createRuntime", func(h *specs.Hooks, x ...specs.Hook) { h.CreateRuntime = x }},
		{"createContainer", func(h *specs.Hooks, x ...specs.Hook) { h.CreateContainer = x }},
		{"startContainer", func(h *specs.Hooks, x ...specs.Hook) { h.StartContainer = x }},
		{"poststart", func(h *specs.Hooks, x ...specs.Hook) { h.Poststart = x }},
	} {
		b := newBundle(t, "sleep", "600")
		b.spec.Hooks = &specs.Hooks{}
		c.set(b.spec.Hooks, specs.Hook{Path: "/bin/true"}, no)
		b.save()
		r := b.fails("error running "+c.kind+" hook #1: exit status 3", "run", b.id)
		if !strings.Contains(r.stderr, "why") {
			t.Errorf("%s: the hook's output is missing: %s", c.kind, r.stderr)
		}
		c.set(b.spec.Hooks, slow)
		b.save()
		b.fails("error running "+c.kind+" hook #0", "run", b.id)
		b.fails("container does not exist", "state", b.id)
	}
}

func TestRootLimits(t *testing.T) {
	require.Root(t)
	b := newBundle(t, "sleep", "600")
	b.spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: ptr(int64(64 << 20))}
	b.spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: ptr(int64(20))}
	b.start()
	check := func(mem, pids string) {
		t.Helper()
		if m, p := b.limit("memory.limit_in_bytes", "memory.max"), b.limit("pids.max"); m != mem || p != pids {
			t.Errorf("memory %s, pids %s; want %s, %s", m, p, mem, pids)
		}
	}
	check("67108864", "20")
	if r := b.runc("exec", b.id, "sh", "-c", "for i in $(seq 40); do sleep 60 & done"); r.code == 0 || !strings.Contains(r.stderr, "fork") {
		t.Errorf("forty processes where twenty are allowed: %d %s", r.code, r.stderr)
	}
	b.ok("update", "--memory", "32m", "--pids-limit", "30", b.id)
	check("33554432", "30")
	file := filepath.Join(b.dir, "resources.json")
	if err := os.WriteFile(file, []byte(`{"memory":{"limit":50331648}}`), 0o600); err != nil { //nolint:forbidigo // a test's file
		t.Fatal(err)
	}
	b.ok("update", b.id, "-r", file)
	check("50331648", "30")
	var ev struct {
		Type, ID string
		Data     struct{ Pids struct{ Limit int } }
	}
	if err := json.Unmarshal([]byte(b.ok("events", "--stats", b.id)), &ev); err != nil || ev.Type != "stats" || ev.ID != b.id || ev.Data.Pids.Limit != 30 {
		t.Errorf("events: %+v, %v", ev, err)
	}
}

// Without a pid namespace the others live on when the first process dies; SIGKILL
// and delete take them all.
func TestRootHostPidNamespace(t *testing.T) {
	require.Root(t)
	b := newBundle(t, "sh", "-c", "sleep 600 & sleep 600")
	b.spec.Linux.Namespaces = slices.DeleteFunc(b.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
	b.start()
	pids := func() (out []int) {
		if err := json.Unmarshal([]byte(b.ok("ps", "-f", "json", b.id)), &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	until(t, "two processes", func() bool { return len(pids()) == 2 })
	b.ok("kill", b.id, "KILL")
	until(t, "no process", func() bool { return len(pids()) == 0 })
	b.becomes("stopped")
}

func TestRootLog(t *testing.T) {
	require.Root(t)
	b := newBundle(t, "nosuchprogram")
	b.save()
	file := filepath.Join(b.dir, "log.json")
	r := b.runc("--log", file, "--log-format", "json", "create", b.id)
	raw, err := os.ReadFile(file)
	if err != nil || r.code != 1 {
		t.Fatalf("exit code %d, %v", r.code, err)
	}
	var last struct{ Level, Msg, Time string }
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil {
		t.Fatal(err)
	}
	if want := `exec: "nosuchprogram": executable file not found in $PATH`; last.Level != "error" || !strings.Contains(last.Msg, want) || last.Time == "" {
		t.Errorf("last line %+v, want %s", last, want)
	}
	b.fails("invalid log-format", "--log-format", "xml", "list")
}

func TestRootIDMapping(t *testing.T) {
	require.Root(t)
	b := newBundle(t, "sh", "-c", "stat -c %u:%g /mapped/file; touch /mapped/new; id -u; cat /proc/self/uid_map")
	src := filepath.Join(b.dir, "src")
	if err := os.MkdirAll(src, 0o755); err != nil { //nolint:gosec // the container's users read it
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(src, "file"), nil, 0o644); err != nil { //nolint:gosec,forbidigo // likewise
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(src, "file"), 5, 6); err != nil {
		t.Fatal(err)
	}
	m := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 1000}}
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings = m, m
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Source: src, Destination: "/mapped", Type: "bind", Options: []string{"bind", "idmap"}})
	for _, dir := range []string{"", "rootfs"} { // as containers with user namespaces are given their files
		if err := os.Chmod(filepath.Join(b.dir, dir), 0o755); err != nil { //nolint:gosec // see above
			t.Fatal(err)
		}
	}
	if err := filepath.Walk(filepath.Join(b.dir, "rootfs"), func(p string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, 100000, 100000)
	}); err != nil {
		t.Fatal(err)
	}
	r := b.run()
	if f := strings.Fields(r.stdout); r.code != 0 || !slices.Equal(f, []string{"5:6", "0", "0", "100000", "1000"}) {
		t.Fatalf("exit code %d: %q %s", r.code, r.stdout, r.stderr)
	}
	st, err := os.Stat(filepath.Join(src, "new"))
	if err != nil {
		t.Fatal(err)
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); !ok || sys.Uid != 0 {
		t.Errorf("a file made by the container's root belongs to %v", st.Sys())
	}
}

// TestRootNetDevices gives a container an interface of a host, which is a network
// namespace here: with its addresses, its MTU and its MAC, under a new name.
func TestRootNetDevices(t *testing.T) {
	require.Root(t)
	ns := filepath.Join(t.TempDir(), "ns")
	if err := linux.NewNetNS(ns); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := linux.Unpin(ns); err != nil {
			t.Error(err)
		}
	})
	b := newBundle(t, "ip", "address", "show", "dev", "eth0")
	onHost := func(args ...string) result {
		cmd := exec.Command("nsenter", append([]string{"--net=" + ns}, args...)...)
		cmd.Dir = b.dir
		return b.finish(cmd)
	}
	for _, args := range []string{
		"link add hull0 address 02:00:00:00:09:01 mtu 1400 type veth peer name hull1",
		"address add 10.9.8.7/24 broadcast 10.9.8.255 dev hull0", "address add fd00:9::7/64 nodad dev hull0",
		"address add 10.9.7.6/32 scope host dev hull0",
	} {
		if r := onHost(append([]string{"ip"}, strings.Fields(args)...)...); r.code != 0 {
			t.Fatalf("ip %s: %s", args, r.stderr)
		}
	}
	run := b.command("run", b.id).Args
	for _, c := range []struct{ as, words string }{{"lo", "file already exists"}, {"eth%d", ""}} {
		b.spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"hull0": {Name: c.as}}
		b.save()
		r := onHost(run...)
		if c.words != "" {
			if r.code == 0 || !strings.Contains(r.stderr, c.words) {
				t.Errorf("moved to %s: exit code %d: %s", c.as, r.code, r.stderr)
			}
			continue
		}
		for _, want := range []string{"mtu 1400", "link/ether 02:00:00:00:09:01", "inet 10.9.8.7/24 brd 10.9.8.255 scope global", "inet6 fd00:9::7/64 scope global", ",UP"} {
			if !strings.Contains(r.stdout, want) {
				t.Errorf("no %q (exit code %d): %s%s", want, r.code, r.stdout, r.stderr)
			}
		}
		if strings.Contains(r.stdout, "10.9.7.6") {
			t.Errorf("an address for the host only was taken along: %s", r.stdout)
		}
	}
}

func TestRootBadConfig(t *testing.T) {
	require.Root(t)
	for i, c := range []struct {
		words string
		spoil func(*specs.Spec)
	}{
		{"process property must not be empty", func(s *specs.Spec) { s.Process = nil }},
		{"root must be specified", func(s *specs.Spec) { s.Root = nil }},
		{"args must not be empty", func(s *specs.Spec) { s.Process.Args = nil }},
		{"Cwd must be an absolute path", func(s *specs.Spec) { s.Process.Cwd = "tmp" }},
		{"no such file or directory", func(s *specs.Spec) { s.Root.Path = "nowhere" }},
		{"nosuchns", func(s *specs.Spec) { s.Linux.Namespaces[0].Type = "nosuchns" }},
		{"pid", func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.PIDNamespace})
		}},
		{"no such file or directory", func(s *specs.Spec) { s.Linux.Namespaces[1].Path = "/no/such/namespace" }},
		{"is not in a separate kernel namespace", func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.core_pattern": "x"} }},
		{"RLIMIT_NONSENSE", func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NONSENSE"}} }},
		{"SCMP_ACT_NONSENSE", func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: "SCMP_ACT_NONSENSE"} }},
		{"/no/such/source", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Source: "/no/such/source", Destination: "/x", Type: "bind", Options: []string{"bind"}})
		}},
		{"inside /proc", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Source: "/tmp", Destination: "/proc/sys", Type: "bind", Options: []string{"bind"}})
		}},
		{"time", func(s *specs.Spec) { s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 1}} }},
		{"invalid network device name", func(s *specs.Spec) {
			s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"lo": {Name: "a/b"}}
		}},
		{"without a NET namespace", func(s *specs.Spec) {
			s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"lo": {}}
			s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
		}},
		{"nosuchdev", func(s *specs.Spec) { s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"nosuchdev": {}} }},
		{"invalid memory policy mode", func(s *specs.Spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{} }},
		{"no such device", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Source: "x", Destination: "/x", Type: "nosuchfs"})
		}},
		{"error during container init", func(s *specs.Spec) { s.Process.Args = []string{"/dev/null"} }},
	} {
		b := newBundle(t)
		c.spoil(b.spec)
		b.save()
		r := b.fails(c.words, "run", b.id)
		if !strings.Contains(r.stderr, "runc run failed: ") || strings.Count(r.stderr, "\n") != 1 {
			t.Errorf("case %d: message %q", i, r.stderr)
		}
	}
	b := newBundle(t)
	if err := os.WriteFile(filepath.Join(b.dir, "config.json"), []byte(`{"root":`), 0o600); err != nil { //nolint:forbidigo // a test's file
		t.Fatal(err)
	}
	b.fails("config.json", "run", b.id)
	b.fails("config.json not found", "run", "-b", "/tmp", b.id)
	for _, id := range []string{"a/b", "..", "a b", "ä"} {
		b.fails("invalid container ID format", "run", id)
	}
	b.fails("--root", "--root", "/", "list")
	b.fails(`\"state\" requires exactly 1 argument(s)`, "state")
}

// An image whose files are links to the host's: nothing of the host changes.
func TestRootHostileBundle(t *testing.T) {
	require.Root(t)
	outside := t.TempDir()
	for i, c := range []struct {
		link, to string
		spoil    func(*specs.Spec)
	}{
		{"proc", outside, func(*specs.Spec) {}},
		{"dev", outside, func(*specs.Spec) {}},
		{"sys", outside, func(*specs.Spec) {}},
		{"work", outside + "/cwd", func(s *specs.Spec) { s.Process.Cwd = "/work/sub" }},
		{"work", "/proc/self/fd/7", func(s *specs.Spec) { s.Process.Cwd = "/work" }},
		{"data", "../../../../../../../.." + outside, func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Source: "tmpfs", Destination: "/data/dir", Type: "tmpfs"})
		}},
		{"data", outside + "/file", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Source: "/etc/hostname", Destination: "/data", Type: "bind", Options: []string{"bind"}})
		}},
		{"etc/passwd", "/etc/shadow", func(*specs.Spec) {}},
	} {
		b := newBundle(t, "true")
		path := filepath.Join(b.dir, "rootfs", c.link)
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(c.to, path); err != nil {
			t.Fatal(err)
		}
		c.spoil(b.spec)
		r := b.run()
		t.Logf("case %d: exit code %d %s", i, r.code, r.stderr)
		if d, err := os.ReadDir(outside); err != nil || len(d) > 0 {
			t.Fatalf("case %d: %v were made on the host, %v", i, d, err)
		}
	}
}

func TestRootMountOptions(t *testing.T) {
	require.Root(t)
	b := newBundle(t, "cat", "/proc/self/mountinfo")
	src := t.TempDir()
	for i, o := range []string{"bind", "bind,ro,nosuid", "rbind,rro,rnoexec", "bind,noatime,nodev"} {
		b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Source: src, Destination: fmt.Sprintf("/m%d", i), Type: "bind", Options: strings.Split(o, ",")})
	}
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Source: "tmpfs", Destination: "/etc", Type: "tmpfs", Options: []string{"tmpcopyup", "size=1m", "ro"}})
	r := b.run()
	for dest, want := range map[string]string{"/m1": "ro,nosuid,", "/m2": "ro,noexec,", "/m3": "rw,nodev,noatime", "/etc": "ro,"} {
		ok := false
		for line := range strings.Lines(r.stdout) {
			f := strings.Fields(line)
			ok = ok || len(f) > 5 && f[4] == dest && strings.HasPrefix(f[5], want)
		}
		if !ok {
			t.Errorf("%s is not %s: %s%s", dest, want, r.stdout, r.stderr)
		}
	}
	b.spec.Process.Args = []string{"grep", "-c", "root", "/etc/passwd"}
	if r := b.run(); r.code != 0 || r.stdout == "0\n" {
		t.Errorf("tmpcopyup: %q %s", r.stdout, r.stderr)
	}
}
