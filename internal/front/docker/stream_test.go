package docker

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"hull/api"
)

// deadline bounds a test that would hang when a stream does not end.
func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// TestRun is what docker run -i --rm does: create, attach, wait, start, input,
// half-close, output, exit code.
func TestRun(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"1.44", "1.55"} { // what the client module still speaks, old and new
		w := newWorld(t)
		c, ctx := w.client(version), deadline(t)
		made, err := c.ContainerCreate(ctx, client.ContainerCreateOptions{
			Name: "in", Config: &container.Config{Image: "busybox:1", Cmd: []string{"cat"}, OpenStdin: true, StdinOnce: true},
			HostConfig: &container.HostConfig{AutoRemove: true},
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(made.Warnings) != 1 {
			t.Errorf("warnings %q", made.Warnings)
		}
		at, err := c.ContainerAttach(ctx, made.ID, client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true, Stderr: true})
		if err != nil {
			t.Fatal(err)
		}
		defer at.Close()
		if mt, _ := at.MediaType(); mt != "application/vnd.docker.multiplexed-stream" {
			t.Errorf("media type %q", mt)
		}
		wait := c.ContainerWait(ctx, made.ID, client.ContainerWaitOptions{Condition: container.WaitConditionRemoved})
		if _, err := c.ContainerStart(ctx, made.ID, client.ContainerStartOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(at.Conn, "hello\n"); err != nil {
			t.Fatal(err)
		}
		if err := at.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		var out, errs bytes.Buffer
		if _, err := stdcopy.StdCopy(&out, &errs, at.Reader); err != nil {
			t.Fatal(err)
		}
		if out.String() != "hello\n" || errs.Len() > 0 {
			t.Errorf("output %q %q", &out, &errs)
		}
		select {
		case r := <-wait.Result:
			if r.StatusCode != 0 {
				t.Errorf("exit code %d", r.StatusCode)
			}
		case err := <-wait.Error:
			t.Fatal(err)
		}
	}
}

// TestAttachPrelude: input that arrives with the request is not lost.
func TestAttachPrelude(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.create("cc", `{"Image":"busybox:1","Cmd":["cat"],"OpenStdin":true}`)
	conn, r := w.raw("POST /v1.55/containers/cc/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nearly ")
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 101 || resp.Status != "101 UPGRADED" || resp.Header.Get("Upgrade") != "tcp" {
		t.Fatalf("switch: %s %v", resp.Status, resp.Header)
	}
	w.do("POST", "/containers/"+id+"/start", "").want(t, 204, "")
	if _, err := io.WriteString(conn, "late"); err != nil {
		t.Fatal(err)
	}
	_ = conn.(*net.UnixConn).CloseWrite()
	var out bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, io.Discard, r); err != nil {
		t.Fatal(err)
	}
	if out.String() != "early late" {
		t.Errorf("output %q", &out)
	}
}

// TestAttachOldStyle: without Upgrade the answer is 200 and a raw content type;
// a TTY is never multiplexed.
func TestAttachOldStyle(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create("cc", `{"Image":"busybox:1","Cmd":["echo","hi"],"Tty":true}`)
	_, r := w.raw("POST /v1.41/containers/cc/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: d\r\n\r\n")
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/vnd.docker.raw-stream" {
		t.Fatalf("%s %v", resp.Status, resp.Header)
	}
	w.do("POST", "/containers/cc/start", "").want(t, 204, "")
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "hi\n" {
		t.Errorf("output %q, %v", b, err)
	}
}

func TestAttachErrors(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.do("POST", "/containers/none/attach", "").want(t, 404, "No such container: none")
	w.create("cc", `{"Image":"busybox:1","Cmd":["hold"]}`)
	w.do("POST", "/containers/cc/attach?detachKeys=ctrl-1", "").want(t, 400, "Invalid detach keys (ctrl-1) provided")
	w.do("POST", "/containers/cc/start", "").want(t, 204, "")
	w.do("POST", "/containers/cc/pause", "").want(t, 204, "")
	w.do("POST", "/containers/cc/attach?stream=1", "").want(t, 409, "container cc is paused, unpause the container before attach")
}

// TestAttachLogs: logs=1 replays what was written, stream=0 then ends.
func TestAttachLogs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create("cc", `{"Image":"busybox:1","Cmd":["fail"]}`)
	wait := w.client("").ContainerWait(deadline(t), "cc", client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
	w.do("POST", "/containers/cc/start", "").want(t, 204, "")
	<-wait.Result
	_, r := w.raw("POST /v1.55/containers/cc/attach?logs=1&stdout=1&stderr=1 HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
	if _, err := http.ReadResponse(r, nil); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &errs, r); err != nil {
		t.Fatal(err)
	}
	if errs.String() != "it failed\n" || out.Len() > 0 {
		t.Errorf("replay %q %q", &out, &errs)
	}
}

