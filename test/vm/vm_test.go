package vm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"hull/internal/require"
	"hull/test/harness"
)

// world is an engine that can boot machines.
type world struct {
	*harness.Engine
	t testing.TB
	c *harness.Client
}

func start(t *testing.T, images ...string) *world {
	t.Helper()
	kernel := require.VM(t)
	e := harness.Start(t, images, harness.Args("--vm-kernel", kernel), harness.TmpfsRun())
	return &world{Engine: e, t: t, c: e.Docker()}
}

// run starts a machine in the background and returns its container's id.
func (w *world) run(name string, args ...string) string {
	w.t.Helper()
	return w.c.Run(append([]string{"run", "-d", "--isolation", "vm", "--name", name}, args...)...)
}

// qemu is the pid of a container's machine.
func (w *world) qemu(name string) int {
	w.t.Helper()
	pid, err := strconv.Atoi(w.c.Run("inspect", "-f", "{{.State.Pid}}", name))
	if err != nil {
		w.t.Fatal(err)
	}
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil || !strings.Contains(filepath.Base(exe), "qemu") {
		w.t.Fatalf("process %d of %s is %q (%v), not qemu", pid, name, exe, err)
	}
	return pid
}

// spare waits until a machine is ready for the next start, and is the pid of its
// monitor.
func (w *world) spare() (monitor int) {
	w.t.Helper()
	hull := w.Hull()
	w.slowly("a machine is ready", func() error {
		info := hull.Run("info")
		_, rest, _ := strings.Cut(info, "a machine waits for the next start (hull-monitor ")
		if n, _ := fmt.Sscanf(rest, "%d)", &monitor); n != 1 {
			return fmt.Errorf("hull info says %s", info)
		}
		return nil
	})
	return monitor
}

// kill ends a process, which nobody may have waited for yet when it returns.
func (w *world) kill(pid int) {
	w.t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		w.t.Fatal(err)
	}
	w.Eventually("the process has ended", func() error {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err == nil && !strings.Contains(string(b), ") Z ") {
			return fmt.Errorf("it is there: %s", b)
		}
		return nil
	})
}

// parent is the pid of a process's parent.
func parent(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	n, err := strconv.Atoi(f[1])
	if err != nil {
		return 0
	}
	return n
}

