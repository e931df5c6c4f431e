// Package security attacks the engine from where an attacker would be: inside a
// container, in an image, behind the socket. Each test tries the attack and looks at
// what only a success could have changed. Most have a control: the same attack with
// the defence taken away by an option must succeed, or the test proves nothing.
// docs/security.md lists attacks, defences and tests.
package security

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"hull/internal/require"
	"hull/test/harness"
)

// field is an engine and what attacks need.
type field struct {
	e      *harness.Engine
	hull   *harness.Client
	attack string // path of the attacking program
	canary string // a directory of the host's that nobody was given
}

const secret = "what only the host may read"

func newField(t *testing.T) *field {
	t.Helper()
	require.Root(t)
	e := harness.Start(t, []string{"busybox"})
	f := &field{e: e, hull: e.Hull(), attack: program(t), canary: e.Dir("canary")}
	write(t, filepath.Join(f.canary, "secret"), secret)
	t.Cleanup(func() {
		if got := f.inCanary(t); !slices.Equal(got, []string{"secret"}) {
			t.Errorf("the host's directory has changed: %q", got)
		}
		if b, err := os.ReadFile(filepath.Join(f.canary, "secret")); err != nil || string(b) != secret {
			t.Errorf("the host's file has changed: %q, %v", b, err)
		}
	})
	return f
}

func (f *field) inCanary(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(f.canary)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// flags are those of a container that attacks.
func (f *field) flags(name string, more ...string) []string {
	return append([]string{"-v", f.attack + ":/attack:ro", "-e", attackEnv + "=" + name}, more...)
}

// try runs an attack to its end and gives its words.
func (f *field) try(t *testing.T, name string, flags []string, args ...string) string {
	t.Helper()
	r := f.hull.For(t).Try(slices.Concat([]string{"run", "--rm"}, f.flags(name, flags...), []string{"busybox", "/attack"}, args)...)
	if r.Stdout == "" {
		t.Fatalf("attack %s did not run: %s", name, r.Stderr)
	}
	return r.Stdout
}

// outcome is the attempts of an attack by name.
func outcome(out string) map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(out) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), ": ")
		m[k] = v
	}
	return m
}

func TestInside(t *testing.T) {
	t.Parallel()
	f := newField(t)
	t.Run("Descriptors", f.descriptors)
	t.Run("SystemCalls", f.systemCalls)
	t.Run("Capabilities", f.capabilities)
	t.Run("KernelFiles", f.kernelFiles)
	t.Run("Mounts", f.mounts)
	t.Run("Devices", f.devices)
	t.Run("Users", f.users)
	t.Run("Ids", f.ids)
	t.Run("OtherProcesses", f.otherProcesses)
	t.Run("Keys", f.keys)
	t.Run("Limits", f.limits)
}

// CVE-2024-21626: only 0, 1 and 2 are open, in a main process, an exec, a health check.
func (f *field) descriptors(t *testing.T) {
	const want = "descriptors: 0 1 2"
	if got := strings.TrimSpace(f.try(t, "descriptors", nil)); got != want {
		t.Errorf("run: %s", got)
	}
	c := f.hull.For(t)
	c.Run(slices.Concat([]string{"run", "-d", "--name", "fds", "--health-cmd", "/attack > /health", "--health-interval", "1s"}, f.flags("descriptors"), []string{"busybox", "sleep", "1000"})...)
	defer c.Run("rm", "-f", "fds")
	if got := strings.TrimSpace(c.Run("exec", "fds", "/attack")); got != want {
		t.Errorf("exec: %s", got)
	}
	f.e.Eventually("the health check has run", func() error {
		r := c.Try("exec", "fds", "cat", "/health")
		if got := strings.TrimSpace(r.Stdout); got != want {
			return fmt.Errorf("health check: %q", got)
		}
		return nil
	})
}

// The table of calls is denied; without the profile most of them reach the kernel.
func (f *field) systemCalls(t *testing.T) {
	got := outcome(f.try(t, "calls", nil))
	for _, c := range callTable() {
		if c.name == "vhangup" {
			continue
		}
		if r := got[c.name]; r != "EPERM" && r != "ENOSYS" {
			t.Errorf("%s: %s", c.name, r)
		}
	}
	open := outcome(f.try(t, "calls", []string{"--security-opt", "seccomp=unconfined"}))
	for _, name := range []string{"add_key", "keyctl", "unshare", "setns", "io_uring_setup", "userfaultfd", "bpf", "clock_settime", "open_tree"} {
		if r := open[name]; r == "EPERM" || r == "" {
			t.Errorf("control: %s is denied without the profile: %s", name, r)
		}
	}
}

