package docker

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

// keys are the names at a dotted path of a JSON answer.
func keys(t *testing.T, body, path string) []string {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	if path != "" {
		for p := range strings.SplitSeq(path, ".") {
			switch x := v.(type) {
			case map[string]any:
				v = x[p]
			case []any:
				v = x[0]
			}
		}
	}
	m, ok := v.(map[string]any)
	if !ok {
		t.Fatalf("%s is no object in %s", path, body)
	}
	return slices.Sorted(maps.Keys(m))
}

// TestVersionDifferences: which names an answer has in which versions.
func TestVersionDifferences(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create("cc", `{"Image":"busybox:1","Cmd":["hold"],"HostConfig":{"Annotations":{"a":"b"}}}`)
	w.do("POST", "/containers/cc/start", "").want(t, 204, "")
	for _, c := range []struct {
		url, path, key string
		from, to       apiVersion // to 0: up to the newest
	}{
		{"/containers/cc/json", "NetworkSettings", "IPAddress", 40, 51},
		{"/containers/cc/json", "NetworkSettings", "Bridge", 40, 51},
		{"/containers/cc/json", "NetworkSettings", "Networks", 40, 0},
		{"/containers/cc/json", "", "GraphDriver", 40, 51},
		{"/containers/cc/json", "", "Storage", 52, 0},
		{"/containers/cc/json", "", "ImageManifestDescriptor", 48, 0},
		{"/containers/cc/json", "Config", "OnBuild", 40, 51},
		{"/containers/cc/json", "HostConfig", "KernelMemory", 40, 41},
		{"/containers/json", "0", "ImageManifestDescriptor", 48, 0},
		{"/containers/json", "0", "Health", 52, 0},
		{"/containers/json", "0.HostConfig", "Annotations", 46, 0},
		{"/images/json", "0", "VirtualSize", 40, 43},
		{"/images/json", "0", "Descriptor", 48, 0},
		{"/images/json?manifests=1", "0", "Manifests", 47, 0},
		{"/images/busybox:1/json", "", "VirtualSize", 40, 43},
		{"/images/busybox:1/json", "", "Parent", 40, 51},
		{"/images/busybox:1/json", "", "ContainerConfig", 40, 44},
		{"/images/busybox:1/json", "", "Descriptor", 48, 0},
		{"/images/busybox:1/json", "Config", "Hostname", 40, 49},
		{"/images/busybox:1/json", "Config", "Volumes", 40, 51},
		{"/images/busybox:1/json", "Config", "Cmd", 40, 0},
		{"/networks/bridge", "", "EnableIPv4", 48, 0},
		{"/info", "", "KernelMemory", 40, 41},
		{"/info", "", "CgroupVersion", 41, 0},
		{"/info", "", "BridgeNfIptables", 40, 49},
		{"/info", "", "FirewallBackend", 49, 0},
		{"/info", "RuncCommit", "Expected", 40, 48},
		{"/containers/cc/stats?stream=0&one-shot=1", "", "os_type", 52, 0},
		{"/system/df", "", "LayersSize", 40, 0},
		{"/system/df", "", "BuilderSize", 40, 41},
		{"/system/df", "", "ImageUsage", 52, 0},
		{"/system/df?verbose=1", "", "LayersSize", 40, 51},
	} {
		for v := minVersion; v <= maxVersion; v++ {
			a := w.do("GET", fmt.Sprintf("/v%s%s", v, c.url), "")
			has := slices.Contains(keys(t, a.body, c.path), c.key)
			want := v >= c.from && (c.to == 0 || v <= c.to)
			if has != want {
				t.Errorf("%s %s: %s.%s there: %v, want %v", v, c.url, c.path, c.key, has, want)
			}
		}
	}
	if a := w.do("GET", "/v1.53/system/df?verbose=1&type=image", ""); !slices.Contains(keys(t, a.body, "ImageUsage"), "Items") || strings.Contains(a.body, "ContainerUsage") {
		t.Errorf("verbose: %s", a.body)
	}
	w.do("GET", "/system/df?type=what", "").want(t, 400, "unknown object type: what")
}

// TestMinAPI: an operator may admit older clients.
func TestMinAPI(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]apiVersion{"1.24": 24, "1.40": 40, "1.55": 55, "1.23": 0, "1.56": 0, "2.40": 0, "x": 0, "1.": 0} {
		if v, err := parseMin(text); (err == nil) != (want != 0) || err == nil && v != want {
			t.Errorf("%s: %v, %v", text, v, err)
		}
	}
	if _, v, err := splitVersion("/v1.24/info", 24); err != nil || v != 24 {
		t.Errorf("admitted: %v, %v", v, err)
	}
	b := createBody{CreateRequest: container.CreateRequest{HostConfig: &container.HostConfig{}}}
	if got := createFor(39, b).HostConfig.IpcMode; got != container.IPCModeShareable {
		t.Errorf("IPC mode before 1.40: %q", got)
	}
	ends := createBody{CreateRequest: container.CreateRequest{NetworkingConfig: &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{"a": {}, "b": {}}}}}
	if err := checkCreate(43, ends); err == nil || err.Error() != "Container cannot be created with multiple network endpoints: a, b" {
		t.Errorf("two networks before 1.44: %v", err)
	}
	if err := checkCreate(44, ends); err != nil {
		t.Errorf("two networks: %v", err)
	}
}
