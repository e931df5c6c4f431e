// Package harness runs the built binaries for tests that see hull from outside:
// a private engine (state and run directory, mount and network namespace of its
// own, so that nothing touches the machine), the real docker client and hull
// against it, a registry in its network, and a check that nothing leaked.
//
// With HULL_COMPAT_HOST=unix:///var/run/docker.sock Start gives that engine
// instead, so that a test can be shown to be right about Docker.
package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hull/internal/require"
	"hull/test/images"
)

// Engine is a running engine and how to reach it.
type Engine struct {
	Host string // as in DOCKER_HOST
	Root string // state directory; "" = not ours
	Run  string // run directory

	t       testing.TB
	ctx     func() context.Context // lives longer than the test's own: until everything is cleaned
	bin     string
	dir     string // what the test made, deleted at its end
	args    []string
	env     []string
	ns      *namespaces
	daemon  *exec.Cmd
	waited  chan struct{}
	logFile string
	fds     int
	mounts  int
	leaked  bool
	ports   sync.Map // that FreePort has returned
}

// Option changes how an engine is started.
type Option func(*Engine)

// Args adds flags for hulld.
func Args(args ...string) Option { return func(e *Engine) { e.args = append(e.args, args...) } }

// Env sets variables of hulld's environment, as KEY=VALUE.
func Env(vars ...string) Option { return func(e *Engine) { e.env = append(e.env, vars...) } }

// TmpfsRun puts the run directory on a tmpfs, as /run is.
func TmpfsRun() Option {
	return func(e *Engine) {
		e.t.Helper()
		err := os.MkdirAll(e.Run, 0o711)
		if err == nil {
			err = syscall.Mount("tmpfs", e.Run, "tmpfs", 0, "mode=0711")
		}
		if err != nil {
			e.t.Fatal(err)
		}
		e.t.Cleanup(func() {
			if err := syscall.Unmount(e.Run, 0); err != nil {
				e.t.Errorf("unmount the run directory: %v", err)
			}
		})
	}
}

// Start runs a private engine for the test, and checks at its end that nothing
// leaked. The named images are loaded into it.
func Start(t testing.TB, load []string, options ...Option) *Engine {
	t.Helper()
	if host := os.Getenv("HULL_COMPAT_HOST"); host != "" {
		e := &Engine{Host: host, t: t, ctx: lifetime(t), dir: tempDir(t)}
		e.Load(load...)
		return e
	}
	e := NewEngine(t, options...)
	e.StartDaemon()
	e.AtEnd()
	e.Load(load...)
	return e
}

// AtEnd arranges that the engine is cleaned, checked for leaks and stopped when
// the test ends. Start does it by itself.
func (e *Engine) AtEnd() { e.t.Cleanup(e.finish) }

// SmallRoot puts the state directory of e on a file system of its own, of that size.
// Before StartDaemon.
func SmallRoot(e *Engine, size string) {
	e.t.Helper()
	if err := os.MkdirAll(e.Root, 0o711); err != nil {
		e.t.Fatal(err)
	}
	image := filepath.Join(e.dir, "disk.img")
	script := "truncate -s " + size + " " + image + " && mkfs.ext4 -q -F " + image + " && mount -o loop " + image + " " + e.Root
	if out, err := e.HostCommand("sh", "-c", script).CombinedOutput(); err != nil {
		e.t.Fatalf("make a small file system: %v: %s", err, out)
	}
}

// Adopt takes over an engine that a client has started by itself: it is asked to
// end when the test does.
func (e *Engine) Adopt() {
	e.t.Helper()
	for _, p := range e.ns.processes(e.t) {
		f := strings.Fields(p)
		if len(f) > 1 && filepath.Base(f[1]) == "hulld" {
			pid, err := strconv.Atoi(f[0])
			if err != nil {
				e.t.Fatal(err)
			}
			e.t.Cleanup(func() {
				if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
					e.t.Errorf("stop the engine: %v", err)
				}
				e.ns.end(e.t)
			})
			return
		}
	}
	e.t.Fatal("the client has started no hulld")
}

