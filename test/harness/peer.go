package harness

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"hull/test/images"
)

// Peer is Docker Engine beside ours: state, mount and network namespace of its
// own, ended with the test.
type Peer struct {
	Version string
	Docker  *Client // the real client against it
}

// StartPeer runs the newest Docker Engine of this machine: what `make bench-peers`
// built, else the distribution's. nil when there is none.
func StartPeer(e *Engine) *Peer {
	e.t.Helper()
	cache, err := images.CacheDir()
	if err != nil {
		e.t.Fatal(err)
	}
	path := os.Getenv("PATH")
	if own := filepath.Join(cache, "peers", "bin"); lookPath(own, "dockerd") != "" { // with its own containerd and runc
		path = own + ":" + path
	}
	dockerd := lookPath(path, "dockerd")
	if dockerd == "" {
		return nil
	}
	p := &Engine{t: e.t, ctx: e.ctx, bin: e.bin, dir: tempDir(e.t), ns: newNamespaces(e.t)}
	p.Root, p.Run, p.logFile = filepath.Join(p.dir, "root"), filepath.Join(p.dir, "run"), filepath.Join(p.dir, "dockerd.log")
	socket := filepath.Join(p.dir, "docker.sock")
	p.Host = "unix://" + socket
	p.startPeerDaemon(path, dockerd, socket)
	c := p.Docker().Direct()
	v := c.Run("version", "-f", "{{.Server.Version}}")
	c.Name = "docker on Docker Engine " + v
	return &Peer{Version: v, Docker: c}
}

func (e *Engine) startPeerDaemon(path, dockerd, socket string) {
	e.t.Helper()
	log, err := os.Create(e.logFile)
	if err != nil {
		e.t.Fatal(err)
	}
	defer log.Close()
	// Its containers' and its containerd's mounts stay in the namespace.
	cmd := exec.Command("nsenter", append(e.ns.flags(), dockerd, "--data-root", e.Root, "--exec-root", e.Run, // #nosec: a test
		"-H", "unix://"+socket, "--pidfile", filepath.Join(e.dir, "pid"))...)
	cmd.Env = append(os.Environ(), "PATH="+path)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		e.t.Fatal(err)
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
	e.Eventually("dockerd answers", func() error {
		select {
		case <-e.waited:
			e.t.Fatalf("dockerd ended at start: %v\n%s", cmd.ProcessState, e.Log())
		default:
		}
		conn, err := net.Dial("unix", socket)
		return errors.Join(err, closeIf(conn))
	})
}

func closeIf(c net.Conn) error {
	if c == nil {
		return nil
	}
	return c.Close()
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
