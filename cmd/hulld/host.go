package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"

	"hull/internal/driver/oci"
	"hull/internal/event"
	"hull/internal/hull"
	"hull/internal/monitor"
	"hull/internal/network"
	"hull/internal/store"
)

const defaultRoot = "/var/lib/hull"

// instance tells the engines of one machine apart: everything on the host that
// is not below the two directories is named from it.
type instance struct {
	id     string // 12 hex digits
	cgroup string
}

// instanceOf derives the instance from its directories, so that it is the same
// after every restart and no two engines share it.
func instanceOf(root, run string) (instance, error) {
	real, err := filepath.EvalSymlinks(root)
	if err != nil {
		return instance{}, fmt.Errorf("state directory: %w", err)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(real, &st); err != nil {
		return instance{}, fmt.Errorf("state directory %s: %w", real, err)
	}
	// The inode too: the same path in another mount namespace is another engine.
	sum := sha256.Sum256([]byte(real + "\x00" + run + "\x00" + strconv.FormatUint(st.Dev, 16) + ":" + strconv.FormatUint(st.Ino, 16)))
	id := hex.EncodeToString(sum[:6])
	if real == defaultRoot {
		return instance{id: id, cgroup: "/hull"}, nil
	}
	return instance{id: id, cgroup: "/hull-" + id}, nil
}

func networkConfig(o options, inst instance, st *store.Store, ev *event.Log, ids network.IDs, log *slog.Logger) network.Config {
	c := network.Config{
		RunDir: o.run, Instance: inst.id, Bridge: o.bridge, Store: st, Events: ev.Publish, Log: log, IDs: ids,
		Update: updatePod(st),
		Serve:  serveNames,
		Relink: relink,
		Change: func(id string, fn func(*hull.NetworkSpec) error) error {
			return st.UpdateSpec(id, func(s *hull.Spec) error { return fn(&s.Network) })
		},
		Pod: func(ref string) (hull.Pod, error) {
			c, err := st.Container(ref)
			if err != nil {
				return hull.Pod{}, err
			}
			return st.Pod(c.PodID)
		},
	}
	if c.Bridge == "" && inst.cgroup == "/hull" {
		c.Bridge = "hull0"
	}
	c.Subnet4, _ = netip.ParsePrefix(o.subnet) // the service picks one for a zero prefix
	c.Subnet6, _ = netip.ParsePrefix(o.subnet6)
	return c
}

// serveNames has a running pod's monitor begin with names.
func serveNames(ctx context.Context, runDir string) error {
	return withMonitor(runDir, func(c *monitor.Client) error { return c.Names(ctx) })
}

// relink has the monitor of a machine look at the pod's networks again.
func relink(ctx context.Context, runDir string) error {
	return withMonitor(runDir, func(c *monitor.Client) error {
		_, _, err := c.Call(ctx, monitor.CallRelink, nil)
		return err
	})
}

// withMonitor speaks with a pod's monitor. It does nothing for a pod without one.
func withMonitor(runDir string, speak func(*monitor.Client) error) error {
	c, err := monitor.Dial(runDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer c.Close()
	c.Listen(monitor.Events{})
	return speak(c)
}

// updatePod changes a pod's status; the container of the same name, where the pod
// is a container's own, shows the pod's networks.
func updatePod(st *store.Store) func(string, func(*hull.PodStatus) error) error {
	return func(id string, fn func(*hull.PodStatus) error) error {
		if err := st.UpdatePod(id, fn); err != nil {
			return err
		}
		p, err := st.Pod(id)
		if err != nil {
			return err
		}
		err = st.UpdateStatus(id, func(s *hull.Status) error {
			s.Endpoint = p.Status.Endpoint
			return nil
		})
		if errdefs.IsNotFound(err) {
			return nil
		}
		return err
	}
}

// describeHost is what info says of the machine and does not change.
func describeHost(o options, inst instance) (hull.EngineInfo, error) {
	var u syscall.Utsname
	if err := syscall.Uname(&u); err != nil {
		return hull.EngineInfo{}, fmt.Errorf("uname: %w", err)
	}
	var si syscall.Sysinfo_t
	if err := syscall.Sysinfo(&si); err != nil {
		return hull.EngineInfo{}, fmt.Errorf("sysinfo: %w", err)
	}
	name, _ := os.Hostname() // an unnamed host has an empty name
	return hull.EngineInfo{
		ID: inst.id, Name: name, Root: o.root, Run: o.run, Version: version,
		Kernel: utsString(u.Release[:]), OS: osName(), Architecture: machine(u.Machine[:]),
		CPUs: runtime.NumCPU(), Memory: int64(si.Totalram) * int64(si.Unit), //nolint:gosec // below 2^63
		SecurityOptions:    []string{"name=seccomp,profile=builtin", "name=cgroupns"},
		InsecureRegistries: o.insecure, Mirrors: o.mirrors, Debug: o.logLevel == "debug",
	}, nil
}

func machine(b []int8) string { return utsString(b) }

func utsString(b []int8) string {
	var s strings.Builder
	for _, c := range b {
		if c == 0 {
			break
		}
		s.WriteByte(byte(c))
	}
	return s.String()
}

// osName is PRETTY_NAME of os-release(5).
func osName() string {
	f, err := os.Open("/etc/os-release")
	if err != nil {
		return "Linux"
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if v, ok := strings.CutPrefix(sc.Text(), "PRETTY_NAME="); ok {
			return strings.Trim(v, `"'`)
		}
	}
	return "Linux"
}

// ociRuntimes are the programs that "--runtime" may name, and the driver of
// isolation sandbox.
func ociRuntimes(o options, inst instance, log *slog.Logger) (*oci.Set, *oci.Driver, error) {
	named := map[string]oci.Runtime{}
	for _, r := range o.runtimes {
		name, line, ok := strings.Cut(r, "=")
		words := strings.Fields(line)
		if !ok || len(words) == 0 {
			return nil, nil, fmt.Errorf("--add-runtime %q: say NAME=PATH", r)
		}
		named[name] = oci.Runtime{Path: words[0], Args: words[1:]}
	}
	dir := filepath.Dir(o.monitor)
	set, err := oci.NewSet(oci.Config{
		MonitorPath: o.monitor, CgroupParent: inst.cgroup, RunDir: o.run, CacheDir: o.root, Log: log,
	}, named, dir)
	if err != nil {
		return nil, nil, fmt.Errorf("--add-runtime: %w", err)
	}
	sandboxes, err := set.Sandbox(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("isolation sandbox: %w", err)
	}
	return set, sandboxes, nil
}
