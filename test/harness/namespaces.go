package harness

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/require"
)

// ephemeralPorts are the first and the last of a host's network of the tests'. Those that
// tests publish by number are below: a client's port is taken for a minute after its
// connection has ended.
const ephemeralPorts = "45001 60999"

// namespaces is a mount and a network namespace, held by a sleeping process.
type namespaces struct{ holder *exec.Cmd }

func newNamespaces(t testing.TB) *namespaces {
	t.Helper()
	require.Program(t, "nsenter")
	// The holder says when the loopback is up, and ends with its standard input.
	holder := exec.Command("unshare", "--net", "--mount", "--propagation", "private",
		"sh", "-c", "ip link set lo up && echo "+ephemeralPorts+" >/proc/sys/net/ipv4/ip_local_port_range && echo ready && exec cat")
	stdin, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	holder.Stderr = os.Stderr
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		_ = holder.Process.Kill()
		_ = holder.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("make namespaces: %q, %v", line, err)
	}
	return &namespaces{holder: holder}
}

func (n *namespaces) path(kind string) string {
	return fmt.Sprintf("/proc/%d/ns/%s", n.holder.Process.Pid, kind)
}

// flags are nsenter's.
func (n *namespaces) flags() []string {
	return []string{"--net=" + n.path("net"), "--mount=" + n.path("mnt")}
}

// processes lists the pids in the mount namespace, except the holder.
func (n *namespaces) processes(t testing.TB) []string {
	t.Helper()
	own, err := os.Readlink(n.path("mnt"))
	if err != nil {
		t.Fatal(err)
	}
	links, err := filepath.Glob("/proc/[0-9]*/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, link := range links {
		pid := strings.Split(link, "/")[2]
		if ns, err := os.Readlink(link); err != nil || ns != own || pid == strconv.Itoa(n.holder.Process.Pid) {
			continue // gone meanwhile, or not ours
		}
		cmdline, _ := os.ReadFile("/proc/" + pid + "/cmdline")
		found = append(found, pid+" "+strings.ReplaceAll(string(cmdline), "\x00", " "))
	}
	return found
}

// mounts counts the mount points below dir: pins of network namespaces, of which
// an engine may have a pool, and all others. (What other programs of the machine
// had mounted elsewhere when the namespace was made comes and goes with them.)
func (n *namespaces) mounts(t testing.TB, dir string) (pins int, others []string) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/mounts", n.holder.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		switch f := strings.Fields(line); {
		case len(f) < 2 || !strings.HasPrefix(f[1], dir+"/"):
		case f[0] == "nsfs":
			pins++
		default:
			others = append(others, f[1])
		}
	}
	return pins, others
}

// links lists the network interfaces by kind prefix of ip(8), e.g. veth.
func (n *namespaces) links(t testing.TB, kind string) []string {
	t.Helper()
	out, err := exec.Command("nsenter", append(n.flags(), "ip", "-o", "link", "show", "type", kind)...).Output() // #nosec: a test
	if err != nil {
		t.Fatalf("list links: %v", err)
	}
	var names []string
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) > 1 {
			names = append(names, strings.TrimSuffix(f[1], ":"))
		}
	}
	return names
}

// end asserts that nothing lives in the namespaces any more.
func (n *namespaces) end(t testing.TB) {
	t.Helper()
	var left []string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if left = n.processes(t); len(left) == 0 {
			return
		}
	}
	t.Errorf("processes left after the engine was stopped:\n%s", strings.Join(left, "\n"))
	for _, p := range left {
		pid, err := strconv.Atoi(strings.Fields(p)[0])
		fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, fd := range fds {
			target, _ := os.Readlink(fd)
			t.Logf("%d holds %s: %s", pid, filepath.Base(fd), target)
		}
		if err == nil {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// inside runs fn on a thread in the network namespace. Sockets that fn makes
// belong to it.
func (n *namespaces) inside(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		// The thread is not unlocked: it ends with the goroutine, so it cannot be
		// reused in the wrong namespace.
		runtime.LockOSThread()
		f, err := os.Open(n.path("net"))
		if err != nil {
			done <- err
			return
		}
		defer f.Close()
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- fn()
	}()
	return <-done
}

// Inside runs fn on a thread in the engine's host network: sockets that it makes
// belong there.
func (e *Engine) Inside(fn func() error) error {
	if e.ns == nil {
		return fn()
	}
	return e.ns.inside(fn)
}

// Dial connects from the engine's host network: what a user of a published port does.
func (e *Engine) Dial(network, address string) (conn net.Conn, err error) {
	err = e.Inside(func() (err error) {
		conn, err = net.DialTimeout(network, address, 20*time.Second)
		return err
	})
	return conn, err
}

// Listen opens a TCP port on the engine's host.
func (e *Engine) Listen(address string) (l net.Listener, err error) {
	err = e.Inside(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	return l, err
}

// Serve answers HTTP at an address of the engine's host until the test ends, and
// returns the address.
func (e *Engine) Serve(address string, handler http.Handler) string {
	e.t.Helper()
	l, err := e.Listen(address)
	if err != nil {
		e.t.Fatal(err)
	}
	server := &http.Server{Handler: handler, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)} // #nosec: a test
	go func() { _ = server.Serve(l) }()
	e.t.Cleanup(func() { _ = server.Close() })
	return l.Addr().String()
}

// httpClient makes a connection from the engine's host network for each request.
func (e *Engine) httpClient(timeout time.Duration) *http.Client {
	return &http.Client{Timeout: timeout, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(_ context.Context, network, address string) (net.Conn, error) { return e.Dial(network, address) },
	}}
}