// NewEngine makes the namespaces and directories of an engine that does not run yet.
func NewEngine(t testing.TB, options ...Option) *Engine {
	t.Helper()
	require.Root(t)
	e := &Engine{t: t, ctx: lifetime(t), bin: binDir(t), dir: tempDir(t)}
	e.Root, e.Run = filepath.Join(e.dir, "root"), filepath.Join(e.dir, "run")
	e.Host = "unix://" + filepath.Join(e.Run, "hull.sock")
	e.logFile = filepath.Join(e.dir, "hulld.log")
	for _, o := range options {
		o(e)
	}
	e.ns = newNamespaces(t)
	return e
}

// lifetime is a context that ends after the clean-ups registered from now on.
func lifetime(t testing.TB) func() context.Context {
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	t.Cleanup(cancel)
	return func() context.Context { return ctx }
}

// Reference says whether the engine is not hull but the one of HULL_COMPAT_HOST.
func (e *Engine) Reference() bool { return e.Root == "" }

func binDir(t testing.TB) string {
	dir := os.Getenv("HULL_BIN")
	if dir == "" {
		wd, err := os.Getwd()
		if err != nil {
			t.Fatal(err)
		}
		for ; wd != "/"; wd = filepath.Dir(wd) {
			if _, err := os.Stat(filepath.Join(wd, "go.mod")); err == nil {
				dir = filepath.Join(wd, "bin")
				break
			}
		}
	}
	_, err := os.Stat(filepath.Join(dir, "hulld"))
	require.Must(t, "bin", err == nil, "hulld is not built: run make build")
	return dir
}

// cacheDir is where make keeps what it builds for tests.
func cacheDir(t testing.TB) string {
	t.Helper()
	dir, err := images.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// tempDir is short: a socket's path may have 107 bytes.
func tempDir(t testing.TB) string {
	dir, err := os.MkdirTemp("", "hull-t-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if os.Getenv("HULL_KEEP") != "" {
			t.Logf("kept %s", dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove test directory: %v", err)
		}
	})
	return dir
}

// Dir makes a directory for the test's own files.
func (e *Engine) Dir(name string) string {
	e.t.Helper()
	dir := filepath.Join(e.dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		e.t.Fatal(err)
	}
	return dir
}

// WriteFile makes a file for the test, and returns its path.
func (e *Engine) WriteFile(name, content string) string {
	e.t.Helper()
	file := filepath.Join(e.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		e.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		e.t.Fatal(err)
	}
	return file
}

// StartDaemon runs hulld and waits until it answers.
func (e *Engine) StartDaemon() {
	e.t.Helper()
	log, err := os.OpenFile(e.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		e.t.Fatal(err)
	}
	defer log.Close()
	args := append([]string{filepath.Join(e.bin, "hulld"), "--root", e.Root, "--run", e.Run}, e.args...)
	cmd := exec.Command("nsenter", append(e.ns.flags(), args...)...) // #nosec: our own binary
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(append(os.Environ(), "HULL_ROOT=", "HULL_RUN=", "HULL_HOST="), e.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	e.daemon, e.waited = cmd, make(chan struct{})
	go func(waited chan struct{}) {
		defer close(waited)
		_ = cmd.Wait()
	}(e.waited)
	e.Eventually("hulld answers", func() error {
		select {
		case <-e.waited:
			e.t.Fatalf("hulld ended at start: %v\n%s", cmd.ProcessState, e.Log())
		default:
		}
		resp, err := e.API(http.MethodGet, "/_ping", nil)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("status %s", resp.Status)
		}
		return nil
	})
	if e.fds == 0 {
		e.fds = e.openFiles()
		_, mounts := e.ns.mounts(e.t, e.dir)
		e.mounts = len(mounts)
	}
}

// Pid is hulld's.
func (e *Engine) Pid() int { return e.daemon.Process.Pid }

// KillDaemon ends hulld with SIGKILL.
func (e *Engine) KillDaemon() { e.endDaemon(syscall.SIGKILL) }

// StopDaemon ends hulld in order.
func (e *Engine) StopDaemon() { e.endDaemon(syscall.SIGTERM) }

func (e *Engine) endDaemon(sig syscall.Signal) {
	e.t.Helper()
	if e.daemon == nil {
		return
	}
	if err := e.daemon.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		e.t.Errorf("signal hulld: %v", err)
	}
	select {
	case <-e.waited:
	case <-time.After(patience):
		e.t.Errorf("hulld did not end in %v after %v; its log:\n%s", patience, sig, e.Log())
		_ = e.daemon.Process.Kill()
		<-e.waited
	}
	e.daemon = nil
}

