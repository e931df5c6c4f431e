package vm

import (
	"fmt"
	"strings"
	"testing"
)

// TestNetworksOfMachine: a machine starts on three networks, leaves the first, comes to
// another and goes back while it runs, as a container does: by name in both
// directions, and with one default route. That it was another engine that started it
// is no matter.
func TestNetworksOfMachine(t *testing.T) {
	t.Parallel()
	w := start(t, "busybox")
	c := w.c
	networks := []string{"n1", "n2", "n3", "n4"}
	for _, n := range networks {
		c.Run("network", "create", n)
		c.Run("run", "-d", "--name", "at-"+n, "--network", n, "busybox", "sh", "-c", "mkdir /www; echo "+n+" > /www/index.html; exec httpd -f -h /www")
	}
	c.Run("create", "--name", "machine", "--isolation", "vm", "--network", "n1", "busybox",
		"sh", "-c", "mkdir /www; echo machine > /www/index.html; exec httpd -f -h /www")
	c.Run("network", "connect", "n2", "machine")
	c.Run("network", "connect", "n3", "machine")
	c.Run("start", "machine")
	page := func(in, host, want string) {
		t.Helper()
		w.Eventually(in+" reaches "+host, func() error {
			r := c.Try("exec", in, "wget", "-T", "20", "-qO-", "http://"+host+"/")
			if r.Code != 0 || strings.TrimSpace(r.Stdout) != want {
				return fmt.Errorf("exit code %d, %q, %s", r.Code, r.Stdout, r.Stderr)
			}
			return nil
		})
	}
	on := func(list ...string) {
		t.Helper()
		for _, n := range list {
			page("machine", "at-"+n, n)
			page("at-"+n, "machine", "machine")
		}
		for _, n := range networks {
			if strings.Contains(strings.Join(list, " "), n) {
				continue
			}
			c.Fails(1, []string{"bad address"}, "exec", "machine", "wget", "-T", "20", "-qO-", "http://at-"+n+"/")
		}
		addrs := strings.Fields(c.Run("exec", "machine", "sh", "-c", "ip -o -4 addr | awk '$2 ~ /^eth/ {print $4}' | cut -d/ -f1 | sort"))
		want := strings.Fields(c.Run("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}", "machine"))
		for _, a := range want {
			if !strings.Contains(strings.Join(addrs, " "), a) {
				t.Errorf("the machine has the addresses %q, not %s", addrs, a)
			}
		}
		if len(addrs) != len(list) || len(want) != len(list) {
			t.Errorf("on %q the machine has the addresses %q, inspect says %q", list, addrs, want)
		}
		if routes := c.Run("exec", "machine", "sh", "-c", "ip route | grep -c ^default"); routes != "1" {
			t.Errorf("the machine has %s default routes", routes)
		}
	}
	on("n1", "n2", "n3")
	before := w.qemu("machine")
	c.Run("network", "disconnect", "n1", "machine") // the device's own
	w.KillDaemon()
	w.StartDaemon()
	c.Run("network", "connect", "n4", "machine")
	c.Run("network", "disconnect", "n2", "machine")
	on("n3", "n4")
	if after := w.qemu("machine"); after != before {
		t.Error("the machine is another one")
	}
	c.Run("rm", "-f", "machine")

	// From the default bridge, where nobody has a name, to a network with names, and
	// with none in between.
	w.run("plain", "busybox", "sleep", "10000")
	c.Run("network", "connect", "n1", "plain")
	page("plain", "at-n1", "n1")
	c.Run("network", "disconnect", "n1", "plain")
	c.Run("network", "disconnect", "bridge", "plain")
	w.want("routes without a network", c.Run("exec", "plain", "ip", "route"), "")
	c.Run("network", "connect", "n2", "plain")
	page("plain", "at-n2", "n2")
}
