package e2e

import (
	"archive/tar"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"hull/test/harness"
)

// TestUserNamespaces walks the table of docs/guide/user-namespaces.md: which flags
// turn a container's user namespace off, and which do not.
func TestUserNamespaces(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	hull := e.Hull()
	hull.Run("run", "-d", "--name", "own", "--ipc", "shareable", "busybox", "sleep", "1000")
	hull.Run("run", "-d", "--name", "host", "--userns", "host", "--ipc", "shareable", "busybox", "sleep", "1000")
	show := func(args ...string) harness.Result {
		return hull.Try(append(append([]string{"run", "--rm"}, args...), "busybox", "readlink", "/proc/self/ns/user")...)
	}
	link, err := os.Readlink("/proc/self/ns/user")
	if err != nil {
		t.Fatal(err)
	}
	own := hull.Run("exec", "own", "readlink", "/proc/self/ns/user")
	for flags, want := range map[string]string{
		"": "new", "--userns private": "new", "--uts host": "new", "--cgroupns host": "new",
		"--cap-add NET_ADMIN": "new", "--cap-add SYS_ADMIN": "new", "--cap-add SYS_PTRACE": "new", "-v /proc:/p": "new", "-v /sys:/s": "new",
		"--userns host": link, "--privileged": link, "--pid host": link, "--network host": link, "--ipc host": link,
		"--cap-add ALL": link, "--cap-add SYS_TIME": link, "--cap-add MKNOD": link,
		"--network container:own": own, "--pid container:own": own, "--ipc container:own": own, "--ipc container:host": link,
		"--pid container:own --ipc container:host": "error", "--userns private --privileged": "error",
	} {
		r := show(strings.Fields(flags)...)
		got := strings.TrimSpace(r.Stdout)
		switch {
		case r.Code != 0:
			got = "error"
		case got != link && got != own:
			got = "new"
		}
		if got != want {
			t.Errorf("%q: %s, want %s (%s)", flags, got, want, r.Stderr)
		}
	}
	hull.Run("rm", "-f", "own", "host")
}

// TestContainerIDs writes a file as users of a container with ranges of ids of its
// own, and finds the container's ids wherever its files are shown.
func TestContainerIDs(t *testing.T) {
	t.Parallel()
	e := harness.Start(t, []string{"busybox"})
	hull := e.Hull()
	outside := e.Dir("bind")
	hull.Run("run", "--name", "box", "-v", outside+":/bind", "-v", "data:/data", "busybox", "sh", "-c",
		"for d in /f /bind/f /data/f; do echo x > $d && chown 1000:2000 $d; done; touch /bind/root")
	owner := func(what, path string, uid, gid uint32) {
		t.Helper()
		var st syscall.Stat_t
		if err := syscall.Stat(path, &st); err != nil || st.Uid != uid || st.Gid != gid {
			t.Errorf("%s belongs to %d:%d, want %d:%d: %v", what, st.Uid, st.Gid, uid, gid, err)
		}
	}
	owner("a file of a bind mount", filepath.Join(outside, "f"), 1000, 2000)
	owner("root's file of a bind mount", filepath.Join(outside, "root"), 0, 0)
	owner("a file of a volume", filepath.Join(e.Root, "volumes/data/_data/f"), 1000, 2000)

	for _, args := range [][]string{{"cp", "box:/f", "-"}, {"export", "box"}} {
		r := tar.NewReader(strings.NewReader(hull.Try(args...).Stdout))
		for {
			h, err := r.Next()
			if err != nil {
				t.Errorf("%v: no file f: %v", args, err)
				break
			}
			if h.Name == "f" {
				if h.Uid != 1000 || h.Gid != 2000 {
					t.Errorf("%v: f belongs to %d:%d", args, h.Uid, h.Gid)
				}
				break
			}
		}
	}
	if out := hull.Run("diff", "box"); out != "A /bind\nA /data\nA /f" {
		t.Errorf("diff: %q", out)
	}

	// As an image, in other containers: of another range, and of none.
	hull.Run("commit", "box", "kept")
	for _, flags := range []string{"--userns private", "--userns host"} {
		args := append(append([]string{"run", "--rm"}, strings.Fields(flags)...), "-v", "data:/data", "kept", "stat", "-c", "%u:%g", "/f", "/data/f", "/etc")
		if out := hull.Run(args...); out != "1000:2000\n1000:2000\n0:0" {
			t.Errorf("%s: %q", flags, out)
		}
	}

	// Into a container: as the file's own ids, with -a and, as docker does, without.
	in := e.WriteFile("in", "x")
	if err := os.Chown(in, 7, 8); err != nil {
		t.Fatal(err)
	}
	hull.Run("cp", in, "box:/plain")
	hull.Run("cp", "-a", in, "box:/kept")
	hull.Run("commit", "box", "again")
	if out := hull.Run("run", "--rm", "again", "stat", "-c", "%u:%g", "/plain", "/kept"); out != "7:8\n7:8" {
		t.Errorf("copied in: %q", out)
	}
	hull.Run("rm", "-v", "box")
}
