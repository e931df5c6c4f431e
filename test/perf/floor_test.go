package perf

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"hull/test/harness"
	"hull/test/images"
)

// floor is what cannot be undercut: the kernel's part of a start without any engine
// (five namespaces, an overlay, a program and its end) by unshare(1), chroot(1) and a
// shell, and the peers that are only a runtime.
func floor(tb *table, e *harness.Engine, hull *harness.Client) {
	tb.t.Helper()
	for _, name := range []string{"unshare", "chroot", "sh"} {
		if _, err := exec.LookPath(name); err != nil {
			tb.t.Logf("no floor: %v", err)
			return
		}
	}
	dir := e.Dir("floor")
	for _, d := range []string{"lower", "merged"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			tb.t.Fatal(err)
		}
	}
	exported := filepath.Join(dir, "busybox.tar")
	hull.Run("create", "--name", "floor", "busybox")
	hull.Run("export", "-o", exported, "floor")
	hull.Run("rm", "floor")
	if out, err := exec.Command("tar", "-x", "-f", exported, "-C", filepath.Join(dir, "lower")).CombinedOutput(); err != nil {
		tb.t.Fatalf("unpack: %v\n%s", err, out)
	}
	script := "mount -t tmpfs tmpfs " + dir + "/merged && mkdir " + dir + "/merged/u " + dir + "/merged/w " + dir + "/merged/m && mount -t overlay overlay -o lowerdir=" +
		dir + "/lower,upperdir=" + dir + "/merged/u,workdir=" + dir + "/merged/w " + dir + "/merged/m && exec chroot " + dir + "/merged/m /bin/true"
	r := tb.add("no engine: unshare, overlay, chroot, true", "the floor", "ms", "a shell script", times(scale(50), func() {
		cmd := exec.Command("unshare", "-m", "-p", "-i", "-u", "-n", "--fork", "sh", "-c", script)
		if out, err := cmd.CombinedOutput(); err != nil {
			tb.t.Fatalf("floor: %v\n%s", err, out)
		}
	})...)
	tb.bar("run, no network", "no engine", r)
}

// sandboxes measures the other isolations that work here.
func sandboxes(tb *table, hull *harness.Client) {
	tb.t.Helper()
	for _, isolation := range []string{"sandbox", "vm"} {
		args := []string{"run", "--rm", "--network", "none", "--isolation", isolation, "busybox", "true"}
		if r := hull.Try(args...); r.Code != 0 {
			tb.t.Logf("%s: not here: %s", isolation, r.Stderr)
			continue
		}
		r := tb.add("`hull run --rm --isolation "+isolation+"` none", "", "ms", "", times(scale(10), func() { hull.Run(args...) })...)
		tb.bar("run, no network, by isolation", isolation, r)
	}
}

// podman is another engine without a daemon, where it is installed.
func podman(tb *table, e *harness.Engine) {
	tb.t.Helper()
	program, err := exec.LookPath("podman")
	if err != nil {
		return
	}
	root := e.Dir("podman")
	flags := []string{"--root", filepath.Join(root, "root"), "--runroot", filepath.Join(root, "run"), "--cgroup-manager", "cgroupfs", "--events-backend", "file"}
	try := func(args ...string) error {
		out, err := e.HostCommand(slices.Concat([]string{program}, flags, args)...).CombinedOutput()
		if err != nil {
			tb.t.Logf("podman %v: %v\n%s", args, err, out)
		}
		return err
	}
	if try("load", "-q", "-i", images.Path(tb.t, "busybox")) != nil {
		return
	}
	defer func() { // podman leaves a mount of its own for each command that failed, on top of each other
		for e.HostCommand("umount", "-l", filepath.Join(root, "root", "overlay")).Run() == nil {
			continue
		}
	}()
	run := []string{"run", "--rm", "--ulimit", "host", "--network", "none", "busybox", "true"}
	if try(run...) != nil {
		return
	}
	r := tb.add("`podman run --rm` none", "", "ms", "", times(scale(20), func() { _ = try(run...) })...)
	tb.bar("run, no network", "podman", r)
	_ = try("system", "reset", "-f")
}

// restart is how long the engine is away when it is killed and comes back, with so
// many containers running.
func restart(tb *table, e *harness.Engine, hull *harness.Client) {
	tb.t.Helper()
	n := scale(200)
	ids := make([]string, 0, n)
	for range n {
		ids = append(ids, hull.Run("run", "-d", "--network", "none", "busybox", "sleep", "10000"))
	}
	start := time.Now()
	e.KillDaemon()
	e.StartDaemon()
	up := time.Since(start)
	if got := len(strings.Fields(hull.Run("ps", "-q"))); got != n {
		tb.t.Errorf("%d of %d containers after the restart", got, n)
	}
	tb.add("kill -9 of hulld with running containers, until it answers", "", "ms", fmt.Sprintf("%d containers", n), float64(up.Milliseconds()))
	for len(ids) > 0 {
		k := min(len(ids), 50)
		hull.Run(append([]string{"rm", "-f"}, ids[:k]...)...)
		ids = ids[k:]
	}
}