func TestAttachWebsocket(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := deadline(t)
	w.create("cc", `{"Image":"busybox:1","Cmd":["echo","over","ws"]}`)
	ws, resp, err := websocket.Dial(ctx, "ws://d/v1.55/containers/cc/attach/ws?stream=1&stdout=1", &websocket.DialOptions{HTTPClient: w.http})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ws.CloseNow() }()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(resp.Status)
	}
	w.do("POST", "/containers/cc/start", "").want(t, 204, "")
	typ, b, err := ws.Read(ctx)
	if err != nil || typ != websocket.MessageBinary || string(b) != "over ws\n" {
		t.Errorf("read %v %q, %v", typ, b, err)
	}
	if _, _, err := ws.Read(ctx); websocket.CloseStatus(err) == -1 {
		t.Errorf("want a close frame at the end, got %v", err)
	}
}

// TestWebsocketReadsText: a web page sends text.
func TestWebsocketReadsText(t *testing.T) {
	t.Parallel()
	got := make(chan string, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			got <- err.Error()
			return
		}
		b, err := io.ReadAll(newWSConn(r.Context(), ws))
		got <- fmt.Sprint(string(b), err)
	}))
	defer srv.Close()
	ctx := deadline(t)
	ws, _, err := websocket.Dial(ctx, srv.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []struct {
		kind websocket.MessageType
		text string
	}{{websocket.MessageText, "as text"}, {websocket.MessageText, ""}, {websocket.MessageBinary, ", as bytes"}} {
		if err := ws.Write(ctx, m.kind, []byte(m.text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := ws.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Error(err)
	}
	if text := <-got; text != "as text, as bytes<nil>" {
		t.Errorf("read %q", text)
	}
}

// TestBridge: a connection whose descriptor cannot be handed over is copied,
// and half-closes go through in both directions.
func TestBridge(t *testing.T) {
	t.Parallel()
	images := newFakeImages()
	engine := newFakeEngine(images)
	srv := httptest.NewTLSServer(New(Config{}, Parts{Containers: engine, Images: images}))
	defer srv.Close()
	post := func(path, body string) {
		t.Helper()
		resp, err := srv.Client().Post(srv.URL+path, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	post("/containers/create?name=cc", `{"Image":"busybox:1","Cmd":["cat"],"OpenStdin":true}`)
	d := tls.Dialer{Config: srv.Client().Transport.(*http.Transport).TLSClientConfig}
	conn, err := d.DialContext(deadline(t), "tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "POST /containers/cc/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nearly "); err != nil {
		t.Fatal(err)
	}
	head := make([]byte, 12)
	if _, err := io.ReadFull(conn, head); err != nil || string(head) != "HTTP/1.1 101" {
		t.Fatalf("%q, %v", head, err)
	}
	post("/containers/cc/start", "")
	if _, err := io.WriteString(conn, "late"); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*tls.Conn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(conn)
	if err != nil || !bytes.HasSuffix(rest, append([]byte{1, 0, 0, 0, 0, 0, 0, 10}, "early late"...)) {
		t.Errorf("output %q, %v", rest, err)
	}
}

// One request makes and starts an exec and becomes its stream; another has its exit.
func TestExecAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create("cc", `{"Image":"busybox:1","Cmd":["hold"]}`)
	w.do("POST", "/containers/cc/start", "").want(t, 204, "")
	ask := func(body string) *http.Response {
		_, r := w.raw(fmt.Sprintf("POST /v1.47/containers/cc/exec HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"+
			"Connection: Upgrade\r\nUpgrade: tcp\r\n%s: 1\r\n%s: 1\r\nContent-Length: %d\r\n\r\n%s", api.BufferedHeader, api.StartHeader, len(body), body))
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body = io.NopCloser(r)
		return resp
	}
	for command, want := range map[string]struct {
		out  string
		code int
	}{`["echo","said"]`: {"said\n", 0}, `["missing"]`: {"executable file not found", 127}} {
		resp := ask(`{"Cmd":` + command + `,"AttachStdout":true}`)
		id := resp.Header.Get(api.ExecHeader)
		if resp.StatusCode != 101 || id == "" {
			t.Fatalf("%s: %s, exec %q", command, resp.Status, id)
		}
		var out bytes.Buffer
		if _, err := stdcopy.StdCopy(&out, io.Discard, resp.Body); err != nil || !strings.Contains(out.String(), want.out) {
			t.Errorf("%s: output %q, %v", command, &out, err)
		}
		var x struct{ ExitCode *int }
		if err := json.Unmarshal([]byte(w.do("GET", "/exec/"+id+"/json?"+api.UntilExit, "").body), &x); err != nil || x.ExitCode == nil || *x.ExitCode != want.code {
			t.Errorf("%s: exit %+v, %v", command, x, err)
		}
	}
	if resp := ask(`{"Cmd":[]}`); resp.StatusCode != 400 || resp.Header.Get(api.ExecHeader) != "" {
		t.Errorf("no command: %s", resp.Status)
	}
}

func TestExec(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c, ctx := w.client(""), deadline(t)
	w.create("cc", `{"Image":"busybox:1","Cmd":["hold"]}`)
	w.do("POST", "/containers/cc/exec", `{"Cmd":["x"]}`).want(t, 409, "container "+fakeID(0)+" is not running")
	w.do("POST", "/containers/cc/exec", `{}`).want(t, 400, "No exec command specified")
	w.do("POST", "/containers/cc/start", "").want(t, 204, "")
	w.do("GET", "/exec/none/json", "").want(t, 404, "No such exec instance: none")

	x, err := c.ExecCreate(ctx, "cc", client.ExecCreateOptions{Cmd: []string{"cat"}, AttachStdin: true, AttachStdout: true, User: "u", Env: []string{"A=b"}})
	if err != nil {
		t.Fatal(err)
	}
	at, err := c.ExecAttach(ctx, x.ID, client.ExecAttachOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	_, _ = io.WriteString(at.Conn, "through")
	_ = at.CloseWrite()
	var out bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, io.Discard, at.Reader); err != nil || out.String() != "through" {
		t.Errorf("output %q, %v", &out, err)
	}
	w.do("POST", "/exec/"+x.ID+"/start", `{}`).want(t, 409, "exec "+x.ID+" has already been started")

	// A program that is missing is output, and exit code 127.
	x, err = c.ExecCreate(ctx, "cc", client.ExecCreateOptions{Cmd: []string{"missing"}, AttachStdout: true})
	if err != nil {
		t.Fatal(err)
	}
	if at, err = c.ExecAttach(ctx, x.ID, client.ExecAttachOptions{}); err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	out.Reset()
	_, _ = stdcopy.StdCopy(&out, io.Discard, at.Reader)
	if want := `OCI runtime exec failed: exec failed: unable to start container process: exec: "missing": executable file not found in $PATH` + "\r\n"; out.String() != want {
		t.Errorf("output %q", &out)
	}
	if in, err := c.ExecInspect(ctx, x.ID, client.ExecInspectOptions{}); err != nil || in.ExitCode != 127 || in.Running {
		t.Errorf("inspect %+v, %v", in, err)
	}
	// Detached, it is a status.
	x, _ = c.ExecCreate(ctx, "cc", client.ExecCreateOptions{Cmd: []string{"missing"}})
	w.do("POST", "/exec/"+x.ID+"/start", `{"Detach":true}`).want(t, 400, `OCI runtime exec failed: exec failed: unable to start container process: exec: "missing": executable file not found in $PATH`)
	x, _ = c.ExecCreate(ctx, "cc", client.ExecCreateOptions{Cmd: []string{"true"}, TTY: true, ConsoleSize: client.ConsoleSize{Height: 24, Width: 80}})
	w.do("POST", "/exec/"+x.ID+"/start", `{"Detach":true,"Tty":true}`).want(t, 200, "")
	if w.engine.last.size != [2]uint16{24, 80} {
		t.Errorf("console %v", w.engine.last.size)
	}
}

func TestLogs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c, ctx := w.client(""), deadline(t)
	w.create("cc", `{"Image":"busybox:1","Cmd":["echo","one line"]}`)
	wait := c.ContainerWait(ctx, "cc", client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
	w.do("POST", "/containers/cc/start", "").want(t, 204, "")
	<-wait.Result
	w.do("GET", "/containers/cc/logs", "").want(t, 400, "must specify at least one of 'stdout' or 'stderr'")
	a := w.do("GET", "/v1.55/containers/cc/logs?stdout=1&timestamps=1&details=1&tail=5&since=1.5&until=2000000000", "")
	if ct := a.header.Get("Content-Type"); ct != "application/vnd.docker.multiplexed-stream" {
		t.Errorf("content type %q", ct)
	}
	want := "2026-11-21T12:00:00.000000000Z a=b one line\n"
	if len(a.body) < 8 || a.body[8:] != want || binary.BigEndian.Uint32([]byte(a.body[4:8])) != uint32(len(want)) {
		t.Errorf("log %q", a.body)
	}
	if l := w.engine.last.logs; l.Tail != 5 || l.Since.UnixNano() != 1_500_000_000 || l.Until.Unix() != 2_000_000_000 || !l.Stdout || l.Stderr {
		t.Errorf("request %+v", l)
	}
	if ct := w.do("GET", "/v1.41/containers/cc/logs?stdout=1", "").header.Get("Content-Type"); ct != "application/vnd.docker.raw-stream" {
		t.Errorf("content type before 1.42: %q", ct)
	}
	// A follow ends when the client leaves, and gives what there is at once.
	short, cancel := context.WithCancel(ctx)
	r, err := c.ContainerLogs(short, "cc", client.ContainerLogsOptions{ShowStdout: true, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 17)
	if _, err := io.ReadFull(r, buf); err != nil || !bytes.HasSuffix(buf, []byte("one line\n")) {
		t.Errorf("follow: %q, %v", buf, err)
	}
	cancel()
	if _, err := r.Read(buf); err == nil {
		t.Error("follow did not end")
	}
}

// TestWaitHeader: the header comes before the exit; clients start only then.
func TestWaitHeader(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create("cc", `{"Image":"busybox:1","Cmd":["hold"]}`)
	_, r := w.raw("POST /v1.55/containers/cc/wait?condition=next-exit HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n")
	resp, err := http.ReadResponse(r, nil) // would block if the header waited
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	w.do("POST", "/containers/cc/start", "").want(t, 204, "")
	w.do("POST", "/containers/cc/stop?t=3&signal=SIGINT", "").want(t, 204, "")
	b, err := io.ReadAll(resp.Body)
	if err != nil || strings.TrimSpace(string(b)) != `{"StatusCode":137}` {
		t.Errorf("%q, %v", b, err)
	}
	if s := w.engine.last.stop; s.Signal != "SIGINT" || s.Timeout == nil || *s.Timeout != 3 {
		t.Errorf("stop %+v", s)
	}
	w.do("POST", "/containers/cc/wait?condition=soon", "").want(t, 400, `invalid condition: "soon"`)
	w.do("POST", "/containers/cc/stop", "").want(t, 304, "")
	w.do("POST", "/containers/cc/stop?signal=NOPE", "").want(t, 400, "invalid signal: NOPE")
	w.do("POST", "/containers/cc/stop?t=x", "").want(t, 400, "")
}

// TestAttachRefusedLate: an engine that refuses after the connection was taken
// over is still a response, because none was sent.
func TestAttachRefusedLate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create("cc", `{"Image":"busybox:1","Cmd":["hold"]}`)
	w.engine.fail["attach"] = conflict("not now")
	w.do("POST", "/containers/cc/attach?stream=1&stdout=1", "", "Connection", "Upgrade", "Upgrade", "tcp").want(t, 409, "not now")
}

// A terminal's output is framed when start asks for no terminal, as moby does
// whatever create said.
func TestExecTerminalFramed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c, ctx := w.client(""), deadline(t)
	w.create("cc", `{"Image":"busybox:1","Cmd":["hold"]}`)
	w.do("POST", "/containers/cc/start", "").want(t, 204, "")
	x, err := c.ExecCreate(ctx, "cc", client.ExecCreateOptions{Cmd: []string{"echo", "hi"}, AttachStdout: true, TTY: true})
	if err != nil {
		t.Fatal(err)
	}
	at, err := c.ExecAttach(ctx, x.ID, client.ExecAttachOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	var out bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, io.Discard, at.Reader); err != nil || out.String() != "hi\n" {
		t.Errorf("output %q, %v", &out, err)
	}
}

// The switch to raw output waits for a client that is reading the header, and
// not for ever for one that is not.
func TestAwaitRead(t *testing.T) {
	t.Parallel()
	for _, reads := range []bool{true, false} {
		ours, theirs, err := socketpair()
		if err != nil {
			t.Fatal(err)
		}
		defer ours.Close()
		defer theirs.Close()
		if _, err := ours.Write([]byte("header")); err != nil {
			t.Fatal(err)
		}
		if reads {
			go func() { _, _ = theirs.Read(make([]byte, 64)) }()
		}
		began := time.Now()
		awaitRead(ours)
		soon := time.Since(began) < headerPatience
		left, err := unix.IoctlGetInt(int(theirs.Fd()), unix.TIOCINQ)
		if err != nil {
			t.Fatal(err)
		}
		if soon && left != 0 {
			t.Errorf("gave up at once with %d bytes unread", left)
		}
	}
}
