package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/docker/cli/cli"
	dockercmd "github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/commands"
	cliflags "github.com/docker/cli/cli/flags"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/spf13/cobra"

	"hull/api"
)

// engine is a Docker Engine API of one container, which "runs" by echoing what the
// test says.
type engine struct {
	socket string

	// What the test sets before.
	stdout, stderr string
	echo           bool // the container copies stdin to stdout
	exit           int
	createStatus   int    // 0 = success
	startError     string // 500 with this message
	containers     []container.Summary
	warnings       []string
	own            bool // it is hull's engine, which starts an exec, and runs, at once
	older          bool // it is an older engine where hull's own is to be
	dies           bool // after the start; the container ends when its successor was asked to wait

	mu      sync.Mutex
	log     []request
	started chan struct{}
	ended   chan struct{}
	once    sync.Once
}

// request is one that the engine got, in a form that can be compared.
type request struct {
	Method, Path string // without the version
	Query        string
	Body         string
}

func newEngine(t testing.TB) *engine {
	t.Helper()
	dir, err := os.MkdirTemp("", "hull") // t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	e := &engine{socket: filepath.Join(dir, "hull.sock"), started: make(chan struct{}), ended: make(chan struct{})}
	l, err := net.Listen("unix", e.socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(e.serve)} //nolint:gosec // a test's
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	return e
}

func (e *engine) requests() []request {
	e.mu.Lock()
	defer e.mu.Unlock()
	var log []request
	for _, r := range e.log {
		if r.Path != "/_ping" {
			log = append(log, r)
		}
	}
	return log
}

func (e *engine) serve(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	if rest, ok := strings.CutPrefix(path, "/v1."); ok {
		_, after, _ := strings.Cut(rest, "/")
		path = "/" + after
	}
	body, _ := io.ReadAll(r.Body)
	e.mu.Lock()
	e.log = append(e.log, request{r.Method, path, r.URL.RawQuery, string(body)})
	e.mu.Unlock()
	w.Header().Set("Api-Version", "1.55")
	w.Header().Set("Ostype", "linux")
	parts := strings.Split(strings.Trim(path, "/"), "/")
	switch last := parts[len(parts)-1]; {
	case last == "_ping":
	case path == "/containers/create":
		if e.createStatus != 0 {
			fail(w, e.createStatus, "no such image: x")
			return
		}
		reply(w, 201, container.CreateResponse{ID: "c0ffee", Warnings: e.warnings})
	case path == "/containers/json":
		reply(w, 200, e.containers)
	case last == "attach", path == api.RunStreamsPath && e.own:
		e.stream(w, true)
	case path == api.RunPath && e.own:
		e.run(w)
	case last == "start" && parts[0] == "containers":
		if e.startError != "" {
			e.finish()
			fail(w, 500, e.startError)
			return
		}
		w.WriteHeader(204)
		e.once.Do(func() { close(e.started) })
	case last == "wait":
		w.Header().Set("Content-Type", "application/json")
		if e.dies {
			e.finish()
		}
		e.wait(w)
	case parts[0] == "containers" && strings.HasPrefix(parts[1], "no"):
		fail(w, 404, "No such container: "+parts[1])
	case last == "exec" && r.Method == "POST" && e.own && r.Header.Get(api.StartHeader) == "1":
		e.stream(w, false)
	case last == "exec" && r.Method == "POST":
		reply(w, 201, container.ExecCreateResponse{ID: "ec5ec"})
	case last == "start" && parts[0] == "exec":
		if strings.Contains(string(body), `"Detach":true`) {
			w.WriteHeader(204)
			return
		}
		e.stream(w, false)
	case last == "json" && parts[0] == "exec":
		if r.URL.RawQuery == api.UntilExit {
			<-e.ended
		}
		reply(w, 200, map[string]any{"ID": "ec5ec", "ExitCode": e.exit})
	case last == "json" && parts[1] == "c0ffee":
		reply(w, 200, container.InspectResponse{ID: "c0ffee"})
	case r.Method == "DELETE", last == "kill", last == "resize", last == "stop", last == "restart", last == "pause", last == "unpause":
		w.WriteHeader(204)
	default:
		fail(w, 404, "page not found")
	}
}

// run is api.RunPath.
func (e *engine) run(w http.ResponseWriter) {
	if e.createStatus != 0 {
		e.finish()
		fail(w, e.createStatus, "no such image: x")
		return
	}
	w.Header().Set(api.ContainerHeader, "c0ffee")
	if e.startError != "" {
		e.finish()
		fail(w, 500, e.startError)
		return
	}
	reply(w, 200, api.Running{ID: "c0ffee", Warnings: e.warnings})
	e.once.Do(func() { close(e.started) })
	if e.dies {
		w.(http.Flusher).Flush()    //nolint:forcetypeassert // net/http's
		panic(http.ErrAbortHandler) // closes the connection
	}
	e.wait(w)
}

