package docker

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"

	"hull/internal/hull"
)

var update = flag.Bool("update", false, "write golden files")

// golden compares v, as JSON, with a file.
func golden(t *testing.T, name string, v any) {
	t.Helper()
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, buf.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), buf.String()); d != "" {
		t.Errorf("%s (-want +got):\n%s", name, d)
	}
}

func decode(t *testing.T, name string) createBody {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	var b createBody
	if err := json.Unmarshal(raw, &b); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestCreateSpec: a create request of each kind, in the newest and the oldest
// version, as the engine gets it.
func TestCreateSpec(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"full", "bare"} {
		for _, v := range []apiVersion{minVersion, maxVersion} {
			spec, warnings, err := toSpec(createFor(v, decode(t, "create/"+name+".json")), "linux/amd64")
			if err != nil {
				t.Fatal(err)
			}
			spec.Front = nil // compared by TestInspect
			golden(t, "create/"+name+"."+v.String()+".spec", map[string]any{"Spec": spec, "Warnings": warnings})
		}
	}
}

// TestInspect: what was asked for comes back, with what the engine made of it.
func TestInspect(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"full", "bare"} {
		spec, _, err := toSpec(decode(t, "create/"+name+".json"), "")
		if err != nil {
			t.Fatal(err)
		}
		spec.Network.Mode, spec.Isolation = "bridge", hull.IsolationContainer // as the engine fills them in
		c := hull.Container{
			ID: fakeID(0), PodID: fakeID(0), Name: "web", Created: epoch, Spec: spec,
			Image:    hull.ImageRef{Name: spec.Image, ID: digestOf("1"), Manifest: digestOf("a"), Platform: "linux/amd64"},
			Resolved: hull.Resolved{Path: "sh", Args: []string{"-c", "id"}, Env: []string{"A=b"}, WorkDir: "/w", Labels: map[string]string{"l": "1"}, Exposed: []string{"80/tcp", "443/tcp"}, Volumes: []string{"/img"}, StopSignal: "SIGTERM"},
			Mounts: []hull.MountPoint{
				{Type: hull.MountBind, Source: "/host", Target: "/bind", RW: false, Mode: "ro"},
				{Type: hull.MountVolume, Name: "vol", Source: "/v/_data", Target: "/named", RW: true, Spec: hull.Mount{ViaBind: true, Source: "vol"}},
				{Type: hull.MountTmpfs, Target: "/t", Spec: hull.Mount{ViaBind: true}},
			},
			Status: hull.Status{
				Phase: hull.Running, Pid: 7, StartedAt: epoch.Add(time.Second), LogPath: "/l/json.log", RestartCount: 2,
				Health: &hull.Health{Status: "healthy", Log: []hull.HealthResult{{Start: epoch, End: epoch, Output: "ok"}}},
				Endpoint: hull.Endpoint{
					NetNS: "/run/n", Hosts: "/h/hosts", ResolvConf: "/h/resolv.conf", HostnameFile: "/h/hostname",
					Networks: map[string]hull.NetworkEndpoint{"bridge": {NetworkID: "n0", EndpointID: "e0", IPv4: "172.17.0.2", PrefixLen4: 16, Gateway4: "172.17.0.1", MacAddress: "02:42:ac:11:00:02", DNSNames: []string{"web"}}},
					Ports:    []hull.PublishedPort{{ContainerPort: 80, Proto: "tcp", HostIP: "127.0.0.1", HostPort: 8080}, {ContainerPort: 53, Proto: "udp", HostPort: 5353}},
				},
			},
			Execs: []string{"x1"},
		}
		for _, v := range []apiVersion{minVersion, 51, maxVersion} {
			golden(t, "create/"+name+"."+v.String()+".inspect", inspectFor(v, c, toInspect(c)))
		}
		golden(t, "create/"+name+".summary", summariesFor(maxVersion, []container.Summary{toSummary(c, imageText(c), epoch.Add(time.Hour))}))
	}
}