// The sets of Docker, bit by bit; nothing is inheritable (CVE-2022-24769, -29162).
func (f *field) capabilities(t *testing.T) {
	const docker, none = "00000000a80425fb", "0000000000000000"
	c := f.hull.For(t)
	c.Run(slices.Concat([]string{"run", "-d", "--name", "caps"}, f.flags("rights"), []string{"busybox", "sleep", "1000"})...)
	defer c.Run("rm", "-f", "caps")
	for what, out := range map[string]string{
		"run": f.try(t, "rights", nil), "exec": c.Run("exec", "caps", "/attack"),
		"run as a user": f.try(t, "rights", []string{"-u", "1000"}), "exec as a user": c.Run("exec", "-u", "1000", "caps", "/attack"),
	} {
		eff := docker
		if strings.HasSuffix(what, "user") {
			eff = none
		}
		for _, want := range []string{"CapInh=" + none, "CapPrm=" + eff, "CapEff=" + eff, "CapBnd=" + docker, "CapAmb=" + none, "Seccomp=2"} {
			if !strings.Contains(out+"\n", want+"\n") {
				t.Errorf("%s: no %s in\n%s", what, want, out)
			}
		}
	}
	if out := f.try(t, "rights", []string{"--cap-drop", "ALL", "--security-opt", "no-new-privileges"}); !strings.Contains(out, "CapBnd="+none) || !strings.Contains(out, "NoNewPrivs=1") {
		t.Errorf("without capabilities:\n%s", out)
	}
	if out := f.try(t, "rights", []string{"--privileged"}); strings.Contains(out, "CapBnd="+docker) {
		t.Errorf("control: privileged has Docker's default set:\n%s", out)
	}
}

// What governs the host cannot be written, nor what tells of it be read.
func (f *field) kernelFiles(t *testing.T) {
	paths := []string{
		"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/kernel/modprobe", "/proc/sysrq-trigger", "/proc/irq/default_smp_affinity",
		"/sys/kernel/mm/transparent_hugepage/enabled", "/sys/fs/cgroup/memory/memory.limit_in_bytes",
	}
	for p, r := range outcome(f.try(t, "writes", nil, paths...)) {
		if r == "ok" {
			t.Errorf("%s can be opened for writing", p)
		}
	}
	open := outcome(f.try(t, "writes", []string{"--privileged"}, paths[:3]...))
	if open[paths[0]] != "ok" {
		t.Errorf("control: privileged, %s: %s", paths[0], open[paths[0]])
	}
	read := `for f in /proc/kcore /proc/keys /proc/timer_list; do [ -e $f ] && head -c 64 $f; done; ls /sys/firmware /proc/acpi /proc/scsi 2>/dev/null | grep -v : | grep .`
	c := f.hull.For(t)
	if r := c.Try("run", "--rm", "busybox", "sh", "-c", read); strings.TrimSpace(r.Stdout) != "" {
		t.Errorf("masked paths can be read: %q", r.Stdout)
	}
	if r := c.Try("run", "--rm", "--userns", "host", "--security-opt", "systempaths=unconfined", "busybox", "sh", "-c", read); strings.TrimSpace(r.Stdout) == "" {
		t.Error("control: nothing can be read without masks either")
	}
}

func (f *field) mounts(t *testing.T) {
	for what, flags := range map[string][]string{"default": nil, "without seccomp": {"--security-opt", "seccomp=unconfined"}, "in the host's user namespace": {"--userns", "host"}} {
		for name, r := range outcome(f.try(t, "mounts", flags)) {
			if r == "ok" && name != "chroot" {
				t.Errorf("%s: %s succeeds", what, name)
			}
		}
	}
	if r := outcome(f.try(t, "mounts", []string{"--cap-add", "SYS_ADMIN"})); r["tmpfs"] != "ok" {
		t.Errorf("control: with CAP_SYS_ADMIN, tmpfs: %s", r["tmpfs"])
	}
	// Even with that right over its own namespace it does not get at the host's.
	if r := outcome(f.try(t, "nodes", []string{"--cap-add", "SYS_ADMIN"})); r["open disk"] == "ok" || r["open memory"] == "ok" {
		t.Errorf("with CAP_SYS_ADMIN: %v", r)
	}
}

