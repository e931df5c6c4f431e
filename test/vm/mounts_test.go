package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"hull/internal/require"
)

// TestMountsHandedOver: what hulld opens as a mount of its own looks the same in every
// isolation, to who looks from outside, too, and again after a restart: a
// directory of a volume, a volume that is a bind mount, an image of one layer.
func TestMountsHandedOver(t *testing.T) {
	t.Parallel()
	require.Runsc(t)
	w := start(t, "busybox")
	c := w.c
	dir := w.Dir("bound")
	c.Run("volume", "create", "-o", "type=none", "-o", "o=bind", "-o", "device="+dir, "bound")
	c.Run("run", "--rm", "-v", "plain:/v", "busybox", "mkdir", "-p", "/v/sub/of")
	script := `ls /i/bin/busybox; ls /s; cat /b/*; echo "$(hostname)" > "/b/$(hostname)"; touch /i/x || echo read-only; exec sleep 1000`
	said := ""
	for i, isolation := range []string{"container", "sandbox", "vm"} {
		c.Run("run", "-d", "--name", isolation, "--hostname", isolation, "--isolation", isolation,
			"--mount", "type=image,src=busybox,dst=/i", "--mount", "type=volume,src=plain,dst=/s,volume-subpath=sub", "-v", "bound:/b",
			"busybox", "sh", "-c", script)
		logs := func(want string) {
			w.Eventually(isolation+" says what it sees", func() error {
				if got := c.Run("logs", isolation); got != want {
					return fmt.Errorf("it says %q, want %q", got, want)
				}
				return nil
			})
		}
		want := func() string { return "/i/bin/busybox\nof\n" + said + "read-only" }
		first := want()
		logs(first)
		said += isolation + "\n"
		c.Run("restart", "-t", "0", isolation)
		logs(first + "\n" + want())
		for _, path := range []string{"/b/" + isolation, "/s/of", "/i/etc/passwd"} {
			out := filepath.Join(w.Dir(fmt.Sprint("out", i)), filepath.Base(path))
			c.Run("cp", isolation+":"+path, out)
			if _, err := os.Stat(out); err != nil {
				t.Errorf("%s in %s, from outside: %v", path, isolation, err)
			}
		}
		if b, err := os.ReadFile(filepath.Join(dir, isolation)); err != nil || string(b) != isolation+"\n" {
			t.Errorf("what %s has written: %q, %v", isolation, b, err)
		}
		c.Run("rm", "-f", isolation)
	}
}
