package engine

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"hull/internal/hull"
)

// defaultPath is PATH where neither the image nor the user sets one.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// withDefaults fills in what the user did not say. It is the only place where
// defaults are applied to a Spec; it is pure.
func withDefaults(s hull.Spec, cfg Config) hull.Spec {
	if s.Isolation == "" {
		s.Isolation = cfg.DefaultIsolation
	}
	if s.Restart.Name == "" {
		s.Restart.Name = "no"
	}
	if s.Log.Driver == "" {
		s.Log.Driver = cfg.DefaultLogDriver
	}
	if s.Resources.ShmSize == 0 {
		s.Resources.ShmSize = 64 << 20
	}
	// Docker: swap defaults to as much again as memory.
	if s.Resources.Memory > 0 && s.Resources.MemorySwap == 0 {
		s.Resources.MemorySwap = 2 * s.Resources.Memory
	}
	switch s.Network.Mode {
	case "", "default":
		s.Network.Mode = "bridge"
	}
	if s.Namespaces.IPC == "" {
		s.Namespaces.IPC = "private"
	}
	if s.Namespaces.Cgroup == "" {
		s.Namespaces.Cgroup = "private"
		if s.Security.Privileged {
			s.Namespaces.Cgroup = "host"
		}
	}
	return s
}

// resolve merges the user's specification with the image's configuration, by
// Docker's rules: an entrypoint of the user's drops the image's command.
func resolve(s hull.Spec, img hull.ImageConfig) (hull.Resolved, error) {
	r := hull.Resolved{
		Entrypoint: s.Process.Entrypoint,
		Cmd:        s.Process.Cmd,
		WorkDir:    firstOf(s.Process.WorkDir, img.WorkingDir, "/"),
		User:       firstOf(s.Process.User, img.User),
		StopSignal: firstOf(s.Process.StopSignal, img.StopSignal, "SIGTERM"),
		Labels:     maps.Clone(img.Labels),
		Shell:      img.Shell,
		OnBuild:    img.OnBuild,
		Health:     mergeHealth(s.Health, img.Healthcheck),
		Env:        mergeEnv(img.Env, s.Process.Env),
	}
	if len(r.Entrypoint) == 0 {
		if len(r.Cmd) == 0 {
			r.Cmd = img.Cmd
		}
		if r.Entrypoint == nil {
			r.Entrypoint = img.Entrypoint
		}
	}
	if len(r.Entrypoint) == 1 && r.Entrypoint[0] == "" { // --entrypoint ""
		r.Entrypoint = nil
	}
	argv := slices.Concat(r.Entrypoint, r.Cmd)
	if len(argv) == 0 { // an empty name is for the start to find missing
		return r, fmt.Errorf("no command specified: %w", errdefs.ErrInvalidArgument)
	}
	r.Path, r.Args = argv[0], argv[1:]
	if !path.IsAbs(r.WorkDir) {
		return r, fmt.Errorf("the working directory '%s' is invalid, it needs to be an absolute path: %w", r.WorkDir, errdefs.ErrInvalidArgument)
	}
	r.WorkDir = path.Clean(r.WorkDir)
	if r.Labels == nil {
		r.Labels = map[string]string{}
	}
	maps.Copy(r.Labels, s.Labels)
	r.Exposed = mergeKeys(s.Network.Exposed, img.ExposedPorts)
	r.Volumes = mergeKeys(nil, img.Volumes)
	return r, nil
}

func firstOf(s ...string) string {
	for _, v := range s {
		if v != "" {
			return v
		}
	}
	return ""
}

// mergeEnv lays over's variables on base. A name without "=" takes it out.
func mergeEnv(base, over []string) []string {
	out := slices.Clone(base)
	for _, kv := range over {
		name, _, set := strings.Cut(kv, "=")
		i := slices.IndexFunc(out, func(o string) bool { k, _, _ := strings.Cut(o, "="); return k == name })
		switch {
		case !set && i >= 0:
			out = slices.Delete(out, i, i+1)
		case !set:
		case i >= 0:
			out[i] = kv
		default:
			out = append(out, kv)
		}
	}
	return out
}

func hasEnv(env []string, name string) bool {
	return slices.ContainsFunc(env, func(kv string) bool { return strings.HasPrefix(kv, name+"=") })
}

func mergeKeys(list []string, set map[string]struct{}) []string {
	out := slices.Clone(list)
	for _, k := range slices.Sorted(maps.Keys(set)) {
		if !slices.Contains(out, k) {
			out = append(out, k)
		}
	}
	return out
}

// Health check defaults of the Docker image specification.
const (
	healthInterval      = 30 * time.Second
	healthTimeout       = 30 * time.Second
	healthStartInterval = 5 * time.Second
	healthRetries       = 3
)

