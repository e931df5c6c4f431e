package e2e

import (
	"fmt"
	"strings"
	"testing"

	"hull/internal/require"
	"hull/test/harness"
)

// TestSandbox: what a user does with a container works in a sandbox.
func TestSandbox(t *testing.T) {
	t.Parallel()
	require.Runsc(t)
	e := harness.Start(t, []string{"busybox"})
	c := e.Docker()
	c.Run("network", "create", "names")
	c.Run("run", "-d", "--name", "plain", "--network", "names", "busybox", "sh", "-c", "echo plain > /index.html; httpd -f -h /")
	c.Run("run", "-d", "--name", "box", "--isolation", "sandbox", "--network", "names", "-p", "38480:80", "-v", "data:/data",
		"--health-cmd", "true", "--health-interval", "1s",
		"busybox", "sh", "-c", "echo started; echo kept > /data/file; mkdir /www; echo box > /www/index.html; httpd -f -h /www")
	if got := c.Run("exec", "box", "dmesg"); !strings.Contains(got, "gVisor") {
		t.Errorf("the kernel says %q", got)
	}
	e.Eventually("the sandbox is healthy", func() error {
		if got := c.Run("inspect", "-f", "{{.State.Health.Status}}", "box"); got != "healthy" {
			return fmt.Errorf("it is %s", got)
		}
		return nil
	})
	for from, to := range map[string]string{"plain": "box", "box": "plain"} {
		if got := c.Run("exec", from, "wget", "-qO-", "http://"+to+"/"); got != to {
			t.Errorf("%s gets %q from %s", from, got, to)
		}
	}
	if conn, err := e.Dial("tcp", "127.0.0.1:38480"); err != nil {
		t.Errorf("published port: %v", err)
	} else {
		conn.Close()
	}
	c.Run("cp", e.WriteFile("in.txt", "from outside"), "box:/www/in.txt")
	c.Run("cp", e.WriteFile("vol.txt", "into the volume"), "box:/data/vol.txt")
	if got := c.Run("exec", "box", "cat", "/www/in.txt", "/data/vol.txt", "/data/file"); got != "from outsideinto the volumekept" {
		t.Errorf("the sandbox sees %q", got)
	}
	if got := c.Run("top", "box"); !strings.Contains(got, "httpd") {
		t.Errorf("top shows %q", got)
	}
	if got := c.Run("diff", "box"); !strings.Contains(got, "A /www/in.txt") {
		t.Errorf("diff shows %q", got)
	}
	// gVisor has no /tmp of its own in front of the container's.
	c.Run("cp", e.WriteFile("tmp.txt", "to /tmp"), "box:/tmp/tmp.txt")
	c.Run("exec", "box", "touch", "/tmp/left")
	if got := c.Run("exec", "box", "cat", "/tmp/tmp.txt"); got != "to /tmp" || !strings.Contains(c.Run("diff", "box"), "A /tmp/left") {
		t.Errorf("/tmp has %q", got)
	}
	if got := c.Run("logs", "box"); got != "started" {
		t.Errorf("log %q", got)
	}
	e.KillDaemon()
	e.StartDaemon()
	if got := c.Run("exec", "box", "cat", "/data/file"); got != "kept" {
		t.Errorf("after the engine's death: %q", got)
	}
	// One with a network stack of its own keeps what it has until its next start.
	c.Run("run", "-d", "--name", "own", "--isolation", "sandbox", "busybox", "sleep", "1000")
	c.Fails(1, []string{"network stack of its own", "stop it first"}, "network", "connect", "names", "own")
	c.Run("stop", "-t", "0", "own")
	c.Run("network", "connect", "names", "own")
	c.Run("start", "own")
	if got := c.Run("exec", "own", "wget", "-qO-", "http://plain/"); got != "plain" {
		t.Errorf("a sandbox that was connected while it was stopped gets %q", got)
	}
	c.Run("rm", "-f", "box", "plain", "own")
	for _, no := range [][]string{{"--pid", "host"}, {"-m", "16m"}, {"--init"}} {
		c.Fails(125, []string{"--isolation container"}, append(append([]string{"run", "--rm", "--isolation", "sandbox"}, no...), "busybox", "true")...)
	}
}

// TestRuntimeByNameAndPath: any OCI runtime of the host runs a container; what is none
// is said.
func TestRuntimeByNameAndPath(t *testing.T) {
	t.Parallel()
	runc := require.Program(t, "runc")
	e := harness.Start(t, []string{"busybox"}, harness.Args("--add-runtime", "mine="+runc))
	c := e.Docker()
	for _, name := range []string{"mine", runc, "hull-runc"} {
		if got := c.Run("run", "--rm", "--runtime", name, "busybox", "echo", "ran"); got != "ran" {
			t.Errorf("runtime %s: %q", name, got)
		}
	}
	if got := c.Run("info", "-f", "{{json .Runtimes}}"); !strings.Contains(got, `"mine":{"path":"`+runc+`"`) {
		t.Errorf("info names %s", got)
	}
	c.Fails(127, nil, "run", "--rm", "--runtime", "mine", "busybox", "no-such-program")
	c.Fails(125, []string{"unknown or invalid runtime name: nope"}, "run", "--rm", "--runtime", "nope", "busybox", "true")
	c.Fails(125, []string{"does not answer --version"}, "run", "--rm", "--runtime", "/bin/cat", "busybox", "true")
	c.Fails(125, []string{"is not there"}, "run", "--rm", "--runtime", "/no/such/runtime", "busybox", "true")
}
