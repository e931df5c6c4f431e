package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/moby/term"

	"hull/api"
	"hull/cmd/internal/wire"
)

// execRequest is the body of POST /containers/X/exec.
type execRequest struct {
	User         string   `json:",omitempty"`
	Privileged   bool     `json:",omitempty"`
	Tty          bool     `json:",omitempty"`
	ConsoleSize  *[2]uint `json:",omitempty"`
	AttachStdin  bool     `json:",omitempty"`
	AttachStdout bool     `json:",omitempty"`
	AttachStderr bool     `json:",omitempty"`
	DetachKeys   string   `json:",omitempty"`
	Env          []string
	WorkingDir   string `json:",omitempty"`
	Cmd          []string

	detach bool
}

// execStart is the body of POST /exec/X/start.
type execStart struct {
	Detach      bool
	Tty         bool
	ConsoleSize *[2]uint `json:",omitempty"`
}

// execFlags are the flags of "exec" that need nothing of hull-cli.
func execFlags(r *execRequest, env, envFiles *[]string) []flag {
	return []flag{
		boolFlag("detach", 'd', &r.detach),
		stringFlag("detach-keys", 0, &r.DetachKeys),
		listFlag("env", 'e', env),
		listFlag("env-file", 0, envFiles),
		boolFlag("interactive", 'i', &r.AttachStdin),
		boolFlag("privileged", 0, &r.Privileged),
		boolFlag("tty", 't', &r.Tty),
		stringFlag("user", 'u', &r.User),
		stringFlag("workdir", 'w', &r.WorkingDir),
	}
}

// exec runs a command in a running container.
func (c *command) exec(args []string) (int, error) {
	var r execRequest
	var env, files []string
	args, ok := parseFlags(args, execFlags(&r, &env, &files), false)
	if !ok || len(args) < 2 {
		return 0, errHandOver
	}
	r.Cmd = args[1:]
	if r.Env, ok = environment(files, env); !ok {
		return 0, errHandOver
	}
	if r.DetachKeys == "" {
		r.DetachKeys = c.cfg.DetachKeys
	}
	keys, ok := detachKeys(r.DetachKeys)
	if !ok || !plainName(args[0]) {
		return 0, errHandOver
	}
	if r.detach {
		r.AttachStdin = false
	} else {
		r.AttachStdout, r.AttachStderr = true, true
		if r.Tty && r.AttachStdin && !term.IsTerminal(c.in.Fd()) {
			return 0, errHandOver // which says so, after it has looked for the container
		}
	}
	start := execStart{Detach: r.detach, Tty: r.Tty}
	if r.Tty {
		if rows, cols := size(c.out); rows != 0 || cols != 0 {
			r.ConsoleSize = &[2]uint{rows, cols}
			start.ConsoleSize = r.ConsoleSize
		}
	}
	conn, err := c.dial()
	if err != nil {
		return 1, err
	}
	defer conn.Close() //nolint:errcheck // the process ends
	id, running, err := makeExec(conn, apiVersion+"/containers/"+args[0]+"/exec", &r)
	if err != nil {
		return 1, err
	}
	path := apiVersion + "/exec/" + id
	if start.Detach {
		if err := call(conn, "POST", path+"/start", start, nil); err != nil {
			return 1, err
		}
		return 0, nil
	}
	return c.attachExec(conn, path, start, running, r.AttachStdin, keys)
}

// makeExec makes the exec and, unless it is to be detached, has hull's engine start
// it at once: then it runs and conn is its stdio. Others' want to be asked for that.
func makeExec(conn *wire.Conn, path string, r *execRequest) (id string, running bool, err error) {
	conn.Start = !r.detach
	err = send(conn, "POST", path, r, !r.detach)
	conn.Start = false
	if err != nil {
		return "", false, err
	}
	resp, err := conn.Receive()
	if err != nil {
		return "", false, lost(err)
	}
	made := struct{ ID string }{resp.Exec}
	running = resp.Status == 101
	if !running {
		err = decoded(resp, path, &made)
	}
	switch {
	case err != nil:
		return "", false, err
	case made.ID == "":
		return "", false, errors.New("exec ID empty")
	}
	return made.ID, running, nil
}