func (f *field) devices(t *testing.T) {
	r := outcome(f.try(t, "nodes", nil))
	for name, res := range r {
		if res == "ok" {
			t.Errorf("%s succeeds in a user namespace", name)
		}
	}
	// With CAP_MKNOD over the host the node can be made, as in Docker, but the device
	// cgroup does not let it be opened.
	r = outcome(f.try(t, "nodes", []string{"--userns", "host"}))
	if r["open disk"] != "EPERM" || r["open memory"] != "EPERM" || r["open ram"] != "EPERM" {
		t.Errorf("in the host's user namespace: %v", r)
	}
	if r["open null"] != "ok" {
		t.Errorf("control: the null device cannot be opened: %v", r)
	}
	if r = outcome(f.try(t, "nodes", []string{"--userns", "host", "--device-cgroup-rule", "c 1:1 rwm"})); r["open memory"] == "EPERM" && r["make memory"] == "" {
		t.Logf("a rule for /dev/mem: %v (the kernel may still refuse)", r)
	}
}

// A user is who was said, with the groups he has and no others (CVE-2022-36109,
// CVE-2023-25173, CVE-2026-30892), and a number that wraps is no number
// (CVE-2024-40635).
func (f *field) users(t *testing.T) {
	c := f.hull.For(t)
	c.Run("run", "-d", "--name", "who", "busybox", "sleep", "1000")
	defer c.Run("rm", "-f", "who")
	for user, want := range map[string]string{"1": "1:1", "0:1": "0:1", "1234": "1234:0", "1000:1000": "1000:1000", "1000:5": "1000:5"} {
		for what, got := range map[string]string{
			"run":  c.Run("run", "--rm", "-u", user, "busybox", "sh", "-c", "echo $(id -u):$(id -g) $(id -G)"),
			"exec": c.Run("exec", "-u", user, "who", "sh", "-c", "echo $(id -u):$(id -g) $(id -G)"),
		} {
			ids, groups, _ := strings.Cut(strings.TrimSpace(got), " ")
			_, gid, _ := strings.Cut(ids, ":")
			if ids != want || !slices.Contains(strings.Fields(groups), gid) {
				t.Errorf("%s -u %s is %s, groups %s", what, user, ids, groups)
			}
		}
	}
	for _, user := range []string{"4294967296", "-1", "4294967295", "0x0", "1\n0", "2147483648"} {
		for _, args := range [][]string{{"run", "--rm", "-u", user, "busybox", "id", "-u"}, {"exec", "-u", user, "who", "id", "-u"}} {
			if r := c.Try(args...); r.Code == 0 {
				t.Errorf("%q is a user: %s", args, r.Stdout)
			}
		}
	}
}

// No two containers share an id, and none has one of the host's.
func (f *field) ids(t *testing.T) {
	c := f.hull.For(t)
	first := map[uint64]string{}
	for i := range 6 {
		name := fmt.Sprint("ids", i)
		c.Run("run", "-d", "--name", name, "busybox", "sleep", "1000")
		defer c.Run("rm", "-f", name)
		out := strings.Fields(c.Run("exec", name, "cat", "/proc/self/uid_map", "/proc/self/gid_map"))
		if len(out) != 6 || out[0] != "0" || out[2] != "65536" || out[5] != "65536" {
			t.Fatalf("mapping of %s: %q", name, out)
		}
		base, err := strconv.ParseUint(out[1], 10, 32)
		if err != nil || base < 65536 || base%65536 != 0 && out[1] != out[4] {
			t.Errorf("mapping of %s: %q", name, out)
		}
		for other, whose := range first {
			if base < other+65536 && other < base+65536 {
				t.Errorf("%s and %s share ids: %d, %d", name, whose, base, other)
			}
		}
		first[base] = name
		pid := strings.TrimSpace(c.Run("inspect", "-f", "{{.State.Pid}}", name))
		var st syscall.Stat_t
		if err := syscall.Stat("/proc/"+pid, &st); err != nil || uint64(st.Uid) != base {
			t.Errorf("%s runs as %d on the host, want %d: %v", name, st.Uid, base, err)
		}
	}
	if out := c.Run("run", "--rm", "--userns", "host", "busybox", "cat", "/proc/self/uid_map"); !strings.Contains(out, "4294967295") {
		t.Errorf("control: %s", out)
	}
}

