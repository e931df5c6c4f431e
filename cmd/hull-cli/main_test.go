package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hull/api"
)

const envMain = "HULL_TEST_MAIN"

var update = flag.Bool("update", false, "write the golden files")

// The test program is also the command under test.
func TestMain(m *testing.M) {
	if os.Getenv(envMain) != "" {
		os.Args[0] = "hull"
		main()
		return
	}
	os.Exit(m.Run())
}

// world is a home, an engine's run directory and plugins.
type world struct {
	dir string
	env []string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "hull") // t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return &world{dir: dir, env: []string{envMain + "=1", "HOME=" + dir, "HULL_RUN=" + dir, "PATH=" + dir, "COLUMNS=80"}}
}

// hull runs the command; its exit status and what it printed.
func (w *world) hull(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Env = w.env
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// engine serves the socket of w's own engine.
func (w *world) engine(t *testing.T) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(w.dir, "hull.sock"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { //nolint:gosec // a test's
		rw.Header().Set("Api-Version", "1.55")
		rw.Header().Set("Ostype", "linux")
		rw.Header().Set("Content-Type", "application/json")
		var body any = map[string]any{}
		switch {
		case r.URL.Path == api.InfoPath:
			body = api.Info{DefaultIsolation: "container", Isolations: map[string]api.Isolation{
				"vm":        {Reason: "no qemu"},
				"container": {Available: true, Abilities: []string{"pause", "stats"}, Details: map[string]string{"cgroups": "v1"}},
			}}
		case r.URL.Path == api.DoctorPath:
			body = []api.Finding{
				{Subject: "kernel", Verdict: "ok", Says: "Linux 7"},
				{Subject: "br_netfilter", Verdict: "limited", Says: "on", Means: "less", Next: "turn it off"},
			}
		case strings.HasSuffix(r.URL.Path, "/info"):
			body = map[string]any{"ID": "x", "ServerVersion": "1.2.3", "Name": "host", "Driver": "overlay2",
				"DriverStatus": [][2]string{{"Supports d_type", "true"}, {"Isolation vm", "unavailable: no qemu"}}}
		case strings.HasSuffix(r.URL.Path, "/containers/json"):
			body = []any{}
		case strings.HasSuffix(r.URL.Path, "/containers/nosuch/json"):
			rw.WriteHeader(404)
			body = map[string]string{"message": "No such container: nosuch"}
		}
		_ = json.NewEncoder(rw).Encode(body)
	})}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
}

func TestHelp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, args := range map[string][]string{"root": {"--help"}, "run": {"run", "--help"}, "ps": {"ps", "--help"}, "image": {"image", "--help"}, "context": {"context", "use", "--help"}} {
		code, out, errs := w.hull(t, args...)
		if code != 0 || errs != "" {
			t.Errorf("%v: %d %s", args, code, errs)
		}
		out = strings.ReplaceAll(out, w.dir, "HOME")
		path := filepath.Join("testdata", name+".golden")
		if *update {
			if err := os.WriteFile(path, []byte(out), 0o600); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if out != string(want) {
			t.Errorf("%v: help changed (go test -run Help ./cmd/hull-cli -update):\n%s", args, out)
		}
	}
	if _, err := os.Stat(filepath.Join(w.dir, "hulld.lock")); err == nil {
		t.Error("help tried to start the engine")
	}
}

