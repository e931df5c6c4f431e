package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	sig "github.com/moby/sys/signal"
	"github.com/moby/term"

	"hull/cmd/internal/wire"
)

// Exit statuses of "run" that are not the container's, as docker's.
const (
	codeEngine      = 125
	codeCannotRun   = 126
	codeNoSuchThing = 127
)

// runContainer is "run": three requests of which two are answered at once, on
// three connections.
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
	q := url.Values{}
	if r.name != "" {
		q.Set("name", r.name)
	}
	if r.platform != "" {
		q.Set("platform", r.platform)
	}
	path := apiVersion + "/containers/create"
	if len(q) > 0 {
		path += "?" + q.Encode()
	}
	if err := conn.Send("POST", path, body, false); err != nil {
		return lost(err)
	}
	return nil
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
	for _, w := range made.Warnings {
		fmt.Fprintln(c.err, "WARNING:", w)
	}
	return made.ID, nil
}

// attached starts the container with our stdio and returns its exit status.
func (c *command) attached(l *lines, r *runRequest, id string, keys []byte) (int, error) {
	path := apiVersion + "/containers/" + id
	wait, err := c.register(l, path, r)
	if err != nil {
		return codeEngine, err
	}
	s := &session{conn: l.stdio, out: c.out, err: c.err, tty: r.body.Tty, detach: keys}
	if r.body.OpenStdin {
		s.in = c.in
	}
	if err := s.raw(); err != nil {
		return codeEngine, fmt.Errorf("put the terminal into raw mode: %w", err)
	}
	c.proxySignals(path, s)
	if err := call(l.main, "POST", path+"/start", nil, nil); err != nil {
		s.restore()
		if r.body.HostConfig.AutoRemove {
			_, _ = wait() // until it is gone
		}
		return startFailure(err)
	}
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
	attach := path + "/attach?stderr=1&stdout=1&stream=1"
	if r.body.AttachStdin {
		attach += "&stdin=1"
	}
	if r.keys != "" {
		attach += "&detachKeys=" + url.QueryEscape(r.keys)
	}
	until := path + "/wait?condition=next-exit"
	if r.body.HostConfig.AutoRemove {
		until = path + "/wait?condition=removed"
	}
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
	return func() (int, error) {
		code, err := exitStatus(resp.Body)
		if !errors.Is(err, errLost) {
			return code, err
		}
		return c.waitAgain(until, err)
	}, nil
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

// usualSignals are caught before the container starts, the others a moment later:
// for each one the Go runtime switches threads twice, and all of them together
// would cost two milliseconds of a processor while the container starts.
//
//nolint:gochecknoglobals // constant
var usualSignals = []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2}

const otherSignalsAfter = 100 * time.Millisecond

// proxySignals sends the signals that this process gets to the container's, from
// when it returns. The third that asks to end ends this process, in case the
// container ignores them.
func (c *command) proxySignals(path string, s *session) {
	got := make(chan os.Signal, 128)
	signal.Notify(got, usualSignals...)
	go func() {
		others := time.After(otherSignalsAfter)
		asked := 0
		for {
			select {
			case <-others:
				signal.Notify(got)
			case g := <-got:
				asked = c.proxySignal(path, s, g, asked)
			}
		}
	}()
}

// proxySignal sends one signal on; asked counts those that asked to end.
func (c *command) proxySignal(path string, s *session, g os.Signal, asked int) int {
	n, ok := g.(syscall.Signal)
	if !ok || n == syscall.SIGCHLD || n == syscall.SIGPIPE || n == syscall.SIGURG || n == syscall.SIGWINCH {
		return asked // our own, the Go runtime's, followSize's
	}
	if n == syscall.SIGINT || n == syscall.SIGTERM {
		if asked++; asked == 3 {
			s.restore()
			fmt.Fprintln(c.err, "\ngot 3 SIGTERM/SIGINTs, forcefully exiting")
			os.Exit(1)
		}
	}
	if name := signalName(n); name != "" {
		c.tell("POST", path+"/kill?signal="+name)
	}
	return asked
}

// signalName is "TERM" for SIGTERM; empty for one without a name.
func signalName(n syscall.Signal) string {
	for name, s := range sig.SignalMap {
		if s == n {
			return url.QueryEscape(name)
		}
	}
	return ""
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
