package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hull/internal/require"
	"hull/test/harness"
)

// "hull compare" measures a service under each isolation, and leaves nothing behind.
func TestCompare(t *testing.T) {
	t.Parallel()
	require.Runsc(t)
	e := harness.Start(t, []string{"redis"})
	hull := e.Hull()
	hull.Env = append(hull.Env, "DOCKER_CONFIG="+e.Dir("config"))
	images := e.Docker().Run("images", "-aq")
	plot := filepath.Join(e.Dir("plots"), "redis.svg")
	out := hull.Run("compare", "-q", "--format", "json", "--isolation", "container,sandbox", "--boots", "2", "--instances", "2",
		"--plot", plot, "redis", "--", "redis-benchmark", "-q", "-t", "get", "-n", "500")
	var r struct {
		ImageSize int64 `json:"image_size"`
		Figures   []struct {
			Isolation, Kernel, Boundary string
			OwnKernel                   bool    `json:"own_kernel"`
			Boot                        int64   `json:"boot_ns"`
			Memory                      int64   `json:"memory"`
			All                         int64   `json:"memory_all"`
			Download                    float64 `json:"download"`
			Requests                    float64 `json:"requests_per_s"`
			Load                        float64
			Unit                        string `json:"load_unit"`
			Inside                      map[string]float64
			Missing                     map[string]string
		}
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if len(r.Figures) != 2 || r.ImageSize < 1<<20 {
		t.Fatalf("report: %s", out)
	}
	for i, name := range []string{"container", "sandbox"} {
		f := r.Figures[i]
		if f.Isolation != name || f.Boundary == "" || len(f.Missing) > 0 {
			t.Errorf("%s: %+v", name, f)
		}
		if f.OwnKernel != (name == "sandbox") {
			t.Errorf("%s sees kernel %q, own: %v", name, f.Kernel, f.OwnKernel)
		}
		if f.Boot <= 0 || f.Memory <= 0 || f.All <= f.Memory || f.Download <= 0 || f.Requests <= 0 || f.Load <= 0 || f.Unit != "requests/s" || f.Inside["syscall_ns"] <= 0 {
			t.Errorf("%s: a figure is missing: %+v", name, f)
		}
	}
	if b, err := os.ReadFile(plot); err != nil || !strings.HasPrefix(string(b), "<svg") {
		t.Errorf("plot: %.20q %v", b, err)
	}
	if got := e.Docker().Run("images", "-aq"); got != images {
		t.Errorf("images %s, were %s", got, images)
	}
	if got := e.Docker().Run("ps", "-aq"); got != "" {
		t.Errorf("containers left: %s", got)
	}
	if got := hull.Run("info"); !strings.Contains(got, "recommended: ") {
		t.Errorf("info recommends nothing:\n%s", got)
	}

	// A program that cannot be run is in the report; an unknown image ends it.
	out = hull.Run("compare", "-q", "--format", "json", "--isolation", "container", "--boots", "2", "--instances", "1", "redis", "--", "/no/such")
	if !strings.Contains(out, `"command": "ended with 127`) && !strings.Contains(out, "no such file") {
		t.Errorf("a command that is not there: %s", out)
	}
	for _, args := range [][]string{{"--boots", "1", "redis"}, {"--isolation", "jail", "redis"}, {"--format", "xml", "redis"}, {}} {
		if r := hull.Try(append([]string{"compare", "-q"}, args...)...); r.Code == 0 || r.Stderr == "" {
			t.Errorf("%v: %+v", args, r)
		}
	}
}
