package docker

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"

	"hull/api"
	"hull/internal/hull"
)

// systemAPI are the routes about the engine itself.
type systemAPI struct {
	cfg   Config
	parts Parts
}

func (a *systemAPI) ping(w http.ResponseWriter, r *http.Request) error {
	h := w.Header()
	h.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	h.Set("Pragma", "no-cache")
	h.Set("Builder-Version", "2")
	h.Set("Swarm", "inactive")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	if r.Method == http.MethodHead {
		h.Set("Content-Length", "0")
		return nil
	}
	_, err := w.Write([]byte("OK"))
	return err //nolint:wrapcheck // the client left
}

func (a *systemAPI) version(w http.ResponseWriter, r *http.Request) error {
	info, err := a.parts.Containers.Info(r.Context())
	if err != nil {
		return fmt.Errorf("describe engine: %w", err)
	}
	return reply(w, toVersion(a.cfg, info))
}

func toVersion(cfg Config, i hull.EngineInfo) system.VersionResponse {
	return system.VersionResponse{
		Platform: system.PlatformInfo{Name: "hull"},
		Version:  cfg.Version, APIVersion: maxVersion.String(), MinAPIVersion: cfg.MinAPI,
		Os: "linux", Arch: runtime.GOARCH, GitCommit: cfg.GitCommit, GoVersion: runtime.Version(),
		KernelVersion: i.Kernel, BuildTime: cfg.BuildTime,
		Components: []system.ComponentVersion{{
			Name: "Engine", Version: cfg.Version,
			Details: map[string]string{
				"ApiVersion": maxVersion.String(), "MinAPIVersion": cfg.MinAPI, "Os": "linux", "Arch": runtime.GOARCH,
				"GitCommit": cfg.GitCommit, "GoVersion": runtime.Version(), "KernelVersion": i.Kernel,
				"BuildTime": cfg.BuildTime, "Experimental": "false",
			},
		}},
	}
}

// describe is what is known of the engine, with its images counted: all of
// them, as Docker counts.
func (a *systemAPI) describe(ctx context.Context) (hull.EngineInfo, error) {
	info, err := a.parts.Containers.Info(ctx)
	if err != nil {
		return info, fmt.Errorf("describe engine: %w", err)
	}
	list, err := a.parts.Images.List(ctx, true)
	if err != nil {
		return info, fmt.Errorf("count images: %w", err)
	}
	info.Images = len(list)
	return info, nil
}

func (a *systemAPI) info(w http.ResponseWriter, r *http.Request) error {
	info, err := a.describe(r.Context())
	if err != nil {
		return err
	}
	out := toInfo(a.cfg, info, time.Now())
	if err := a.addSpace(r.Context(), &out); err != nil {
		return err
	}
	return reply(w, infoFor(versionOf(r), out))
}

// addSpace tells the cap on images and build cache, if there is one.
func (a *systemAPI) addSpace(ctx context.Context, out *system.Info) error {
	if a.parts.Space == nil {
		return nil
	}
	limit, used, err := a.parts.Space.Cap(ctx)
	if err != nil {
		return fmt.Errorf("measure images and build cache: %w", err)
	}
	if limit == 0 {
		return nil
	}
	out.DriverStatus = append(out.DriverStatus, [2]string{"Images and build cache", units.HumanSize(float64(used)) + " of " + units.HumanSize(float64(limit))})
	if used > limit {
		out.Warnings = append(slices.Clone(out.Warnings), "Images and build cache that are in use take more than their cap (--max-storage)")
	}
	return nil
}

// hullInfo is GET /hull/v1/info: what Docker's info has no words for.
func (a *systemAPI) hullInfo(w http.ResponseWriter, r *http.Request) error {
	info, err := a.describe(r.Context())
	if err != nil {
		return err
	}
	return reply(w, info)
}

// doctor is what the engine finds about its host.
func (a *systemAPI) doctor(w http.ResponseWriter, r *http.Request) error {
	return reply(w, Findings(a.parts.Containers.Examine(r.Context())))
}

// Findings are what an examination found, as hull's own route has it.
func Findings(in []hull.Finding) []api.Finding {
	out := make([]api.Finding, 0, len(in))
	for _, f := range in {
		out = append(out, api.Finding{Subject: f.Subject, Verdict: string(f.Verdict), Says: f.Says, Means: f.Means, Next: f.Next})
	}
	return out
}