func (w *world) want(what, got, want string) {
	w.t.Helper()
	if got != want {
		w.t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func (w *world) has(what, got string, wants ...string) {
	w.t.Helper()
	for _, want := range wants {
		if !strings.Contains(got, want) {
			w.t.Errorf("%s: %q lacks %q", what, got, want)
		}
	}
}

// page waits until a published port answers with a body.
func (w *world) page(url, want string) {
	w.t.Helper()
	w.Eventually(url+" answers", func() error {
		status, body, err := w.Get(url)
		if err == nil && (status != 200 || strings.TrimSpace(body) != want) {
			err = fmt.Errorf("status %d, body %q, want %q", status, body, want)
		}
		return err
	})
}

// TestMachine is a machine's life as a user of the docker client sees it. It is one
// test, because each machine takes a second or more to come up.
func TestMachine(t *testing.T) {
	t.Parallel()
	w := start(t, "busybox")
	c := w.c

	// One that runs to its end: input, both outputs, exit code, own kernel.
	host, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	r := c.TryStdin("from outside", "run", "-i", "--rm", "--isolation", "vm", "busybox", "sh", "-c", "cat; uname -r >&2; exit 7")
	if r.Code != 7 || r.Stdout != "from outside" {
		t.Errorf("run -i: exit code %d, stdout %q, stderr %q", r.Code, r.Stdout, r.Stderr)
	}
	if r.Stderr == "" || r.Stderr == string(host) {
		t.Errorf("the machine's kernel is %q, the host's %q", r.Stderr, host)
	}
	c.Fails(127, []string{"no-such-program"}, "run", "--rm", "--isolation", "vm", "busybox", "no-such-program")

	// Two of one template, each with a self of its own.
	c.Run("network", "create", "names")
	web := `mkdir -p /www; hostname > /www/index.html; echo "started $(cat /proc/sys/kernel/random/uuid)"; exec httpd -f -h /www`
	for i, name := range []string{"one", "two"} {
		ready := 0
		if name == "two" {
			ready = w.spare()
		}
		w.run(name, "--hostname", name, "--network", "names", "--restart", "on-failure", "-p", fmt.Sprintf("%d:80", 38580+i), "busybox", "sh", "-c", web)
		if got := parent(w.qemu(name)); ready != 0 && got != ready {
			t.Errorf("machine %s is not the one that was ready: of monitor %d, not %d", name, got, ready)
		}
	}
	w.page("http://127.0.0.1:38580/", "one")
	w.page("http://127.0.0.1:38581/", "two")
	w.unique("one", "two")

	w.jailed("one")

	// A clock that is wrong is set right when a machine goes on after a pause, else within
	// a minute: see below.
	w.wrongClock("two")
	c.Run("pause", "two")
	c.Run("unpause", "two")
	if now := w.clock("two"); !near(now) {
		t.Errorf("after a pause a machine's clock shows %v", now)
	}
	w.wrongClock("two")

	// By name: machine to machine, container to machine and back.
	c.Run("run", "-d", "--name", "plain", "--hostname", "plain", "--network", "names", "busybox", "sh", "-c", web)
	for _, pair := range [][2]string{{"one", "two"}, {"two", "one"}, {"plain", "one"}, {"one", "plain"}} {
		w.Eventually(pair[0]+" reaches "+pair[1], func() error {
			r := c.Try("exec", pair[0], "wget", "-T", "20", "-qO-", "http://"+pair[1]+"/")
			if r.Code != 0 || strings.TrimSpace(r.Stdout) != pair[1] {
				return fmt.Errorf("exit code %d, %q, %s", r.Code, r.Stdout, r.Stderr)
			}
			return nil
		})
	}

	// More processes in it.
	w.want("exec -i", c.TryStdin("typed", "exec", "-i", "one", "cat").Stdout, "typed")
	c.Fails(5, nil, "exec", "one", "sh", "-c", "exit 5")
	w.has("log", c.Run("logs", "one"), "started ")
	w.has("top", c.Run("top", "one"), "PID", "root", "httpd -f -h /www")
	w.has("stats", c.Run("stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", "one"), "MiB / ", " 1")

	// The machine dies: the policy starts another on the same disk, for which the one
	// that was ready is of no use.
	c.Run("exec", "one", "sh", "-c", "echo written > /www/file; sync")
	w.kill(w.spare())
	before := w.qemu("one")
	if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.Eventually("another machine runs", func() error {
		if got := c.Run("inspect", "-f", "{{.State.Status}} {{.RestartCount}}", "one"); got != "running 1" {
			return fmt.Errorf("it is %s", got)
		}
		return nil
	})
	if w.qemu("one") == before {
		t.Error("the machine is the same after its death")
	}
	w.page("http://127.0.0.1:38580/file", "written")

	// The engine dies and comes back; the machines do not notice.
	before = w.qemu("two")
	ready := w.spare()
	w.KillDaemon()
	w.StartDaemon()
	w.Eventually("the machine that was ready for nobody ends", func() error {
		if err := syscall.Kill(ready, 0); err == nil {
			return errors.New("its monitor runs")
		}
		return nil
	})
	if after := w.qemu("two"); after != before {
		t.Errorf("machine %d is %d after the engine's death", before, after)
	}
	w.want("exec after the engine's death", c.Run("exec", "two", "hostname"), "two")
	w.page("http://127.0.0.1:38581/", "two")

	// Its files, while it runs and on the disk of one that does not.
	w.files("one", "running")
	c.Run("stop", "-t", "1", "one")
	w.want("state after stop", c.Run("inspect", "-f", "{{.State.Status}}", "one"), "exited")
	w.files("one", "stopped")
	c.Run("start", "one")
	w.want("what was copied meanwhile", c.Run("exec", "one", "cat", "/www/stopped", "/www/file"), "stopped\nwritten")
	c.Run("stop", "-t", "1", "one")
	c.Run("rm", "one")
	w.slowly("the clock is right again", func() error {
		if now := w.clock("two"); !near(now) {
			return fmt.Errorf("it shows %v", now)
		}
		return nil
	})
	c.Run("rm", "-f", "two", "plain")

	// A volume moves between a machine, which has a secret, too, and a container.
	w.Hull().Run("secret", "create", "pw", w.WriteFile("pw", "hush"))
	w.want("secret", c.Run("run", "--rm", "--isolation", "vm", "-v", "moving:/data", "--mount", `type=secret,"source=pw,uid=7,mode=400",target=pw`, "busybox",
		"sh", "-c", "echo kept > /data/file; chown 12:34 /data/file; stat -c %u:%a /run/secrets/pw; cat /run/secrets/pw"), "7:400\nhush")
	w.want("volume", c.Run("run", "--rm", "-v", "moving:/data", "busybox", "sh", "-c", "stat -c %u:%g /data/file; cat /data/file"), "12:34\nkept")

	// So does one that was ready, and was nobody's until then.
	ready = w.spare()
	w.run("ready", "-v", "moving:/data", "-v", w.WriteFile("told", "by a file\n")+":/told:ro", "busybox", "sleep", "1000")
	if got := parent(w.qemu("ready")); got != ready {
		t.Errorf("the machine with a volume is not the one that was ready: of monitor %d, not %d", got, ready)
	}
	w.want("volumes of a machine that was ready", c.Run("exec", "ready", "sh", "-c", "cat /data/file /told; echo more >> /data/file; echo x >> /told || echo read-only"), "kept\nby a file\nread-only")
	w.want("what it has written", c.Run("run", "--rm", "-v", "moving:/data", "busybox", "cat", "/data/file"), "kept\nmore")
	w.jailed("ready")
	c.Run("rm", "-f", "ready")

	// All came from one template, and nobody has written to it.
	for _, wrong := range []string{"made again", "cannot be restored", "machines boot"} {
		if log := w.Log(); strings.Contains(log, wrong) {
			t.Errorf("%q of a template:\n%s", wrong, log)
		}
	}

	// What machines start from is counted with the build cache, and goes with all of it.
	kept := []string{"machine.template", "machine.disk"}
	c.Run("system", "prune", "-f")
	w.has("system df", c.Run("system", "df", "-v"), kept...)
	c.Run("system", "prune", "-a", "-f")
	left := c.Run("system", "df", "-v")
	for _, k := range kept {
		if strings.Contains(left, k) {
			t.Errorf("after system prune -a: %s", left)
		}
	}
}

// files copies in and out, and looks at what was written from outside.
func (w *world) files(name, tag string) {
	w.t.Helper()
	in := w.WriteFile("in/"+tag, tag+"\n")
	w.c.Run("cp", in, name+":/www/"+tag)
	out := w.Dir("out-" + tag)
	w.c.Run("cp", name+":/www", out)
	if b, err := os.ReadFile(filepath.Join(out, "www", tag)); err != nil || string(b) != tag+"\n" {
		w.t.Errorf("cp out of a %s machine: %q, %v", tag, b, err)
	}
	w.c.Fails(1, []string{"could not find the file"}, "cp", name+":/no/such", out)
	w.has("diff of a "+tag+" machine", w.c.Run("diff", name), "A /www/file", "A /www/"+tag)
	w.c.Run("commit", name, "copy:"+tag)
	w.want("an image of a "+tag+" machine", w.c.Run("run", "--rm", "copy:"+tag, "cat", "/www/file", "/www/"+tag), "written\n"+tag)
	file := filepath.Join(out, "export.tar")
	w.c.Run("export", "-o", file, name)
	if list, err := w.HostCommand("tar", "-tf", file).Output(); err != nil || !strings.Contains(string(list), "www/"+tag+"\n") || !strings.Contains(string(list), "bin/busybox\n") {
		w.t.Errorf("export of a %s machine: %v, %.300s", tag, err, list)
	}
}

// jailed asserts that a machine's QEMU has no rights and sees nothing of the host.
func (w *world) jailed(name string) {
	w.t.Helper()
	pid := w.qemu(name)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		w.t.Fatal(err)
	}
	w.has("status of qemu", string(status), "CapEff:\t0000000000000000\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n")
	if strings.Contains(string(status), "\nUid:\t0\t") {
		w.t.Error("qemu runs as root")
	}
	for _, ns := range []string{"mnt", "net", "pid", "ipc", "uts"} {
		own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
		engine, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", w.Pid(), ns))
		if err != nil || err2 != nil || own == engine {
			w.t.Errorf("qemu is in the engine's %s namespace (%v, %v)", ns, err, err2)
		}
	}
	for _, path := range []string{"/proc", "/etc/passwd", "/run", filepath.Join(w.Root, "hull.db")} {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d/root%s", pid, path)); !os.IsNotExist(err) {
			w.t.Errorf("qemu sees %s (%v)", path, err)
		}
	}
	// Descriptors: streams to its parent, its own events, and what Config names.
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		w.t.Fatal(err)
	}
	own := regexp.MustCompile(`^(/dev/null|/dev/net/tun|socket:.*|anon_inode:.*|.*/disk|.*\.erofs|.*/memory|.*/share)$`)
	for _, fd := range fds {
		if to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name())); err == nil && !own.MatchString(to) {
			w.t.Errorf("qemu has %s open", to)
		}
	}
}

