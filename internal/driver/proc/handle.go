package proc

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
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
	V   int
	Pid int
	life
	Boot string
	Dir  string // the pod's run directory
}

// life tells a monitor from others that have its pid, and its pods apart.
type life struct {
	Start uint64 // clock ticks after boot
	Pods  int    `json:",omitempty"` // that it served before
}

func newHandle(life life, pid int, dir string) (hull.Handle, error) {
	boot, err := linux.BootID()
	if err != nil {
		return nil, err
	}
	return json.Marshal(handle{V: handleVersion, Pid: pid, life: life, Boot: boot, Dir: dir})
}

func parseHandle(raw hull.Handle) (handle, error) {
	var h handle
	if err := json.Unmarshal(raw, &h); err != nil {
		return h, fmt.Errorf("parse handle: %w", err)
	}
	if h.V != handleVersion || h.Pid <= 1 || !filepath.IsAbs(h.Dir) {
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
	life, err := lifeOf(h.Pid)
	return err == nil && life == h.life
}

// kill ends the monitor if it still runs, and with it the pod. Without a pid
// (a handle was lost) the socket tells who listens.
func (h handle) kill() error {
	if h.Pid == 0 {
		c, err := monitor.Dial(h.Dir)
		if err != nil {
			return nil // nobody listens
		}
		h.Pid = c.Pid()
		h.life, err = lifeOf(h.Pid)
		c.Close()
		if err != nil {
			return nil // just gone
		}
	}
	fd, err := unix.PidfdOpen(h.Pid, 0)
	if err != nil {
		return nil // just gone
	}
	defer func() { _ = unix.Close(fd) }()
	if h.Boot != "" && !h.alive() { // after opening: now the pidfd is certain
		return nil
	}
	if life, err := lifeOf(h.Pid); err != nil || life != h.life {
		return nil // just gone
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill monitor %d: %w", h.Pid, err)
	}
	return nil
}

// lifeOf is that of a process that has not ended.
func lifeOf(pid int) (life, error) {
	s, err := linux.ReadStat(pid)
	if err == nil && s.Ended() {
		err = syscall.ESRCH
	}
	return life{Start: s.Started, Pods: monitor.Renewals(s.Name)}, err
}

// meta is what a restarted engine must know of a container and the monitor need
// not: it lies in the run directory.
type meta struct {
	Cgroup string // path within the hierarchies
	Spec   *specs.Spec
}

const metaPrefix = "spec-"

func metaFile(dir, id string) string { return filepath.Join(dir, metaPrefix+id+".json") }

// writeMeta records a container. Seccomp and mounts, most of a specification,
// are of no use later: an exec brings its own profile.
func writeMeta(dir, id string, m meta) error {
	s := *m.Spec
	s.Mounts, s.Hooks = nil, nil
	if s.Linux != nil {
		l := *s.Linux
		l.Seccomp = nil
		s.Linux = &l
	}
	m.Spec = &s
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	path := metaFile(dir, id)
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func readMetas(dir string) (map[string]meta, error) {
	names, err := filepath.Glob(filepath.Join(dir, metaPrefix+"*.json"))
	if err != nil {
		return nil, err
	}
	metas := map[string]meta{}
	var errs []error
	for _, n := range names {
		b, err := os.ReadFile(n)
		var m meta
		if err == nil {
			err = json.Unmarshal(b, &m)
		}
		if err != nil || m.Cgroup == "" || m.Spec == nil {
			errs = append(errs, fmt.Errorf("read %s: %w", n, err))
			continue
		}
		id := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(n), metaPrefix), ".json")
		metas[id] = m
	}
	return metas, errors.Join(errs...)
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
