// Package cgroup makes, limits, samples, freezes, kills and removes control
// groups, on cgroup v1 (each controller its own hierarchy), on the hybrid layout
// (v1 plus a v2 hierarchy without controllers) and on v2.
//
// The way to a container's start is written directly: a few mkdirs and only the
// files that a limit needs. Sampling is opencontainers/cgroups'.
package cgroup

import (
	"golang.org/x/sys/unix"

	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Dir is a cgroup's directory in one hierarchy.
type Dir struct {
	// Hierarchy is the name below the cgroup mount point ("memory",
	// "cpu,cpuacct", "unified" on a hybrid host); "" on v2.
	Hierarchy string
	Path      string
}

type hierarchy struct {
	name        string // directory name below /sys/fs/cgroup, "" on v2
	mount       string
	controllers []string // v1 controllers; nil for v2
	v2          bool
}

// System is the host's cgroup layout.
type System struct {
	V2          bool // everything is on the v2 hierarchy
	Controllers []string
	hiers       []hierarchy
	cloning     sync.Map // directories whose new cpusets start filled: path -> struct{}
}

// Detect reads the layout from the mount table.
func Detect() (*System, error) { return readLayout(false) }

// DetectNamed includes v1 hierarchies that have a name instead of controllers
// (name=systemd), where other runtimes put their containers, too.
func DetectNamed() (*System, error) { return readLayout(true) }

func readLayout(named bool) (*System, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return detect(b, named)
}

func detect(mountinfo []byte, named bool) (*System, error) {
	s := &System{}
	seen := map[string]bool{}
	for line := range bytes.Lines(mountinfo) {
		pre, post, ok := strings.Cut(string(line), " - ")
		f, g := strings.Fields(pre), strings.Fields(post)
		if !ok || len(f) < 5 || len(g) < 3 || !strings.HasPrefix(f[4], "/sys/fs/cgroup") || seen[f[4]] {
			continue
		}
		seen[f[4]] = true
		switch g[0] {
		case "cgroup2":
			s.hiers = append(s.hiers, hierarchy{name: base(f[4]), mount: f[4], v2: true})
			s.V2 = f[4] == "/sys/fs/cgroup"
		case "cgroup":
			var ctl []string
			for o := range strings.SplitSeq(g[2], ",") {
				if v1Controllers[o] {
					ctl = append(ctl, o)
				}
			}
			if len(ctl) > 0 || named && strings.Contains(g[2], "name=") {
				s.hiers = append(s.hiers, hierarchy{name: base(f[4]), mount: f[4], controllers: ctl})
				s.Controllers = append(s.Controllers, ctl...)
			}
		}
	}
	if len(s.hiers) == 0 {
		return nil, errors.New("no cgroup hierarchy is mounted below /sys/fs/cgroup")
	}
	if s.V2 {
		c, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
		if err != nil {
			return nil, err
		}
		s.Controllers = strings.Fields(string(c))
		s.hiers = s.hiers[:1]
	}
	return s, nil
}

func base(mount string) string {
	if mount == "/sys/fs/cgroup" {
		return ""
	}
	return filepath.Base(mount)
}

// v1Controllers are those a container is put under.
var v1Controllers = map[string]bool{ //nolint:gochecknoglobals // constant
	"cpu": true, "cpuacct": true, "cpuset": true, "memory": true, "devices": true, "blkio": true,
	"pids": true, "freezer": true, "hugetlb": true, "net_cls": true, "net_prio": true, "perf_event": true, "rdma": true,
}

// Group is one cgroup: the same path in every hierarchy.
type Group struct {
	sys  *System
	path string // absolute within the hierarchies
	dirs []Dir
}

// Group names the cgroup at path ("/hull-x/ID"), whether it exists or not. A
// path that climbs is cleaned, never followed upwards.
func (s *System) Group(path string) *Group {
	path = filepath.Clean("/" + path)
	g := &Group{sys: s, path: path}
	for _, h := range s.hiers {
		g.dirs = append(g.dirs, Dir{Hierarchy: h.name, Path: h.mount + path})
	}
	return g
}

// Path is the cgroup's path within the hierarchies.
func (g *Group) Path() string { return g.path }

// V2 says whether everything is on the v2 hierarchy.
func (g *Group) V2() bool { return g.sys.V2 }

// Dirs are the group's directories, one per hierarchy; processes join by writing
// to cgroup.procs in each.
func (g *Group) Dirs() []Dir { return g.dirs }

// Create makes the group (and missing parents) with the limits of r (nil = none,
// and no device rules either). It returns what this host cannot do of r, for the
// user. A group that exists already is errdefs.ErrAlreadyExists. A failed Create
// leaves nothing behind.
func (g *Group) Create(r *specs.LinuxResources) (warnings []string, err error) { return g.create(r) }

// CreateParent makes the group for others below it, unless it is there: they begin
// with what it has, without being told one by one.
func (g *Group) CreateParent() error { return g.createParent() }

// Adopt gives a group that somebody else made, perhaps not in every hierarchy, what
// Create would have.
func (g *Group) Adopt(r *specs.LinuxResources) (warnings []string, err error) { return g.adopt(r) }

// Set changes the limits that r names on an existing group.
func (g *Group) Set(r *specs.LinuxResources) (warnings []string, err error) { return g.set(r) }

// Exists says whether the group is there.
func (g *Group) Exists() bool {
	_, err := os.Stat(g.dirs[0].Path)
	return err == nil
}

// Pids lists the processes in the group and below it.
func (g *Group) Pids() ([]int, error) { return g.pids() }

// Freeze stops every process in the group and waits until they have stopped;
// Thaw is the reverse.
func (g *Group) Freeze(ctx context.Context) error { return g.freeze(ctx, true) }

// Thaw lets a frozen group go on.
func (g *Group) Thaw(ctx context.Context) error { return g.freeze(ctx, false) }

// Frozen says whether the group is frozen.
func (g *Group) Frozen() (bool, error) { return g.frozen() }

// FreezerSet says whether processes that join the group would be frozen.
func (g *Group) FreezerSet() (bool, error) { return g.freezerSet() }

// Kill kills every process in the group and below it and waits until they are
// gone or ctx is done. A group that is not there is no error.
func (g *Group) Kill(ctx context.Context) error { return g.kill(ctx) }

// Destroy removes the group and those below it. Processes must be gone or going:
// it waits for them until ctx is done. A group that is not there is no error.
func (g *Group) Destroy(ctx context.Context) error { return g.destroy(ctx) }

// Stats samples the group.
func (g *Group) Stats() (*Stats, error) { return g.stats() }

// OOMKills counts the processes that the kernel killed in the group because it
// reached its memory limit.
func (g *Group) OOMKills() (uint64, error) { return g.oomKills() }

// dir is the directory of the hierarchy that has the controller, "" if none.
func (g *Group) dir(controller string) string {
	for i, h := range g.sys.hiers {
		if h.v2 && g.sys.V2 {
			return g.dirs[i].Path
		}
		for _, c := range h.controllers {
			if c == controller {
				return g.dirs[i].Path
			}
		}
	}
	return ""
}

// unified is the directory on the v2 hierarchy, "" if there is none.
func (g *Group) unified() string {
	for i, h := range g.sys.hiers {
		if h.v2 {
			return g.dirs[i].Path
		}
	}
	return ""
}

func write(dir, file, value string) error { return writeAll(dir, file, value) }

// writeAll writes values one by one, each with one write(2) as the kernel wants
// them, to a file opened once. The run path writes many such files: os.File would
// cost four more system calls for each.
func writeAll(dir, file string, values ...string) error {
	path := dir + "/" + file
	fd, err := retry(func() (int, error) { return unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	for _, v := range values {
		if _, err := retry(func() (int, error) { return unix.Write(fd, []byte(v)) }); err != nil {
			return fmt.Errorf("set %s to %q: %w", file, v, err)
		}
	}
	return nil
}

func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

func read(dir, file string) (string, error) {
	b, err := os.ReadFile(dir + "/" + file)
	return strings.TrimSpace(string(b)), err
}

// keyed finds a "key value" line.
func keyed(dir, file, key string) (uint64, error) {
	s, err := read(dir, file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(s) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), " "); ok && k == key {
			return strconv.ParseUint(v, 10, 64)
		}
	}
	return 0, nil
}

func (g *Group) oomKills() (uint64, error) {
	if g.sys.V2 {
		return keyed(g.dir("memory"), "memory.events", "oom_kill")
	}
	d := g.dir("memory")
	if d == "" {
		return 0, nil
	}
	return keyed(d, "memory.oom_control", "oom_kill")
}

func (g *Group) pids() ([]int, error) {
	root := g.unified()
	if root == "" {
		root = g.dirs[0].Path
	}
	var out []int
	err := filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, os.ErrNotExist) {
				return nil
			}
			return err
		}
		if !d.IsDir() {
			return nil
		}
		s, err := read(p, "cgroup.procs")
		if err != nil {
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, os.ErrInvalid) {
				return nil
			}
			return err
		}
		for f := range strings.FieldsSeq(s) {
			n, err := strconv.Atoi(f)
			if err != nil {
				return err
			}
			out = append(out, n)
		}
		return nil
	})
	return out, err
}