// Processes of another container, and the engine's own, cannot be looked into, not
// even by one who sees all of them.
func (f *field) otherProcesses(t *testing.T) {
	c := f.hull.For(t)
	c.Run("run", "-d", "--name", "victim", "-e", "PASSWORD=x", "busybox", "sleep", "1000")
	defer c.Run("rm", "-f", "victim")
	pid := strings.TrimSpace(c.Run("inspect", "-f", "{{.State.Pid}}", "victim"))
	monitor := ""
	b, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "PPid:"); ok {
			monitor = strings.TrimSpace(v)
		}
	}
	targets := []string{pid, monitor, strconv.Itoa(f.e.Pid())}
	for _, target := range targets {
		for what, flags := range map[string][]string{"root": {"--pid", "host"}, "a user": {"--pid", "host", "-u", "1000"}} {
			for name, r := range outcome(f.try(t, "trace", flags, target)) {
				if r == "ok" {
					t.Errorf("%s gets %s of process %s of %q", what, name, target, targets)
				}
			}
		}
	}
	if r := outcome(f.try(t, "trace", []string{"--privileged", "--pid", "host"}, pid)); r["environ"] != "ok" || r["mem"] != "ok" {
		t.Errorf("control: a privileged one is kept out, too: %v", r)
	}
}

// Keys of the host's root are not the container's root's, with or without seccomp.
func (f *field) keys(t *testing.T) {
	name := "hull-test-" + strconv.Itoa(os.Getpid())
	id, err := unix.AddKey("user", name, []byte("secret"), unix.KEY_SPEC_USER_KEYRING)
	if err != nil {
		t.Skipf("this host has no keyrings: %v", err) // nothing to protect
	}
	defer func() {
		if _, err := unix.KeyctlInt(unix.KEYCTL_UNLINK, id, unix.KEY_SPEC_USER_KEYRING, 0, 0); err != nil {
			t.Error(err)
		}
	}()
	for what, flags := range map[string][]string{
		"default": nil, "without seccomp": {"--security-opt", "seccomp=unconfined"}, "in the host's user namespace": {"--userns", "host"},
	} {
		if out := f.try(t, "key", flags, name); strings.TrimSpace(out) != "found: false" {
			t.Errorf("%s: %s", what, out)
		}
	}
	if out := f.try(t, "key", []string{"--userns", "host", "--security-opt", "seccomp=unconfined"}, name); strings.TrimSpace(out) != "found: true" {
		t.Errorf("control: %s", out)
	}
}

func (f *field) limits(t *testing.T) {
	c := f.hull.For(t)
	const bomb = "for i in $(seq 60); do sleep 30 & done; echo all of them"
	if r := c.Try("run", "--rm", "--pids-limit", "20", "busybox", "sh", "-c", bomb); strings.Contains(r.Stdout, "all of them") {
		t.Errorf("60 processes where 20 may be: %s", r.Stderr)
	}
	if r := c.Try("run", "--rm", "busybox", "sh", "-c", bomb); !strings.Contains(r.Stdout, "all of them") {
		t.Errorf("control: %q %s", r.Stdout, r.Stderr)
	}
	r := c.Try(slices.Concat([]string{"run", "--name", "hog", "--memory", "40m", "--memory-swap", "40m"}, f.flags("hog"), []string{"busybox", "/attack"})...)
	defer c.Run("rm", "-f", "hog")
	if oom := c.Run("inspect", "-f", "{{.State.OOMKilled}}", "hog"); r.Code != 137 || strings.TrimSpace(oom) != "true" {
		t.Errorf("256 MiB where 40 may be: exit code %d, OOM killed %s, %s", r.Code, oom, r.Stdout)
	}
	if out := f.try(t, "hog", nil); !strings.Contains(out, "hog: 256") {
		t.Errorf("control: %s", out)
	}
	throttled := c.Run("run", "--rm", "--cpus", "0.1", "busybox", "sh", "-c",
		"i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; cat /sys/fs/cgroup/cpu/cpu.stat /sys/fs/cgroup/cpu.stat 2>/dev/null | grep nr_throttled")
	if f := strings.Fields(throttled); len(f) != 2 || f[1] == "0" {
		t.Errorf("a tenth of a CPU is not enforced: %q", throttled)
	}
}

