package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/moby/term"

	"hull/cmd/internal/wire"
)

// Exit statuses of "run" that are not the container's, as docker's.
const (
	codeEngine      = 125
	codeCannotRun   = 126
	codeNoSuchThing = 127
)

// runContainer is "run". Hull's own engine does it in two requests (runAtOnce); to
// any engine it is four, of which two are answered at once, on three connections:
//
//	1  create                                    -> id
//	2  attach (becomes stdio)  ||  3  wait       -> both registered
//	1  start
//	2  ... output ...          ||  3  exit status
func (c *command) runContainer(args []string) (int, error) {
	r, ok := parseRun(args, c.getenv)
	if !ok || len(c.cfg.Proxies) > 0 {
		return 0, errHandOver
	}
	if r.keys == "" {
		r.keys = c.cfg.DetachKeys
	}
	keys, ok := detachKeys(r.keys)
	if !ok || r.body.AttachStdin && r.body.Tty && !term.IsTerminal(c.in.Fd()) {
		return 0, errHandOver
	}
	cidFile := r.body.HostConfig.ContainerIDFile
	if cidFile != "" && !absent(cidFile) {
		return 0, errHandOver
	}
	rows, cols := size(c.out)
	r.body.HostConfig.ConsoleSize = [2]uint{rows, cols}

	main, err := c.dial()
	if err != nil {
		return codeEngine, err
	}
	if c.to.Own && !r.detach && cidFile == "" {
		if code, err := c.runAtOnce(main, r, keys); !errors.Is(err, errOlder) {
			return code, err
		}
	}
	if err := c.create(main, r); err != nil {
		return codeEngine, err
	}
	l := &lines{main: main, stdio: c.line(r), exit: c.line(r)} // while the engine makes the container
	id, err := c.created(main)
	if err != nil {
		return codeEngine, err
	}
	if cidFile != "" {
		if err := writeNew(cidFile, id); err != nil {
			return codeEngine, fmt.Errorf("write the container ID (%s) to file: %w", id, err)
		}
	}
	if r.detach {
		fmt.Fprintln(c.out, id)
		return startFailure(call(main, "POST", apiVersion+"/containers/"+id+"/start", nil, nil))
	}
	return c.attached(l, r, id, keys)
}

// lines are the connections of a run.
type lines struct{ main, stdio, exit *wire.Conn }

// line is a connection for later; nil if the command needs none, or it cannot be
// had: then register says why.
func (c *command) line(r *runRequest) *wire.Conn {
	if r.detach {
		return nil
	}
	conn, err := wire.Dial(c.to.Socket)
	if err != nil {
		return nil
	}
	return conn
}

// create asks for the container; created has the answer.
func (c *command) create(conn *wire.Conn, r *runRequest) error {
	body, err := json.Marshal(&r.body)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	path := apiVersion + "/containers/create"
	if q := createQuery(r); len(q) > 0 {
		path += "?" + q.Encode()
	}
	return lost(conn.Send("POST", path, body, false))
}

func createQuery(r *runRequest) url.Values {
	q := url.Values{}
	if r.name != "" {
		q.Set("name", r.name)
	}
	if r.platform != "" {
		q.Set("platform", r.platform)
	}
	return q
}

// attachQuery is what of the container becomes our stdio.
func attachQuery(r *runRequest) string {
	q := "stderr=1&stdout=1&stream=1"
	if r.body.AttachStdin {
		q += "&stdin=1"
	}
	if r.keys != "" {
		q += "&detachKeys=" + url.QueryEscape(r.keys)
	}
	return q
}

// created reads the answer to create. Every refusal of the engine is hull-cli's:
// it pulls a missing image, and words the others.
func (c *command) created(conn *wire.Conn) (id string, err error) {
	resp, answer, err := conn.Answer()
	if err != nil {
		return "", lost(err)
	}
	if resp.Status >= 400 {
		return "", errHandOver
	}
	var made struct {
		ID       string `json:"Id"`
		Warnings []string
	}
	if err := json.Unmarshal(answer, &made); err != nil || !plainName(made.ID) {
		return "", fmt.Errorf("%w: created container %q", wire.ErrProtocol, made.ID)
	}
	c.warn(made.Warnings)
	return made.ID, nil
}

func (c *command) warn(warnings []string) {
	for _, w := range warnings {
		fmt.Fprintln(c.err, "WARNING:", w)
	}
}

// attached starts the container with our stdio and returns its exit status.
func (c *command) attached(l *lines, r *runRequest, id string, keys []byte) (int, error) {
	path := apiVersion + "/containers/" + id
	wait, err := c.register(l, path, r)
	if err != nil {
		return codeEngine, err
	}
	s, err := c.session(l.stdio, r, keys)
	if err != nil {
		return codeEngine, err
	}
	running := c.proxySignals(s)
	if err := call(l.main, "POST", path+"/start", nil, nil); err != nil {
		s.restore()
		if r.body.HostConfig.AutoRemove {
			_, _ = wait() // until it is gone
		}
		return startFailure(err)
	}
	running(path)
	return c.follow(s, path, wait)
}

