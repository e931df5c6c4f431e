package oci

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	wire "hull/internal/monitor/oci"
)

func plain() *specs.Spec {
	limit := int64(10)
	return &specs.Spec{
		Version: "1.3.0",
		Process: &specs.Process{
			Args: []string{"true"}, OOMScoreAdj: ptr(-500),
			Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL", "CAP_SYS_RESOURCE"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.NetworkNamespace, Path: "/elsewhere"},
			},
			Resources: &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}},
			Seccomp:   &specs.LinuxSeccomp{},
		},
	}
}

func ptr[T any](v T) *T { return &v }

func TestTranslate(t *testing.T) {
	t.Parallel()
	host := hostLimits{bounding: 1 << slices.Index(capNames, "KILL")}
	hostname, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, style := range []wire.Style{wire.Runc, wire.Runsc} {
		in := plain()
		x := translation{style: style, netns: "/the/pod", cgroup: "/hull/c", host: host}
		out, err := x.translate(in)
		if err != nil {
			t.Fatal(err)
		}
		ns := out.Linux.Namespaces
		if i := slices.IndexFunc(ns, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace }); i != len(ns)-1 || ns[i].Path != "/the/pod" {
			t.Errorf("%s: namespaces %v", style, ns)
		}
		if out.Process.OOMScoreAdj != nil || out.Root.Path != "rootfs" || out.Process.Cwd != "/" {
			t.Errorf("%s: %+v", style, out.Process)
		}
		if got := out.Process.Capabilities.Bounding; style == wire.Runc && !slices.Equal(got, []string{"CAP_KILL"}) {
			t.Errorf("capabilities %v that the host does not have", got)
		}
		if style == wire.Runsc && (out.Linux.Seccomp != nil || out.Linux.Resources != nil || out.Linux.CgroupsPath != "") {
			t.Errorf("gVisor is given %+v", out.Linux)
		}
		if want := map[wire.Style]string{wire.Runsc: hostname}[style]; out.Hostname != want {
			t.Errorf("%s: name %q of a container with the host's, want %q", style, out.Hostname, want)
		}
		if in.Linux.Seccomp == nil || in.Linux.Namespaces[3].Path != "/elsewhere" || in.Process.OOMScoreAdj == nil {
			t.Errorf("%s: what was given has changed", style)
		}
	}
}

func TestGVisorRefuses(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*specs.Spec){
		"--pid host":      func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[1:] },
		"pid namespace":   func(s *specs.Spec) { s.Linux.Namespaces[0].Path = "/proc/1/ns/pid" },
		"--sysctl":        func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"a": "b"} },
		"--device /dev/x": func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x"}} },
		"propagation":     func(s *specs.Spec) { s.Mounts = []specs.Mount{{Destination: "/m", Options: []string{"rshared"}}} },
		"memory limit":    func(s *specs.Spec) { s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: ptr(int64(1 << 20))} },
	} {
		s := plain()
		change(s)
		_, err := translation{style: wire.Runsc}.translate(s)
		if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "--isolation container") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := (translation{style: wire.Runc}).translate(s); err != nil {
			t.Errorf("%s: runc's business: %v", name, err)
		}
	}
}

func TestAsk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	script := func(name, text string, mode os.FileMode) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte("#!/bin/sh\n"+text), mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	if f := ask(script("good", "echo crun version 1.8", 0o755)); f.err != nil || f.style != wire.Runc || !f.mask {
		t.Errorf("%+v", f)
	}
	if f := ask(script("gvisor", "echo runsc version x", 0o755)); f.err != nil || f.style != wire.Runsc {
		t.Errorf("%+v", f)
	}
	for path, is := range map[string]func(error) bool{
		filepath.Join(dir, "none"): errdefs.IsNotFound,
		script("data", "", 0o644):  errdefs.IsInvalidArgument,
		dir:                        errdefs.IsInvalidArgument,
		script("garbage", "head -c 9999 /dev/zero", 0o755): errdefs.IsInvalidArgument,
		script("fails", "echo no >&2; exit 3", 0o755):      func(err error) bool { return err != nil && strings.Contains(err.Error(), "exit status 3") },
	} {
		if f := ask(path); !is(f.err) {
			t.Errorf("%s: %v", path, f.err)
		}
	}
}

func TestParseProcesses(t *testing.T) {
	t.Parallel()
	titles, rows, err := parseProcesses("UID       PID       CMD\n0         1         sh -c x\nshort\n")
	if err != nil || len(titles) != 3 || len(rows) != 1 || rows[0][2] != "sh -c x" {
		t.Errorf("%q, %q, %v", titles, rows, err)
	}
	if _, _, err := parseProcesses(""); err == nil {
		t.Error("nothing is a list")
	}
}