// hash of the programs that run beside containers.
func programs(t *testing.T) map[string][32]byte {
	t.Helper()
	dir := os.Getenv("HULL_BIN")
	if dir == "" {
		dir = "../../bin"
	}
	out := map[string][32]byte{}
	for _, name := range []string{"hulld", "hull-monitor", "hull-runc"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		out[name] = sha256.Sum256(b)
	}
	return out
}

// CVE-2019-5736 and CVE-2016-9962: nothing of the host's can be caught while a
// process joins a container, not even by a watcher with CAP_SYS_PTRACE.
func TestExecIsNotCaught(t *testing.T) {
	t.Parallel()
	f := newField(t)
	c := f.hull.For(t)
	before := programs(t)
	c.Run(slices.Concat([]string{"run", "-d", "--name", "trap", "--cap-add", "SYS_PTRACE"}, f.flags("watch"), []string{"busybox", "/attack"})...)
	f.e.Eventually("the watcher runs", func() error {
		if out := c.Run("logs", "trap"); !strings.Contains(out, "watching") {
			return fmt.Errorf("%q", out)
		}
		return nil
	})
	for range 40 {
		c.Run("exec", "trap", "true")
	}
	if out := c.Run("logs", "trap"); strings.Contains(out, "captured") {
		t.Errorf("the watcher:\n%s", out)
	}
	for _, args := range [][]string{{"exec", "trap", "/proc/self/exe"}, {"run", "--rm", "busybox", "/proc/self/exe"}} {
		if r := c.Try(args...); r.Code != 126 && r.Code != 127 { // what docker says of what cannot be executed
			t.Errorf("%q runs, to exit code %d: %s", args, r.Code, r.Stdout+r.Stderr)
		}
	}
	c.Run("rm", "-f", "trap")
	for name, sum := range programs(t) {
		if sum != before[name] {
			t.Errorf("%s has changed", name)
		}
	}
}

// CVE-2024-21626: a working directory that is an open descriptor of the runtime's.
func TestWorkingDirectory(t *testing.T) {
	t.Parallel()
	f := newField(t)
	c := f.hull.For(t)
	c.Run("run", "-d", "--name", "cwd", "busybox", "sh", "-c", "ln -s /proc/self/fd/7 /link; exec sleep 1000")
	look := "cat ../../../../../../.." + f.canary + "/secret"
	for n := 3; n <= 14; n++ {
		dir := fmt.Sprint("/proc/self/fd/", n)
		for _, args := range [][]string{
			{"run", "--rm", "-w", dir, "busybox", "sh", "-c", look},
			{"exec", "-w", dir, "cwd", "sh", "-c", look},
		} {
			if r := c.Try(args...); r.Code == 0 || strings.Contains(r.Stdout, secret) {
				t.Errorf("%q: %d, %s", args, r.Code, r.Stdout)
			}
		}
	}
	if r := c.Try("exec", "-w", "/link", "cwd", "sh", "-c", look); r.Code == 0 || strings.Contains(r.Stdout, secret) {
		t.Errorf("through a link: %s", r.Stdout)
	}
	c.Run("rm", "-f", "cwd")
}

// CVE-2018-15664, CVE-2026-41568 and their kin: cp both ways while the container
// swaps a directory on the path for a link that leads, on the host, to the canary.
func TestCopyRaces(t *testing.T) {
	t.Parallel()
	f := newField(t)
	c := f.hull.For(t)
	out := f.e.Dir("out")
	payload := f.e.WriteFile("payload", "from the client")
	// The same path exists inside, so that a copy that follows the link in the
	// container succeeds.
	c.Run(slices.Concat([]string{"run", "-d", "--name", "race"}, f.flags("swap"), []string{
		"busybox", "sh", "-ec",
		"mkdir -p /d/real " + f.canary + "; echo inside > /d/real/secret; echo inside > " + f.canary + "/secret; ln -s " + f.canary + " /d/link; exec /attack /d/real /d/link",
	})...)
	f.e.Eventually("names are swapped", func() error {
		if l := c.Run("logs", "race"); !strings.Contains(l, "swapping <nil>") {
			return fmt.Errorf("%q", l)
		}
		return nil
	})
	read := 0
	for i := range 40 {
		to := filepath.Join(out, strconv.Itoa(i))
		if r := c.Try("cp", "race:/d/real/secret", to); r.Code == 0 {
			b, err := os.ReadFile(to)
			if err != nil || strings.Contains(string(b), secret) {
				t.Fatalf("copied out: %q, %v", b, err)
			}
			read++
		}
		// It may fail, and it may land on either side; not on the host.
		_ = c.Try("cp", payload, "race:/d/real/planted")
	}
	if read == 0 {
		t.Error("no copy succeeded: nothing was tried")
	}
	c.Run("rm", "-f", "race")
}

