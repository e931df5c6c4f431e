package oci

import (
	"encoding/json"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// PauseMode is what hull-monitor is called when it is the pause container's process.
const PauseMode = "hull-pause"

// The annotations by which runsc tells a sandbox's first container from the others
// (the CRI's, which gVisor reads).
const (
	kindKey    = "io.kubernetes.cri.container-type"
	sandboxKey = "io.kubernetes.cri.sandbox-id"
)

// Annotate makes spec one of several containers of sandbox pod.
func Annotate(spec *specs.Spec, pod string) {
	a := map[string]string{}
	for k, v := range spec.Annotations {
		a[k] = v
	}
	a[kindKey], a[sandboxKey] = "container", pod
	spec.Annotations = a
}

// probeArg makes the pause program end at once.
const probeArg = "probe"

// pause is the pause container's process.
func pause(args []string) {
	if len(args) > 0 && args[0] == probeArg {
		return
	}
	for {
		_ = unix.Pause() // returns for a signal
	}
}

// ProbeSpec is a container that does nothing and ends: exe is the pause program.
func ProbeSpec(exe string) ([]byte, error) {
	s := alone(exe, probeArg)
	return json.Marshal(s)
}

// pauseSpec is the first container of a sandbox that holds several: a program that
// waits.
func pauseSpec(cfg Config) ([]byte, error) {
	s := alone(cfg.Pause)
	s.Annotations = map[string]string{kindKey: "sandbox"}
	Hold(s, cfg.Pause)
	if cfg.NetNS != "" {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: cfg.NetNS})
	}
	return json.Marshal(s)
}

// alone is the pause program on a root file system that has nothing else.
func alone(exe string, args ...string) *specs.Spec {
	return &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: "rootfs", Readonly: true},
		Process: &specs.Process{Args: append([]string{"/" + PauseMode}, args...), Cwd: "/", NoNewPrivileges: true},
		Mounts: []specs.Mount{{
			Destination: "/" + PauseMode, Type: "bind", Source: filepath.Clean(exe), Options: []string{"rbind", "ro"},
		}},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
		}},
	}
}