// session is stdio for the container, on our terminal if it has one.
func (c *command) session(conn *wire.Conn, r *runRequest, keys []byte) (*session, error) {
	s := &session{conn: conn, out: c.out, err: c.err, tty: r.body.Tty, detach: keys}
	if r.body.OpenStdin {
		s.in = c.in
	}
	if err := s.raw(); err != nil {
		return nil, fmt.Errorf("put the terminal into raw mode: %w", err)
	}
	return s, nil
}

// follow is a running container until its end, or until the user leaves it.
func (c *command) follow(s *session, path string, wait func() (int, error)) (int, error) {
	if s.tty && term.IsTerminal(c.out.Fd()) {
		c.followSize(path + "/resize")
	}
	var escape term.EscapeError
	if err := s.copy(); errors.As(err, &escape) {
		return 0, nil // the user left, the container stays
	} else if err != nil {
		return codeEngine, err
	}
	code, err := wait()
	if err != nil {
		return codeEngine, err
	}
	return code, nil
}

// register attaches to the container and asks for its exit, both before it
// starts, so that nothing is missed. wait blocks until it has ended (and is
// removed, with --rm).
func (c *command) register(l *lines, path string, r *runRequest) (wait func() (int, error), err error) {
	attach := path + "/attach?" + attachQuery(r)
	until := path + waitQuery(r)
	for _, conn := range []**wire.Conn{&l.stdio, &l.exit} {
		if *conn == nil {
			if *conn, err = wire.Dial(c.to.Socket); err != nil {
				return nil, err
			}
		}
	}
	if err := errors.Join(l.stdio.Send("POST", attach, nil, true), l.exit.Send("POST", until, nil, false)); err != nil {
		return nil, lost(err)
	}
	if err := upgraded(l.stdio, attach); err != nil {
		return nil, err
	}
	// The engine answers the head of "wait" when it has registered it.
	resp, err := l.exit.Receive()
	if err != nil {
		return nil, lost(err)
	}
	if err := resp.Check(until); err != nil {
		return nil, err
	}
	return c.waiting(resp.Body, until), nil
}

// waitQuery is the end that the user waits for.
func waitQuery(r *runRequest) string {
	if r.body.HostConfig.AutoRemove {
		return "/wait?condition=removed"
	}
	return "/wait?condition=next-exit"
}

// waiting begins to read an answer that comes when the container has ended. If this
// engine dies meanwhile another one is asked, and started, at once: with --rm nobody
// could tell after the end.
func (c *command) waiting(answer io.Reader, until string) func() (int, error) {
	var code int
	var err error
	told := make(chan struct{})
	go func() {
		defer close(told)
		if code, err = exitStatus(answer); errors.Is(err, errLost) {
			code, err = c.waitAgain(until, err)
		}
	}()
	return func() (int, error) {
		<-told
		return code, err
	}
}

// The engine is given this long to come back before its client gives up.
const (
	comeBack      = time.Minute
	comeBackPause = 50 * time.Millisecond
)

// waitAgain asks another engine process for the exit after the first one has
// died: the container, and our stdio with it, went on without it. An engine of
// the user's own is started again; others are their supervisor's.
func (c *command) waitAgain(until string, cause error) (int, error) {
	for deadline := time.Now().Add(comeBack); ; time.Sleep(comeBackPause) {
		conn, err := c.dial()
		if err == nil {
			var code int
			if code, err = waitOn(conn, until); !errors.Is(err, errLost) {
				return code, err
			}
		}
		if time.Now().After(deadline) {
			return 0, cause
		}
	}
}

func waitOn(conn *wire.Conn, until string) (int, error) {
	if strings.HasSuffix(until, "next-exit") { // which may have been while nobody looked
		until = strings.TrimSuffix(until, "next-exit") + "not-running"
	}
	if err := conn.Send("POST", until, nil, false); err != nil {
		return 0, lost(err)
	}
	resp, err := conn.Receive()
	if err != nil {
		return 0, lost(err)
	}
	if err := resp.Check(until); err != nil {
		return 0, err
	}
	return exitStatus(resp.Body)
}

// exitStatus reads the answer to "wait".
func exitStatus(body io.Reader) (int, error) {
	b, err := io.ReadAll(body)
	if err != nil {
		return 0, lost(err)
	}
	var e struct {
		StatusCode int
		Error      *struct{ Message string }
	}
	if err := json.Unmarshal(b, &e); err != nil {
		return 0, fmt.Errorf("%w: exit status %q", wire.ErrProtocol, b)
	}
	if e.Error != nil && e.Error.Message != "" {
		return 0, errors.New("wait for the container: " + e.Error.Message)
	}
	return e.StatusCode, nil
}

// startFailure is docker's text and exit status for a container that did not start.
func startFailure(err error) (int, error) {
	if err == nil {
		return 0, nil
	}
	code, text := codeEngine, err.Error()
	switch {
	case strings.Contains(text, "executable file not found"), strings.Contains(text, "no such file or directory"):
		code = codeNoSuchThing
	case strings.Contains(text, syscall.EACCES.Error()), strings.Contains(text, syscall.EISDIR.Error()):
		code = codeCannotRun
	}
	return code, fmt.Errorf("hull: %w\n\nRun 'hull run --help' for more information", err)
}

// writeNew creates path with text; an existing file is an error.
func writeNew(path, text string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