// attachExec starts the exec on conn, which becomes its stdio, unless it runs there
// already, and returns its exit status.
func (c *command) attachExec(conn *wire.Conn, path string, start execStart, running, stdin bool, keys []byte) (int, error) {
	// The connection for the answer at the end is opened now, while the engine works.
	end, err := c.dial()
	if err != nil {
		return 1, err
	}
	defer end.Close() //nolint:errcheck // the process ends
	if running {      // then the engine tells the exit of itself
		err = send(end, "GET", path+"/json?"+api.UntilExit, nil, false)
	} else if err = send(conn, "POST", path+"/start", start, true); err == nil {
		err = upgraded(conn, path+"/start")
	}
	if err != nil {
		return 1, err
	}
	s := &session{conn: conn, out: c.out, err: c.err, tty: start.Tty, detach: keys}
	if stdin {
		s.in = c.in
	}
	if err := s.raw(); err != nil {
		return 1, fmt.Errorf("put the terminal into raw mode: %w", err)
	}
	if start.Tty && term.IsTerminal(c.in.Fd()) {
		c.followSize(path + "/resize")
	}
	go restoreOnSignal(s.restore)
	if err := s.copy(); err != nil {
		return 1, err
	}
	if !running {
		if err := send(end, "GET", path+"/json", nil, false); err != nil {
			return 1, err
		}
	}
	var state struct{ ExitCode int }
	if err := receive(end, path, &state); err != nil {
		return 1, err
	}
	return state.ExitCode, nil
}

// restoreOnSignal ends the process by a signal with the terminal as it was.
func restoreOnSignal(restore func()) {
	got := make(chan os.Signal, 1)
	signal.Notify(got, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	s := <-got
	restore()
	if n, ok := s.(syscall.Signal); ok {
		os.Exit(128 + int(n))
	}
	os.Exit(1)
}

// call makes one request and decodes the answer into to, unless it is nil.
func call(conn *wire.Conn, method, path string, body, to any) error {
	if err := send(conn, method, path, body, false); err != nil {
		return err
	}
	return receive(conn, path, to)
}

// send makes a request, with body unless it is nil, and for a raw stream if upgrade is
// set.
func send(conn *wire.Conn, method, path string, body any, upgrade bool) error {
	var b []byte
	if body != nil {
		var err error
		if b, err = json.Marshal(body); err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
	}
	return lost(conn.Send(method, path, b, upgrade))
}

// receive decodes the answer to a request into to, unless that is nil.
func receive(conn *wire.Conn, path string, to any) error {
	r, err := conn.Receive()
	if err != nil {
		return lost(err)
	}
	return decoded(r, path, to)
}

// decoded reads an answer to its end and puts it into to, unless that is nil.
func decoded(r *wire.Response, path string, to any) error {
	answer, err := io.ReadAll(r.Body)
	switch {
	case err != nil:
		return lost(err)
	case r.Status >= 400:
		return wire.Failure(r, answer, path)
	case to == nil:
		return nil
	}
	if err := json.Unmarshal(answer, to); err != nil {
		return fmt.Errorf("%w: %w", wire.ErrProtocol, err)
	}
	return nil
}

// upgraded reads the answer to a request for a raw stream.
func upgraded(conn *wire.Conn, path string) error {
	r, err := conn.Receive()
	if err != nil {
		return lost(err)
	}
	if err := r.Check(path); err != nil {
		return err
	}
	if r.Status != 101 && r.Status != 200 { // 200: an engine of before the upgrade
		return fmt.Errorf("%w: %d %s instead of a stream", wire.ErrProtocol, r.Status, r.Reason)
	}
	return nil
}

var errLost = errors.New("the engine closed the connection")

// lost explains a connection that ended in the middle.
func lost(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		return fmt.Errorf("%w; its log (hulld.log in its run directory) says why: %w", errLost, err)
	}
	return err
}

// plainName tells whether s can stand in a path as it is.
func plainName(s string) bool {
	for i := range len(s) {
		switch b := s[i]; {
		case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', '0' <= b && b <= '9', b == '_', b == '.', b == '-':
		default:
			return false
		}
	}
	return s != "" && s != "." && s != ".."
}
