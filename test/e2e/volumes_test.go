package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"hull/internal/require"
	"hull/test/harness"
)

// TestVolumeVerbs: a volume's files without a container, and each way to have one.
func TestVolumeVerbs(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	hull := e.Hull()
	is := func(want string, args ...string) {
		t.Helper()
		if got := hull.Run(args...); got != want {
			t.Errorf("%s: %q, want %q", strings.Join(args, " "), got, want)
		}
	}
	show := func(volume string) []string {
		return []string{"run", "--rm", "-v", volume + ":/d", "busybox", "sh", "-c", "cd /d; for f in $(find . -type f | sort); do echo $f $(cat $f) $(stat -c %u:%g:%a $f); done"}
	}
	hull.Run("run", "--rm", "-v", "data:/d", "busybox", "sh", "-c", "mkdir /d/sub; echo one > /d/sub/f; chown 5:6 /d/sub/f; chmod 640 /d/sub/f")
	const had = "./sub/f one 5:6:640"
	hull.Run("volume", "clone", "data", "trial")
	hull.Run("volume", "snapshot", "data", "then")
	is("data", "volume", "inspect", "-f", `{{index .Labels "hull.snapshot.of"}}`, "then")
	out := filepath.Join(e.Dir("out"), "data.tar")
	hull.Run("volume", "export", "-o", out, "data")
	hull.Run("volume", "import", "back", out)
	hull.Run("volume", "rename", "trial", "probe")
	hull.Run("volume", "cp", e.WriteFile("g", "two"), "data:/sub/g")
	for _, v := range []string{"probe", "then", "back"} {
		is(had, show(v)...)
	}
	is("./sub/f one 5:6:640\n./sub/g two 0:0:644", show("data")...)
	hull.Run("volume", "cp", "data:/sub/g", filepath.Join(e.Dir("out"), "g"))
	if b, err := os.ReadFile(filepath.Join(e.Dir("out"), "g")); err != nil || string(b) != "two" {
		t.Errorf("copied out: %q, %v", b, err)
	}
	is("back\ndata\nprobe\nthen", "volume", "ls", "-q")
	hull.Fails(1, []string{"exists already"}, "volume", "rename", "data", "back")
	hull.Fails(1, []string{"no such volume"}, "volume", "clone", "nope", "x")
	hull.Fails(1, []string{"no such volume"}, "volume", "export", "nope")

	is("750", "run", "--rm", "--mount", `type=volume,dst=/d,volume-opt=type=tmpfs,volume-opt=device=tmpfs,"volume-opt=o=size=1m,mode=0750"`, "busybox", "stat", "-c", "%a", "/d")
	is("700 1024", "run", "--rm", "--mount", "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=0700", "busybox", "sh", "-c", "echo $(stat -c %a /t) $(df -k /t | awk 'END{print $2}')")
	is("hostname\nhosts\nresolv.conf", "run", "--rm", "--mount", "type=volume,src=empty,dst=/etc,volume-nocopy", "busybox", "ls", "/etc")
	hull.Fails(1, []string{`plugin "nope" not found`}, "volume", "create", "-d", "nope", "other")
	hull.Fails(1, []string{`invalid option: "color"`}, "volume", "create", "--opt", "color=red", "other")
	hull.Fails(125, []string{"prjquota", "volume create --opt size"}, "run", "--rm", "--storage-opt", "size=20m", "busybox", "true")
}

// TestOneOwner: with :idmap a container's user, whoever that is, owns what the
// invoking user owns on the host, and the other way round.
func TestOneOwner(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	src := e.Dir("src")
	const uid, gid = 4321, 4322
	if err := os.Chown(src, uid, gid); err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		client *harness.Client
		user   []string
		inside string
	}{
		{e.Hull(), nil, "0:0"},
		{e.Docker(), []string{"--user", "1234:55"}, "1234:55"},
		{e.Hull(), []string{"--user", "daemon"}, "1:1"},
		{e.Hull(), []string{"--user", "77", "--userns", "host"}, "77:0"},
	} {
		name := fmt.Sprintf("f%d", i)
		args := append(append([]string{"run", "--rm", "-v", src + ":/src:idmap"}, c.user...), "busybox", "sh", "-c", "echo hi > /src/"+name+"; stat -c %u:%g /src /src/"+name)
		if got := c.client.Run(args...); got != c.inside+"\n"+c.inside {
			t.Errorf("%q: inside it is %q", c.user, got)
		}
		st, err := os.Stat(filepath.Join(src, name))
		if err != nil {
			t.Fatal(err)
		}
		if s := st.Sys().(*syscall.Stat_t); s.Uid != uid || s.Gid != gid {
			t.Errorf("%q: on the host it is %d:%d's", c.user, s.Uid, s.Gid)
		}
	}
	e.Hull().Fails(1, []string{"too large"}, "run", "--rm", "-v", src+":/src:idmap", "busybox", "chown", "5", "/src/f0")
	require.Runsc(t)
	e.Hull().Fails(125, []string{"isolation sandbox cannot map owners"}, "run", "--rm", "-v", src+":/src:idmap", "--isolation", "sandbox", "busybox", "true")
}

// TestPublishWhileItRuns: ports come and go through the command line and through the
// API, all of a change or nothing of it.
func TestPublishWhileItRuns(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	hull := e.Hull()
	first, second, third := e.FreePort(), e.FreePort(), e.FreePort()
	hull.Run("run", "-d", "--name", "web", "-p", first+":80", "busybox", "sh", "-c", "echo one > /index.html; httpd -p 80 -h /; httpd -f -p 81 -h /")
	answers := func(port string) {
		t.Helper()
		e.Eventually("port "+port, func() error {
			if code, body, err := e.Get("http://127.0.0.1:" + port + "/"); err != nil || code != 200 || body != "one\n" {
				return fmt.Errorf("%d %q: %w", code, body, err)
			}
			return nil
		})
	}
	refused := func(port string) {
		t.Helper()
		if c, err := e.Dial("tcp", "127.0.0.1:"+port); err == nil {
			c.Close()
			t.Errorf("port %s is still open", port)
		}
	}
	answers(first)
	hull.Run("update", "--publish-add", second+":81", "--publish-rm", first+":80", "web")
	answers(second)
	refused(first)
	resp, err := e.API("POST", "/hull/v1/containers/web/ports", strings.NewReader(`{"Add": [{"HostPort": "`+third+`", "ContainerPort": 80}]}`))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	answers(third)
	// One that is taken, among others: none of them.
	fourth := e.FreePort()
	hull.Fails(1, []string{"port is already allocated"}, "update", "--publish-add", fourth+":80", "--publish-add", second+":80", "web")
	refused(fourth)
	hull.Fails(1, []string{"does not publish port 80/tcp"}, "update", "--publish-rm", fourth+":80", "web")
	if got := hull.Run("port", "web"); !strings.Contains(got, third) || strings.Contains(got, first) || strings.Contains(got, fourth) {
		t.Errorf("ports: %s", got)
	}
}