// A subpath of a volume that is, or becomes, a link out of it (CVE-2024-23651's kin),
// and a mount's target that another container swaps for a link (CVE-2021-30465).
func TestVolumeRaces(t *testing.T) {
	t.Parallel()
	f := newField(t)
	c := f.hull.For(t)
	c.Run(slices.Concat([]string{"run", "-d", "--name", "swapper", "-v", "vol:/vol"}, f.flags("swap"), []string{
		"busybox", "sh", "-ec", "mkdir -p /vol/real/x; echo inside > /vol/real/secret; ln -s " + f.canary + " /vol/link; ln -s " + f.canary + " /vol/still; ln -s ../../../../../../../../.." + f.canary + " /vol/up; exec /attack /vol/real /vol/link",
	})...)
	f.e.Eventually("names are swapped", func() error {
		if l := c.Run("logs", "swapper"); !strings.Contains(l, "swapping <nil>") {
			return fmt.Errorf("%q", l)
		}
		return nil
	})
	docker := f.e.Docker().For(t)
	for _, sub := range []string{"still", "up", "still/..", "../../.."} {
		if r := docker.Try("run", "--rm", "--mount", "type=volume,src=vol,dst=/m,volume-subpath="+sub, "busybox", "cat", "/m/secret"); r.Code == 0 {
			t.Errorf("subpath %s is mounted: %s", sub, r.Stdout)
		}
	}
	ran := 0
	for range 12 {
		r := docker.Try("run", "--rm", "--mount", "type=volume,src=vol,dst=/m,volume-subpath=real", "busybox", "cat", "/m/secret")
		if strings.Contains(r.Stdout, secret) {
			t.Fatal("the subpath shows the host's file")
		}
		r = c.Try("run", "--rm", "-v", "vol:/vol", "-v", "other:/vol/real/x", "busybox", "true")
		if r.Code == 0 {
			ran++
		}
	}
	if ran == 0 {
		t.Error("no container ran: nothing was tried")
	}
	c.Run("rm", "-f", "swapper")
	c.Run("volume", "rm", "vol", "other")
}

