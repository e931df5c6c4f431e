package linux

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// jail is a root directory with links that try to leave it, and a canary outside.
func jail(t *testing.T) (root *os.File, outside string) {
	t.Helper()
	base := t.TempDir()
	outside = filepath.Join(base, "outside")
	dir := filepath.Join(base, "root")
	must(t, os.Mkdir(outside, 0o755))
	must(t, os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o644))
	must(t, os.MkdirAll(filepath.Join(dir, "a/b"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "a/f"), []byte("inside"), 0o644))
	for name, to := range map[string]string{
		"abs": outside, "up": "../../../../../../../.." + outside, "in": "/a", "loop": "loop", "dangling": outside + "/new", "file": "/a/f",
	} {
		must(t, os.Symlink(to, filepath.Join(dir, name)))
	}
	root, err := os.Open(dir)
	must(t, err)
	t.Cleanup(func() { root.Close() })
	return root, outside
}

func TestOpenInRoot(t *testing.T) {
	root, outside := jail(t)
	for _, p := range []string{"a/f", "/a/f", "in/f", "/in/../a/f", "../../a/f", "file"} {
		f, err := OpenInRoot(root, p, os.O_RDONLY, 0)
		if err != nil {
			t.Errorf("%s: %v", p, err)
			continue
		}
		if b, err := ReadAll(f, 100); err != nil || string(b) != "inside" {
			t.Errorf("%s: %q %v", p, b, err)
		}
		f.Close()
	}
	for _, p := range []string{"abs/secret", "up/secret", outside + "/secret", "loop", "dangling"} {
		if f, err := OpenInRoot(root, p, os.O_RDONLY, 0); err == nil {
			t.Errorf("%s: opened %s", p, f.Name())
		}
	}
	if _, err := OpenBeneath(root, "in/f", os.O_RDONLY, 0); !errors.Is(err, unix.EXDEV) {
		t.Errorf("beneath: %v", err)
	}
	if _, err := OpenNoSymlinks(root, "file", os.O_RDONLY, 0); !errors.Is(err, unix.ELOOP) {
		t.Errorf("no links: %v", err)
	}
}

func TestMakeInRoot(t *testing.T) {
	root, outside := jail(t)
	for _, p := range []string{"x/y/z", "/in/new/deep", "a/b", "/", "../../climb"} {
		f, err := MkdirAllInRoot(root, p, 0o755)
		if err != nil {
			t.Errorf("%s: %v", p, err)
			continue
		}
		f.Close()
	}
	for _, p := range []string{"a/f/x", "loop/x", "no/../../x"} {
		if _, err := MkdirAllInRoot(root, p, 0o755); err == nil {
			t.Errorf("%s: no error", p)
		}
	}
	for _, p := range []string{"abs/d", "up/d", "dangling/d"} {
		if f, err := MkdirAllInRoot(root, p, 0o755); err == nil {
			f.Close()
		}
	}
	for _, p := range []string{"new/file", "a/f", "dangling", "abs/file"} {
		if f, err := CreateInRoot(root, p, 0o644); err == nil {
			f.Close()
		}
	}
	d, err := os.ReadDir(outside)
	must(t, err)
	if len(d) != 1 {
		t.Errorf("something was made outside: %v", d)
	}
	if _, err := os.Stat(filepath.Join(root.Name(), "new/file")); err != nil {
		t.Error(err)
	}
}

func TestWriteFile(t *testing.T) {
	p := filepath.Join(t.TempDir(), "f")
	for _, sync := range []bool{false, true} {
		must(t, WriteFile(p, []byte("data"), 0o600, sync))
	}
	b, err := os.ReadFile(p)
	must(t, err)
	d, err := os.ReadDir(filepath.Dir(p))
	must(t, err)
	if string(b) != "data" || len(d) != 1 {
		t.Errorf("%q %v", b, d)
	}
	if err := WriteFile(filepath.Dir(p)+"/no/f", nil, 0o600, false); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestFds(t *testing.T) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	conn := func(fd int) *net.UnixConn {
		f := os.NewFile(uintptr(fd), "")
		defer f.Close()
		c, err := net.FileConn(f)
		must(t, err)
		u, ok := c.(*net.UnixConn)
		if !ok {
			t.Fatal("no unix socket")
		}
		t.Cleanup(func() { u.Close() })
		return u
	}
	a, b := conn(p[0]), conn(p[1])
	f, err := os.Open("/dev/null")
	must(t, err)
	defer f.Close()
	must(t, SendFds(a, []byte("hello"), f, f))
	buf := make([]byte, 16)
	n, files, err := RecvFds(b, buf, 2)
	must(t, err)
	if string(buf[:n]) != "hello" || len(files) != 2 {
		t.Errorf("%q, %d files", buf[:n], len(files))
	}
	CloseAll(files)
	// More than expected: refused, and nothing stays open.
	must(t, SendFds(a, []byte("x"), f, f, f, f, f, f))
	if _, files, err := RecvFds(b, buf, 1); err == nil {
		t.Errorf("%d files", len(files))
	}
}