func TestCreateRefuses(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{"Image":"x","HostConfig":{"IpcMode":"nonsense"}}`:                                                                      "invalid IPC mode: nonsense",
		`{"Image":"x","HostConfig":{"IpcMode":"container:"}}`:                                                                    "invalid IPC mode: container:",
		`{"Image":"x","HostConfig":{"PidMode":"container:"}}`:                                                                    "invalid PID mode: container:",
		`{"Image":"x","HostConfig":{"UTSMode":"mine"}}`:                                                                          "invalid UTS mode: mine",
		`{"Image":"x","HostConfig":{"UsernsMode":"mine"}}`:                                                                       "invalid USER mode: mine",
		`{"Image":"x","HostConfig":{"CgroupnsMode":"mine"}}`:                                                                     "invalid cgroup namespace mode: mine",
		`{"Image":"x","Hostname":"h","HostConfig":{"UTSMode":"host"}}`:                                                           "conflicting options: hostname and the UTS mode",
		`{"Image":"x","HostConfig":{"NetworkMode":"container:"}}`:                                                                "invalid container format container:<name|id>",
		`{"Image":"x","HostConfig":{"NetworkMode":"host","Links":["a:b"]}}`:                                                      "conflicting options: host type networking can't be used with links. This would result in undefined behavior",
		`{"Image":"x","HostConfig":{"Isolation":"hyperv"}}`:                                                                      `invalid isolation "hyperv": must be one of default, container, process, sandbox, vm`,
		`{"Image":"x","StopSignal":"SIGNOPE"}`:                                                                                   "invalid signal: SIGNOPE",
		`{"Image":"x","Env":["=b"]}`:                                                                                             "invalid environment variable: =b",
		`{"Image":"x","Healthcheck":{"Interval":5}}`:                                                                             "Interval in Healthcheck cannot be less than 1ms",
		`{"Image":"x","Healthcheck":{"Retries":-1}}`:                                                                             "Retries in Healthcheck cannot be negative",
		`{"Image":"x","HostConfig":{"PortBindings":{"80/icmp":[{}]}}}`:                                                           `invalid port specification: "80/icmp"`,
		`{"Image":"x","HostConfig":{"PortBindings":{"80":[{"HostPort":"70000"}]}}}`:                                              `invalid port specification: "70000"`,
		`{"Image":"x","HostConfig":{"PortBindings":{"80":[{"HostPort":"9-8"}]}}}`:                                                `invalid port specification: "9-8"`,
		`{"Image":"x","HostConfig":{"Binds":["/a"]},"Volumes":{"rel":{}}}`:                                                       "invalid mount path: 'rel' mount path must be absolute",
		`{"Image":"x","HostConfig":{"Binds":["/a:/b","/c:/b"]}}`:                                                                 "Duplicate mount point: /b",
		`{"Image":"x","HostConfig":{"Tmpfs":{"/t":"nonsense"}}}`:                                                                 `invalid tmpfs option ["nonsense"]`,
		`{"Image":"x","HostConfig":{"Mounts":[{"Type":"bind","Target":"/t"}]}}`:                                                  `invalid mount config for type "bind": field Source must not be empty`,
		`{"Image":"x","HostConfig":{"Mounts":[{"Type":"bind","Source":"rel","Target":"/t"}]}}`:                                   `invalid mount config for type "bind": invalid mount path: 'rel' mount path must be absolute`,
		`{"Image":"x","HostConfig":{"Mounts":[{"Type":"bind","Source":"/s"}]}}`:                                                  `invalid mount config for type "bind": field Target must not be empty`,
		`{"Image":"x","HostConfig":{"Mounts":[{"Type":"tmpfs","Source":"/s","Target":"/t"}]}}`:                                   `invalid mount config for type "tmpfs": field Source must not be specified`,
		`{"Image":"x","HostConfig":{"Mounts":[{"Type":"volume","Target":"/t","BindOptions":{}}]}}`:                               `invalid mount config for type "volume": field BindOptions must not be specified`,
		`{"Image":"x","HostConfig":{"Mounts":[{"Type":"volume","Target":"/t","VolumeOptions":{"Subpath":"a"}}]}}`:                `invalid mount config for type "volume": must not set Subpath when using anonymous volumes`,
		`{"Image":"x","HostConfig":{"Mounts":[{"Type":"volume","Source":"vv","Target":"/t","VolumeOptions":{"Subpath":".."}}]}}`: `invalid mount config for type "volume": subpath must be a relative path within the volume`,
		`{"Image":"x","HostConfig":{"Mounts":[{"Type":"npipe","Source":"a","Target":"/t"}]}}`:                                    `invalid mount config for type "npipe": mount type unknown`,
		`{"Image":"x","HostConfig":{"Mounts":[{"Type":"bind","Source":"/a","Target":"/"}]}}`:                                     `invalid mount config for type "bind": invalid specification: destination can't be '/'`,
	} {
		var b createBody
		if err := json.Unmarshal([]byte(body), &b); err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		_, _, err := toSpec(b, "")
		if err == nil || err.Error() != want || statusOf(err) != 400 {
			t.Errorf("%s:\n got %v\nwant %s", body, err, want)
		}
	}
}