// CVE-2019-16884, -19921, CVE-2023-27561, -28642: a procfs that is not one.
// CVE-2025-31133, -52565: a null device or console that is not one.
func TestFalseKernelFiles(t *testing.T) {
	t.Parallel()
	f := newField(t)
	c := f.hull.For(t)
	pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	if err != nil {
		t.Fatal(err)
	}
	dir := f.e.Dir("false")
	refuse(t, c, "run", "--rm", "-v", dir+":/proc", "busybox", "true")
	refuse(t, c, "run", "--rm", "--tmpfs", "/proc", "busybox", "true")
	refuse(t, c, "run", "--rm", "-v", dir+":/proc/sys", "busybox", "true")
	refuse(t, c, "run", "--rm", "-v", dir+":/proc/self/attr", "busybox", "true")
	f.importImage(t, "linkproc", []entry{{name: "tmp/", mode: 0o1777}, {name: "proc", link: "tmp"}, {name: "bin/", mode: 0o755}, {name: "bin/sh", busybox: true}})
	refuse(t, c, "run", "--rm", "linkproc", "/bin/sh", "-c", "exit 0")

	dev := f.e.Dir("dev")
	for _, name := range []string{"null", "console", "ptmx"} {
		if err := os.Symlink("/proc/sys/kernel/core_pattern", filepath.Join(dev, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, flags := range [][]string{{}, {"--userns", "host"}} {
		r := c.Try(slices.Concat([]string{"run", "--rm", "-v", dev + ":/dev"}, flags, []string{"busybox", "sh", "-c", "cat /proc/keys /proc/timer_list; echo '|/bin/evil' > /proc/sys/kernel/core_pattern; echo '|/bin/evil' > /dev/null"})...)
		if strings.TrimSpace(r.Stdout) != "" {
			t.Errorf("masked files are not: %q", r.Stdout)
		}
	}
	if after, err := os.ReadFile("/proc/sys/kernel/core_pattern"); err != nil || !bytes.Equal(after, pattern) {
		t.Errorf("core_pattern is %q, was %q: %v", after, pattern, err)
	}
}

// CVE-2022-0811: a kernel parameter that carries another.
func TestSysctls(t *testing.T) {
	t.Parallel()
	f := newField(t)
	c := f.hull.For(t)
	pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{
		"kernel.core_pattern=|/bin/evil", "kernel.shm_rmid_forced=1+kernel.core_pattern=|/bin/evil", "net.ipv4.ip_forward=1\nkernel.core_pattern=x",
		"net.ipv4.../../kernel/core_pattern=x", "net/../kernel/core_pattern=x", "vm.overcommit_memory=1", "kernel.modprobe=/x", "fs.suid_dumpable=1",
	} {
		if r := c.Try("run", "--rm", "--sysctl", s, "busybox", "true"); r.Code == 0 {
			t.Errorf("sysctl %q is taken", s)
		}
	}
	if out := c.Run("run", "--rm", "--sysctl", "kernel.shm_rmid_forced=1", "busybox", "cat", "/proc/sys/kernel/shm_rmid_forced"); strings.TrimSpace(out) != "1" {
		t.Errorf("control: %s", out)
	}
	if after, err := os.ReadFile("/proc/sys/kernel/core_pattern"); err != nil || !bytes.Equal(after, pattern) {
		t.Errorf("core_pattern is %q, was %q: %v", after, pattern, err)
	}
}

// refuse runs what must fail.
func refuse(t *testing.T, c *harness.Client, args ...string) {
	t.Helper()
	if r := c.Try(args...); r.Code == 0 {
		t.Errorf("%q succeeds: %s", args, r.Stdout)
	}
}

type entry struct {
	name, link, hard, body string
	mode                   int64
	busybox                bool
}

// archive makes a tar of what is said, however wrong.
func (f *field) archive(t *testing.T, entries []entry) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: 0o755, Typeflag: tar.TypeReg, Size: int64(len(e.body)), Format: tar.FormatPAX}
		if e.mode != 0 {
			h.Mode = e.mode
		}
		body := []byte(e.body)
		switch {
		case strings.HasSuffix(e.name, "/"):
			h.Typeflag = tar.TypeDir
		case e.link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.link
		case e.hard != "":
			h.Typeflag, h.Linkname = tar.TypeLink, e.hard
		case e.busybox:
			var err error
			if body, err = os.ReadFile(require.Program(t, "busybox")); err != nil {
				t.Fatal(err)
			}
			h.Size = int64(len(body))
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(body); err != nil && h.Typeflag == tar.TypeReg {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return f.e.WriteFile(fmt.Sprintf("%x.tar", sha256.Sum256(b.Bytes()))[:20], b.String())
}

func (f *field) importImage(t *testing.T, name string, entries []entry, changes ...string) harness.Result {
	t.Helper()
	args := []string{"import"}
	for _, c := range changes {
		args = append(args, "-c", c)
	}
	return f.e.Docker().For(t).Try(append(args, f.archive(t, entries), name)...)
}

// CVE-2014-9356 and its descendants: archives that write beside where they are
// unpacked, as an image and as a copy; programs of the container that would be run
// for the engine (CVE-2019-14271, CVE-2026-41567).
func TestArchives(t *testing.T) {
	t.Parallel()
	f := newField(t)
	c := f.hull.For(t)
	up := "../../../../../../../../../.." + f.canary
	hostile := map[string][]entry{
		"climbing":          {{name: up + "/planted", body: "x"}},
		"absolute":          {{name: f.canary + "/planted", body: "x"}},
		"through a link":    {{name: "l", link: f.canary}, {name: "l/planted", body: "x"}},
		"relative link":     {{name: "l", link: up}, {name: "l/planted", body: "x"}},
		"hard link":         {{name: "h", hard: f.canary + "/secret"}, {name: "h", body: "overwritten"}},
		"climbing hard":     {{name: "h", hard: up + "/secret"}, {name: "h", body: "overwritten"}},
		"whiteout":          {{name: "l", link: f.canary}, {name: "l/.wh.secret", body: ""}},
		"climbing whiteout": {{name: ".wh..wh.." + up + "/secret", body: ""}},
		"opaque":            {{name: "l", link: f.canary}, {name: "l/.wh..wh..opq", body: ""}},
	}
	c.Run("run", "-d", "--name", "into", "busybox", "sleep", "1000")
	c.Run("create", "--name", "stopped", "busybox")
	for name, entries := range hostile {
		// Refused, or unpacked below the root: the canary, seen at the end, is what counts.
		r := f.importImage(t, "hostile", entries)
		if r.Code == 0 {
			_ = c.Try("run", "--rm", "hostile", "/nothing")
		}
		body, err := os.ReadFile(f.archive(t, entries))
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"into", "stopped"} {
			res, err := f.e.API(http.MethodPut, "/containers/"+id+"/archive?path=/tmp", bytes.NewReader(body))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			res.Body.Close()
		}
		if got := f.inCanary(t); !slices.Equal(got, []string{"secret"}) {
			t.Fatalf("%s: the host's directory has %q", name, got)
		}
	}
	// A decompressor of the image's is not run.
	var evil []entry
	for _, p := range []string{"bin/", "usr/", "usr/bin/"} {
		evil = append(evil, entry{name: p, mode: 0o755})
	}
	evil = append(evil, entry{name: "bin/sh", busybox: true})
	for _, p := range []string{"xz", "unpigz", "gzip", "zstd", "bzip2", "tar"} {
		evil = append(evil, entry{name: "usr/bin/" + p, body: "#!/bin/sh\necho ran > /ran; echo ran > " + f.canary + "/ran\n", mode: 0o755})
	}
	if r := f.importImage(t, "evil", evil); r.Code != 0 {
		t.Fatal(r.Stderr)
	}
	c.Run("run", "-d", "--name", "evil", "evil", "/bin/sh", "-c", "while :; do sleep 1; done; exit 1")
	for _, magic := range []string{"\xfd7zXZ\x00\x00\x04", "\x1f\x8b\x08\x00", "\x28\xb5\x2f\xfd", "BZh9"} {
		res, err := f.e.API(http.MethodPut, "/containers/evil/archive?path=/", strings.NewReader(magic+strings.Repeat("x", 600)))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
	}
	if r := c.Try("cp", "evil:/ran", f.e.Dir("ran")); r.Code == 0 {
		t.Error("a program of the image was run for an archive")
	}
	// CVE-2022-23648: an image's volume that climbs out of the image.
	f.importImage(t, "climbs", []entry{{name: "bin/", mode: 0o755}, {name: "bin/sh", busybox: true}}, `VOLUME ["/../../../../../..`+f.canary+`"]`)
	if r := c.Try("run", "--rm", "climbs", "/bin/sh", "-c", "cat "+f.canary+"/secret"); strings.Contains(r.Stdout, secret) {
		t.Error("a volume of the image got the host's files")
	}
	c.Run("rm", "-f", "into", "stopped", "evil")
}

// The socket is root's and the group's; what lies below the state and run directory
// is nobody's business.
func TestRightsOnTheHost(t *testing.T) {
	t.Parallel()
	f := newField(t)
	socket := strings.TrimPrefix(f.e.Host, "unix://")
	st, err := os.Stat(socket)
	if err != nil || st.Mode().Perm()&0o007 != 0 {
		t.Errorf("socket: %v, %v", st.Mode(), err)
	}
	ask := func(uid string) map[string]string {
		cmd := f.e.HostCommand("env", attackEnv+"=ask", f.attack, uid, socket, f.e.Root, f.e.Run)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s, %v", out, err)
		}
		return outcome(string(out))
	}
	for what, r := range ask("12345") {
		if r == "ok" {
			t.Errorf("a stranger: %s", what)
		}
	}
	for what, r := range ask("0") {
		if r != "ok" {
			t.Errorf("control: root: %s: %s", what, r)
		}
	}
	// Containers cannot reach it either: it is not in their file system.
	if r := f.hull.For(t).Try("run", "--rm", "busybox", "ls", socket); r.Code == 0 {
		t.Error("a container sees the socket")
	}
}
