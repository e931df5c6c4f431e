package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/linux"
	"hull/internal/linux/cgroup"
)

// ociVersion is the version of the runtime specification that this follows.
var ociVersion = specs.Version //nolint:gochecknoglobals // constant

// record is what is kept of a container: ROOT/ID/state.json.
type record struct {
	OCIVersion string            `json:"ociVersion"`
	ID         string            `json:"id"`
	Pid        int               `json:"init_process_pid"`
	Started    uint64            `json:"init_process_start"` // clock ticks since boot: tells a pid from its successor
	Bundle     string            `json:"bundle"`
	Rootfs     string            `json:"rootfs"`
	Created    time.Time         `json:"created"`
	Cgroup     string            `json:"cgroup"`
	Namespaces uintptr           `json:"namespaces"` // CLONE_NEW*: not the creator's
	OwnPids    bool              `json:"own_pids"`   // a pid namespace that is nobody else's
	Result     int               `json:"result"`     // the descriptor at which the waiting process says how it went on
	Args0      string            `json:"args0"`
	Config     json.RawMessage   `json:"config"` // as it was in the bundle
	Annot      map[string]string `json:"annotations,omitempty"`
}

// container is a record and where it lives.
type container struct {
	record
	Spec *specs.Spec // Config
	dir  string
	cg   *cgroup.Group
}

const startFifo = "exec.fifo"

func (a *app) load(id string) (*container, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	c := &container{dir: filepath.Join(a.root, id)}
	b, err := os.ReadFile(filepath.Join(c.dir, "state.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, errNotExist
	}
	if err != nil {
		return nil, err
	}
	if err = json.Unmarshal(b, &c.record); err == nil {
		c.Spec, err = decodeSpec(c.Config)
	}
	if err != nil {
		return nil, fmt.Errorf("read state of container %s: %w", id, err)
	}
	sys, err := cgroup.DetectNamed()
	if err != nil {
		return nil, err
	}
	c.cg = sys.Group(c.Cgroup)
	return c, nil
}

func (c *container) save() error {
	b, err := json.Marshal(&c.record)
	if err != nil {
		return err
	}
	return linux.WriteFile(filepath.Join(c.dir, "state.json"), b, 0o600, false)
}

// lock keeps other invocations from starting or removing the container until
// unlock, or our end.
func (c *container) lock() (unlock func(), err error) {
	f, err := os.Open(c.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, errNotExist
	}
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(linux.FD(f), unix.LOCK_EX)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			f.Close()
			return nil, &os.PathError{Op: "flock", Path: c.dir, Err: err}
		}
		return func() { f.Close() }, nil
	}
}

// alive says whether the main process still exists and is the one we made.
func (c *container) alive() bool {
	s, err := linux.ReadStat(c.Pid)
	return err == nil && s.Started == c.Started && !s.Ended()
}

func (c *container) status() specs.ContainerState {
	if !c.alive() {
		return specs.StateStopped
	}
	if frozen, err := c.cg.Frozen(); err == nil && frozen {
		return "paused"
	}
	if _, err := os.Stat(filepath.Join(c.dir, startFifo)); err == nil {
		return specs.StateCreated
	}
	return specs.StateRunning
}

// ociState is what hooks get.
func (c *container) ociState(status specs.ContainerState) *specs.State {
	s := &specs.State{Version: ociVersion, ID: c.ID, Status: status, Pid: c.Pid, Bundle: c.Bundle, Annotations: c.Annot}
	if s.Status == specs.StateStopped {
		s.Pid = 0
	}
	return s
}

// fullState is what state and list print: the specification's state and a bit
// more, in runc's order.
type fullState struct {
	Version     string               `json:"ociVersion"`
	ID          string               `json:"id"`
	Pid         int                  `json:"pid"`
	Status      specs.ContainerState `json:"status"`
	Bundle      string               `json:"bundle"`
	Rootfs      string               `json:"rootfs"`
	Created     time.Time            `json:"created"`
	Annotations map[string]string    `json:"annotations,omitempty"`
	Owner       string               `json:"owner"`
}

func (c *container) full() fullState {
	s := c.ociState(c.status())
	return fullState{c.OCIVersion, s.ID, s.Pid, s.Status, s.Bundle, c.Rootfs, c.Created, s.Annotations, ""}
}

// signal sends through a pidfd, so that it can never hit a successor of the pid.
func (c *container) signal(sig syscall.Signal) error {
	f, err := linux.PidfdOpen(c.Pid)
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if !c.alive() {
		return os.ErrProcessDone
	}
	return linux.PidfdSignal(linux.FD(f), sig)
}