// mergeHealth returns nil when there is no check. A zero field inherits the
// image's value.
func mergeHealth(user, img *hull.HealthSpec) *hull.HealthSpec {
	var h hull.HealthSpec
	if img != nil {
		h = *img
	}
	if user != nil {
		if len(user.Test) > 0 {
			h.Test = user.Test
		}
		h.Interval = firstNonZero(user.Interval, h.Interval)
		h.Timeout = firstNonZero(user.Timeout, h.Timeout)
		h.StartPeriod = firstNonZero(user.StartPeriod, h.StartPeriod)
		h.StartInterval = firstNonZero(user.StartInterval, h.StartInterval)
		h.Retries = firstNonZero(user.Retries, h.Retries)
	}
	if len(h.Test) == 0 || h.Test[0] == "NONE" || h.Test[0] == "" {
		return nil
	}
	return &h
}

// healthDefaults fills in what neither the user nor the image said.
func healthDefaults(h hull.HealthSpec) hull.HealthSpec {
	h.Interval = firstNonZero(h.Interval, healthInterval)
	h.Timeout = firstNonZero(h.Timeout, healthTimeout)
	h.StartInterval = firstNonZero(h.StartInterval, healthStartInterval)
	h.Retries = firstNonZero(h.Retries, healthRetries)
	return h
}

func firstNonZero[T comparable](v ...T) T {
	var zero T
	for _, x := range v {
		if x != zero {
			return x
		}
	}
	return zero
}

// minMemory is the smallest memory limit: less does not start a process.
const minMemory = 6 << 20

// validate reports what can never work, with Docker's words where it has some.
func validate(s hull.Spec) error {
	bad := func(format string, a ...any) error {
		return fmt.Errorf(format+": %w", append(a, errdefs.ErrInvalidArgument)...)
	}
	r := s.Resources
	switch {
	case r.Memory > 0 && r.Memory < minMemory:
		return bad("Minimum memory limit allowed is 6MB")
	case r.Memory < 0 || r.MemoryReservation < 0 || r.ShmSize < 0 || r.NanoCPUs < 0:
		return bad("a resource limit can not be less than 0")
	case r.Memory > 0 && r.MemorySwap > 0 && r.MemorySwap < r.Memory:
		return bad("Minimum memoryswap limit should be larger than memory limit, see usage")
	case r.Memory == 0 && r.MemorySwap > 0:
		return bad("You should always set the Memory limit when using Memoryswap limit, see usage")
	case r.MemoryReservation > 0 && r.MemoryReservation < minMemory:
		return bad("Minimum memory reservation allowed is 6MB")
	case r.Memory > 0 && r.MemoryReservation > r.Memory:
		return bad("Minimum memory limit can not be less than memory reservation limit, see usage")
	case r.MemorySwappiness != nil && (*r.MemorySwappiness < -1 || *r.MemorySwappiness > 100):
		return bad("Invalid value: %d, valid memory swappiness range is 0-100", *r.MemorySwappiness)
	case r.NanoCPUs > 0 && (r.CPUQuota > 0 || r.CPUPeriod > 0):
		return bad("Conflicting options: Nano CPUs and CPU Period cannot both be set")
	case r.CPUPeriod != 0 && (r.CPUPeriod < 1000 || r.CPUPeriod > 1000000):
		return bad("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
	case r.CPUQuota > 0 && r.CPUQuota < 1000:
		return bad("CPU cfs quota can not be less than 1ms (i.e. 1000)")
	case r.OomScoreAdj < -1000 || r.OomScoreAdj > 1000:
		return bad("Invalid value %d, range for oom score adj is [-1000, 1000]", r.OomScoreAdj)
	case r.Blkio.Weight > 0 && (r.Blkio.Weight < 10 || r.Blkio.Weight > 1000):
		return bad("Range of blkio weight is from 10 to 1000")
	}
	if err := validateRestart(s); err != nil {
		return err
	}
	for _, m := range s.Mounts {
		if !path.IsAbs(m.Target) {
			return bad("invalid mount path: '%s' mount path must be absolute", m.Target)
		}
		if path.Clean(m.Target) == "/" {
			return bad("invalid specification: destination can't be '/'")
		}
	}
	if h := s.Health; h != nil && (h.Interval < 0 || h.Timeout < 0 || h.StartPeriod < 0 || h.Retries < 0) {
		return bad("health check: a duration and the retries cannot be negative")
	}
	return onHost(r)
}

func validateRestart(s hull.Spec) error {
	p := s.Restart
	switch p.Name {
	case "no", "always", "unless-stopped":
		if p.MaxRetries != 0 {
			return fmt.Errorf("invalid restart policy: maximum retry count can only be used with 'on-failure': %w", errdefs.ErrInvalidArgument)
		}
	case "on-failure", "unhealthy":
		if p.MaxRetries < 0 {
			return fmt.Errorf("invalid restart policy: maximum retry count cannot be negative: %w", errdefs.ErrInvalidArgument)
		}
	default:
		return fmt.Errorf("invalid restart policy: unknown policy '%s'; use one of 'no', 'always', 'on-failure', 'unless-stopped' or 'unhealthy': %w", p.Name, errdefs.ErrInvalidArgument)
	}
	if s.AutoRemove && p.Name != "no" {
		return fmt.Errorf("can't create 'AutoRemove' container with restart policy: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}
