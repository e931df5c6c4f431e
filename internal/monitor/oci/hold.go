package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/linux"
)

// A sandbox's first container is created and started by one command, "run": runsc is
// a large program, and to execute it once more for "start" is a good part of what a
// sandbox costs. Between the two the command waits for a hook, which the runtime runs
// when it has created the container and before it starts it:
//
//	monitor            runsc run --detach           hook (hull-monitor under the name holdMode)
//	   |--------------------->|  makes the sandbox        |
//	   |                      |-------------------------->|  the container's state, on its input
//	   |<------------------------------------- pid -------|  holdName in the bundle
//	Create returns            |  waits for the hook       |  waits
//	Start                     |                           |
//	   |-------------------------------------- letGo ---->|
//	   |                      |<------------- exit 0 -----|
//	   |<------- exit 0 ------|  starts the program
//
// When the monitor closes the connection instead, the hook fails, and so does the command.

const (
	// holdMode is what hull-monitor is called when it is that hook.
	holdMode = "hull-hold"
	// holdName is the socket's name in the bundle.
	holdName = "hold.sock"
	// letGo is what the hook waits for.
	letGo = 1
	// maxState bounds a container's state as a runtime tells it.
	maxState = 1 << 20
)

// Hold adds the hook to the specification of a sandbox's first container. exe is
// hull-monitor.
func Hold(s *specs.Spec, exe string) {
	var h specs.Hooks
	if s.Hooks != nil {
		h = *s.Hooks
	}
	h.CreateRuntime = append(slices.Clone(h.CreateRuntime), specs.Hook{Path: exe, Args: []string{holdMode}})
	s.Hooks = &h
}

// waitForStart is the hook.
func waitForStart() error {
	b, err := linux.ReadAll(os.Stdin, maxState)
	if err != nil {
		return err
	}
	var state specs.State
	if err := json.Unmarshal(b, &state); err != nil {
		return fmt.Errorf("decode the container's state: %w", err)
	}
	// The whole path may be longer than a socket's address.
	if err := os.Chdir(state.Bundle); err != nil {
		return err
	}
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: holdName, Net: "unix"})
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if err := json.NewEncoder(c).Encode(state.Pid); err != nil {
		return err
	}
	answer := make([]byte, 1)
	if _, err := c.Read(answer); err != nil || answer[0] != letGo {
		return errors.Join(errors.New("the container is not started"), err)
	}
	return nil
}

// held is a main process whose command waits for its start.
type held struct {
	cmd  *command
	run  *child
	hook *net.UnixConn
	pid  int // the sandbox's
}

// hold makes the container, and returns when it is ready to be started.
func (c *container) hold(cmd *command, console *socket, rows, cols uint16) error {
	s, err := listen(c.dir, holdName)
	if err != nil {
		return fmt.Errorf("listen for the hook: %w", err)
	}
	defer s.close()
	cmd.name, cmd.args, cmd.roomy = "run", append(append([]string{"--detach"}, cmd.args...), c.id), true
	h := &held{cmd: cmd}
	if h.run, err = c.b.start(c.seat, cmd); err != nil {
		return err
	}
	c.init = &process{c: c, held: h, started: make(chan struct{})}
	limit := time.Now().Add(createLimit)
	if console != nil {
		if c.init.console, err = console.receiveTTY(limit, h.run, rows, cols); err != nil {
			return h.unmade(c.b, err)
		}
	}
	if h.hook, err = s.accept(limit, h.run); err != nil {
		return h.unmade(c.b, err)
	}
	if err := json.NewDecoder(h.hook).Decode(&h.pid); err != nil || h.pid <= 0 {
		return h.unmade(c.b, errors.Join(fmt.Errorf("the hook names %d as the sandbox's pid", h.pid), err))
	}
	return nil
}

// unmade is why there is no container: what the command says if it has ended, else err.
func (h *held) unmade(b *backend, err error) error {
	if h.run.ended() {
		return b.failed(h.cmd, h.run.status)
	}
	return fmt.Errorf("%s run: %w", b.cfg.Runtime, err)
}

// startHeld lets the command go on.
func (p *process) startHeld() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, h := p.c, p.held
	if p.over {
		return fmt.Errorf("container %s has ended: %w", c.id, errdefs.ErrNotFound)
	}
	defer close(p.started)
	_, _ = h.hook.Write([]byte{letGo}) // a hook that is not there any more has failed, and the command with it
	err := c.b.finish(h.run, h.cmd, createLimit)
	if err == nil {
		_ = h.hook.Close()
		p.child, err = c.b.reaper.adopt(h.pid) // its parent was the command
	} else {
		h.end(c.b.reaper)
	}
	p.over = err != nil
	return asExecError(err, c.args0)
}

// end makes an end of the command, and of the sandbox that it may leave behind.
func (h *held) end(r *reaper) {
	_ = h.run.signal(syscall.SIGKILL)
	<-h.run.done
	if h.hook != nil {
		_ = h.hook.Close()
	}
	if h.pid <= 0 { // it did not come that far
		return
	}
	if c, err := r.adopt(h.pid); err == nil {
		_ = c.signal(syscall.SIGKILL)
	}
}