var hex64 = regexp.MustCompile(`^[0-9a-f]{64}$`)

// unique asserts that two machines of one template differ in all that must, and
// that both know the time.
func (w *world) unique(a, b string) {
	w.t.Helper()
	script := `cat /proc/sys/kernel/random/boot_id; od -An -tx1 -N32 /dev/urandom | tr -d ' \n'; echo
		cat /proc/sys/kernel/random/uuid; hostname; cat /sys/class/net/eth0/address; ip -4 -o addr show dev eth0 | awk '{print $4}'`
	get := func(name string) []string {
		lines := strings.Split(w.c.Run("exec", name, "sh", "-c", script), "\n")
		if len(lines) != 6 || !hex64.MatchString(lines[1]) {
			w.t.Fatalf("machine %s says %q", name, lines)
		}
		return lines
	}
	x, y := get(a), get(b)
	for i, what := range []string{"boot id", "random bytes", "uuid", "host name", "MAC address", "IP address"} {
		if x[i] == y[i] {
			w.t.Errorf("two machines have the same %s: %s", what, x[i])
		}
	}
	for _, name := range []string{a, b} {
		if now := w.clock(name); !near(now) {
			w.t.Errorf("the clock of machine %s shows %v", name, now)
		}
	}
	x, y = strings.Fields(w.c.Run("logs", a)), strings.Fields(w.c.Run("logs", b))
	if len(x) != 2 || len(y) != 2 || x[1] == y[1] {
		w.t.Errorf("two machines of one template begin with the same random numbers: %s and %s", x, y)
	}
}

