// Package launch starts the user's own engine when nobody serves its socket.
//
// The engine is a detached process of its own session. It is given the write end
// of a pipe (--ready-fd) and writes one byte when it serves; so nothing is polled
// and a dead engine is noticed at once, because the pipe then closes without one.
package launch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"hull/cmd/internal/endpoint"
)

const (
	engine    = "hulld"
	lockName  = "hulld.lock"
	logName   = "hulld.log"
	readyFD   = 3 // the first of exec.Cmd.ExtraFiles
	tailLines = 10
	tailBytes = 16 << 10
	// limit is generous: an engine that recovers a thousand containers from a slow
	// disk is alive; a dead one is noticed without waiting.
	limit = 60 * time.Second
)

// Dead tells whether err of a dial means that nobody serves the socket.
func Dead(err error) bool {
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED)
}

// Start returns when an engine serves e.Socket; e.Own must be set. Of several
// callers one starts it and the others wait for that one. The error says what the
// engine's log said last.
func Start(ctx context.Context, e endpoint.Endpoint) error {
	if err := os.MkdirAll(e.Run, 0o711); err != nil {
		return fmt.Errorf("make the engine's run directory: %w", err)
	}
	unlock, err := lock(filepath.Join(e.Run, lockName))
	if err != nil {
		return fmt.Errorf("lock the start of the engine: %w", err)
	}
	defer unlock()
	if serving(ctx, e.Socket) {
		return nil // somebody else was first
	}
	program, err := find()
	if err != nil {
		return err
	}
	return spawn(ctx, program, e)
}

// lock waits for the exclusive right to start this engine. The kernel gives it up
// with the process, so that a killed starter blocks nobody.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil // closing the only descriptor unlocks
}

func serving(ctx context.Context, socket string) bool {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return false
	}
	_ = c.Close() // only asked whether somebody accepts
	return true
}

// find looks beside the running program, in the libexec directory that belongs to
// it, then in PATH.
func find() (string, error) {
	return Program(engine, os.Getenv("PATH"))
}

// Program finds an executable of hull: beside the running one, in
// ../libexec/hull, then in path (a PATH list; empty = not there).
func Program(name, path string) (string, error) {
	var dirs []string
	if self, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(self); err == nil {
			self = real
		}
		dir := filepath.Dir(self)
		dirs = append(dirs, dir, filepath.Join(dir, "..", "libexec", "hull"))
	}
	for _, dir := range append(dirs, filepath.SplitList(path)...) {
		if !filepath.IsAbs(dir) {
			continue // never run a program because of the working directory
		}
		p := filepath.Join(dir, name)
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s is not installed: looked in %s and PATH; install hull completely (make install)", name, strings.Join(dirs, ", "))
}

// spawn starts the engine and waits until it serves.
func spawn(ctx context.Context, program string, e endpoint.Endpoint) error {
	logPath := filepath.Join(e.Run, logName)
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY|syscall.O_NOFOLLOW, 0o640)
	if err != nil {
		return fmt.Errorf("open the engine's log: %w", err)
	}
	defer log.Close() //nolint:errcheck // the engine has its own descriptor
	start, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("open the engine's log: %w", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make the engine's ready pipe: %w", err)
	}
	defer r.Close() //nolint:errcheck // only read
	args := []string{"--run", e.Run, "--ready-fd", strconv.Itoa(readyFD)}
	if e.Root != "" {
		args = append(args, "--root", e.Root)
	}
	// Not CommandContext: the engine outlives the command that started it.
	cmd := exec.Command(program, args...) //nolint:noctx // see above
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("start the engine: %w", err), w.Close())
	}
	_ = w.Close() // so that the pipe ends with the engine
	err = awaitReady(ctx, r)
	switch {
	case err == nil, serving(ctx, e.Socket):
		return cmd.Process.Release()
	case errors.Is(err, io.EOF):
		return dead(cmd, e, logPath, start)
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	}
	return fmt.Errorf("wait for the hull engine (process %d) to serve %s, see its log %s: %w", cmd.Process.Pid, e.Host, logPath, err)
}

// awaitReady reads the engine's byte; io.EOF = the engine closed the pipe, which
// it does when it ends.
func awaitReady(ctx context.Context, r *os.File) error {
	deadline := time.Now().Add(limit)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := r.SetReadDeadline(deadline); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Unix(1, 0)) })()
	_, err := r.Read(make([]byte, 1))
	return err
}

// dead explains an engine that ended before it served.
func dead(cmd *exec.Cmd, e endpoint.Endpoint, logPath string, start int64) error {
	state := "ended"
	if err := cmd.Wait(); err != nil {
		state = "ended with " + err.Error()
	}
	text := "cannot start the hull engine for " + e.Host + ": " + cmd.Path + " " + state
	if tail := tail(logPath, start); tail != "" {
		text += "\nThe last lines of " + logPath + ":\n" + tail
	}
	return errors.New(text + "\nCorrect that and try again, or run '" + strings.Join(cmd.Args[:3], " ") + "' in a terminal to watch it")
}

// tail is what was written to the log since start, the last lines of it, indented.
func tail(path string, start int64) string {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	if err != nil {
		return "  " + err.Error()
	}
	defer f.Close() //nolint:errcheck // only read
	st, err := f.Stat()
	if err != nil {
		return ""
	}
	start = max(start, st.Size()-tailBytes)
	b := make([]byte, tailBytes)
	n, err := f.ReadAt(b, start)
	if err != nil && !errors.Is(err, io.EOF) {
		return ""
	}
	lines := bytes.Split(bytes.TrimSpace(b[:n]), []byte("\n"))
	if len(lines) > tailLines {
		lines = lines[len(lines)-tailLines:]
	}
	out := bytes.Join(lines, []byte("\n  "))
	if len(out) == 0 {
		return ""
	}
	return "  " + string(out)
}
