package pod

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/hull"
	"hull/internal/linux"
	"hull/internal/monitor"
)

const handleVersion = 1

// handle finds a monitor again. A pid alone may have been given to another
// process since; with its start time and the boot it is certain. And a monitor may
// have been given to another pod since.
type handle struct {
	V       int
	Backend string `json:",omitempty"`
	Pid     int
	Life
	Boot string
	Dir  string // the pod's run directory
}

// Life tells a monitor from others that have its pid, and its pods apart.
type Life struct {
	Start uint64 // clock ticks after boot
	Pods  int    `json:",omitempty"` // that it served before
}

// LifeOf is that of a monitor that has not ended; else the error is ESRCH.
func LifeOf(pid int) (Life, error) {
	s, err := linux.ReadStat(pid)
	if err == nil && s.Ended() {
		err = syscall.ESRCH
	}
	return Life{Start: s.Started, Pods: monitor.Renewals(s.Name)}, err
}

func newHandle(backend string, pid int, l Life, dir string) (hull.Handle, error) {
	boot, err := linux.BootID()
	if err != nil {
		return nil, err
	}
	return json.Marshal(handle{V: handleVersion, Backend: backend, Pid: pid, Life: l, Boot: boot, Dir: dir})
}

func parseHandle(backend string, raw hull.Handle) (handle, error) {
	var h handle
	if err := json.Unmarshal(raw, &h); err != nil {
		return h, fmt.Errorf("parse handle: %w", err)
	}
	if h.V != handleVersion || h.Backend != backend || h.Pid <= 1 || !filepath.IsAbs(h.Dir) {
		return h, errors.New("parse handle: not one of this driver")
	}
	return h, nil
}

// alive reports whether the monitor still runs.
func (h handle) alive() bool {
	boot, err := linux.BootID()
	if err != nil || boot != h.Boot {
		return false
	}
	l, err := LifeOf(h.Pid)
	return err == nil && l == h.Life
}

// kill ends the monitor if it still runs. Without a pid (a handle was lost) the
// socket tells who listens.
func (h handle) kill() error {
	if h.Pid == 0 {
		c, err := monitor.Dial(h.Dir)
		if err != nil {
			return nil // nobody listens
		}
		h.Pid = c.Pid()
		h.Life, err = LifeOf(h.Pid)
		c.Close()
		if err != nil {
			return nil // just gone
		}
	}
	fd, err := linux.PidfdOpen(h.Pid)
	if err != nil {
		return nil // just gone
	}
	defer fd.Close()
	if h.Boot != "" && !h.alive() { // after opening: now the pidfd is certain
		return nil
	}
	if l, err := LifeOf(h.Pid); err != nil || l != h.Life {
		return nil // just gone
	}
	if err := linux.PidfdSignal(linux.FD(fd), syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill monitor %d: %w", h.Pid, err)
	}
	return nil
}

// exits are what the monitor wrote down when main processes ended, by id.
func exits(dir string) map[string]hull.Exit {
	all := map[string]hull.Exit{}
	files, err := filepath.Glob(monitor.ExitFile(dir, "*"))
	if err != nil {
		return all
	}
	for _, f := range files {
		id := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(f), "exit-"), ".json")
		if x, err := readExit(dir, id); err == nil {
			all[id] = x
		}
	}
	return all
}

// readExit reads what the monitor wrote when container id ended.
func readExit(dir, id string) (hull.Exit, error) {
	b, err := os.ReadFile(monitor.ExitFile(dir, id))
	if err != nil {
		return hull.Exit{}, err
	}
	var x struct {
		Code int
		OOM  bool
		Time int64
	}
	if err := json.Unmarshal(b, &x); err != nil {
		return hull.Exit{}, fmt.Errorf("parse exit file: %w", err)
	}
	return hull.Exit{Code: x.Code, OOMKilled: x.OOM, At: time.Unix(0, x.Time).UTC()}, nil
}