func TestPidfd(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	must(t, cmd.Start())
	f, err := PidfdOpen(cmd.Process.Pid)
	must(t, err)
	defer f.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := PidfdWait(ctx, FD(f)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait for a living process: %v", err)
	}
	if PidfdDone(FD(f)) {
		t.Error("done before it ended")
	}
	must(t, PidfdSignal(FD(f), syscall.SIGKILL))
	must(t, PidfdWait(t.Context(), FD(f)))
	if err := cmd.Wait(); err == nil {
		t.Error("killed without an error")
	}
	if err := PidfdSignal(FD(f), syscall.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signal to a dead process: %v", err)
	}
}

func TestLookupUser(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "etc"), 0o755))
	write := func(name, data string) { must(t, os.WriteFile(filepath.Join(dir, "etc", name), []byte(data), 0o644)) }
	write("passwd", "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/var/www:/bin/sh\n4242:x:7:7::/seven:/bin/sh\n")
	write("group", "root:x:0:\nweb:x:33:\nlogs:x:50:web\nstaff:x:60:\n")
	root, err := os.Open(dir)
	must(t, err)
	defer root.Close()
	for spec, want := range map[string]User{
		"": {Home: "/root", Name: "root"}, "web": {UID: 33, GID: 33, Groups: []uint32{50}, Home: "/var/www", Name: "web"},
		"web:staff": {UID: 33, GID: 60, Home: "/var/www", Name: "web"}, "33": {UID: 33, GID: 33, Groups: []uint32{50}, Home: "/var/www", Name: "web"},
		"1234": {UID: 1234, Home: "/"}, "1234:99": {UID: 1234, GID: 99, Home: "/"}, "0:1": {GID: 1, Home: "/root", Name: "root"},
	} {
		u, err := LookupUser(root, spec, nil)
		if err != nil || u.UID != want.UID || u.GID != want.GID || u.Home != want.Home || u.Name != want.Name || len(u.Groups) != len(want.Groups) {
			t.Errorf("%q: %+v, %v", spec, u, err)
		}
	}
	u, err := LookupUser(root, "web", []string{"staff", "77"})
	if err != nil || len(u.Groups) != 3 {
		t.Errorf("%+v, %v", u, err)
	}
	for _, bad := range []string{"nobody", "web:nogroup", "4294967296", "-1", "0:4294967296", "a\nb", "2147483648"} {
		if u, err := LookupUser(root, bad, nil); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %+v, %v", bad, u, err)
		}
	}
	// Hostile files (CVE-2026-47262): too large, a fifo, a device.
	must(t, os.Truncate(filepath.Join(dir, "etc/group"), maxUserFile+1))
	if _, err := LookupUser(root, "web", nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("huge group file: %v", err)
	}
	must(t, os.Remove(filepath.Join(dir, "etc/group")))
	must(t, unix.Mkfifo(filepath.Join(dir, "etc/group"), 0o644))
	if _, err := LookupUser(root, "web", nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("fifo: %v", err)
	}
}

func TestOOMKilled(t *testing.T) {
	for events, want := range map[string]bool{
		"low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\noom_group_kill 0\n": true,
		"oom_kill_disable 0\nunder_oom 0\noom_kill 2\n":               true, // version 1
		"oom_kill_disable 0\nunder_oom 0\noom_kill 0\n":               false,
		"oom 4\noom_kill 0\n":                                         false,
		"":                                                            false,
	} {
		if got := OOMKilled([]byte(events)); got != want {
			t.Errorf("%q: %v", events, got)
		}
	}
}
