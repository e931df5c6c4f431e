package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hull/internal/require"
	"hull/test/harness"
	"hull/test/images"
)

// TestReadme runs every command of the README's console blocks, in one shell, on
// an engine of its own.
func TestReadme(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	commands := console(string(readme))
	if len(commands) < 20 {
		t.Fatalf("%d commands found in the README", len(commands))
	}
	require.VM(t)
	e := harness.Start(t, []string{"busybox", "redis", "nginx", "postgres"})
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	cache, err := images.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	script.WriteString("set -e -o pipefail\n")
	for _, c := range commands {
		script.WriteString("echo '$' " + quote(c) + "\n")
		if strings.HasPrefix(c, "hull exec ") { // a person is slower than a service's start
			c = "for try in $(seq 200); do " + c + " && break || sleep 0.3; [ $try != 200 ]; done"
		}
		script.WriteString(c + "\n")
	}
	script.WriteString("wait\n") // the registry of the tour takes leave of its clients before it ends
	cmd := e.HostCommand("bash", "-c", "cd "+e.Dir("home")+"\n"+script.String())
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+cache+"/bin:"+os.Getenv("PATH"), "HULL_ROOT="+e.Root, "HULL_RUN="+e.Run,
		"HULL_HOST=", "DOCKER_HOST=", "DOCKER_CONTEXT=",
		"HOME="+e.Dir("home"), "HULL_CACHE="+cache) // where make has put Debian's kernel

	out, err := run(cmd)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"hello\n", "from the host", "note\n", "uid=65534", "built\n", "gVisor", "-cloud-amd64 #1"} {
		if !strings.Contains(out, want) {
			t.Errorf("the tour does not show %q:\n%s", want, out)
		}
	}
}

func run(cmd *exec.Cmd) (string, error) {
	cmd.WaitDelay = 30 * time.Second // whoever keeps the shell's output for longer has been left behind
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// console returns the commands of a document's console blocks.
func console(doc string) []string {
	var out []string
	inside := false
	for line := range strings.Lines(doc) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "```"):
			inside = line == "```console"
		case inside && strings.HasPrefix(line, "$ "):
			out = append(out, strings.TrimPrefix(line, "$ "))
		}
	}
	return out
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
