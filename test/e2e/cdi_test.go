package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hull/test/harness"
)

// TestCDI: devices that files of a vendor describe, by name, through compose and as
// what --gpus stands for.
func TestCDI(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	e := harness.Start(t, []string{"busybox"}, harness.Args("--cdi-spec-dir", dir))
	if e.Reference() {
		t.Skip("needs an engine of its own to configure")
	}
	write("library", "a library of the vendor's\n")
	write("acme.json", `{
  "cdiVersion": "0.6.0", "kind": "acme.com/card",
  "containerEdits": {"mounts": [{"hostPath": "`+dir+`/library", "containerPath": "/usr/lib/acme", "options": ["ro", "bind"]}]},
  "devices": [{"name": "one", "containerEdits": {"env": ["CARD=one"], "deviceNodes": [{"path": "/dev/acme0", "hostPath": "/dev/zero", "type": "c", "major": 1, "minor": 5}]}}]
}`)
	write("broken.json", `{"cdiVersion": "0.6.0", "kind": `)
	write("hooked.json", `{"cdiVersion": "0.6.0", "kind": "acme.com/hooked",
  "devices": [{"name": "it", "containerEdits": {"hooks": [{"hookName": "createContainer", "path": "/bin/true"}]}}]}`)
	docker := e.Docker()
	const look = `echo $CARD; cat /usr/lib/acme; head -c 4 /dev/acme0 | wc -c`
	for _, c := range e.Clients() {
		if got := c.Run("run", "--rm", "--device", "acme.com/card=one", "busybox", "sh", "-c", look); got != "one\na library of the vendor's\n4" {
			t.Errorf("%s: %q", c.Name, got)
		}
	}
	docker.Fails(125, []string{"unresolvable CDI devices acme.com/card=two"}, "run", "--rm", "--device", "acme.com/card=two", "busybox", "true")
	docker.Fails(125, []string{`could not select device driver "" with capabilities: [[gpu]]`}, "run", "--rm", "--gpus", "all", "busybox", "true")
	docker.Fails(125, []string{"hooks", "--runtime"}, "run", "--rm", "--device", "acme.com/hooked=it", "busybox", "true")
	if got := docker.Run("info", "-f", "{{.CDISpecDirs}}"); got != "["+dir+"]" {
		t.Errorf("info: %q", got)
	}
	// As nvidia-ctk writes it.
	write("nvidia.yaml", `
cdiVersion: 0.6.0
kind: nvidia.com/gpu
devices:
- {name: "0", containerEdits: {env: [GPU=0]}}
- {name: all, containerEdits: {env: [GPU=all]}}
`)
	for gpus, want := range map[string]string{"all": "all", "1": "0", "device=0": "0"} {
		if got := docker.Run("run", "--rm", "--gpus", gpus, "busybox", "printenv", "GPU"); got != want {
			t.Errorf("--gpus %s: %q, want %q", gpus, got, want)
		}
	}
	compose := e.Compose()
	compose.Dir = filepath.Dir(e.WriteFile("app/compose.yaml", `
services:
  a: {image: busybox, command: printenv CARD, devices: [acme.com/card=one]}
  b: {image: busybox, command: printenv GPU, deploy: {resources: {reservations: {devices: [{driver: nvidia, count: 1, capabilities: [gpu]}]}}}}
`))
	for service, want := range map[string]string{"a": "one", "b": "0"} {
		if got := compose.Run("run", "--rm", "-T", service); strings.TrimSpace(got) != want {
			t.Errorf("compose's service %s: %q", service, got)
		}
	}
}