// wait answers when the container has ended; what was written before goes at once.
func (e *engine) wait(w http.ResponseWriter) {
	w.(http.Flusher).Flush() //nolint:forcetypeassert // net/http's
	<-e.ended
	_ = json.NewEncoder(w).Encode(container.WaitResponse{StatusCode: int64(e.exit)})
}

func (e *engine) finish() {
	e.mu.Lock()
	defer e.mu.Unlock()
	select {
	case <-e.ended:
	default:
		close(e.ended)
	}
}

// stream is the container's life: output, echo of the input, exit.
func (e *engine) stream(w http.ResponseWriter, afterStart bool) {
	conn, buf, err := w.(http.Hijacker).Hijack() //nolint:forcetypeassert // net/http's
	if err != nil {
		return
	}
	defer conn.Close()
	defer e.finish()
	_, _ = io.WriteString(conn, "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"+api.ExecHeader+": ec5ec\r\n\r\n")
	if afterStart {
		select {
		case <-e.started:
		case <-e.ended:
			return
		}
	}
	if e.dies {
		<-e.ended
	}
	frame(conn, stdcopy.Stdout, e.stdout)
	frame(conn, stdcopy.Stderr, e.stderr)
	if e.echo {
		in, _ := io.ReadAll(buf)
		frame(conn, stdcopy.Stdout, string(in))
	}
}

func frame(w io.Writer, stream stdcopy.StdType, s string) {
	if s == "" {
		return
	}
	n := len(s)
	_, _ = w.Write(append([]byte{byte(stream), 0, 0, 0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, s...))
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func fail(w http.ResponseWriter, status int, message string) {
	reply(w, status, map[string]string{"message": message})
}

// outcome is what a command did, as its user and the engine see it.
type outcome struct {
	code        int
	stdout, err string
	requests    []request
}

// quick runs args with the quick part; handed = it would hand over.
func quick(t *testing.T, e *engine, stdin string, args ...string) (o outcome, handed bool) {
	t.Helper()
	in, out, errs := file(t, stdin), file(t, ""), file(t, "")
	env := map[string]string{"HOME": t.TempDir(), "HULL_HOST": "unix://" + e.socket}
	if e.own || e.older {
		env["HULL_RUN"] = filepath.Dir(e.socket)
	}
	c := &command{getenv: func(k string) string { return env[k] }, uid: os.Getuid(), in: in, out: out, err: errs}
	code, err := c.run(args)
	if errors.Is(err, errHandOver) {
		return outcome{}, true
	}
	text := ""
	if err != nil {
		text = err.Error() + "\n"
	}
	return outcome{code, content(t, out), content(t, errs) + text, e.requests()}, false
}

// docker runs args with docker/cli.
func docker(t *testing.T, e *engine, stdin string, args ...string) outcome {
	t.Helper()
	out, errs := &bytes.Buffer{}, &bytes.Buffer{}
	dockerCLI, err := dockercmd.NewDockerCli(
		dockercmd.WithOutputStream(out), dockercmd.WithErrorStream(errs),
		dockercmd.WithInputStream(file(t, stdin)), dockercmd.WithBaseContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	root := &cobra.Command{Use: "docker", SilenceUsage: true, SilenceErrors: true, TraverseChildren: true}
	opts := cliflags.NewClientOptions()
	opts.InstallFlags(root.Flags())
	opts.Hosts = []string{"unix://" + e.socket}
	opts.ConfigDir = t.TempDir()
	opts.LogLevel = "fatal"
	opts.SetDefaultOptions(root.Flags())
	if err := dockerCLI.Initialize(opts); err != nil {
		t.Fatal(err)
	}
	commands.AddCommands(root, dockerCLI)
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errs)
	err = root.ExecuteContext(context.WithoutCancel(t.Context()))
	o := outcome{stdout: out.String()}
	if err != nil {
		o.code = 1
		var st cli.StatusError
		if errors.As(err, &st) && st.StatusCode != 0 {
			o.code = st.StatusCode
		}
		if err.Error() != "" {
			errs.WriteString(err.Error() + "\n")
		}
	}
	o.err = strings.NewReplacer("docker: ", "hull: ", "'docker ", "'hull ").Replace(errs.String())
	o.requests = e.requests()
	return o
}

func file(t *testing.T, text string) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	return f
}

func content(t *testing.T, f *os.File) string {
	t.Helper()
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// find returns the requests of a method to a path that ends so, with sorted query.
func (o outcome) find(t *testing.T, method, suffix string) []request {
	t.Helper()
	var found []request
	for _, r := range o.requests {
		if r.Method == method && strings.HasSuffix(r.Path, suffix) {
			q, err := url.ParseQuery(r.Query)
			if err != nil {
				t.Fatal(err)
			}
			r.Query = q.Encode()
			found = append(found, r)
		}
	}
	return found
}