func toInfo(cfg Config, i hull.EngineInfo, now time.Time) system.Info {
	out := system.Info{
		ID: i.ID, Name: i.Name, Containers: i.Containers, ContainersRunning: i.Running, ContainersPaused: i.Paused,
		ContainersStopped: i.Stopped, Images: i.Images, Driver: storageDriver,
		DriverStatus: [][2]string{{"Supports d_type", "true"}, {"Native Overlay Diff", "true"}},
		Plugins: system.PluginsInfo{
			Volume: []string{"local"}, Network: []string{"bridge", "host", "null"}, Log: orEmpty(i.LogDrivers),
		},
		MemoryLimit: true, SwapLimit: true, CPUCfsPeriod: true, CPUCfsQuota: true, CPUShares: true, CPUSet: true, PidsLimit: true,
		IPv4Forwarding: true, OomKillDisable: i.CgroupVersion == 1,
		Debug: i.Debug, NGoroutines: runtime.NumGoroutine(), SystemTime: now.Format(time.RFC3339Nano),
		LoggingDriver: cfg.LogDriver, CgroupDriver: "cgroupfs", CgroupVersion: strconv.Itoa(max(1, i.CgroupVersion)),
		KernelVersion: i.Kernel, OperatingSystem: i.OS, OSType: "linux", Architecture: i.Architecture,
		NCPU: i.CPUs, MemTotal: i.Memory, IndexServerAddress: "https://index.docker.io/v1/",
		RegistryConfig: toRegistryConfig(i), DockerRootDir: i.Root, Labels: []string{}, ServerVersion: cfg.Version,
		Runtimes: map[string]system.RuntimeWithStatus{}, DefaultRuntime: defaultRuntime,
		Swarm:      swarm.Info{LocalNodeState: swarm.LocalNodeStateInactive, RemoteManagers: nil},
		InitBinary: "hull-init", LiveRestoreEnabled: true,
		SecurityOptions: orEmpty(i.SecurityOptions), Warnings: i.Warnings,
		FirewallBackend: &system.FirewallInfo{Driver: "nftables"}, CDISpecDirs: append([]string{}, cfg.CDIDirs...),
	}
	out.Runtimes[defaultRuntime] = system.RuntimeWithStatus{Runtime: system.Runtime{Path: "hull-runc"}}
	for name, path := range i.Runtimes {
		out.Runtimes[name] = system.RuntimeWithStatus{Runtime: system.Runtime{Path: path}}
	}
	isolations := len(out.DriverStatus)
	for name, d := range i.Isolations {
		state := "available"
		if !d.Available {
			state = "unavailable: " + d.Reason
		}
		out.DriverStatus = append(out.DriverStatus, [2]string{"Isolation " + string(name), state})
	}
	slices.SortStableFunc(out.DriverStatus[isolations:], func(a, b [2]string) int {
		if a[0] < b[0] {
			return -1
		}
		return 1
	})
	return out
}

func toRegistryConfig(i hull.EngineInfo) *registry.ServiceConfig {
	out := &registry.ServiceConfig{
		InsecureRegistryCIDRs: nil, Mirrors: orEmpty(i.Mirrors),
		IndexConfigs: map[string]*registry.IndexInfo{
			"docker.io": {Name: "docker.io", Mirrors: orEmpty(i.Mirrors), Secure: true, Official: true},
		},
	}
	for _, name := range i.InsecureRegistries {
		if p := prefixOf(name); p.IsValid() {
			out.InsecureRegistryCIDRs = append(out.InsecureRegistryCIDRs, p)
			continue
		}
		out.IndexConfigs[name] = &registry.IndexInfo{Name: name, Mirrors: []string{}}
	}
	return out
}

func (a *systemAPI) auth(w http.ResponseWriter, r *http.Request) error {
	var body registry.AuthConfig
	if err := readJSON(r, a.cfg.MaxBody, false, &body); err != nil {
		return err
	}
	status, token, err := a.parts.Images.Login(r.Context(), toAuth(body))
	if err != nil {
		return fmt.Errorf("log in to %s: %w", body.ServerAddress, err)
	}
	return reply(w, registry.AuthResponse{Status: status, IdentityToken: token})
}
