package docker

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"

	"github.com/coder/websocket"
	"github.com/moby/moby/api/types/container"

	"hull/internal/hull"
)

// attachRequest is the query of attach.
type attachRequest struct {
	logs, stream          bool
	stdin, stdout, stderr bool
	keys                  []byte
}

func toAttach(r *http.Request) (attachRequest, error) {
	keys, err := detachKeys(r.FormValue("detachKeys"))
	return attachRequest{
		logs: boolQuery(r, "logs"), stream: boolQuery(r, "stream"),
		stdin: boolQuery(r, "stdin"), stdout: boolQuery(r, "stdout"), stderr: boolQuery(r, "stderr"),
		keys: keys,
	}, err
}

// attachable finds a container that one may attach to in its present state.
func (a *containerAPI) attachable(ctx context.Context, id string) (hull.Container, error) {
	c, err := a.engine.Container(ctx, id)
	if err != nil {
		return c, err //nolint:wrapcheck // the engine names the object
	}
	switch stateOf(c.Status) {
	case container.StatePaused:
		return c, conflict("container %s is paused, unpause the container before attach", id)
	case container.StateRestarting:
		return c, conflict("container %s is restarting, wait until the container is running", id)
	case container.StateCreated, container.StateRunning, container.StateRemoving, container.StateExited, container.StateDead:
	}
	return c, nil
}

func (a *containerAPI) attach(w http.ResponseWriter, r *http.Request) error {
	q, err := toAttach(r)
	if err != nil {
		return err
	}
	c, err := a.attachable(r.Context(), ref(r))
	if err != nil {
		return err
	}
	mux := !c.Spec.Process.TTY
	s, err := hijack(w, r, mux)
	if err != nil {
		return err
	}
	defer s.close()
	if err := a.join(r.Context(), c, q, s, mux); err != nil {
		s.fail(mux, "stderr", err)
		return err
	}
	return s.answer()
}

// attachWS is attach over a websocket: binary messages, never multiplexed.
// Before 1.42 the streams could not be chosen.
func (a *containerAPI) attachWS(w http.ResponseWriter, r *http.Request) error {
	q, err := toAttach(r)
	if err != nil {
		return err
	}
	if versionOf(r) < 42 {
		q.stdin, q.stdout, q.stderr = true, true, true
	}
	c, err := a.attachable(r.Context(), ref(r))
	if err != nil {
		return err
	}
	s := &stream{begin: func() (net.Conn, error) {
		ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{
			// No web page can reach a unix socket; elsewhere the origin must match.
			InsecureSkipVerify: onUnixSocket(r),
		})
		if err != nil {
			return nil, err //nolint:wrapcheck // answer says what
		}
		ws.SetReadLimit(-1)
		// The copy outlives this request.
		return newWSConn(context.WithoutCancel(r.Context()), ws), nil
	}}
	defer s.close()
	if err := a.join(r.Context(), c, q, s, false); err != nil {
		return err
	}
	return s.answer()
}

// wsConn is a websocket as a connection. It reads text messages as well, which are
// what a web page sends.
type wsConn struct {
	net.Conn // for all else
	next     func() (io.Reader, error)
	message  io.Reader // being read
}

func newWSConn(ctx context.Context, ws *websocket.Conn) *wsConn {
	return &wsConn{
		Conn: websocket.NetConn(ctx, ws, websocket.MessageBinary),
		next: func() (io.Reader, error) { _, m, err := ws.Reader(ctx); return m, err },
	}
}

// Read implements net.Conn.
func (c *wsConn) Read(p []byte) (int, error) {
	for {
		if c.message == nil {
			m, err := c.next()
			if websocket.CloseStatus(err) == websocket.StatusNormalClosure || websocket.CloseStatus(err) == websocket.StatusGoingAway {
				return 0, io.EOF
			}
			if err != nil {
				return 0, err //nolint:wrapcheck // as a connection
			}
			c.message = m
		}
		n, err := c.message.Read(p)
		if errors.Is(err, io.EOF) {
			c.message = nil
			if n == 0 {
				continue
			}
			err = nil
		}
		return n, err //nolint:wrapcheck // as a connection
	}
}

func onUnixSocket(r *http.Request) bool {
	addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && addr.Network() == "unix"
}

// join replays the log when asked, then hands the connection over.
func (a *containerAPI) join(ctx context.Context, c hull.Container, q attachRequest, s *stream, mux bool) error {
	if q.logs {
		if err := s.answer(); err != nil {
			return err
		}
		past := hull.LogsRequest{Stdout: q.stdout, Stderr: q.stderr, Tail: -1}
		if err := a.copyLogs(ctx, c.ID, past, logFormat{}, frames{s.conn, mux}); err != nil {
			return err
		}
	}
	if !q.stream {
		return nil
	}
	f, err := s.file()
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return a.engine.Attach(ctx, c.ID, hull.Attach{ //nolint:wrapcheck // the engine names the object
		Conn: f, Stdin: q.stdin && c.Spec.Process.OpenStdin, Stdout: q.stdout, Stderr: q.stderr,
		Mux: mux, Prelude: s.prelude, DetachKeys: q.keys, Ready: s.answer,
	})
}

// frames writes output as Docker's stdcopy does, or raw.
type frames struct {
	w   io.Writer
	mux bool
}

// frameHead is the length of a frame's header: stream, three zeroes, size.
const frameHead = 8

func (f frames) write(stream string, data []byte) (int, error) {
	if !f.mux {
		return f.w.Write(data) //nolint:wrapcheck // transparent
	}
	n := len(data)
	buf := make([]byte, frameHead, frameHead+n)
	buf[0] = 1
	if stream == "stderr" {
		buf[0] = 2
	}
	buf[4], buf[5], buf[6], buf[7] = byte(n>>24), byte(n>>16), byte(n>>8), byte(n)
	return f.w.Write(append(buf, data...)) //nolint:wrapcheck // transparent
}
