package harness

import (
	"debug/buildinfo"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"hull/internal/require"
)

// Peer is another engine beside ours: state, mount and network namespace of its
// own, ended with the test. What it has in common with ours is how a test reaches
// it; it is not started, killed or checked for leaks as ours is.
type Peer struct {
	*Engine
	Name   string
	Client *Client // its command line: docker, or podman
}

// PeerBin is where make bench-peers puts what it builds.
func PeerBin(t testing.TB) string {
	t.Helper()
	return filepath.Join(cacheDir(t), "peers", "bin")
}

// peerEngine is the ground a peer stands on.
func peerEngine(t testing.TB) *Engine {
	t.Helper()
	require.Root(t)
	p := &Engine{t: t, ctx: lifetime(t), bin: binDir(t), dir: tempDir(t), ns: newNamespaces(t)}
	p.Root, p.Run, p.logFile = filepath.Join(p.dir, "root"), filepath.Join(p.dir, "run"), filepath.Join(p.dir, "log")
	return p
}

// StartDocker runs Docker Engine with what is in the search path: its containerd and
// runc are found there, too.
func StartDocker(t testing.TB, path string) (*Peer, error) {
	t.Helper()
	dockerd := lookPath(path, "dockerd")
	if dockerd == "" {
		return nil, fmt.Errorf("no dockerd in %s", path)
	}
	p := peerEngine(t)
	socket := filepath.Join(p.dir, "docker.sock")
	p.Host = "unix://" + socket
	// Its containers' and its containerd's mounts stay in the namespace.
	err := p.startPeer(path, socket, dockerd, "--data-root", p.Root, "--exec-root", p.Run, "-H", p.Host, "--pidfile", filepath.Join(p.dir, "pid"))
	if err != nil {
		return nil, err
	}
	c := p.Docker().Direct()
	r := c.Try("version", "-f", "{{.Server.Version}}")
	if r.Code != 0 {
		return nil, fmt.Errorf("ask %s for its version: %s", dockerd, r.Stderr)
	}
	c.Name = "Docker Engine " + strings.TrimSpace(r.Stdout)
	// One that go install built says "library-import"; its module has a version.
	if info, err := buildinfo.ReadFile(dockerd); err == nil && strings.HasPrefix(info.Main.Version, "v2") {
		c.Name = "Docker Engine (moby " + info.Main.Version + ")"
	}
	return &Peer{Engine: p, Name: c.Name, Client: c}, nil
}

// StartBuildkitd runs BuildKit's own daemon with what is in the search path. In place
// of Docker Hub it has the registry that is returned, which the other engine reaches,
// too. Its client is docker buildx.
func StartBuildkitd(t testing.TB, path string, other *Engine) (_ *Peer, registry string, _ error) {
	t.Helper()
	buildkitd := lookPath(path, "buildkitd")
	if buildkitd == "" {
		return nil, "", fmt.Errorf("no buildkitd in %s", path)
	}
	p := peerEngine(t)
	registry = p.Registry("", nil, other)
	socket := filepath.Join(p.dir, "buildkitd.sock")
	p.Host = "unix://" + socket
	conf := p.WriteFile("buildkitd.toml", fmt.Sprintf(`[registry."docker.io"]
mirrors = ["%[1]s"]
[registry."%[1]s"]
http = true
`, registry))
	err := p.startPeer(path, socket, buildkitd, "--config", conf, "--root", p.Root, "--addr", p.Host, "--oci-worker-net", "host", "--containerd-worker", "false")
	if err != nil {
		return nil, "", err
	}
	c := p.Buildx().Direct()
	c.Name = "buildkitd"
	if info, err := buildinfo.ReadFile(buildkitd); err == nil {
		c.Name += " " + info.Main.Version
	}
	if r := c.Try("buildx", "create", "--use", "--driver", "remote", p.Host); r.Code != 0 {
		return nil, "", fmt.Errorf("point the client to %s: %s", p.Host, lastWords(r.Stderr))
	}
	return &Peer{Engine: p, Name: c.Name, Client: c}, registry, nil
}