// clock is the time in a machine.
func (w *world) clock(name string) time.Time {
	w.t.Helper()
	s, err := strconv.ParseInt(w.c.Run("exec", name, "date", "+%s"), 10, 64)
	if err != nil {
		w.t.Fatal(err)
	}
	return time.Unix(s, 0)
}

// near says whether a machine that shows the time t knows it: to say so takes it some
// time on a busy host.
func near(t time.Time) bool { return time.Since(t).Abs() < time.Minute }

// wrongClock sets the clock of a machine back by years.
func (w *world) wrongClock(name string) {
	w.t.Helper()
	w.has("date", w.c.Run("exec", "--privileged", name, "date", "-s", "@1000000000"), "2001")
}

// TestBuild: steps of a build run in machines and leave the image that they leave as
// containers.
func TestBuild(t *testing.T) {
	t.Parallel()
	w := start(t, "busybox")
	c := w.Hull()
	c.Env = []string{"SOURCE_DATE_EPOCH=1700000000"}
	dir, secret := t.TempDir(), w.WriteFile("secret", "hidden\n")
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(`FROM busybox
RUN --mount=type=cache,target=/cache --mount=type=secret,id=s --mount=type=tmpfs,target=/t \
  cat /run/secrets/s > /got && touch /cache/x /t/x && mkdir /d && ln /got /d/hard && ln -s /got /d/soft && rm /etc/group && chown -R 1000:1000 /d && chmod 4755 /got
USER 1000
WORKDIR /home/x
RUN id -u > me
`), 0o600); err != nil {
		t.Fatal(err)
	}
	ids := map[string]string{}
	for _, isolation := range []string{"container", "vm"} {
		ids[isolation] = c.Run("build", "-q", "--reproducible", "--isolation", isolation, "--secret", "id=s,src="+secret, dir)
	}
	w.want("the image made in machines", ids["vm"], ids["container"])
	w.want("what is in it", c.Run("run", "--rm", ids["vm"], "cat", "/got", "me", "/d/soft"), "hidden\n1000\nhidden")

	r := c.TryStdin("FROM busybox\nRUN uname -r && exit 7\n", "build", "--isolation", "vm", "--progress", "plain", "-")
	host, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	if kernel := strings.TrimSpace(string(host)); r.Code != 7 || !strings.Contains(r.Stderr, "6.") || strings.Contains(r.Stderr, kernel) {
		t.Errorf("a step that says its kernel and fails: %d %s", r.Code, r.Stderr)
	}
	if r := c.TryStdin("FROM busybox\nRUN true\n", "build", "--isolation", "vm", "--network", "host", "-"); r.Code == 0 || !strings.Contains(r.Stderr, "cannot use the host's network") {
		t.Errorf("a machine on the host's network: %d %s", r.Code, r.Stderr)
	}
}