// No text that a user gets to see tells them to type docker.
func TestNobodyIsToldToTypeDocker(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, args := range [][]string{{}, {"--help"}, {"run", "--help"}, {"container", "exec", "--help"}, {"run"}, {"run", "--bad"}, {"nosuch"}, {"image", "ls", "a", "b"}, {"help", "nosuch"}} {
		_, out, errs := w.hull(t, args...)
		for line := range strings.Lines(out + errs) {
			if l := strings.ReplaceAll(line, "docker context", ""); strings.Contains(l, "docker run") || strings.Contains(l, "'docker ") || strings.HasPrefix(strings.TrimSpace(l), "docker") {
				t.Errorf("%v: %s", args, line)
			}
		}
	}
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.engine(t)
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--version"}, 0, "hull version dev, build unknown"},
		{[]string{"ps"}, 0, "CONTAINER ID"},
		{[]string{"ps", "--bad"}, 125, "Run 'hull ps --help' for more information"},
		{[]string{"run"}, 1, "requires at least 1 argument"},
		{[]string{"run", "--pull", "bad", "x"}, 125, "Run 'hull run --help' for more information"},
		{[]string{"nosuch"}, 1, "hull: unknown command: hull nosuch"},
		{[]string{"inspect", "--type", "container", "nosuch"}, 1, "No such container: nosuch"},
		{[]string{"-H", "unix:///nonexistent/s", "ps"}, 1, "unix:///nonexistent/s"},
		{[]string{"-H", "a", "-c", "b", "ps"}, 1, "conflicting options"},
		{[]string{"-c", "nosuch", "ps"}, 1, `context "nosuch"`},
	} {
		code, out, errs := w.hull(t, c.args...)
		if code != c.code || !strings.Contains(out+errs, c.says) {
			t.Errorf("%v: %d, want %d and %q:\n%s%s", c.args, code, c.code, c.says, out, errs)
		}
	}
}

func TestInfoListsIsolations(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.engine(t)
	for _, args := range [][]string{{"info"}, {"system", "info"}} {
		_, out, errs := w.hull(t, args...)
		want := " Isolations:\n  container: available, default\n   Abilities: pause stats\n   cgroups: v1\n  vm: not available (no qemu)\n"
		if !strings.Contains(out, want) || !strings.Contains(out, "Server Version: 1.2.3") || !strings.Contains(out, "Supports d_type: true") || strings.Contains(out, "Isolation vm") {
			t.Errorf("%v:\n%s%s\nwant in it:\n%s", args, out, errs, want)
		}
	}
	if _, out, _ := w.hull(t, "info", "--format", "{{.ServerVersion}}"); out != "1.2.3\n" {
		t.Errorf("with a format: %q", out)
	}
}

