package docker

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"hull/internal/hull"
)

// world is a server over fakes on a unix socket, and ways to reach it.
type world struct {
	t        *testing.T
	socket   string
	engine   *fakeEngine
	images   *fakeImages
	volumes  *fakeVolumes
	networks *fakeNetworks
	events   *fakeEvents
	http     *http.Client
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		t: t, socket: filepath.Join(t.TempDir(), "s"), images: newFakeImages(), volumes: &fakeVolumes{},
		networks: newFakeNetworks(), events: &fakeEvents{},
	}
	w.engine = newFakeEngine(w.images)
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "unix", w.socket)
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{Version: "1.0", MaxBody: 64 << 10}, Parts{
		Containers: w.engine, Images: w.images, Volumes: w.volumes, Networks: w.networks, Events: w.events,
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	w.http = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", w.socket)
	}}}
	return w
}

// client is the real moby client; version "" negotiates.
func (w *world) client(version string) *client.Client {
	w.t.Helper()
	opts := []client.Opt{client.WithHost("unix://" + w.socket)}
	if version != "" {
		opts = append(opts, client.WithAPIVersion(version))
	}
	c, err := client.New(opts...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	return c
}

type answer struct {
	status int
	header http.Header
	body   string
}

// message is the text of an error body.
func (a answer) message() string {
	var m struct{ Message string }
	if json.Unmarshal([]byte(a.body), &m) != nil {
		return a.body
	}
	return m.Message
}

func (w *world) do(method, path, body string, header ...string) answer {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, "http://d"+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := w.http.Do(req)
	if err != nil {
		w.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer{resp.StatusCode, resp.Header, string(b)}
}

// want checks status and, when text is not empty, that the message is text.
func (a answer) want(t *testing.T, status int, text string) {
	t.Helper()
	if a.status != status || text != "" && a.message() != text {
		t.Errorf("got %d %q, want %d %q", a.status, a.message(), status, text)
	}
}

// create makes a container through the API and gives its id.
func (w *world) create(name, body string) string {
	w.t.Helper()
	a := w.do("POST", "/v1.55/containers/create?name="+name, body)
	var r struct{ ID string }
	if err := json.Unmarshal([]byte(a.body), &r); err != nil || a.status != http.StatusCreated {
		w.t.Fatalf("create %s: %d %s", name, a.status, a.body)
	}
	return r.ID
}

// raw opens a connection and writes text on it.
func (w *world) raw(text string) (net.Conn, *bufio.Reader) {
	w.t.Helper()
	var d net.Dialer
	c, err := d.DialContext(w.t.Context(), "unix", w.socket)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	if _, err := io.WriteString(c, text); err != nil {
		w.t.Fatal(err)
	}
	return c, bufio.NewReader(c)
}

func TestPing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, method := range []string{"GET", "HEAD"} {
		a := w.do(method, "/_ping", "")
		for k, v := range map[string]string{
			"Api-Version": "1.55", "Ostype": "linux", "Swarm": "inactive", "Docker-Experimental": "false", "Builder-Version": "2",
			"Cache-Control": "no-cache, no-store, must-revalidate", "Server": "Hull/1.0 (linux)",
		} {
			if got := a.header.Get(k); got != v {
				t.Errorf("%s: header %s: %q, want %q", method, k, got, v)
			}
		}
		if want := map[string]string{"GET": "OK", "HEAD": ""}[method]; a.body != want || a.status != 200 {
			t.Errorf("%s: %d %q", method, a.status, a.body)
		}
	}
}

func TestVersionNegotiation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, c := range []struct {
		path   string
		status int
		text   string
	}{
		{"/v1.40/version", 200, ""},
		{"/v1.55/version", 200, ""},
		{"/version", 200, ""},
		{"/v1.39/version", 400, "client version 1.39 is too old. Minimum supported API version is 1.40, please upgrade your client to a newer version"},
		{"/v0.9/version", 400, "client version 0.9 is too old. Minimum supported API version is 1.40, please upgrade your client to a newer version"},
		{"/v1.56/version", 400, "client version 1.56 is too new. Maximum supported API version is 1.55"},
		{"/v2.0/version", 400, "client version 2.0 is too new. Maximum supported API version is 1.55"},
		{"/v1.99999999/version", 404, "page not found"},
		{"/vx.y/version", 404, "page not found"},
		{"/nowhere", 404, "page not found"},
	} {
		a := w.do("GET", c.path, "")
		a.want(t, c.status, c.text)
		if got := a.header.Get("Api-Version"); got != "1.55" {
			t.Errorf("%s: Api-Version %q", c.path, got)
		}
	}
	w.do("PATCH", "/containers/json", "").want(t, 404, "page not found")
	w.do("POST", "/containers/json", "").want(t, 404, "page not found")

	c := w.client("")
	if _, err := c.Ping(t.Context(), client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		t.Fatal(err)
	}
	if got := c.ClientVersion(); got != client.MaxAPIVersion {
		t.Errorf("negotiated %s, want the client's newest, %s", got, client.MaxAPIVersion)
	}
}