// startPeer runs a peer's daemon, which listens on a socket, until the end of the test.
func (e *Engine) startPeer(path, socket, program string, args ...string) error {
	e.t.Helper()
	log, err := os.Create(e.logFile)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command("nsenter", append(append(e.ns.flags(), program), args...)...) // #nosec: a test
	cmd.Env = append(os.Environ(), "PATH="+path)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	e.daemon, e.waited = cmd, make(chan struct{})
	go func() {
		defer close(e.waited)
		_ = cmd.Wait()
	}()
	e.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-e.waited:
		case <-time.After(time.Minute):
			_ = cmd.Process.Kill()
		}
		e.ns.end(e.t)
	})
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		select {
		case <-e.waited:
			return fmt.Errorf("%s ended at start: %s", program, lastWords(e.Log()))
		default:
		}
		conn, err := net.Dial("unix", socket)
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s does not answer: %s", program, lastWords(e.Log()))
		}
	}
}

// StartPodman prepares Podman, which has no daemon. Limits that it asks for by itself
// and this machine cannot give are replaced by those that there are.
func StartPodman(t testing.TB) (*Peer, error) {
	t.Helper()
	program, err := exec.LookPath("podman")
	if err != nil {
		return nil, err
	}
	runtime := ""
	for _, name := range []string{"crun", "runc"} {
		if runtime, err = exec.LookPath(name); err == nil {
			break
		}
	}
	if err != nil {
		return nil, errors.New("podman has neither crun nor runc here")
	}
	p := peerEngine(t)
	// crun refuses a v1 host whose v2 hierarchy has controllers: it is shown none. What
	// Podman's networks keep on the host is kept apart.
	prepare := `set -e
f=/sys/fs/cgroup/unified/cgroup.controllers; [ ! -e $f ] || { : > ` + p.dir + `/none; mount --bind ` + p.dir + `/none $f; }
[ ! -d /var/lib/cni ] || mount -t tmpfs tmpfs /var/lib/cni`
	if out, err := p.HostCommand("sh", "-c", prepare).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("prepare podman: %w: %s", err, out)
	}
	files, err := hardLimit(syscall.RLIMIT_NOFILE)
	if err != nil {
		return nil, err
	}
	conf := p.WriteFile("containers.conf", fmt.Sprintf(`[containers]
default_ulimits = ["nofile=%[1]d:%[1]d", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "%[2]s"
[network]
network_config_dir = "%[3]s/networks"
`, files, runtime, p.dir))
	p.WriteFile("config/config.json", "{}") // where DOCKER_CONFIG of every client here points
	c := &Client{
		e: p, Name: "Podman", Env: []string{"CONTAINERS_CONF=" + conf},
		argv: []string{program, "--root", p.Root, "--runroot", p.Run},
	}
	r := c.Try("version", "-f", "{{.Client.Version}}")
	if r.Code != 0 {
		return nil, fmt.Errorf("podman version: %s", lastWords(r.Stderr))
	}
	c.Name = "Podman " + strings.TrimSpace(r.Stdout) + ", " + filepath.Base(runtime)
	t.Cleanup(func() {
		if r := c.Try("rm", "-a", "-f", "-t", "0"); r.Code != 0 {
			t.Errorf("remove podman's containers: %s", r.Stderr)
		}
	})
	return &Peer{Engine: p, Name: c.Name, Client: c}, nil
}

// hardLimit is one of this process's resource limits.
func hardLimit(which int) (uint64, error) {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(which, &l); err != nil {
		return 0, err
	}
	return l.Max, nil
}

// Processes are the pids of an engine's own processes: those in its mount namespace.
// Containers have their own.
func (e *Engine) Processes() []int {
	e.t.Helper()
	var pids []int
	for _, p := range e.ns.processes(e.t) {
		if pid, err := strconv.Atoi(strings.Fields(p)[0]); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// lastWords is the end of a message, on one line.
func lastWords(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

func lookPath(path, name string) string {
	for dir := range strings.SplitSeq(path, ":") {
		file := filepath.Join(dir, name)
		if info, err := os.Stat(file); err == nil && info.Mode()&0o111 != 0 && !info.IsDir() {
			return file
		}
	}
	return ""
}