func TestParseBind(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]hull.Mount{
		"/a:/b":            {Type: hull.MountBind, Source: "/a", Target: "/b", CreateSource: true},
		"/a/../c:/b/:ro":   {Type: hull.MountBind, Source: "/c", Target: "/b", CreateSource: true, ReadOnly: true, Mode: "ro"},
		"/a:/b:rw,shared":  {Type: hull.MountBind, Source: "/a", Target: "/b", CreateSource: true, Propagation: "shared", Mode: "rw,shared"},
		"/a:/b:Z,cached":   {Type: hull.MountBind, Source: "/a", Target: "/b", CreateSource: true, Relabel: "Z", Consistency: "cached", Mode: "Z,cached"},
		"name:/b":          {Type: hull.MountVolume, Source: "name", Target: "/b", VolumeDriver: "d"},
		"name:/b:nocopy,z": {Type: hull.MountVolume, Source: "name", Target: "/b", VolumeDriver: "d", NoCopy: true, Relabel: "z", Mode: "nocopy,z"},
		"/only":            {Type: hull.MountVolume, Target: "/only", VolumeDriver: "d"},
	} {
		want.ViaBind = true
		got, err := parseBind(raw, "d")
		if err != nil {
			t.Errorf("%s: %v", raw, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", raw, d)
		}
	}
	for raw, want := range map[string]string{
		"":               "invalid volume specification: ''",
		":/b":            "invalid volume specification: ':/b'",
		"/a:":            "invalid volume specification: '/a:'",
		"/a:ro":          "invalid volume specification: '/a:ro'",
		"/a:/b:ro:z":     "invalid volume specification: '/a:/b:ro:z'",
		"/a:rel":         "invalid mount path: 'rel' mount path must be absolute",
		"/a:/":           "invalid specification: destination can't be '/'",
		"/a:/b/..":       "invalid specification: destination can't be '/'",
		"/a:/b:what":     "invalid mode: what",
		"name:/b:idmap":  "invalid mode: idmap",
		"/a:/b:ro,rw":    "invalid mode: ro,rw",
		"/a:/b:nocopy":   "invalid mode: nocopy",
		"name:/b:shared": "invalid mode: shared",
		"./rel:/b":       `"./rel" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path`,
		"a:/b":           `"a" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path`,
	} {
		if _, err := parseBind(raw, ""); err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", raw, err, want)
		}
	}
}

// FuzzCreate: whatever JSON is sent, translating it and showing the result
// again does not panic, and a translated request survives the way into the
// record and back.
func FuzzCreate(f *testing.F) {
	for _, name := range []string{"full", "bare"} {
		raw, err := os.ReadFile("testdata/create/" + name + ".json")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw, 55)
		f.Add(raw, 40)
	}
	f.Add([]byte(`{"Image":"x","HostConfig":{"Mounts":[{}],"Ulimits":[null],"BlkioWeightDevice":[null]},"NetworkingConfig":{"EndpointsConfig":{"":null}}}`), 43)
	f.Fuzz(func(t *testing.T, raw []byte, v int) {
		var b createBody
		if json.Unmarshal(raw, &b) != nil {
			return
		}
		spec, _, err := toSpec(createFor(apiVersion(v), b), "")
		if err != nil {
			if statusOf(err) != 400 {
				t.Errorf("status %d for %v", statusOf(err), err)
			}
			return
		}
		for _, m := range spec.Mounts {
			if !strings.HasPrefix(m.Target, "/") || m.Target == "/" || strings.Contains(m.Target, "/../") {
				t.Errorf("target %q", m.Target)
			}
		}
		c := hull.Container{ID: fakeID(0), Name: "n", Spec: spec}
		if _, err := json.Marshal(inspectFor(apiVersion(v), c, toInspect(c))); err != nil {
			t.Error(err)
		}
		if _, err := json.Marshal(toSummary(c, imageText(c), epoch)); err != nil {
			t.Error(err)
		}
	})
}