// Get fetches a URL from the engine's host network, and returns status and body.
func (e *Engine) Get(url string) (int, string, error) {
	resp, err := e.httpClient(30 * time.Second).Get(url)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// HostCommand runs a program of this machine in the engine's network.
func (e *Engine) HostCommand(argv ...string) *exec.Cmd {
	if e.ns != nil {
		argv = append(append([]string{"nsenter"}, e.ns.flags()...), argv...)
	}
	return exec.CommandContext(e.ctx(), argv[0], argv[1:]...) // #nosec: a test
}

// CheckLeaks asserts that no container has left anything: to be called when none
// exists. Some of it goes asynchronously, so it waits a little.
func (e *Engine) CheckLeaks() {
	e.t.Helper()
	if e.ns == nil || e.leaked {
		return // said once
	}
	var err error
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if err = e.leaks(); err == nil {
			return
		}
	}
	e.leaked = true
	e.t.Errorf("leaked: %v\nhulld's log:\n%s", err, e.Log())
}

// Slack: a pool of ready monitors and namespaces, and connections that come and go.
const (
	poolMax = 13
	fdSlack = 24
)

func (e *Engine) leaks() error {
	var errs []error
	check := func(what string, n, most int) {
		if n > most {
			errs = append(errs, fmt.Errorf("%s: %d, at most %d", what, n, most))
		}
	}
	pins, mounts := e.ns.mounts(e.t, e.dir)
	check(fmt.Sprintf("mounts %v", mounts), len(mounts), e.mounts)
	check("pinned network namespaces", pins, poolMax)
	check("processes", len(e.ns.processes(e.t)), 1+poolMax)
	check("veth interfaces", len(e.ns.links(e.t, "veth")), poolMax)
	check("open files of hulld", e.openFiles(), e.fds+fdSlack)
	if pods, err := os.ReadDir(filepath.Join(e.Run, "pods")); err == nil {
		check("run directories of pods", len(pods), poolMax)
	}
	check("cgroups with processes", len(e.busyCgroups()), 0)
	if out, err := e.HostCommand("nft", "list", "ruleset").Output(); err == nil {
		check("published ports", strings.Count(string(out), "dnat to"), 0)
	}
	return errors.Join(errs...)
}

func (e *Engine) openFiles() int {
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", e.Pid()))
	if err != nil {
		return 0
	}
	return len(fds)
}

// busyCgroups lists cgroups of this engine's containers: those that hold a
// process which is in no namespace of ours but has our run directory open are not
// findable, so it goes by the parent that the engine names after itself.
func (e *Engine) busyCgroups() []string {
	parent := e.cgroupParent()
	if parent == "" {
		return nil
	}
	var found []string
	for _, pattern := range []string{"/sys/fs/cgroup" + parent + "/*", "/sys/fs/cgroup/*" + parent + "/*"} {
		dirs, _ := filepath.Glob(pattern)
		for _, d := range dirs {
			if info, err := os.Stat(d); err == nil && info.IsDir() && len(filepath.Base(d)) == 64 {
				found = append(found, d)
			}
		}
	}
	return found
}

// cgroupParent is the cgroup below which this engine puts its containers,
// learned from the first container that ran ("" before).
func (e *Engine) cgroupParent() string {
	b, err := os.ReadFile(filepath.Join(e.dir, "cgroup-parent"))
	if err != nil {
		return ""
	}
	return string(b)
}