// The engine is started for a command that needs it, once, and its failure is told
// once and in full.
func TestDeadEngine(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	script := "#!/bin/sh\necho run >>" + w.dir + "/starts\necho 'no room for it' >&2\nexit 9\n"
	if err := os.WriteFile(filepath.Join(w.dir, "hulld"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	code, out, errs := w.hull(t, "images")
	if code != 1 || out != "" || strings.Count(errs, "no room for it") != 1 || !strings.Contains(errs, "exit status 9") {
		t.Errorf("%d %q\n%s", code, out, errs)
	}
	if b, _ := os.ReadFile(w.dir + "/starts"); string(b) != "run\n" {
		t.Errorf("started %q", b)
	}
	if _, out, _ := w.hull(t, "__complete", "rm", ""); strings.Contains(out, "no room") {
		t.Error(out)
	}
	if b, _ := os.ReadFile(w.dir + "/starts"); string(b) != "run\n" {
		t.Errorf("completion started the engine: %q", b)
	}
}

// doctor says what an engine finds; without one that is the first finding, and its
// program is asked for the others.
func TestDoctor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.engine(t)
	const want = "ok       kernel       Linux 7\n" +
		"limited  br_netfilter on\n" +
		"                      means: less\n" +
		"                      next:  turn it off\n" +
		"\nContainers run; 1 limited.\n"
	if code, out, errs := w.hull(t, "doctor"); code != 0 || out != want {
		t.Errorf("%d\n%s%s", code, out, errs)
	}
	var found []api.Finding
	if code, out, errs := w.hull(t, "doctor", "--format", "json"); code != 0 || json.Unmarshal([]byte(out), &found) != nil || len(found) != 2 {
		t.Errorf("%d\n%s%s", code, out, errs)
	}
	if code, _, errs := w.hull(t, "doctor", "--format", "table"); code != 1 || !strings.Contains(errs, "only json is known") {
		t.Errorf("%d %s", code, errs)
	}

	w = newWorld(t)
	script := "#!/bin/sh\n[ \"$1\" != --examine ] || { echo '[{\"Subject\":\"nftables\",\"Verdict\":\"broken\",\"Says\":\"none\"}]'; exit 0; }\necho 'no nftables' >&2\nexit 9\n"
	if err := os.WriteFile(filepath.Join(w.dir, "hulld"), []byte(script), 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	code, out, errs := w.hull(t, "doctor")
	if code != 1 || !strings.Contains(out, "BROKEN   engine") || !strings.Contains(out, "no nftables") || !strings.Contains(out, "BROKEN   nftables none\n") ||
		!strings.Contains(out, "2 broken, 0 limited") {
		t.Errorf("%d\n%s%s", code, out, errs)
	}
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, shell := range []string{"bash", "zsh", "fish"} {
		code, out, errs := w.hull(t, "completion", shell)
		if code != 0 || !strings.Contains(out, "hull") || strings.Contains(out, "__docker") {
			t.Errorf("%s: %d %s %.200s", shell, code, errs, out)
		}
	}
	if _, out, _ := w.hull(t, "__complete", "run", "--isol"); !strings.Contains(out, "--isolation") {
		t.Error(out)
	}
}

// docker's own current context is not followed; hull's is, and is kept apart.
func TestContextUse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	config := filepath.Join(w.dir, ".docker", "config.json")
	if err := os.MkdirAll(filepath.Dir(config), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, []byte(`{"auths":{},"currentContext":"desktop"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, out, errs := w.hull(t, "context", "show"); out != "default\n" {
		t.Errorf("%q %s", out, errs)
	}
	if code, _, errs := w.hull(t, "context", "create", "far", "--docker", "host=unix:///far.sock"); code != 0 {
		t.Fatal(errs)
	}
	if code, out, errs := w.hull(t, "context", "use", "far"); code != 0 || out != "far\n" {
		t.Errorf("%d %q %s", code, out, errs)
	}
	if _, out, _ := w.hull(t, "context", "show"); out != "far\n" {
		t.Errorf("%q", out)
	}
	if _, _, errs := w.hull(t, "ps"); !strings.Contains(errs, "/far.sock") {
		t.Error(errs)
	}
	b, err := os.ReadFile(config)
	if err != nil || !strings.Contains(string(b), `"currentContext": "desktop"`) {
		t.Errorf("docker's own context changed: %s %v", b, err)
	}
	if code, _, errs := w.hull(t, "context", "use", "nosuch"); code != 1 || !strings.Contains(errs, "nosuch") {
		t.Errorf("%d %s", code, errs)
	}
	if _, _, errs := w.hull(t, "context", "use", "default"); !strings.Contains(errs, `"default"`) {
		t.Error(errs)
	}
	if _, out, _ := w.hull(t, "context", "show"); out != "default\n" {
		t.Errorf("%q", out)
	}
}

func TestPlugin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.engine(t)
	dir := filepath.Join(w.dir, ".docker", "cli-plugins")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	script := `#!/bin/sh
if [ "$1" = docker-cli-plugin-metadata ]; then
	echo '{"SchemaVersion":"0.1.0","Vendor":"x","Version":"1","ShortDescription":"A plugin"}'; exit 0
fi
echo "$DOCKER_HOST $*"; exit 7
`
	if err := os.WriteFile(filepath.Join(dir, "docker-demo"), []byte(script), 0o700); err != nil { //nolint:gosec // an executable
		t.Fatal(err)
	}
	w.env = append(w.env, "PATH="+w.dir+":/bin:/usr/bin")
	code, out, errs := w.hull(t, "demo", "up", "-d")
	if want := "unix://" + w.dir + "/hull.sock demo up -d\n"; code != 7 || out != want {
		t.Errorf("%d %q %s, want 7 %q", code, out, errs, want)
	}
	if _, out, _ := w.hull(t, "--help"); !strings.Contains(out, "demo*") || !strings.Contains(out, "A plugin") {
		t.Error(out)
	}
}

func TestTyped(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"docker container run, docker run":           "hull container run, hull run",
		"Run 'docker run --help' for more":           "Run 'hull run --help' for more",
		`set with "docker context use")`:             `set with "hull context use")`,
		"Show docker disk usage":                     "Show docker disk usage",
		"the docker engine":                          "the docker engine",
		"Example:\n  $ docker ps":                    "Example:\n  $ hull ps",
		"invalid docker endpoint":                    "invalid docker endpoint",
		"Cannot connect to the Docker daemon at x. ": "Cannot connect to the Docker daemon at x. ",
	} {
		if got := typed(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