// Log is what hulld has said.
func (e *Engine) Log() string {
	b, err := os.ReadFile(e.logFile)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-8000):])
}

// API sends a raw request to the engine's socket.
func (e *Engine) API(method, path string, body io.Reader) (*http.Response, error) {
	socket := strings.TrimPrefix(e.Host, "unix://")
	client := http.Client{Timeout: time.Minute, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	req, err := http.NewRequest(method, "http://engine"+path, body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return client.Do(req)
}

// Load puts test images into the engine.
func (e *Engine) Load(names ...string) {
	e.t.Helper()
	for _, name := range names {
		file := images.Path(e.t, name)
		if e.Reference() && e.Docker().Try("image", "inspect", images.Ref(name)).Code == 0 {
			continue
		}
		e.Docker().Run("load", "-q", "-i", file)
	}
}

// patience bounds a wait: for what a test expects, and for an engine's start and end.
const patience = 90 * time.Second

// Eventually waits until ok says nil, for at most patience.
func (e *Engine) Eventually(what string, ok func() error) {
	e.t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = ok(); err == nil {
			return
		}
	}
	e.t.Fatalf("waited %v in vain until %s: %v\nhulld's log:\n%s", patience, what, err, e.Log())
}

// finish removes what the test left, checks for leaks and stops the engine.
func (e *Engine) finish() {
	if e.t.Failed() {
		e.t.Logf("hulld's log:\n%s", e.Log())
	}
	if e.daemon == nil {
		e.StartDaemon()
	}
	if ids := strings.Fields(e.Docker().Run("ps", "-aq")); len(ids) > 0 {
		if r := e.Docker().Try(append([]string{"rm", "-f", "-v"}, ids...)...); r.Code != 0 {
			e.t.Errorf("remove what the test left: %s", r.Stderr)
		}
	}
	if !e.t.Failed() {
		e.CheckLeaks()
	}
	e.StopDaemon()
	e.ns.end(e.t)
}

// Client is a command line that talks to an engine.
type Client struct {
	e    *Engine
	Name string
	argv []string
	Env  []string // more environment
	Dir  string   // working directory, "" = the test's

	direct bool       // not through nsenter: for what needs only the socket, and is timed
	t      testing.TB // a subtest's own; nil = the engine's
}

// For returns the client as t's, so that what fails is t and not the test that
// started the engine.
func (c Client) For(t testing.TB) *Client {
	c.t = t
	return &c
}

func (c *Client) testing() testing.TB {
	if c.t != nil {
		return c.t
	}
	return c.e.t
}

// Direct returns the client without the detour into the engine's namespaces: it
// reaches the socket, but no port.
func (c *Client) Direct() *Client {
	d := *c
	d.direct = true
	return &d
}

// Result is what a command did.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Docker is the real docker client: $HULL_DOCKER, else the one that make builds
// at the version of go.mod, else the one in PATH.
func (e *Engine) Docker() *Client {
	e.t.Helper()
	docker := os.Getenv("HULL_DOCKER")
	if docker == "" {
		docker = filepath.Join(cacheDir(e.t), "bin", "docker")
		if _, err := os.Stat(docker); err != nil {
			docker = require.Program(e.t, "docker")
		}
	}
	return &Client{e: e, Name: "docker", argv: []string{docker}}
}

// Buildx is the docker client with docker's build plugin: its "build" is BuildKit's
// own protocol, and "buildx" is there.
func (e *Engine) Buildx() *Client {
	e.t.Helper()
	plugin := filepath.Join(cacheDir(e.t), "bin", "docker-buildx")
	_, err := os.Stat(plugin)
	require.Must(e.t, "buildx", err == nil, "docker buildx is not built: run make testbin")
	config := e.Dir("config-buildx")
	link := filepath.Join(e.Dir("config-buildx/cli-plugins"), "docker-buildx")
	if err := os.Symlink(plugin, link); err != nil && !errors.Is(err, fs.ErrExist) {
		e.t.Fatal(err)
	}
	c := e.Docker()
	c.Name, c.Env = "docker (buildx)", []string{"DOCKER_CONFIG=" + config}
	return c
}

// Compose is docker compose, as the standalone program that make builds.
func (e *Engine) Compose() *Client {
	e.t.Helper()
	program := filepath.Join(cacheDir(e.t), "bin", "docker-compose")
	if _, err := os.Stat(program); err != nil {
		program = require.Program(e.t, "docker-compose")
	}
	return &Client{e: e, Name: "docker compose", argv: []string{program}}
}

// HullCompose is hull compose.
func (e *Engine) HullCompose() *Client {
	return &Client{e: e, Name: "hull compose", argv: []string{filepath.Join(e.bin, "hull"), "compose"}}
}

// BinDir is where the built programs are.
func (e *Engine) BinDir() string { return e.bin }

// Hull is hull's own command line.
func (e *Engine) Hull() *Client {
	return &Client{e: e, Name: "hull", argv: []string{filepath.Join(e.bin, "hull")}}
}

// Clients is every command line that can talk to this engine.
func (e *Engine) Clients() []*Client {
	if e.Reference() {
		return []*Client{e.Docker()}
	}
	return []*Client{e.Docker(), e.Hull()}
}

// Cmd prepares a call; it is killed when the test ends.
func (c *Client) Cmd(args ...string) *exec.Cmd {
	argv := append([]string{}, c.argv...)
	if c.e.ns != nil && !c.direct {
		argv = append(append([]string{"nsenter"}, c.e.ns.flags()...), argv...)
		if c.Dir != "" {
			argv = slices.Insert(argv, 1, "--wdns="+c.Dir)
		}
	}
	cmd := exec.CommandContext(c.e.ctx(), argv[0], append(argv[1:], args...)...) // #nosec: a test
	cmd.Dir = c.Dir
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+c.e.Host, "HULL_HOST="+c.e.Host, "DOCKER_CONTEXT=", "DOCKER_CONFIG="+filepath.Join(c.e.dir, "config"),
		"HULL_ROOT="+c.e.Root, "HULL_RUN="+c.e.Run, "HOME="+c.e.dir, "DOCKER_CLI_HINTS=false", "TERM=xterm")
	cmd.Env = append(cmd.Env, c.Env...)
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// limit bounds one command of a test: a machine that boots without hardware help, on
// processors that thirty others want, took a minute and a half.
const limit = 4 * time.Minute

// Try runs a command to its end.
func (c *Client) Try(args ...string) Result { return c.TryStdin("", args...) }

// TryStdin is Try with input.
func (c *Client) TryStdin(stdin string, args ...string) Result {
	c.testing().Helper()
	cmd := c.Cmd(args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	cmd.Stdin = strings.NewReader(stdin)
	timer := time.AfterFunc(limit, func() {
		if cmd.Process != nil {
			_ = cmd.Process.Kill()
		}
	})
	err := cmd.Run()
	if !timer.Stop() {
		c.testing().Fatalf("%s %s: no end in %v\nstdout: %s\nstderr: %s\nhulld's log:\n%s", c.Name, strings.Join(args, " "), limit, &out, &errOut, c.e.Log())
	}
	r := Result{Stdout: out.String(), Stderr: errOut.String(), Code: cmd.ProcessState.ExitCode()}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && c.e.ctx().Err() == nil {
		c.testing().Fatalf("%s %s: %v", c.Name, strings.Join(args, " "), err)
	}
	return r
}

// Run runs a command that must succeed, and returns its standard output without
// the last newline.
func (c *Client) Run(args ...string) string {
	c.testing().Helper()
	r := c.Try(args...)
	if r.Code != 0 {
		c.testing().Fatalf("%s %s: exit code %d\nstdout: %s\nstderr: %s\nhulld's log:\n%s", c.Name, strings.Join(args, " "), r.Code, r.Stdout, r.Stderr, c.e.Log())
	}
	return strings.TrimRight(r.Stdout, "\n")
}

// Fails runs a command that must fail with code and say all of want on stderr.
func (c *Client) Fails(code int, want []string, args ...string) Result {
	c.testing().Helper()
	r := c.Try(args...)
	if r.Code != code {
		c.testing().Fatalf("%s %s: exit code %d, want %d\nstdout: %s\nstderr: %s", c.Name, strings.Join(args, " "), r.Code, code, r.Stdout, r.Stderr)
	}
	for _, w := range want {
		if !strings.Contains(strings.ToLower(r.Stderr), strings.ToLower(w)) {
			c.testing().Errorf("%s %s: stderr lacks %q: %s", c.Name, strings.Join(args, " "), w, r.Stderr)
		}
	}
	return r
}