// TestErrors: the kind of an engine's error decides the status, and its name is
// not part of the message.
func TestErrors(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create("cc", `{"Image":"busybox:1"}`)
	for _, c := range []struct {
		err    error
		status int
		text   string
	}{
		{fmt.Errorf("stop: %w", hull.ErrNotModified), 304, ""},
		{fmt.Errorf("bad value: %w", errdefs.ErrInvalidArgument), 400, "bad value"},
		{errdefs.ErrInvalidArgument.WithMessage("own words"), 400, "own words"},
		{fmt.Errorf("who are you: %w", errdefs.ErrUnauthenticated), 401, "who are you"},
		{fmt.Errorf("no: %w", errdefs.ErrPermissionDenied), 403, "no"},
		{fmt.Errorf("taken: %w", errdefs.ErrConflict), 409, "taken"},
		{fmt.Errorf("there: %w", errdefs.ErrAlreadyExists), 409, "there"},
		{fmt.Errorf("later: %w", errdefs.ErrFailedPrecondition), 409, "later"},
		{fmt.Errorf("one day: %w", errdefs.ErrNotImplemented), 501, "one day"},
		{fmt.Errorf("away: %w", errdefs.ErrUnavailable), 503, "away"},
		{fmt.Errorf("disk: %w", errdefs.ErrResourceExhausted), 507, "disk"},
		{fmt.Errorf("x: %w", fmt.Errorf("y: %w", errdefs.ErrConflict)), 409, "x: y"},
		{io.ErrUnexpectedEOF, 500, "unexpected EOF"},
		{fmt.Errorf("start: %w", &hull.ExecError{Code: 127, Path: "x"}), 400, `failed to create task for container: failed to create shim task: OCI runtime create failed: unable to start container process: error during container init: exec: "x": executable file not found in $PATH`},
		{&hull.ExecError{Code: 127, Path: "/x"}, 400, `failed to create task for container: failed to create shim task: OCI runtime create failed: unable to start container process: error during container init: exec: "/x": stat /x: no such file or directory`},
		{&hull.ExecError{Code: 126, Path: "/etc"}, 400, `failed to create task for container: failed to create shim task: OCI runtime create failed: unable to start container process: error during container init: exec: "/etc": permission denied`},
	} {
		w.engine.mu.Lock()
		w.engine.fail["start"] = c.err
		w.engine.mu.Unlock()
		w.do("POST", "/containers/cc/start", "").want(t, c.status, c.text)
	}
}

func TestRequestBodies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const create = "/v1.55/containers/create"
	w.do("POST", create, `{"Image":`).want(t, 400, "invalid JSON: unexpected EOF")
	w.do("POST", create, "").want(t, 400, "invalid JSON: EOF")
	w.do("POST", create, `{"Image":"busybox:1"} {}`).want(t, 400, "unexpected content after JSON")
	w.do("POST", create, `{}`).want(t, 400, "config cannot be empty in order to create a container")
	w.do("POST", create, `{"Image":"busybox:1"}`, "Content-Type", "text/plain").want(t, 400, "unsupported Content-Type header (text/plain): must be 'application/json'")
	w.do("POST", create, `{"Image":"busybox:1","Env":["A=`+strings.Repeat("x", 70<<10)+`"]}`).want(t, 413, "request body is larger than 65536 bytes")
	w.do("POST", create, `{"Image":7}`).want(t, 400, "")
	w.do("POST", create, `{"Image":"busybox:1","Unknown":{"a":1},"HostConfig":{"AlsoUnknown":true}}`).want(t, 201, "")
	w.do("POST", create+"?name=-bad", `{"Image":"busybox:1"}`).want(t, 400, "Invalid container name (-bad), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
	w.do("POST", create, `{"Image":"nosuch"}`).want(t, 404, "No such image: nosuch")
	w.create("web", `{"Image":"busybox:1"}`)
	w.do("POST", create+"?name=/web", `{"Image":"busybox:1"}`).want(t, 409, `Conflict. The container name "/web" is already in use by container "`+fakeID(1)+`". You have to remove (or rename) that container to be able to reuse that name.`)
}

func TestOutsideSwarm(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const text = `This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.`
	for _, path := range []string{"/swarm", "/nodes", "/services", "/tasks", "/configs", "/secrets", "/services/x", "/v1.44/nodes/x"} {
		w.do("GET", path, "").want(t, 503, text)
	}
	w.do("POST", "/services/create", "{}").want(t, 503, text)
	w.do("POST", "/swarm/leave", "").want(t, 503, "This node is not part of a swarm")
	if a := w.do("GET", "/plugins", ""); a.status != 200 || strings.TrimSpace(a.body) != "[]" {
		t.Errorf("plugins: %d %s", a.status, a.body)
	}
	w.do("GET", "/plugins/x/json", "").want(t, 404, `plugin "x" not found`)
	for _, path := range []string{"/build", "/session", "/grpc", "/build/prune"} {
		w.do("POST", path, "").want(t, 501, "building images is not supported by this version")
	}
}

func TestLinkPaths(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ method, path, want string }{
		{"GET", "/containers/web/db/json", "/containers/web%2Fdb/json"},
		{"DELETE", "/containers/web/db", "/containers/web%2Fdb"},
		{"DELETE", "/containers/web", ""},
		{"GET", "/containers/web/json", ""},
		{"GET", "/containers/web/attach/ws", ""},
		{"DELETE", "/containers/web/checkpoints/one", ""},
		{"GET", "/images/a/b/json", ""},
	} {
		if got := linkPath(tc.method, tc.path); got != tc.want {
			t.Errorf("%s %s: %q, want %q", tc.method, tc.path, got, tc.want)
		}
	}
	w := newWorld(t)
	w.do("DELETE", "/containers/web/db?link=1", "").want(t, 204, "")
	if got := w.engine.last.unlinked; got != "web/db" {
		t.Errorf("unlinked %q", got)
	}
}
